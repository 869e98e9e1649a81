"""The shape and the choices of a TransformerLM, validated. Read next: `model.py`.

The defaults are the course's model. Every other choice is one of the ideas under `variants/`: a small one is a field
here, a larger one a nested dataclass of `variants/configs.py`. Combinations that make no sense are refused with the
reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cs336_basics.variants.configs import (
    LatentAttentionConfig,
    LongConvolutionConfig,
    MixtureOfExpertsConfig,
    RopeScaling,
    StateSpaceConfig,
)

Positions = Literal["rope", "learned", "sinusoidal", "alibi", "none"]
FeedForwardKind = Literal["swiglu", "gelu", "silu", "relu", "geglu", "reglu", "relu2"]
NormPlacement = Literal["pre", "post", "none", "sandwich", "parallel"]
NormType = Literal["rmsnorm", "layernorm"]
RopePairs = Literal["interleaved", "halves"]
Mixer = Literal["attention", "window", "state_space", "long_convolution"]
Initialization = Literal["course", "nanochat2025", "nanochat2026"]
CHOICES = {
    "positions": Positions, "ffn": FeedForwardKind, "norm": NormPlacement, "norm_type": NormType,
    "rope_pairs": RopePairs, "initialization": Initialization,
}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Shape and choices of a TransformerLM.

    Raises:
        ValueError: a size that is not positive or does not divide, a rate outside [0, 1), or choices that exclude each
            other.
    """

    vocab_size: int
    """number of token ids"""
    context_length: int = 256
    """longest sequence the model may see, in tokens"""
    d_model: int = 512
    """width of the residual stream"""
    num_layers: int = 4
    """number of blocks"""
    num_heads: int = 16
    """attention heads; must divide d_model unless head_dim is given"""
    d_ff: int | None = None
    """width inside the feed-forward; default 8/3 d_model rounded to a multiple of 64 for gated ones, else 4 d_model"""
    rope_theta: float = 10000.0
    """base wavelength of the rotary positions"""
    positions: Positions = "rope"
    """how the model knows where a token stands"""
    ffn: FeedForwardKind = "swiglu"
    """feed-forward: gated (swiglu, geglu, reglu), or two matrices around one activation"""
    norm: NormPlacement = "pre"
    """norm before each sublayer, after each residual sum, nowhere, around each sublayer (sandwich), or one norm for
    attention and feed-forward side by side (parallel)"""
    tie_embeddings: bool = False
    """use the embedding table as the output head"""
    attn_pdrop: float = 0.0
    """dropout on attention weights"""
    residual_pdrop: float = 0.0
    """dropout on the embedding sum and on each sublayer's output"""
    attention: str = "plain"
    """name of an entry in ATTENTION_FUNCTIONS"""
    num_kv_heads: int | None = None
    """heads of keys and values, each shared by num_heads / num_kv_heads queries; 1 is multi-query attention"""
    head_dim: int | None = None
    """width of a head; d_model / num_heads by default"""
    qkv_bias: bool = False
    """add a bias to queries, keys and values"""
    qk_norm: bool = False
    """normalise each query and key over its head, before any rotation"""
    attention_scale: float = 1.0
    """multiplies the scores beyond 1 / sqrt(width of a head)"""
    attention_softcap: float | None = None
    """bound the attention scores to (-cap, cap) by cap * tanh(score / cap)"""
    attention_sinks: bool = False
    """a learned logit per head to which a query may give attention without reading anything"""
    attention_window: int | None = None
    """tokens that a layer with mixer "window" sees, its own included"""
    mixers: tuple[Mixer, ...] | None = None
    """what mixes positions, layer by layer, repeated to num_layers; all attention (window if attention_window) by
    default"""
    rope_pairs: RopePairs = "interleaved"
    """coordinates that turn together: neighbours (2k, 2k+1), or (k, k + d/2) as in Hugging Face's checkpoints"""
    rope_scaling: RopeScaling | None = None
    """stretch the rotary positions to a longer context"""
    norm_type: NormType = "rmsnorm"
    """what a norm computes"""
    norm_eps: float = 1e-5
    """added to the mean square (or variance) before the root"""
    norm_gain: bool = True
    """False: norms have no weights"""
    embedding_norm: bool = False
    """normalise the embedding before the first block"""
    logit_softcap: float | None = None
    """bound the logits to (-cap, cap) by cap * tanh(logit / cap)"""
    initialization: Initialization = "course"
    """how weights are drawn"""
    value_residual: bool = False
    """mix the first layer's values into every later layer's"""
    value_embeddings: bool = False
    """every other layer, the last included, adds a gated embedding of the token to its values"""
    residual_scalars: bool = False
    """before each layer: x = r x + s x0 with learned r and s per layer, x0 the embedding"""
    smear: bool = False
    """add a gated share of the former token's embedding to each embedding"""
    backout: bool = False
    """subtract a learned multiple of the middle layer's stream before the last norm"""
    latent_attention: LatentAttentionConfig | None = None
    """keys and values from a small cached latent (MLA) instead of attention's own projections"""
    moe: MixtureOfExpertsConfig | None = None
    """a mixture of experts in place of each feed-forward"""
    state_space: StateSpaceConfig | None = None
    """settings of the mixer "state_space" """
    long_convolution: LongConvolutionConfig | None = None
    """settings of the mixer "long_convolution" """

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.head_dim is None:
            check_heads(self.d_model, self.num_heads)
        if self.d_ff is None:
            gated = max(64, round(8 * self.d_model / 3 / 64) * 64)
            object.__setattr__(self, "d_ff", gated if self.ffn in GATED else 4 * self.d_model)
        _check_mixers(self)
        _check_attention(self)

    @property
    def d_head(self) -> int:
        """Width of one head of queries, keys and values."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    def has_plain_attention(self, layer: int) -> bool:
        """Whether the layer's mixer is the attention of `model.py`, without any variant."""
        unchanged = all(getattr(self, name) == value for name, value in PLAIN_ATTENTION.items())
        return unchanged and self.layer_mixers[layer] == "attention" and self.positions != "alibi"

    @property
    def changes_the_stream(self) -> bool:
        """Whether layers share more than the residual stream, or something happens to it between them."""
        return any((self.residual_scalars, self.smear, self.backout, self.value_residual, self.value_embeddings))

    @property
    def mixer_pattern(self) -> tuple[Mixer, ...]:
        """`mixers`, or its default."""
        default: Mixer = "attention" if self.attention_window is None else "window"
        return self.mixers or (default,)

    @property
    def layer_mixers(self) -> tuple[Mixer, ...]:
        """The mixer of each layer."""
        pattern = self.mixer_pattern
        return tuple(pattern[layer % len(pattern)] for layer in range(self.num_layers))


PLAIN_ATTENTION = {
    "num_kv_heads": None, "head_dim": None, "qkv_bias": False, "qk_norm": False, "attention_scale": 1.0,
    "attention_softcap": None, "attention_sinks": False, "value_residual": False, "value_embeddings": False,
    "latent_attention": None,
}  # fmt: skip
"""values with which attention is that of `model.py`"""
GATED = ("swiglu", "geglu", "reglu")


def check_heads(d_model: int, num_heads: int) -> None:
    """Raise a ValueError unless `num_heads` divides `d_model`."""
    if num_heads < 1 or d_model % num_heads:
        below = max(num_heads, 1) * max(1, d_model // max(num_heads, 1))
        raise ValueError(
            f"num_heads must divide d_model; got d_model={d_model}, num_heads={num_heads}; "
            f"choose d_model={below} or {below + max(num_heads, 1)}"
        )


def _check_ranges(config: ModelConfig) -> None:
    """Each field alone."""
    for name, choices in CHOICES.items():
        if getattr(config, name) not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {getattr(config, name)!r}")
    for name in ("rope_theta", "norm_eps", "attention_scale", "attention_softcap", "logit_softcap"):
        if getattr(config, name) is not None and not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive; got {getattr(config, name)}")
    sizes = ("vocab_size", "context_length", "d_model", "num_layers", "num_heads")
    for name in (*sizes, "d_ff", "num_kv_heads", "head_dim", "attention_window"):
        if getattr(config, name) is not None and getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(config, name)}")
    for name in ("attn_pdrop", "residual_pdrop"):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ValueError(f"{name} is a probability and must lie in [0, 1); got {getattr(config, name)}")


def _check_mixers(config: ModelConfig) -> None:
    """The pattern of layers and the settings that belong to it."""
    if config.mixers is not None:
        if not config.mixers:
            raise ValueError("mixers must name at least one mixer, such as ('attention',)")
        unknown = [mixer for mixer in config.mixers if mixer not in get_args(Mixer)]
        if unknown:
            raise ValueError(f"mixers must be among {', '.join(get_args(Mixer))}; got {unknown[0]!r}")
    for mixer, field in (("window", "attention_window"), ("state_space", "state_space"),
                         ("long_convolution", "long_convolution")):  # fmt: skip
        if (mixer in config.mixer_pattern) != (getattr(config, field) is not None):
            raise ValueError(
                f"a layer with mixer {mixer!r} and a value for {field} go together; got mixers={config.mixers} and "
                f"{field}={getattr(config, field)}"
            )


def _check_attention(config: ModelConfig) -> None:
    """Choices that exclude each other."""
    if config.num_heads % config.kv_heads:
        raise ValueError(
            f"num_kv_heads must divide num_heads; got num_heads={config.num_heads}, num_kv_heads={config.num_kv_heads}"
        )
    if config.positions == "rope" and config.d_head % 2 and config.latent_attention is None:
        raise ValueError(
            f"rotary positions turn pairs of coordinates, so d_model/num_heads must be even; got d_model="
            f"{config.d_model}, num_heads={config.num_heads}; choose other sizes or positions='learned'"
        )
    if config.rope_scaling is not None and config.positions != "rope":
        raise ValueError(f"rope_scaling stretches rotary positions; got positions={config.positions!r}; drop one")
    if not config.norm_gain and config.norm_type == "layernorm":
        raise ValueError("norm_gain=False is offered for norm_type='rmsnorm' only")
    changed = [name for name, value in PLAIN_ATTENTION.items() if getattr(config, name) != value]
    if changed and not {"attention", "window"} & set(config.mixer_pattern):
        raise ValueError(f"{changed[0]} changes attention, but no layer has any; got mixers={config.mixers}")
    if config.latent_attention is not None:
        _check_latent_attention(config)


def _check_latent_attention(config: ModelConfig) -> None:
    """Latent attention has its own heads and cache, and positions in a part of them."""
    own = {name: value for name, value in PLAIN_ATTENTION.items() if name != "latent_attention"}
    for name, value in {**own, "attention_window": None}.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"latent_attention makes all heads' keys and values from one latent, so {name} does not apply; got "
                f"{name}={getattr(config, name)}; leave it at {value}"
            )
    if config.positions != "rope":
        raise ValueError(f"latent_attention has a rotary part; got positions={config.positions!r}; choose 'rope'")
