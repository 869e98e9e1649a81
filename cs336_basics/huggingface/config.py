"""config.json of Hugging Face's Llama and Qwen2.5 models, to and from ModelConfig.

    hidden_size, intermediate_size            d_model, d_ff
    num_hidden_layers, num_attention_heads    num_layers, num_heads
    num_key_value_heads, head_dim             num_kv_heads, head_dim
    max_position_embeddings                   context_length
    rms_norm_eps, rope_theta, rope_scaling    norm_eps, rope_theta, rope_scaling (linear, yarn)
    model_type qwen2                          qkv_bias

Both are the course's model (pre-norm, RMSNorm, SwiGLU, rotary positions) with grouped queries and rotary pairs (k, k +
d/2) instead of neighbours. Whatever would make the model compute something else is refused, naming the field: other
model types, biases in other places, sliding windows, other rope scalings, quantised weights. Files of transformers 4
(rope_theta, rope_scaling) and 5 (rope_parameters) are read; the former, which both understand, are written.

Left out: mixtures of experts, Llama 3's rope scaling, Qwen3 (QK-norm). Read next: `folder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cs336_basics.model_config import ModelConfig
from cs336_basics.variants.configs import RopeScaling

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
_REQUIRED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "max_position_embeddings",
)  # fmt: skip
_FIXED = {  # fields with the only values that our model has; an absent field has the first
    "hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,), "pretraining_tp": (1,),
    "quantization_config": (None,),
}  # fmt: skip
_SCALING_FIELDS = {
    "linear": {"factor"},
    "yarn": {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor", "truncate"},
}


def config_from_huggingface(values: Mapping[str, Any], *, context_length: int | None = None) -> ModelConfig:
    """The ModelConfig of a config.json.

    Args:
        values: the parsed file.
        context_length: a shorter context than max_position_embeddings, which saves memory for rotary tables.

    Raises:
        ValueError: a model that ours cannot be, naming the field and why.
    """
    kind = values.get("model_type")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model_type {kind!r} is not supported; supported are {', '.join(ARCHITECTURES)}")
    missing = [name for name in _REQUIRED if values.get(name) is None]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}; is it that of a {kind} model?")
    for name in (*_REQUIRED, "num_key_value_heads", "head_dim"):
        if values.get(name) is not None and type(values[name]) is not int:
            raise ValueError(f"config.json has {name}={values[name]!r}, which is no whole number")
    for name, allowed in _FIXED.items():
        if values.get(name, allowed[0]) not in allowed:
            raise ValueError(f"config.json has {name}={values[name]!r}; supported is {allowed[0]!r} only")
    longest = values["max_position_embeddings"]
    if context_length is not None and context_length > longest:
        raise ValueError(f"context_length={context_length} is more than max_position_embeddings={longest}")
    _refuse_windows(values)
    rope = _rope(values)
    heads, kv_heads = values["num_attention_heads"], values.get("num_key_value_heads")
    width = values.get("head_dim")
    return ModelConfig(
        vocab_size=values["vocab_size"], context_length=context_length or longest, d_model=values["hidden_size"],
        num_layers=values["num_hidden_layers"], num_heads=heads, d_ff=values["intermediate_size"],
        num_kv_heads=None if kv_heads == heads else kv_heads,
        head_dim=None if width is None or width * heads == values["hidden_size"] else width,
        qkv_bias=kind == "qwen2", rope_pairs="halves", rope_theta=float(rope.get("rope_theta") or 10000.0),
        rope_scaling=_scaling(rope, longest), norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        tie_embeddings=bool(values.get("tie_word_embeddings", False)),
    )  # fmt: skip


def _refuse_windows(values: Mapping[str, Any]) -> None:
    """A sliding window is harmless only where it is switched off or never ends before the context does."""
    window = values.get("sliding_window")
    slides = values.get("use_sliding_window", False) or "sliding_attention" in (values.get("layer_types") or ())
    if slides and window is not None and window < values["max_position_embeddings"]:
        raise ValueError(f"config.json asks for a sliding_window of {window} tokens in some layers; not supported")


def _rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta and scaling in one dictionary, as transformers 5 writes them."""
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    if values.get("rope_theta") is not None:
        rope.setdefault("rope_theta", values["rope_theta"])
    part = rope.pop("partial_rotary_factor", values.get("partial_rotary_factor"))
    if part not in (None, 1.0):
        raise ValueError(f"config.json rotates a part of each head (partial_rotary_factor {part}); not supported")
    return rope


def _scaling(rope: Mapping[str, Any], longest: int) -> RopeScaling | None:
    """The scaling of the rotary positions, where it is one of ours."""
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind not in _SCALING_FIELDS:
        raise ValueError(f"rope scaling {kind!r} is not supported; supported are default, linear and yarn")
    given = {k: v for k, v in rope.items() if v is not None and k not in ("rope_type", "type", "rope_theta")}
    unknown = sorted(given.keys() - _SCALING_FIELDS[kind])
    if unknown or "factor" not in given or given.get("truncate", True) is not True:
        raise ValueError(
            f"rope scaling {kind!r} is supported with factor and {sorted(_SCALING_FIELDS[kind])}, truncate true; got "
            f"{dict(rope)}"
        )
    given.pop("truncate", None)
    original = given.pop("original_max_position_embeddings", longest)
    numbers = {name: float(value) for name, value in given.items()}
    return RopeScaling("yarn" if kind == "yarn" else "linear", original_context_length=original, **numbers)


def config_to_huggingface(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model, a Qwen2.5 when queries, keys and values have biases, else a Llama.

    Dropout rates other than attention's have no field there; they do not matter once a model is trained.

    Raises:
        ValueError: a model that neither architecture can be, naming the field and both values.
    """
    kind = "qwen2" if config.qkv_bias else "llama"
    shared = {
        name: getattr(config, name)
        for name in (
            "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff", "rope_theta", "num_kv_heads",
            "head_dim", "norm_eps", "rope_pairs", "rope_scaling", "qkv_bias", "tie_embeddings", "attn_pdrop",
            "residual_pdrop", "attention",
        )
    }  # fmt: skip
    plain = ModelConfig(**shared)  # everything else at its default
    for name in vars(config):
        if getattr(config, name) != getattr(plain, name):
            raise ValueError(
                f"a {kind} model has {name}={getattr(plain, name)!r}; this one has {getattr(config, name)!r} and "
                "cannot be exported"
            )
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]], "model_type": kind, "vocab_size": config.vocab_size,
        "hidden_size": config.d_model, "intermediate_size": config.d_ff, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.kv_heads, "head_dim": config.d_head,
        "max_position_embeddings": config.context_length, "hidden_act": "silu", "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "tie_word_embeddings": config.tie_embeddings,
        "attention_dropout": config.attn_pdrop, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    values |= {"use_sliding_window": False} if kind == "qwen2" else {"attention_bias": False, "mlp_bias": False}
    if config.rope_scaling is not None:
        values["rope_scaling"] = _scaling_fields(config.rope_scaling)
    return values


def _scaling_fields(scaling: RopeScaling) -> dict[str, Any]:
    """rope_scaling as config.json has it."""
    fields: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "yarn":
        fields |= {
            "original_max_position_embeddings": scaling.original_context_length, "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
        }  # fmt: skip
        if scaling.attention_factor is not None:
            fields["attention_factor"] = scaling.attention_factor
    elif scaling.attention_factor not in (None, 1.0):
        raise ValueError(f"linear rope scaling has no attention_factor there; got {scaling.attention_factor}")
    return fields
