"""Learning BPE merges with compiled code: the algorithm of `bpe.py` on flat arrays.

All distinct words lie in one row of cells, one cell for each byte, a wall between two words. A token covers as many
cells as it has bytes; its first cell knows the token, its last one the way back to the first:

    cells     l  o  w  |  l  o  w  e  r  |          after (l, o), (lo, w):     low .  .  |  low .  .  e  r  |

So both neighbours of a token are found in O(1): the left one ends just before it, the right one begins just after.
Each pair has a list of the places where it occurs, in the order of the row. A merge walks through its list and checks
each place, since other merges may have taken the tokens meanwhile; then it only has to correct the two pairs with the
neighbours. Three facts keep this small:

    - A pair occurs for the first time in the step that makes the younger of its two tokens, and never more often than
      at the end of that step. So its list is written once, and no table from pairs to lists is needed: in one step the
      new pairs are (x, new) and (new, y), found by x and y.
    - Lists are walked and written from left to right, so they stay sorted, which is the order in which overlapping
      pairs ("aaa") have to be merged.
    - Each step shortens the row by one token for each place merged, so all lists together hold at most three times as
      many places as there are cells.

The best pair comes from `compiled_heap.py`. Complexity: O(cells + places merged) and the heap; about 30 bytes of memory
for each byte of the distinct words. Source: as `bpe.py`; linked symbols as in SentencePiece (Kudo and Richardson 2018,
1808.06226). Left out: several threads, since a step depends on the one before. Read next: `compiled_heap.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_counts import WordCounts
from cs336_basics.tokenization.compiled_heap import Heap, Tokens, add_token, best_pair, enter, remove_best
from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_basics.tokenization.progress import Report

TOKEN, FIRST, PAIR, WORD = range(4)  # columns of a cell
WALL = -1  # as TOKEN: between words, or inside a token; as FIRST: no token ends here
_MERGES_PER_CALL = 256
_DONE, _NO_ROOM, _NO_PAIRS = range(3)


class Pairs(NamedTuple):
    """Every pair of adjacent tokens that has ever occurred."""

    counts: npt.NDArray[np.int64]
    """how often it occurs now"""
    ids: npt.NDArray[np.int32]
    """its two tokens"""
    lists: npt.NDArray[np.int64]
    """(begin, end) of its list in the array of places"""


def learn_merges(
    words: WordCounts, num_merges: int, *, by_bytes: bool = True, on_progress: Report | None = None
) -> list[tuple[bytes, bytes]]:
    """Learn merges; the result of `train_bpe_from_counts`.

    Args:
        words: distinct words, none empty, with counts that are not negative.
        num_merges: the most merges wanted.
        by_bytes: whether a tie goes to the pair with greater byte strings; else to the smaller pair of ids.
        on_progress: called with (merges done, merges wanted).
    """
    most = min(num_merges, len(words.joined))  # each merge shortens the words
    row = _Row(words, most, by_bytes)
    while row.num_merges < most:
        stop = min(most, row.num_merges + _MERGES_PER_CALL)
        result = row.learn(stop)
        if result == _NO_ROOM:
            row.make_room()
        if on_progress:
            on_progress(row.num_merges, num_merges)
        if result == _NO_PAIRS:
            break
    return row.merges()


class _Row:
    """The row of cells with its pairs, lists and heap, and what has been learned."""

    def __init__(self, words: WordCounts, num_merges: int, by_bytes: bool):
        num_cells = 257 + len(words.joined) + len(words.counts)
        place = np.int32 if num_cells < 2**31 else np.int64
        self.by_bytes = by_bytes
        self.word_counts = words.counts
        self.cells = np.empty((num_cells, 4), dtype=place)
        self.tokens = Tokens.empty(num_cells, 256 + num_merges)
        by_pair = np.zeros((2**16, 2), dtype=np.int64)
        stored(_fill_cells)(words.joined, words.offsets, words.counts, self.cells, self.tokens, by_pair)

        used = np.flatnonzero(by_pair[:, 0])
        ends = np.cumsum(by_pair[used, 1])
        self.pairs = Pairs(
            by_pair[used, 0].copy(),
            np.stack([used >> 8, used & 255], axis=1).astype(np.int32),
            np.stack([ends - by_pair[used, 1], ends], axis=1),
        )
        by_pair[used, 0] = np.arange(len(used))
        by_pair[used, 1] = self.pairs.lists[:, 0]
        self.places = np.empty(int(ends[-1]) if len(ends) else 0, dtype=place)
        stored(_fill_places)(self.cells, by_pair, self.places)
        self.heap = Heap.empty(len(used))
        self.found = np.empty((0, 2), dtype=place)  # (pair, place) in the order in which a step meets them
        # In one step the new pair with a left neighbour, and with a right one.
        self.by_left, self.by_right = (np.full(256 + num_merges, WALL, dtype=np.int32) for _ in range(2))
        # pairs used, places used, merges learned
        self.used = np.array([len(used), len(self.places), 0], dtype=np.int64)
        self.make_room()

    @property
    def num_merges(self) -> int:
        """Merges learned so far."""
        return int(self.used[2])

    def learn(self, stop: int) -> int:
        """Learn merges up to number `stop`; says whether that was done, and if not, why."""
        return stored(_learn)(
            self.cells, self.word_counts, self.tokens, self.pairs, self.places, self.heap, self.found,
            self.by_left, self.by_right, self.used, stop, self.by_bytes,
        )  # fmt: skip

    def make_room(self) -> None:
        """Enlarge what may be too small for the next step, by half or to what the step needs."""
        best = self.heap.state[1]
        longest = 1024 if best < 0 else 2 * int(np.diff(self.pairs.lists[best])[0])
        self.pairs = Pairs(*(_enlarged(column, self.used[0], longest) for column in self.pairs))
        self.places = _enlarged(self.places, self.used[1], longest)
        self.found = _enlarged(self.found, 0, longest)
        self.heap = Heap(
            _enlarged(self.heap.counts, len(self.heap.counts), len(self.pairs.counts) - len(self.heap.counts)),
            _enlarged(self.heap.pairs, len(self.heap.pairs), len(self.pairs.counts) - len(self.heap.pairs)),
            self.heap.state,
        )

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges as pairs of byte strings."""
        tokens = [bytes([byte]) for byte in range(256)]
        pairs = []
        for left, right in self.tokens.parts[256 : 256 + self.num_merges].tolist():
            pairs.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        return pairs


def _enlarged(array: npt.NDArray[Any], used: int, more: int) -> npt.NDArray[Any]:
    """The same array, with room for `more` entries behind the first `used`."""
    if used + more <= len(array):
        return array
    larger = np.empty((max(used + more, len(array) + len(array) // 2), *array.shape[1:]), dtype=array.dtype)
    larger[:used] = array[:used]
    return larger


@kernel
def _fill_cells(joined, offsets, counts, cells, tokens, by_pair):
    """Lay the words out, behind the 256 bytes themselves; by_pair[left << 8 | right] = (count, places)."""
    for byte in range(256):
        tokens.bytes[byte], tokens.at[byte], tokens.lengths[byte] = byte, byte, 1
        tokens.keys[byte] = np.uint64(byte) << np.uint64(56)
    for cell in range(257):
        cells[cell, TOKEN], cells[cell, FIRST] = WALL, WALL
    cell = 257
    for word in range(len(counts)):
        for place in range(offsets[word], offsets[word + 1]):
            byte = joined[place]
            tokens.bytes[cell] = byte
            cells[cell, TOKEN], cells[cell, FIRST], cells[cell, PAIR], cells[cell, WORD] = byte, cell, WALL, word
            if place > offsets[word] and counts[word] > 0:
                pair = np.int64(joined[place - 1]) << 8 | byte
                by_pair[pair, 0] += counts[word]
                by_pair[pair, 1] += 1
                cells[cell - 1, PAIR] = pair
            cell += 1
        cells[cell, TOKEN], cells[cell, FIRST] = WALL, WALL
        cell += 1


@kernel
def _fill_places(cells, by_pair, places):
    """Number the pairs and list their places; by_pair holds (number, where the next place goes)."""
    for cell in range(257, len(cells)):
        if cells[cell, TOKEN] >= 0 and cells[cell, PAIR] >= 0:
            pair = cells[cell, PAIR]
            places[by_pair[pair, 1]] = cell
            by_pair[pair, 1] += 1
            cells[cell, PAIR] = by_pair[pair, 0]


@kernel
def _learn(cells, word_counts, tokens, pairs, places, heap, found, by_left, by_right, used, stop, by_bytes):
    """Learn merges until there are `stop`, or room or pairs run out."""
    while used[2] < stop:
        best = best_pair(heap, pairs.counts, used[0], pairs.ids, tokens, by_bytes)
        if best < 0:
            return _NO_PAIRS
        most = 2 * (pairs.lists[best, 1] - pairs.lists[best, 0])
        if most > min(len(found), len(pairs.counts) - used[0], len(places) - used[1]):
            return _NO_ROOM
        remove_best(heap, pairs.ids, tokens, by_bytes)
        new = 256 + used[2]
        num_found, num_pairs = _merge(
            cells, word_counts, tokens, pairs, places, found, by_left, by_right, used[0], best, new
        )
        _forget_neighbours(pairs, by_left, by_right, used[0], num_pairs, new)
        used[1] = _list_places(pairs, places, found, num_found, used[0], num_pairs, used[1])
        for pair in range(used[0], num_pairs):
            enter(heap, pair, pairs.counts[pair], pairs.ids, tokens, by_bytes)
        used[0] = num_pairs
        used[2] += 1
    return _DONE


@kernel
def _merge(cells, word_counts, tokens, pairs, places, found, by_left, by_right, num_pairs, best, new):
    """Merge one pair wherever it occurs; returns the number of places found for new pairs, and of pairs."""
    left, right = pairs.ids[best, 0], pairs.ids[best, 1]
    left_length, length = tokens.lengths[left], tokens.lengths[left] + tokens.lengths[right]
    num_found, last = 0, np.int64(0)
    for index in range(pairs.lists[best, 0], pairs.lists[best, 1]):
        here = np.int64(places[index])
        middle, after = here + left_length, here + length
        if cells[here, TOKEN] != left or cells[middle, TOKEN] != right:
            continue
        count = word_counts[cells[here, WORD]]
        before = np.int64(cells[here - 1, FIRST])
        if before >= 0:
            pairs.counts[cells[before, PAIR]] -= count
            neighbour = cells[before, TOKEN]
            pair = by_left[neighbour]
            if pair == WALL:
                pair = num_pairs
                by_left[neighbour] = pair
                num_pairs = _new_pair(pairs, pair, neighbour, new)
            pairs.counts[pair] += count
            cells[before, PAIR] = pair
            found[num_found, 0], found[num_found, 1] = pair, before
            num_found += 1
        neighbour = cells[after, TOKEN]
        if neighbour >= 0:
            pairs.counts[cells[middle, PAIR]] -= count
            pair = by_right[neighbour]
            if pair == WALL:
                pair = num_pairs
                by_right[neighbour] = pair
                num_pairs = _new_pair(pairs, pair, new, neighbour)
            pairs.counts[pair] += count
            cells[here, PAIR] = pair
            found[num_found, 0], found[num_found, 1] = pair, here
            num_found += 1
        cells[here, TOKEN], cells[middle, TOKEN], cells[after - 1, FIRST] = new, WALL, here
        last = here
    pairs.counts[best] = 0
    add_token(tokens, new, left, right, last)
    return num_found, num_pairs


@kernel
def _new_pair(pairs, pair, left, right):
    """Enter a pair that has not occurred before; returns the number of pairs."""
    pairs.ids[pair, 0], pairs.ids[pair, 1] = left, right
    pairs.counts[pair] = 0
    return pair + 1


@kernel
def _list_places(pairs, places, found, num_found, first_pair, num_pairs, num_places):
    """Write the lists of the pairs from `first_pair` on, in the order found; returns the number of places in use."""
    for pair in range(first_pair, num_pairs):
        pairs.lists[pair, 1] = 0
    for index in range(num_found):
        pairs.lists[found[index, 0], 1] += 1
    for pair in range(first_pair, num_pairs):
        length = pairs.lists[pair, 1]
        pairs.lists[pair, 0], pairs.lists[pair, 1] = num_places, num_places
        num_places += length
    for index in range(num_found):
        pair = found[index, 0]
        places[pairs.lists[pair, 1]] = found[index, 1]
        pairs.lists[pair, 1] += 1
    return num_places


@kernel
def _forget_neighbours(pairs, by_left, by_right, first_pair, num_pairs, new):
    """Make by_left and by_right empty again."""
    for pair in range(first_pair, num_pairs):
        if pairs.ids[pair, 1] == new:
            by_left[pairs.ids[pair, 0]] = WALL
        if pairs.ids[pair, 0] == new:
            by_right[pairs.ids[pair, 1]] = WALL
