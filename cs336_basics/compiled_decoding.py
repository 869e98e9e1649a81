"""The plain model with its weights packed for decoding: five products per layer, no module calls.

    qkv = norm(x) [Wq; Wk; Wv]^T      x += attend(qkv) Wo^T      h = norm(x) [W1; W3]^T      x += (SiLU(h1) * h3) W2^T

A row here is one token of one sequence; several tokens of a sequence are as many rows, each of which attends to the
keys up to its own position. `PackedModel` serves float32 models on the CPU whose layers are those of `model.py`, or of
Llama and Qwen2.5 (grouped queries, biases, other pairs or a stretched rotation); `why_not_compiled` names what else a
config asks for. Weights are copied: after a training step, pack anew. `CompiledStep` goes on where a forward pass
through the modules has filled a cache; the inference engine (`cs336_systems/inference`) runs whole batches of requests
on the same code.

Read next: `generation.py`.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from collections.abc import Sequence as Ordered
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cs336_basics.kv_cache import KVCache
from cs336_basics.model import TransformerLM
from cs336_basics.tokenization.compilation import stored

Array = npt.NDArray[Any]
Engine = Literal["auto", "plain", "compiled"]
PLAIN = {
    "norm": "pre", "norm_type": "rmsnorm", "norm_gain": True, "ffn": "swiglu", "moe": None, "positions": "rope",
    "embedding_norm": False, "logit_softcap": None, "qk_norm": False, "attention_scale": 1.0,
    "attention_softcap": None, "attention_sinks": False, "latent_attention": None, "canon_width": None,
    "changes_the_stream": False,
}  # fmt: skip
"""properties of a ModelConfig that the kernels know"""
MAX_TILE = 512
"""outputs of a tile"""


def why_not_compiled(model: TransformerLM) -> str | None:
    """The first reason why PackedModel cannot serve this model, or None."""
    config, weight = model.config, model.token_embeddings.weight
    if importlib.util.find_spec("numba") is None:
        return "no numba beside it: pip install numba"
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return f"{str(weight.dtype).removeprefix('torch.')} weights on {weight.device}, not float32 on the CPU"
    for name, value in PLAIN.items():
        if getattr(config, name) != value:
            return f"{name}={getattr(config, name)!r}"
    if any(mixer != "attention" for mixer in config.layer_mixers):
        return f"mixers={config.layer_mixers}"
    if config.d_model % 8 or (config.num_heads * config.d_head) % 8 or (config.d_ff or 0) % 8:
        return "d_model, d_ff or a total width of heads that is no multiple of 8"
    return None


def takes_compiled_steps(model: TransformerLM, engine: Engine, *, work: float, least: float) -> bool:
    """Whether to decode in compiled code.

    Args:
        engine: "plain" or "compiled" to insist; "auto" compiles where it is possible, pays, and misses no hook.
        work: weights times tokens to be written, which pays from `least` on.

    Raises:
        ValueError: "compiled" for a model that cannot be served, or another word.
    """
    if engine not in ("auto", "plain", "compiled"):
        raise ValueError(f"engine must be 'auto', 'plain' or 'compiled'; got {engine!r}")
    if engine == "auto":
        hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        return work >= least and not hooked and why_not_compiled(model) is None
    if engine == "compiled" and (reason := why_not_compiled(model)):
        raise ValueError(f"engine='compiled' serves the plain float32 model on the CPU; this one has {reason}")
    return engine == "compiled"


class PackedLinear:
    """A matrix in tiles of outputs, inputs by outputs in each: what a task reads lies in one piece.

    Every thread gets equally many of about one width; the last is filled up with zeros.

    Args:
        parts: (outputs, inputs) matrices, float32 or int8, taken side by side.

    Attributes:
        num_bytes: what one pass over the matrices reads.
    """

    scales = np.zeros(0, np.float32)

    def __init__(self, parts: Ordered[Tensor]):
        from cs336_basics.decoding_kernels import LANES, linear

        self.kernel = stored(linear)
        whole = torch.cat([part.detach() for part in parts])
        self.outputs, inputs = whole.shape
        tiles = torch.get_num_threads() * -(-self.outputs // (MAX_TILE * torch.get_num_threads()))
        width = LANES * -(-self.outputs // (LANES * tiles))
        pieces = whole.split(width)
        self.weight = np.zeros((len(pieces), inputs, width), whole.numpy().dtype)
        for tile, piece in zip(self.weight, pieces, strict=True):
            tile[:, : len(piece)] = piece.numpy().T
        self.num_bytes = whole.nbytes

    def __call__(self, x: Array) -> Array:
        """(rows, inputs) to (rows, outputs)."""
        y = np.empty((len(x), self.outputs), np.float32)
        self.kernel(x, *self.arrays, y)
        return y

    @property
    def arrays(self) -> tuple[Array, Array]:
        """What the kernels take: the tiles, and a scale for each output (none)."""
        return self.weight, self.scales


_SHARED = threading.local()  # numba's number belongs to a thread, and setting it takes a lock between processes


def share_threads() -> None:
    """Let the kernels run on as many threads as torch does.

    Both use one OpenMP, whose number of threads numba sets for torch too when it starts its own: set it back.
    """
    threads = torch.get_num_threads()
    if getattr(_SHARED, "threads", None) == threads:
        return
    import numba

    settings = cast(Any, numba.config)
    numba.set_num_threads(min(threads, settings.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    _SHARED.threads = threads


class PackedModel:
    """A plain model's weights as the kernels read them, and the pass over them.

    Args:
        model: `why_not_compiled` is None for it.
        pack: PackedLinear, or a kind of it with other weights.

    Raises:
        ValueError: the model is not plain.
    """

    def __init__(self, model: TransformerLM, *, pack: Callable[[list[Tensor]], PackedLinear] = PackedLinear):
        if reason := why_not_compiled(model):
            raise ValueError(f"compiled decoding serves the plain float32 model on the CPU; this one has {reason}")
        from cs336_basics import decoding_kernels as kernels

        self.add_and_norm, self.layer = stored(kernels.add_and_norm), stored(kernels.layer)
        self.config = model.config
        self.table = model.token_embeddings.weight.detach().clone().numpy()
        assert model.positional_encoder is not None
        self.cos, self.sin = model.positional_encoder.cos.numpy(), model.positional_encoder.sin.numpy()
        packed = [_pack_layer(layer, pack) for layer in model.layers]
        self.layers = [arrays for arrays, _ in packed]
        self.last_gain = model.ln_final.get_parameter("weight").detach().clone().numpy()
        self.head = pack([model.lm_head.weight])
        self.bytes_per_step = sum(num_bytes for _, num_bytes in packed) + self.head.num_bytes
        """of matrices, which every pass reads"""

    def hidden(
        self, ids: Ordered[int] | Array, position: Array, table: Array, pools: Ordered[tuple[Array, Array]]
    ) -> Array:
        """The stream behind the last norm, a row per token.

        Args:
            ids: the tokens; several of one sequence in their order.
            position: of each token in its sequence.
            table: pages of each token's sequence, (tokens, pages).
            pools: keys and values of each layer, (pages, heads, page_size, width); the tokens' own are written.
        """
        share_threads()
        config, eps, halves = self.config, self.config.norm_eps, self.config.rope_pairs == "halves"
        x = self.table[ids]
        update, y = np.zeros_like(x), np.empty_like(x)
        for arrays, (keys, values) in zip(self.layers, pools, strict=True):
            self.layer(
                x, update, *arrays, eps, self.cos, self.sin, halves, position, table, keys, values, config.num_heads
            )
        self.add_and_norm(x, update, self.last_gain, eps, y)
        return y

    def logits(self, hidden: Array) -> Float[Tensor, "rows vocab"]:
        """Those of some rows that `hidden` gave."""
        return torch.from_numpy(self.head(hidden))


def _pack_layer(layer: Any, pack: Callable[[list[Tensor]], PackedLinear]) -> tuple[tuple[Array, ...], int]:
    """A layer's arrays in the order that the kernel takes them, and the bytes of its matrices."""
    attn, ffn = layer.attn, layer.ffn
    projections = (attn.q_proj, attn.k_proj, attn.v_proj)
    qkv, out = pack([projection.weight for projection in projections]), pack([attn.output_proj.weight])
    up, down = pack([ffn.w1.weight, ffn.w3.weight]), pack([ffn.w2.weight])
    biases = [projection.bias.detach() for projection in projections if projection.bias is not None]
    bias = torch.cat(biases).numpy() if biases else np.zeros(0, np.float32)
    ln1, ln2 = (norm.weight.detach().clone().numpy() for norm in (layer.ln1, layer.ln2))
    arrays = (ln1, *qkv.arrays, bias, *out.arrays, ln2, *up.arrays, *down.arrays)
    return arrays, sum(matrix.num_bytes for matrix in (qkv, out, up, down))


class CompiledStep:
    """Decoding steps in compiled code, on the cache that the model's own modules have filled.

    Args:
        model: `why_not_compiled` is None for it; or its weights, packed already.
        cache: what `model.new_cache` gave, with at least one token in it; each step adds one.

    Raises:
        ValueError: the model is not plain.
    """

    def __init__(self, model: TransformerLM | PackedModel, cache: Ordered[KVCache]):
        self.packed = model if isinstance(model, PackedModel) else PackedModel(model)
        self.cache = cache
        self.pools = [entry.pools() for entry in cache]

    def __call__(self, token: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Take the next token of every row; the logits behind it."""
        rows, position = len(token), self.cache[0].length
        table = np.arange(rows)[:, None]  # a row's whole context is one page
        hidden = self.packed.hidden(token.numpy(), np.full(rows, position), table, self.pools)
        for entry in self.cache:
            entry.length += 1
        return self.packed.logits(hidden)
