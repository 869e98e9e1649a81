"""Pages against plain lists: random writes, forks, truncations and releases; owners counted anew after each."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_systems.inference.kv_cache import OutOfPages, PagedKVCache, PagedLayer, PagedSequence, Places

ACTIONS = st.lists(st.tuples(st.sampled_from("nwwwft"), st.integers(0, 99), st.integers(0, 7)), max_size=40)


def check_owners(cache: PagedKVCache, sequences: list[PagedSequence]) -> None:
    counted = Counter(page for sequence in sequences for page in sequence.pages)
    assert cache.owners == [counted[page] for page in range(cache.num_pages)]
    assert sorted(cache.free) == [page for page in range(cache.num_pages) if not counted[page]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ACTIONS, st.integers(1, 4))
def test_sequences_hold_what_was_written_whatever_they_share(actions, page_size):
    cache, layers = PagedKVCache(2, 12, page_size=page_size), 2
    sequences, written = [PagedSequence()], [list[float]()]
    stamp = 0.0
    for action, which, count in actions:
        which %= len(sequences)
        sequence, expected = sequences[which], written[which]
        if action == "n":
            sequences.append(PagedSequence())
            written.append([])
        elif action == "f":
            sequences.append(cache.fork(sequence))
            written.append(list(expected))
        elif action == "t":
            length = min(count, sequence.length)
            cache.truncate(sequence, length)
            written[which] = expected[:length]
        elif count:
            before = (list(cache.free), list(cache.owners), list(sequence.pages))
            try:
                cache.reserve(sequence, count)
            except OutOfPages:
                assert before == (cache.free, cache.owners, sequence.pages)
                continue
            new = [stamp + i for i in range(count)]
            stamp += count
            block = torch.tensor(new)[None, None, :, None].expand(1, 2, count, 3)
            places = Places(cache, [sequence], count)
            for layer in range(layers):
                keys, values = PagedLayer(cache, layer, places).append(block + layer, -block)
                assert keys[0, 1, :, 2].tolist() == [x + layer for x in expected + new]
                assert values.shape == (1, 2, len(expected) + count, 3)
            sequence.length += count
            expected += new
        check_owners(cache, sequences)
        for other, expected in zip(sequences, written, strict=True):
            assert other.length == len(expected)
            if expected:
                assert (-cache.read(1, Places(cache, [other], 0))[1])[0, 0, :, 0].tolist() == expected
    for sequence in sequences:
        cache.truncate(sequence, 0)
    check_owners(cache, [])


def test_samples_share_full_pages_and_copy_one():
    cache = PagedKVCache(1, 20, page_size=4)
    prompt = PagedSequence()
    cache.reserve(prompt, 10)
    prompt.length = 10
    samples = [cache.fork(prompt) for _ in range(5)]
    assert len(cache.free) == 17
    for sample in samples:
        assert cache.missing_pages(sample, 2) == 1
        cache.reserve(sample, 2)
        sample.length += 2
    assert len(cache.free) == 12 and all(s.pages[:2] == prompt.pages[:2] for s in samples)
    assert len({s.pages[2] for s in [*samples, prompt]}) == 6


def test_rows_of_equal_length_are_read_together():
    cache = PagedKVCache(1, 9, page_size=2)
    rows = [PagedSequence() for _ in range(3)]
    for row in rows:
        cache.reserve(row, 5)
    data = torch.arange(3 * 2 * 5 * 4.0).reshape(3, 2, 5, 4)
    keys, values = PagedLayer(cache, 0, Places(cache, rows, 5)).append(data, data[..., :1] + 0.5)
    assert torch.equal(keys, data) and torch.equal(values, data[..., :1] + 0.5)


def test_bad_input():
    for wrong in ({"num_layers": 0, "num_pages": 1}, {"num_layers": 1, "num_pages": 0}):
        with pytest.raises(ValueError, match="at least 1; got 0"):
            PagedKVCache(**wrong)
    cache = PagedKVCache(1, 2, page_size=2)
    with pytest.raises(OutOfPages, match="3 pages are needed and 2 of 2 are free"):
        cache.reserve(PagedSequence(), 5)
    with pytest.raises(ValueError, match=r"\[0, 0\]; got 1"):
        cache.truncate(PagedSequence(), 1)
