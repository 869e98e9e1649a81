"""Strings as numbers: each distinct one gets the next number when it is first met.

    "to be or not to be"  ->  0 1 2 3 0 1

Words repeat (Zipf), so what is to be known of a word is found once and kept under its number, and a page becomes an
array of numbers, over which compiled loops run. Compiled code cuts a page at white space and looks each piece up in a
hash table without making a string, which is what `str.split` and a dictionary spend their time on.

Read next: `language_model.py` and `rules/page.py`, which use it.
"""

from __future__ import annotations

import functools
import itertools
from types import ModuleType

import numpy as np


class Interner:
    """Byte strings that are not empty, by number. For one thread at a time.

    Attributes:
        size: how many there are.
        kept: their bytes, one after the other.
        ends: those of string i are kept[ends[i] : ends[i + 1]]; longer than `size` + 1.
        slots: the hash table (`cs336_basics/tokenization/compiled_table.py`).
    """

    def __init__(self) -> None:
        from cs336_basics.tokenization.compiled_table import new_slots

        self.size, self.slots = 0, new_slots(1 << 12)
        self.kept, self.ends = np.empty(1 << 14, np.uint8), np.zeros(1 << 11, np.int64)
        self._rows = np.empty((_kernels().BATCH + 1, 5), np.uint64)

    def chunks(self, text: bytes) -> np.ndarray:
        """The numbers, int64, of what stands between white space in a text in UTF-8: as `str.split` cuts it."""
        data = np.frombuffer(text, np.uint8)
        numbers, position, count = np.empty(len(data) // 2 + 1, np.int64), 0, 0
        while position < len(data):
            position, count, self.size = _kernels().enter_chunks(
                data, position, count, self.slots, self.kept, self.ends, self.size, numbers, self._rows
            )
            if position < len(data):
                self._grow(len(data) - position)
        return numbers[:count]

    def pieces(self, data: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        """The numbers, int64, of data[cuts[i] : cuts[i + 1]]."""
        numbers, count = np.empty(len(cuts) - 1, np.int64), 0
        while count < len(numbers):
            count, self.size = _kernels().enter_pieces(
                data, cuts, count, self.slots, self.kept, self.ends, self.size, numbers, self._rows
            )
            if count < len(numbers):
                self._grow(int(cuts[count + 1] - cuts[count]))
        return numbers

    def strings(self, first: int) -> list[str]:
        """All strings from the number `first` on."""
        cuts = self.ends[first : self.size + 1].tolist()
        kept = self.kept[cuts[0] : cuts[-1]].tobytes()
        places = [cut - cuts[0] for cut in cuts]
        return [kept[begin:end].decode("utf-8", "surrogatepass") for begin, end in itertools.pairwise(places)]

    def string(self, number: int) -> str:
        """The string of a number."""
        return self.kept[self.ends[number] : self.ends[number + 1]].tobytes().decode("utf-8", "surrogatepass")

    def _grow(self, num_bytes: int) -> None:
        """Room for twice as many strings, and for `num_bytes` of them."""
        from cs336_basics.tokenization.compilation import stored
        from cs336_basics.tokenization.compiled_table import move_words, new_slots

        slots = new_slots(2 * len(self.slots))
        stored(move_words)(self.slots, slots)
        self.slots = slots
        self.kept = with_room(self.kept, int(self.ends[self.size]) + num_bytes)
        self.ends = with_room(self.ends, len(self.ends) + 1)


def with_room(values: np.ndarray, size: int) -> np.ndarray:
    """The same array if it has `size` entries, else one of twice as many that begins with it."""
    if size <= len(values):
        return values
    longer = np.empty(2 * size, values.dtype)
    longer[: len(values)] = values
    return longer


@functools.cache
def _kernels() -> ModuleType:
    """The module of compiled loops, stored on disk."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_basics.tokenization.compiled_table import move_words, new_slots
    from cs336_data import compiled_interning

    stored(move_words)(new_slots(1), new_slots(1))  # compiled now, not in the time of the document that makes it grow
    stored(compiled_interning.enter_chunks)
    stored(compiled_interning.enter_pieces)
    return compiled_interning
