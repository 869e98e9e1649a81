"""The plain model with its weights packed for decoding: five products per layer, no module calls.

    qkv = norm(x) [Wq; Wk; Wv]^T      x += attend(qkv) Wo^T      h = norm(x) [W1; W3]^T      x += (SiLU(h1) * h3) W2^T

A row here is one token of one sequence: a prompt is as many rows as it has tokens, each of which attends to the keys
up to its own position, so prefill, decoding and the checking of drafts are the same code, and give the same bits.

FusedRunner serves float32 models on the CPU whose layers are those of `cs336_basics/model.py` (grouped queries may be
added); `why_not_fused` names what else a config asks for, and the engine then takes `model_runner.ModuleRunner`.
Weights are copied: after a training step, call `load_weights`.

Read next: `quantization.py`, `engine.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cs336_basics.model import TransformerLM
from cs336_systems.inference.kv_cache import PagedKVCache, PagedSequence
from cs336_systems.inference.model_runner import Row
from cs336_systems.inference.quantization import quantize_rows

Weights = Literal["float32", "int8"]
PLAIN = {
    "norm": "pre", "norm_type": "rmsnorm", "norm_gain": True, "ffn": "swiglu", "moe": None, "positions": "rope",
    "rope_pairs": "interleaved", "rope_scaling": None, "embedding_norm": False, "logit_softcap": None,
    "qkv_bias": False, "qk_norm": False, "attention_scale": 1.0, "attention_softcap": None, "attention_sinks": False,
    "latent_attention": None, "canon_width": None, "changes_the_stream": False,
}  # fmt: skip
"""properties of a ModelConfig that the kernels know"""
PREFILL_ROWS = 256
"""tokens of a pass; longer prompts take several"""


def why_not_fused(model: TransformerLM) -> str | None:
    """The first reason why FusedRunner cannot serve this model, or None."""
    config, weight = model.config, model.token_embeddings.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return f"the model is {weight.dtype} on {weight.device}, not float32 on the CPU"
    for name, value in PLAIN.items():
        if getattr(config, name) != value:
            return f"{name}={getattr(config, name)!r}"
    if any(mixer != "attention" for mixer in config.layer_mixers):
        return f"mixers={config.layer_mixers}"
    if config.d_model % 8 or (config.num_heads * config.d_head) % 8 or (config.d_ff or 0) % 8:
        return "d_model, d_ff and the heads' total width are not all multiples of 8"
    return None


class PackedLinear:
    """One matrix, or several side by side, as the kernels read it."""

    def __init__(self, parts: Ordered[Tensor], weights: Weights):
        from cs336_systems.inference import fused_kernels

        self.kernels = fused_kernels
        joined = torch.cat([part.detach() for part in parts])
        self.outputs = len(joined)
        self.scales: np.ndarray[Any, Any] | None = None
        if weights == "int8":
            quantized, scales = quantize_rows(joined)
            self.weight, self.scales = quantized.numpy(), scales.numpy()
        else:
            self.weight = joined.T.contiguous().numpy()

    @property
    def num_bytes(self) -> int:
        """Bytes that one pass over the matrix reads."""
        return self.weight.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def __call__(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(rows, inputs) to (rows, outputs); rows as `padded_rows` gives them."""
        y = np.empty((len(x), self.outputs), np.float32)
        if self.scales is None:
            share = -(-self.outputs // torch.get_num_threads())
            self.kernels.linear(x, self.weight, y, min(512, -(-share // 64) * 64))
        else:
            self.kernels.linear_int8(x, self.weight, self.scales, y, 32)
        return y


def share_threads() -> None:
    """Let the kernels run on as many threads as torch does.

    Both use one OpenMP, whose number of threads numba sets for torch too when it starts its own: set it back.
    """
    import numba

    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def padded_rows(rows: int, weights: Weights) -> int:
    """The number of rows that the kernels need for `rows`."""
    if weights == "int8":
        return -(-rows // 4) * 4
    return rows if rows == 1 else rows + rows % 2


class FusedRunner:
    """See the module docstring.

    Args:
        model: a plain model; `why_not_fused` tells.
        num_pages: pages of the cache; page_size: tokens in each.
        weights: int8 keeps the matrices (not the embedding table) as `quantization.py` rounds them.

    Raises:
        ValueError: the model is not plain, or `weights` is unknown.
    """

    path = "fused"
    can_truncate = True

    def __init__(self, model: TransformerLM, num_pages: int, *, page_size: int = 16, weights: Weights = "float32"):
        if weights not in ("float32", "int8"):
            raise ValueError(f"weights must be float32 or int8; got {weights!r}")
        if reason := why_not_fused(model):
            raise ValueError(f"the fused decoder serves the plain float32 model on the CPU; this one has {reason}")
        from cs336_systems.inference import fused_kernels

        self.kernels, self.weights, self.config = fused_kernels, weights, model.config
        self.context_length, self.vocab_size = model.config.context_length, model.config.vocab_size
        self.cache = PagedKVCache(model.config.num_layers, num_pages, page_size=page_size)
        example = torch.empty(model.config.kv_heads, 1, model.config.d_head)
        pools = [self.cache.allocate(layer, example, example) for layer in range(model.config.num_layers)]
        self.pools = [(keys.numpy(), values.numpy()) for keys, values in pools]
        self.load_weights(model)

    def load_weights(self, model: TransformerLM) -> None:
        """Pack the model's present weights; sequences in the cache keep what the old ones wrote."""
        self.table = model.token_embeddings.weight.detach().clone().numpy()
        assert model.positional_encoder is not None
        self.cos, self.sin = model.positional_encoder.cos.numpy(), model.positional_encoder.sin.numpy()
        self.layers = [self._pack(layer) for layer in model.layers]
        self.last_gain = model.ln_final.weight.detach().clone().numpy()
        self.head = PackedLinear([model.lm_head.weight], self.weights)

    def _pack(self, layer: Any) -> dict[str, Any]:
        attn, ffn = layer.attn, layer.ffn
        parts = {
            "qkv": [attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight], "out": [attn.output_proj.weight],
            "up": [ffn.w1.weight, ffn.w3.weight], "down": [ffn.w2.weight],
        }  # fmt: skip
        gains = {name: getattr(layer, name).weight.detach().clone().numpy() for name in ("ln1", "ln2")}
        return {name: PackedLinear(matrices, self.weights) for name, matrices in parts.items()} | gains

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that every decoding step reads."""
        matrices = [part for layer in self.layers for part in layer.values() if isinstance(part, PackedLinear)]
        return sum(matrix.num_bytes for matrix in (*matrices, self.head))

    def new_row(self) -> Row:
        """A row before its first token."""
        return Row(PagedSequence(), [])

    def fork(self, row: Row) -> Row:
        """A row that goes on from the same tokens, sharing their pages."""
        return Row(self.cache.fork(row.sequence), [])

    def truncate(self, row: Row, length: int) -> None:
        """Forget the tokens from `length` on."""
        self.cache.truncate(row.sequence, length)

    def forward(self, rows: Ordered[Row], ids: Ordered[Ordered[int]], *, every: bool = False) -> list[Tensor]:
        """See `model_runner.Runner.forward`."""
        if len(rows) == 1 and len(ids[0]) > PREFILL_ROWS:
            pieces = [ids[0][i : i + PREFILL_ROWS] for i in range(0, len(ids[0]), PREFILL_ROWS)]
            found = [self.forward(rows, [piece], every=every)[0] for piece in pieces]
            return [torch.cat(found)] if every else found[-1:]
        for row, new in zip(rows, ids, strict=True):
            self.cache.reserve(row.sequence, len(new))
        position = [row.length + i for row, new in zip(rows, ids, strict=True) for i in range(len(new))]
        owner = [r for r, new in enumerate(ids) for _ in new]
        hidden = self._hidden([i for new in ids for i in new], np.array(position), self._tables(rows)[owner])
        for row, new in zip(rows, ids, strict=True):
            row.sequence.length += len(new)
        ends = np.cumsum([len(new) for new in ids])
        chosen = np.arange(len(position)) if every else ends - 1
        logits = torch.from_numpy(self.head(self._padded(hidden[chosen])))
        counts = [len(new) if every else 1 for new in ids]
        return list(logits[: len(chosen)].split(counts))

    def _tables(self, rows: Ordered[Row]) -> np.ndarray[Any, Any]:
        table = np.zeros((len(rows), max(len(row.sequence.pages) for row in rows)), np.int64)
        for r, row in enumerate(rows):
            table[r, : len(row.sequence.pages)] = row.sequence.pages
        return table

    def _padded(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        missing = padded_rows(len(x), self.weights) - len(x)
        return np.concatenate((x, np.zeros((missing, x.shape[1]), np.float32))) if missing else x

    def _hidden(self, ids: list[int], position: np.ndarray[Any, Any], table: np.ndarray[Any, Any]) -> Any:
        """The stream behind the last norm, a row per token; padding rows are computed and never read."""
        share_threads()
        kernels, config, eps = self.kernels, self.config, self.config.norm_eps
        x = self._padded(self.table[ids])
        update, y = np.zeros_like(x), np.empty_like(x)
        heads = np.zeros((len(x), config.num_heads * config.d_head), np.float32)
        inner = np.zeros((len(x), config.d_ff or 0), np.float32)
        for layer, (keys, values) in zip(self.layers, self.pools, strict=True):
            kernels.add_and_norm(x, update, layer["ln1"], eps, y)
            qkv = layer["qkv"](y)
            kernels.rotate_and_store(qkv, self.cos, self.sin, position, table, keys, values, config.num_heads)
            kernels.attend(qkv, keys, values, table, position, heads)
            kernels.add_and_norm(x, layer["out"](heads), layer["ln2"], eps, y)
            kernels.gate(layer["up"](y), inner)
            update = layer["down"](inner)
        kernels.add_and_norm(x, update, self.last_gain, eps, y)
        return y
