"""What decoding remembers of earlier tokens: all keys and values, or those of a window.

A new token attends to every earlier one, whose keys and values never change: they are kept instead of recomputed. A
layer hands its cache the keys and values of the new tokens and gets back all that the new tokens may see, oldest
first, the last of them their own.

Left out: pages, and rows of different lengths (`cs336_systems/inference`). Read next: `generation.py`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class LayerCache(Protocol):
    """What attention asks of a key-value cache: remember this layer's new keys and values, return all so far."""

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take (batch, heads, new, d_k) tensors; return those of every token so far."""
        ...


class KVCache:
    """One layer's keys and values, (batch, heads, capacity, d_k) each, filled from the left."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (..., new, d_k) tensors; return those of all tokens so far.

        Raises:
            ValueError: more tokens than the capacity.
        """
        end = self.length + keys.shape[-2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; got {end}; make it longer or start again")
        if self._keys is None or self._values is None:
            self._keys = keys.new_empty(*keys.shape[:-2], self.capacity, keys.shape[-1])
            self._values = values.new_empty(*values.shape[:-2], self.capacity, values.shape[-1])
        self._keys[..., self.length : end, :] = keys
        self._values[..., self.length : end, :] = values
        self.length = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def pools(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The memory of keys and values on the CPU, all of its capacity, for compiled code that writes there itself."""
        assert self._keys is not None and self._values is not None, "nothing was appended yet"
        return self._keys.detach().numpy(), self._values.detach().numpy()


class WindowCache:
    """The keys and values of the last `window` - 1 tokens: with its own, all that a windowed query sees."""

    def __init__(self, window: int) -> None:
        self.window, self.length = window, 0
        self._kept: tuple[Tensor, Tensor] | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take (..., new, d_k) tensors; return them behind those of the window - 1 tokens before them."""
        self.length += keys.shape[-2]
        if self._kept is not None:
            keys = torch.cat((self._kept[0], keys), dim=-2)
            values = torch.cat((self._kept[1], values), dim=-2)
        first = max(0, keys.shape[-2] - (self.window - 1))
        self._kept = keys[..., first:, :], values[..., first:, :]
        return keys, values
