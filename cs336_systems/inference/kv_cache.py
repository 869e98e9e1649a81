"""Keys and values in pages: no row reserves more than it uses, and samples of one prompt share its pages.

A page holds PAGE_SIZE tokens of every layer. A sequence is a list of page numbers and a length; token t stands in page
pages[t // page_size]. Pages count their owners:

    fork       the copy lists the same pages, each with one owner more
    reserve    before a sequence writes into a page that others own too, it gets a copy of it (copy on write)
    truncate   pages behind the new length lose an owner (a rejected draft); a page without owners is free again

so n samples of a prompt hold its full pages once and copy at most the last one each.

Source: Kwon et al. 2023 (PagedAttention, 2309.06180), section 4. Left out: swapping pages to disk, pages shared by
requests that begin alike by chance. Read next: `model_runner.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field

import torch
from torch import Tensor


class OutOfPages(RuntimeError):
    """No free page is left."""


@dataclass(eq=False)
class PagedSequence:
    """What one row remembers: its pages and how many tokens it has written into them."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class PagedKVCache:
    """A fixed number of pages for all layers and rows, allocated once.

    Args:
        num_layers: layers whose keys and values are paged.
        num_pages: pages that all sequences share.
        page_size: tokens per page.

    The tensors are made when `allocate` or the first `write` tells their shapes: (pages, heads, page_size, width).

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, num_layers: int, num_pages: int, *, page_size: int = 16):
        for name, value in (("num_layers", num_layers), ("num_pages", num_pages), ("page_size", page_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        self.num_pages, self.page_size = num_pages, page_size
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers
        self.owners = [0] * num_pages
        self.free = list(range(num_pages - 1, -1, -1))

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens fill or begin."""
        return -(-tokens // self.page_size)

    def allocate(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The pools of a layer, made to fit (..., heads, tokens, width) examples."""
        pool_keys, pool_values = self.keys[layer], self.values[layer]
        if pool_keys is None or pool_values is None:
            pool_keys, pool_values = (
                x.new_zeros(self.num_pages, x.shape[-3], self.page_size, x.shape[-1]) for x in (keys, values)
            )
            self.keys[layer], self.values[layer] = pool_keys, pool_values
        return pool_keys, pool_values

    def fork(self, sequence: PagedSequence) -> PagedSequence:
        """A second sequence that begins with the same tokens, in the same pages."""
        pages = sequence.pages[: self.pages_for(sequence.length)]
        for page in pages:
            self.owners[page] += 1
        return PagedSequence(pages, sequence.length)

    def reserve(self, sequence: PagedSequence, tokens: int) -> None:
        """Make the places of the next `tokens` tokens exist and belong to this sequence alone.

        Raises:
            OutOfPages: not enough free pages; nothing is changed then.
        """
        needed = self.missing_pages(sequence, tokens)
        if needed > len(self.free):
            raise OutOfPages(f"{needed} pages are needed and {len(self.free)} of {self.num_pages} are free")
        if self._next_page_is_shared(sequence, tokens):
            index = sequence.length // self.page_size
            shared, own = sequence.pages[index], self._take()
            for pool in (*self.keys, *self.values):
                if pool is not None:
                    pool[own] = pool[shared]
            self._release(shared)
            sequence.pages[index] = own
        while len(sequence.pages) * self.page_size < sequence.length + tokens:
            sequence.pages.append(self._take())

    def missing_pages(self, sequence: PagedSequence, tokens: int) -> int:
        """Free pages that `reserve` would take."""
        more = self.pages_for(sequence.length + tokens) - len(sequence.pages)
        return max(0, more) + self._next_page_is_shared(sequence, tokens)

    def _next_page_is_shared(self, sequence: PagedSequence, tokens: int) -> bool:
        index = sequence.length // self.page_size
        return tokens > 0 and index < len(sequence.pages) and self.owners[sequence.pages[index]] > 1

    def truncate(self, sequence: PagedSequence, length: int) -> None:
        """Forget the tokens from `length` on."""
        if not 0 <= length <= sequence.length:
            raise ValueError(f"length must lie in [0, {sequence.length}]; got {length}")
        kept = self.pages_for(length)
        for page in sequence.pages[kept:]:
            self._release(page)
        del sequence.pages[kept:]
        sequence.length = length

    def write(self, layer: int, places: Places, keys: Tensor, values: Tensor) -> None:
        """Store the (rows, heads, new, width) keys and values of each sequence's next tokens; `length` stays.

        The caller reserves first and adds the new tokens to each `length` when all layers have written.
        """
        pool_keys, pool_values = self.allocate(layer, keys, values)
        pool_keys[places.page, :, places.slot] = keys.transpose(1, 2)
        pool_values[places.page, :, places.slot] = values.transpose(1, 2)

    def read(self, layer: int, places: Places) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens of each sequence, the next ones included, (rows, heads, tokens, width)."""
        pools = self.keys[layer], self.values[layer]
        assert pools[0] is not None and pools[1] is not None, "read before write"
        keys, values = (
            pool[places.table].transpose(1, 2).flatten(2, 3)[:, :, : places.tokens]
            for pool in pools
            if pool is not None
        )
        return keys, values

    def _take(self) -> int:
        page = self.free.pop()
        self.owners[page] = 1
        return page

    def _release(self, page: int) -> None:
        self.owners[page] -= 1
        if self.owners[page] == 0:
            self.free.append(page)


class Places:
    """Where the next `new` tokens of some sequences of equal length go, and where all their tokens stand.

    The same for every layer, so a pass makes it once; `reserve` comes first.
    """

    def __init__(
        self, cache: PagedKVCache, sequences: Ordered[PagedSequence], new: int, device: torch.device | None = None
    ):
        length, size = sequences[0].length, cache.page_size
        self.tokens = length + new
        used = cache.pages_for(self.tokens)
        self.table = torch.tensor([s.pages[:used] for s in sequences], device=device, dtype=torch.long)
        at = torch.arange(length, self.tokens, device=device)
        self.page, self.slot = self.table[:, at // size], (at % size).expand(len(sequences), -1)


class PagedLayer:
    """One layer of some sequences, as the `LayerCache` that attention expects."""

    def __init__(self, cache: PagedKVCache, layer: int, places: Places):
        self.cache, self.layer, self.places = cache, layer, places

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take (rows, heads, new, width) tensors; return those of every token so far."""
        self.cache.write(self.layer, self.places, keys, values)
        return self.cache.read(self.layer, self.places)
