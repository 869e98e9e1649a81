"""Variants as whole models against transformers: the same weights under our names give the same logits.

Covers Qwen2 (grouped queries, bias, tied), Qwen3 (QK-norm, head_dim), Mistral (window), Gemma 2 (sandwich norms, soft
caps, alternating windows), Cohere (parallel, LayerNorm), DeepSeek-V2 (latent attention), Llama with YaRN and linear
scaling, the sinks of gpt-oss, and BLOOM's slopes.
"""

from __future__ import annotations

import pytest
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.variants.alibi import alibi_slopes
from cs336_basics.variants.configs import LatentAttentionConfig, RopeScaling
from cs336_basics.variants.score_rules import ScoreRules, attention_by_rules

pytestmark = pytest.mark.filterwarnings("ignore")
VOCAB, CONTEXT, D, LAYERS, HEADS, D_FF = 61, 24, 48, 3, 4, 40
OURS = {
    "vocab_size": VOCAB, "context_length": CONTEXT, "d_model": D, "num_layers": LAYERS, "num_heads": HEADS,
    "d_ff": D_FF, "rope_theta": 500.0, "rope_pairs": "halves", "norm_eps": 1e-6,
}  # fmt: skip
THEIRS = {
    "vocab_size": VOCAB, "max_position_embeddings": CONTEXT, "hidden_size": D, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "intermediate_size": D_FF, "attn_implementation": "eager",
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
NAMES = {
    "model.embed_tokens": "token_embeddings", "model.norm": "ln_final", "model.layers": "layers",
    "self_attn.o_proj": "attn.output_proj", "self_attn": "attn", "mlp.gate_proj": "ffn.w1",
    "mlp.down_proj": "ffn.w2", "mlp.up_proj": "ffn.w3", "input_layernorm": "ln1", "post_attention_layernorm": "ln2",
}  # fmt: skip


@pytest.fixture(scope="module")
def transformers():
    module = pytest.importorskip("transformers")
    if int(module.__version__.split(".")[0]) < 5:
        pytest.skip("rope_parameters came with transformers 5")
    return module


def drawn(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight of the rival drawn, gains and biases included."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * 0.25 + (0.5 if "norm" in name else 0.0))
    return model.eval()


def renamed(rival: torch.nn.Module, names: dict[str, str]) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in rival.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    return state


def assert_same_logits(rival, config: ModelConfig, state: dict[str, torch.Tensor]) -> None:
    model = TransformerLM(config).eval()
    model.load_state_dict(state)
    ids = torch.randint(VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, cache = rival(ids).logits, model.new_cache(2, CONTEXT)
        assert expected.std() > 0.1
        torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-4)
        parts = [model(ids[:, :10], cache, 0)] + [model(ids[:, t : t + 1], cache, t) for t in range(10, CONTEXT)]
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)


def test_qwen2(transformers) -> None:
    rival = drawn(
        transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(**THEIRS, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True)
        )
    )
    assert_same_logits(
        rival, ModelConfig(**OURS, num_kv_heads=2, qkv_bias=True, tie_embeddings=True), renamed(rival, NAMES)
    )


def test_qwen3(transformers) -> None:
    rival = drawn(
        transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(
                **THEIRS, num_key_value_heads=1, head_dim=10, rms_norm_eps=1e-6, tie_word_embeddings=False
            )
        )
    )
    assert_same_logits(rival, ModelConfig(**OURS, num_kv_heads=1, head_dim=10, qk_norm=True), renamed(rival, NAMES))


def test_mistral(transformers) -> None:
    rival = drawn(
        transformers.MistralForCausalLM(
            transformers.MistralConfig(**THEIRS, num_key_value_heads=2, sliding_window=5, rms_norm_eps=1e-6)
        )
    )
    assert_same_logits(rival, ModelConfig(**OURS, num_kv_heads=2, attention_window=5), renamed(rival, NAMES))


def test_gemma2(transformers) -> None:
    """Its gains are 1 + weight, its embeddings grow by sqrt(d), its scores shrink by 1/sqrt(query_pre_attn_scalar)."""
    rival = drawn(
        transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(
                **THEIRS, num_key_value_heads=2, head_dim=12, sliding_window=6, query_pre_attn_scalar=30,
                attn_logit_softcapping=4.0, final_logit_softcapping=3.0, hidden_activation="gelu", rms_norm_eps=1e-6,
                tie_word_embeddings=False, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            )
        )
    )  # fmt: skip
    names = {
        **NAMES, "post_attention_layernorm": "ln1_out", "pre_feedforward_layernorm": "ln2",
        "post_feedforward_layernorm": "ln2_out",
    }  # fmt: skip
    state = {k: v + 1 if ".ln" in k or "ln_final" in k else v for k, v in renamed(rival, names).items()}
    state["token_embeddings.weight"] = state["token_embeddings.weight"] * D**0.5
    config = ModelConfig(
        **OURS, num_kv_heads=2, norm="sandwich", ffn="geglu", attention_softcap=4.0, logit_softcap=3.0,
        attention_window=6, mixers=("window", "attention"), attention_scale=(12 / 30) ** 0.5,
    )  # fmt: skip
    assert_same_logits(rival, config, state)


def test_cohere(transformers) -> None:
    """Parallel layers with one LayerNorm without shift; its rotary pairs are neighbours."""
    rival = drawn(
        transformers.CohereForCausalLM(
            transformers.CohereConfig(
                **THEIRS, num_key_value_heads=2, layer_norm_eps=1e-6, logit_scale=1.0, tie_word_embeddings=True
            )
        )
    )
    state = renamed(rival, NAMES)
    norms = [name.removesuffix("weight") for name in state if ".ln" in name or "ln_final" in name]
    state |= {f"{name}bias": torch.zeros(D) for name in norms}
    choices = {"norm": "parallel", "norm_type": "layernorm", "tie_embeddings": True, "num_kv_heads": 2}
    assert_same_logits(rival, ModelConfig(**{**OURS, "rope_pairs": "interleaved"}, **choices), state)


@pytest.mark.parametrize("q_rank", [None, 9])
def test_deepseek_v2(transformers, q_rank) -> None:
    rival = drawn(
        transformers.DeepseekV2ForCausalLM(
            transformers.DeepseekV2Config(
                **THEIRS, num_key_value_heads=HEADS, kv_lora_rank=14, q_lora_rank=q_rank, qk_nope_head_dim=6,
                qk_rope_head_dim=4, v_head_dim=5, first_k_dense_replace=LAYERS, rms_norm_eps=1e-6,
                tie_word_embeddings=False,
            )
        )
    )  # fmt: skip
    names = {
        "kv_a_proj_with_mqa": "kv_down", "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up", "q_a_proj": "q_down",
        "q_a_layernorm": "q_norm", "q_b_proj": "q_proj", **NAMES,
    }  # fmt: skip
    latent = LatentAttentionConfig(14, q_rank, 6, 4, 5)
    config = ModelConfig(**{**OURS, "rope_pairs": "interleaved"}, latent_attention=latent)
    assert_same_logits(rival, config, renamed(rival, names))


@pytest.mark.parametrize(
    "ours",
    [
        RopeScaling("linear", 3.0),
        RopeScaling("yarn", 4.0, 8, 2.0, 0.25),
        RopeScaling("yarn", 8.0, 2048, 32.0, 1.0, attention_factor=1.3),
    ],
)
def test_llama_with_scaled_positions(transformers, ours) -> None:
    scaling = {"rope_type": ours.kind, "rope_theta": 500.0, "factor": ours.factor}
    if ours.kind == "yarn":
        scaling |= {"original_max_position_embeddings": ours.original_context_length}
        scaling |= {"beta_fast": ours.beta_fast, "beta_slow": ours.beta_slow}
        scaling |= {} if ours.attention_factor is None else {"attention_factor": ours.attention_factor}
    rival = drawn(
        transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                **{**THEIRS, "rope_parameters": scaling}, rms_norm_eps=1e-6, tie_word_embeddings=False
            )
        )
    )
    assert_same_logits(rival, ModelConfig(**OURS, rope_scaling=ours), renamed(rival, NAMES))


def test_sinks_of_gpt_oss(transformers) -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    draw = torch.Generator().manual_seed(0)
    q, sinks = torch.randn(2, 4, 9, 8, generator=draw), torch.randn(4, generator=draw) * 2
    k, v = torch.randn(2, 2, 2, 9, 8, generator=draw).unbind()
    module = torch.nn.Module()
    module.num_key_value_groups, module.sinks = 2, sinks
    mask = torch.full((9, 9), -torch.inf).triu(1)[None, None]
    expected, _ = eager_attention_forward(module.eval(), q, k, v, mask, scaling=8**-0.5)
    actual = attention_by_rules(q, k, v, ScoreRules(sinks=sinks))
    torch.testing.assert_close(actual, expected.transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 16, 20])
def test_slopes_of_bloom(transformers, heads) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    biases = build_alibi_tensor(torch.ones(1, 5), heads, torch.float32)  # slope * key position
    torch.testing.assert_close(alibi_slopes(heads), biases.reshape(heads, 5)[:, 1])
