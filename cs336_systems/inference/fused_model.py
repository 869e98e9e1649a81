"""The compiled decoder over pages: rows of any lengths in one pass, each with the same bits as alone.

A row of `cs336_basics/compiled_decoding.PackedModel` is one token of one sequence: a prompt is as many rows as it has
tokens, each of which attends to the keys up to its own position, so prefill, decoding and the checking of drafts are
the same code, and give the same bits. Models that it cannot serve go through `model_runner.ModuleRunner`. Weights are
copied: after a training step, call `load_weights`.

Read next: `quantization.py`, `engine.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Ordered
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cs336_basics.compiled_decoding import PackedLinear, PackedModel
from cs336_basics.model import TransformerLM
from cs336_basics.tokenization.compilation import stored
from cs336_systems.inference.kv_cache import PagedKVCache, PagedSequence
from cs336_systems.inference.model_runner import Row

Weights = Literal["float32", "int8"]
PREFILL_ROWS = 256
"""tokens of a pass; longer prompts take several"""


class FusedRunner:
    """See the module docstring.

    Args:
        model: a plain model; `compiled_decoding.why_not_compiled` tells.
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
        self.pack: Any = PackedLinear
        from cs336_basics.decoding_kernels import log_probabilities

        if weights == "int8":
            from cs336_systems.inference.int8_kernel import PackedInt8

            self.pack = PackedInt8
        self.load_weights(model)
        config = model.config
        self.context_length, self.vocab_size = config.context_length, config.vocab_size
        self.cache = PagedKVCache(config.num_layers, num_pages, page_size=page_size)
        example = torch.empty(config.kv_heads, 1, config.d_head)
        pools = [self.cache.allocate(layer, example, example) for layer in range(config.num_layers)]
        self.measure_kernel = stored(log_probabilities)
        self.pools = [(keys.numpy(), values.numpy()) for keys, values in pools]

    def load_weights(self, model: TransformerLM) -> None:
        """Pack the model's present weights; sequences in the cache keep what the old ones wrote."""
        self.packed = PackedModel(model, pack=self.pack)

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that every decoding step reads."""
        return self.packed.bytes_per_step

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
        position = np.array([row.length + i for row, new in zip(rows, ids, strict=True) for i in range(len(new))])
        tokens = [i for new in ids for i in new]
        hidden = self.packed.hidden(tokens, position, self._tables(rows, ids), self.pools)
        for row, new in zip(rows, ids, strict=True):
            row.sequence.length += len(new)
        if not every and len(tokens) > len(rows):
            hidden = hidden[[end - 1 for end in itertools.accumulate(map(len, ids))]]
        logits = self.packed.logits(hidden)
        return [logits] if len(rows) == 1 else list(logits.split([len(new) if every else 1 for new in ids]))

    def _tables(self, rows: Ordered[Row], ids: Ordered[Ordered[int]]) -> np.ndarray[Any, Any]:
        """The pages of each token's row."""
        widest = max(len(row.sequence.pages) for row in rows)
        padded = [row.sequence.pages + [0] * (widest - len(row.sequence.pages)) for row in rows]
        return np.array([pages for pages, new in zip(padded, ids, strict=True) for _ in new])

    def measure(self, logits: Float[Tensor, "rows vocab"], chosen: list[int]) -> list[float]:
        """See `sampling.log_probabilities`."""
        values, found = logits.numpy(), np.empty(len(chosen), np.float32)
        self.measure_kernel(values, values.argmax(-1), np.array(chosen), found)
        return found.tolist()
