"""Applying merges to one pre-token: the inner loop of both BPE training and BPE encoding.

Encoding follows the order of training. Among all adjacent pairs of a pre-token the one that was learned first (lowest
rank) is merged wherever it occurs, left to right and without overlap; then again, until no adjacent pair is a known
merge:

    ranks (t,h)=0 (' ',c)=1 (' ',a)=2 (th,e)=3 (' a',t)=4        t h e  ->  th e  ->  the

`merge_by_passes` does just that, in O(n) per pass, and is best for words. A pre-token of 50,000 letters needs
thousands of passes; `merge_by_heap` finds the same result in O(n log n) with a linked list and a priority queue.

Source: Sennrich et al. 2016 (1508.07909), Algorithm 1; handout problem `tokenizer`. Left out: BPE dropout. Read next:
`bpe.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]

_NO_RANK = 1 << 62


def merge_pair(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace every occurrence of `pair` in `ids` by `new_id`, left to right and without overlap.

    >>> merge_pair([7, 7, 7, 2], (7, 7), 9)
    [9, 7, 2]
    """
    first, second = pair
    merged = []
    position, last = 0, len(ids) - 1
    while position <= last:
        if ids[position] == first and position < last and ids[position + 1] == second:
            merged.append(new_id)
            position += 2
        else:
            merged.append(ids[position])
            position += 1
    return merged


def merge_by_passes(ids: Sequence[int], ranks: Mapping[Pair, int], merged_ids: Sequence[int]) -> list[int]:
    """Merge the lowest-ranked pair until none is left.

    Args:
        ids: the pre-token as ids of single bytes.
        ranks: pair of ids -> position in the list of merges.
        merged_ids: rank -> id of the merged token.

    Returns:
        The token ids of the pre-token.

    Complexity: O(n) for each different merge that applies.
    """
    ids = list(ids)
    while len(ids) > 1:
        pair_ranks = [ranks.get(pair, _NO_RANK) for pair in pairwise(ids)]
        lowest = min(pair_ranks)
        if lowest == _NO_RANK:
            break
        left = pair_ranks.index(lowest)
        ids = merge_pair(ids, (ids[left], ids[left + 1]), merged_ids[lowest])
    return ids


def merge_by_heap(ids: Sequence[int], ranks: Mapping[Pair, int], merged_ids: Sequence[int]) -> list[int]:
    """The result of `merge_by_passes` in O(n log n) time, for long pre-tokens.

    A merged pair keeps its left position and unlinks its right one (id -1). The heap holds (rank, left position); an
    entry whose pair has changed meanwhile is stale and skipped.
    """
    ids, end = list(ids), len(ids)
    following = list(range(1, end + 1))
    previous = list(range(-1, end - 1))

    def rank_at(left: int) -> int:
        right = following[left]
        return ranks.get((ids[left], ids[right]), _NO_RANK) if right < end else _NO_RANK

    heap = [(rank, left) for left in range(end) if (rank := rank_at(left)) != _NO_RANK]
    heapq.heapify(heap)
    while heap:
        rank, same_rank = heap[0][0], []
        while (
            heap and heap[0][0] == rank
        ):  # take them all first: a pass merges one pair everywhere, whatever appears meanwhile
            same_rank.append(heapq.heappop(heap)[1])
        for left in same_rank:
            if ids[left] == -1 or rank_at(left) != rank:
                continue
            right = following[left]
            ids[left], ids[right] = merged_ids[rank], -1
            following[left] = following[right]
            if following[left] < end:
                previous[following[left]] = left
            for changed in (previous[left], left):
                if changed >= 0 and (new_rank := rank_at(changed)) != _NO_RANK:
                    heapq.heappush(heap, (new_rank, changed))
    return [token for token in ids if token != -1]
