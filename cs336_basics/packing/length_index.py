"""A set of lengths that answers "the largest one of at most r" and "the smallest" in a few steps, however full it is.

A tree of 64-bit words. On the lowest level bit b of word w says that length 64 w + b is present; on each level above,
a bit says that the word below it is not zero. The top is one word:

    lengths up to 2,048   two levels          up to 262,143   three          up to 16,777,215   four

A query goes up until a word has a bit low enough and down again, one word per level each way: O(log_64 of the largest
length), which does not depend on how many documents are stored. This is van Emde Boas's idea with a fan-out of 64
(van Emde Boas 1975; the form is that of Linux's find_last_bit, level by level). Read next: `best_fit.py`.
"""

from __future__ import annotations

WORD = 64


class LengthIndex:
    """A set of whole numbers 0..largest; see the module docstring.

    Args:
        largest: the largest number it may hold.

    Raises:
        ValueError: `largest` is negative.

    Complexity: every method touches at most two words per level; memory is largest / 64 words.
    """

    def __init__(self, largest: int) -> None:
        if largest < 0:
            raise ValueError(f"the largest length must not be negative; got {largest}")
        self.largest = largest
        self.levels: list[list[int]] = []
        words = largest + 1
        while words > 1 or not self.levels:
            words = -(-words // WORD)
            self.levels.append([0] * words)

    def add(self, length: int) -> None:
        """Put `length` in; nothing happens if it is in already."""
        if not 0 <= length <= self.largest:
            raise ValueError(f"this index holds lengths 0 to {self.largest}; got {length}")
        for level in self.levels:
            length, bit = divmod(length, WORD)
            level[length] |= 1 << bit

    def discard(self, length: int) -> None:
        """Take `length` out; nothing happens if it is not in."""
        for level in self.levels:
            length, bit = divmod(length, WORD)
            level[length] &= ~(1 << bit)
            if level[length]:
                return

    def largest_at_most(self, bound: int) -> int | None:
        """The largest member that does not exceed `bound`, or None."""
        place = min(bound, self.largest)
        for height, level in enumerate(self.levels):
            if place < 0:
                return None
            word, bit = divmod(place, WORD)
            candidates = level[word] & ((2 << bit) - 1)
            if candidates:
                return self._descend_to_largest(word * WORD + candidates.bit_length() - 1, height)
            place = word - 1
        return None

    def smallest(self) -> int | None:
        """The smallest member, or None."""
        place = 0
        for level in reversed(self.levels):
            word = level[place]
            if not word:
                return None
            place = place * WORD + (word & -word).bit_length() - 1
        return place

    def _descend_to_largest(self, place: int, height: int) -> int:
        """The largest member below bit `place` of level `height`."""
        for below in range(height - 1, -1, -1):
            place = place * WORD + self.levels[below][place].bit_length() - 1
        return place
