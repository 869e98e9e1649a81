"""What the engine asks of a model: take some rows' next tokens, give the logits behind each row's last one.

ModuleRunner runs any TransformerLM through its own modules. Layers whose cache is a plain KVCache (every attention
without a window, latent attention too) keep it in pages; what other layers remember (a window, a state, a tail of
inputs) stays with the row and is copied when the row forks. Rows that stand at the same length and bring equally many
tokens run in one forward pass if all layers are paged, else each row alone. In a shared pass a row's logits depend on
its neighbours by rounding only; `fused_model.py` has the runner where not even that.

Read next: `engine.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from cs336_basics import nn_utils
from cs336_basics.kv_cache import KVCache
from cs336_basics.model import TransformerLM
from cs336_systems.inference.kv_cache import PagedKVCache, PagedLayer, PagedSequence, Places


@dataclass(eq=False)
class Row:
    """A sequence being written: its pages, and what layers without pages remember of it."""

    sequence: PagedSequence
    private: list[Any]

    @property
    def length(self) -> int:
        """Tokens taken so far."""
        return self.sequence.length


class Runner(Protocol):
    """A model as the engine sees it."""

    path: str
    """how rows are computed: "fused", "modules, paged", or "modules, a cache per row" """
    cache: PagedKVCache
    context_length: int
    vocab_size: int
    can_truncate: bool

    def load_weights(self, model: TransformerLM) -> None:
        """Serve this model's present weights from now on."""
        ...

    def new_row(self) -> Row:
        """A row before its first token."""
        ...

    def fork(self, row: Row) -> Row:
        """A row that goes on from the same tokens, sharing their pages."""
        ...

    def truncate(self, row: Row, length: int) -> None:
        """Forget the tokens from `length` on; 0 gives all pages back."""
        ...

    def forward(self, rows: Ordered[Row], ids: Ordered[Ordered[int]], *, every: bool = False) -> list[Tensor]:
        """Take each row's new tokens; logits (1, vocab) behind its last one, or (new, vocab) behind `every` one."""
        ...


class ModuleRunner:
    """A TransformerLM of any variant, through its own modules.

    Args:
        model: it is run in evaluation mode and stays where it is.
        cache: pages for as many layers as the model has.
    """

    def __init__(self, model: TransformerLM, num_pages: int, *, page_size: int = 16):
        self.model, config = model, model.config
        self.context_length, self.vocab_size = config.context_length, config.vocab_size
        self.paged = [type(entry) is KVCache for entry in self._new_entries()]
        self.cache = PagedKVCache(len(self.paged), num_pages, page_size=page_size)
        self.can_truncate = all(self.paged)
        self.path = "modules, paged" if all(self.paged) else "modules, a cache per row"

    def _new_entries(self) -> list[Any]:
        with torch.no_grad():
            return self.model.new_cache(1, self.context_length)

    def load_weights(self, model: TransformerLM) -> None:
        """Serve this model; one that is served already is read as it is at each pass."""
        self.model = model

    def new_row(self) -> Row:
        """A row before its first token."""
        return Row(PagedSequence(), [] if all(self.paged) else self._new_entries())

    def fork(self, row: Row) -> Row:
        """Pages are shared, everything else is copied."""
        return Row(self.cache.fork(row.sequence), copy.deepcopy(row.private))

    def truncate(self, row: Row, length: int) -> None:
        """Forget the tokens from `length` on.

        Raises:
            ValueError: the model has layers that cannot go back, and length is not 0.
        """
        if length and length < row.length and not self.can_truncate:
            raise ValueError("this model has layers whose memory cannot be shortened (a window, a state space); "
                             "decode it without drafts")  # fmt: skip
        self.cache.truncate(row.sequence, length)
        if length == 0:
            row.private = []

    @torch.no_grad()
    def forward(self, rows: Ordered[Row], ids: Ordered[Ordered[int]], *, every: bool = False) -> list[Tensor]:
        """See `Runner.forward`.

        Raises:
            OutOfPages: no room for the new tokens.
        """
        groups: dict[Any, list[int]] = {}
        for index, (row, new) in enumerate(zip(rows, ids, strict=True)):
            self.cache.reserve(row.sequence, len(new))
            alone = None if self.can_truncate else index
            groups.setdefault((row.length, len(new), alone), []).append(index)
        training = self.model.training
        self.model.eval()
        found: dict[int, Tensor] = {}
        for members in groups.values():
            logits = self._forward_together([rows[i] for i in members], [ids[i] for i in members], every)
            found.update(zip(members, logits, strict=True))
        self.model.train(training)
        return [found[index] for index in range(len(rows))]

    def _forward_together(
        self, rows: list[Row], ids: list[Ordered[int]], every: bool
    ) -> Float[Tensor, "rows new vocab"]:
        device = self.model.token_embeddings.weight.device
        places = Places(self.cache, [row.sequence for row in rows], len(ids[0]), device)
        cache: list[Any] = [
            PagedLayer(self.cache, layer, places) if paged else rows[0].private[layer]
            for layer, paged in enumerate(self.paged)
        ]
        hidden = self.model.hidden_states(torch.tensor(ids, device=device), cache, rows[0].length)
        for row in rows:
            row.sequence.length += len(ids[0])
        logits = self.model.lm_head(hidden if every else hidden[:, -1:])
        cap = self.model.config.logit_softcap
        return logits if cap is None else nn_utils.softcap(logits, cap)
