"""Packing against naive packers that scan lists, against the documents themselves, and against undisturbed runs."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from cs336_basics.checkpoint import load_state, save_state
from cs336_basics.packing import (
    BestFitPacker,
    StreamPacker,
    document_ids,
    document_mask,
    document_positions,
    next_batch,
)
from cs336_basics.packing.best_fit import BestFitBuffer, plan_row
from cs336_basics.packing.documents import find_documents
from cs336_basics.packing.length_index import LengthIndex

EOT = 0


def corpus(seed: int, count: int, longest: int) -> np.ndarray:
    """Documents whose tokens are all different from each other; some documents are empty."""
    rng, next_id, tokens = random.Random(seed), 1, []
    for _ in range(count):
        length = rng.choice([0, 1, 2, rng.randrange(longest), rng.randrange(longest)])
        tokens += [*range(next_id, next_id + length), EOT]
        next_id += length
    return np.array(tokens, dtype=np.uint32)


def naive_rows(tokens, capacity, buffer_size, long_documents, remainder, count, rank=0, world_size=1):
    """The rule as published: lists, scans, first among equals."""
    documents = [d for d in "".join(f"{t} " if t != EOT else "|" for t in tokens.tolist()).split("|") if d.strip()]
    documents = [[EOT, *map(int, d.split())] for d in documents][rank::world_size]
    buffer, taken, rows = [], 0, []
    while len(rows) < count:
        row: list[int] = []
        while len(row) < capacity:
            while len(buffer) < buffer_size:
                document = documents[taken % len(documents)]
                buffer.append(document[:capacity] if long_documents == "crop" else document)
                taken += 1
            best, best_length = -1, 0
            for i, document in enumerate(buffer):
                if best_length < len(document) <= capacity - len(row):
                    best, best_length = i, len(document)
            if best >= 0:
                row += buffer.pop(best)
            elif remainder == "pad" and row:
                break
            else:
                shortest = min(range(len(buffer)), key=lambda i: len(buffer[i]))
                row += buffer.pop(shortest)[: capacity - len(row)]
        rows.append(row)
    return rows


class CountingList(list):
    reads = 0

    def __getitem__(self, place):
        CountingList.reads += 1
        return super().__getitem__(place)


@pytest.mark.parametrize("largest", [0, 1, 63, 64, 65, 4095, 4096, 5000, 300_000])
def test_length_index_equals_a_sorted_set(largest) -> None:
    rng, index, members = random.Random(largest), LengthIndex(largest), set()
    for _ in range(600):
        length = rng.choice([0, largest, rng.randint(0, largest), rng.randint(0, min(largest, 70))])
        if rng.random() < 0.5:
            index.add(length)
            members.add(length)
        else:
            index.discard(length)
            members.discard(length)
        bound = rng.choice([-1, 0, largest, largest + 5, rng.randint(0, largest)])
        assert index.largest_at_most(bound) == max((m for m in members if m <= bound), default=None)
        assert index.smallest() == min(members, default=None)
    for member in sorted(members):
        index.discard(member)
    assert index.smallest() is None and not any(map(any, index.levels))


def test_a_placement_reads_as_few_words_in_a_full_buffer_as_in_an_empty_one() -> None:
    """Two reads per level and query, whatever is stored; a scan would read `size` entries."""
    most = {}
    for size in (10, 100, 10_000, 100_000):
        rng, buffer = random.Random(size), BestFitBuffer(2049)
        for document in range(size):
            buffer.add(document, rng.randint(1, 2049))
        buffer.index.levels = [CountingList(level) for level in buffer.index.levels]
        reads = []
        for _ in range(10):
            CountingList.reads = 0
            buffer.pop_largest(rng.randint(1, 2049))
            reads.append(CountingList.reads)
        CountingList.reads = 0
        buffer.pop_shortest()
        most[size] = max(*reads, CountingList.reads)
    assert all(count <= 6 * 2 for count in most.values()), most  # two levels: up, down, and taking out (read and write)


@pytest.mark.parametrize("long_documents", ["crop", "wait"])
@pytest.mark.parametrize("remainder", ["cut", "pad"])
@pytest.mark.parametrize("buffer_size", [1, 2, 7, 50])
@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 3)])
def test_best_fit_equals_the_scan_row_by_row(long_documents, remainder, buffer_size, rank, world_size) -> None:
    for context_length in (1, 8, 23):
        tokens = corpus(buffer_size + context_length, 60, 40)
        packer = BestFitPacker(
            tokens, end_of_text=EOT, context_length=context_length, buffer_size=buffer_size, remainder=remainder,
            long_documents=long_documents, rank=rank, world_size=world_size,
        )  # fmt: skip
        expected = naive_rows(tokens, context_length + 1, buffer_size, long_documents, remainder, 70, rank, world_size)
        for row in expected:
            inputs, targets = packer.next_row()
            padding = context_length + 1 - len(row)
            full = [*row, *[EOT] * padding]
            assert inputs.tolist() == full[:-1]
            assert targets.tolist() == (full[1 : len(row) + 1] + [-1] * (padding - 1) if padding else full[1:])
        assert packer.counts["placed"] == sum(map(len, expected))
        assert packer.counts["padded"] == sum(context_length + 1 - len(row) for row in expected)


def test_every_row_begins_a_document_and_whole_documents_stay_whole() -> None:
    tokens = corpus(3, 200, 30)
    table = find_documents(tokens, EOT)
    packer = BestFitPacker(tokens, end_of_text=EOT, context_length=32, buffer_size=20)
    whole = {tuple(table.piece(i, int(n)).tolist()) for i, n in enumerate(table.lengths)}
    pieces = Counter()
    for _ in range(60):
        inputs, targets = packer.next_row()
        row = [*inputs.tolist(), targets[-1]]
        assert row[0] == EOT and row[1:] == targets.tolist()
        starts = [i for i, token in enumerate(row) if token == EOT]
        for first, last in zip(starts, [*starts[1:], len(row)], strict=True):
            pieces[tuple(row[first:last]) in whole] += 1
            assert any(document[: last - first] == tuple(row[first:last]) for document in whole)
    assert pieces[True] > pieces[False]
    assert 0 < packer.waste < 0.5


def test_epochs_use_each_document_once() -> None:
    """Rows and buffer together hold each document as often as it has entered, which differs by one at most."""
    tokens = corpus(5, 40, 12)
    packer = BestFitPacker(tokens, end_of_text=EOT, context_length=15, buffer_size=6)
    seen = Counter()
    placed = packer.table.piece

    def recording(number, length):
        seen[number] += 1
        return placed(number, length)

    object.__setattr__(packer.table, "piece", recording)
    while packer.taken < 3 * len(packer.table):
        packer.next_row()
    seen.update(packer.buffer.documents())
    expected = Counter(i % len(packer.table) for i in range(packer.taken))
    assert seen == expected


def test_packing_wastes_less_than_greedy_cutting_and_at_least_the_unavoidable() -> None:
    lengths = np.maximum(2, np.random.default_rng(0).lognormal(6.0286, 1.2, 12_000).astype(int))
    capacity, left, greedy = 2049, 2049, 0
    for length in lengths.tolist():
        greedy += max(0, length - left)
        left = capacity if length >= left else left - length
    buffer, source, used, kept = BestFitBuffer(capacity), iter(enumerate(lengths.tolist())), 0, 0

    def refill():
        while len(buffer) < 1000:
            number, length = next(source)
            buffer.add(number, min(length, capacity))

    for _ in range(3000):
        for document, placed in plan_row(buffer, refill, capacity=capacity):
            used += int(lengths[document])
            kept += placed
    floor = np.maximum(lengths - capacity, 0).sum() / lengths.sum()
    assert kept == 3000 * capacity
    assert floor - 0.02 < 1 - kept / used < 0.346 < greedy / lengths.sum()


# Stream


@pytest.mark.parametrize("length", [9, 10, 11, 40, 41, 63])
@pytest.mark.parametrize("context_length", [1, 2, 7, 8])
def test_every_token_is_an_input_once_and_a_target_once_per_round(length, context_length) -> None:
    tokens = np.arange(100, 100 + length, dtype=np.uint16)
    packer = StreamPacker(tokens, context_length=context_length)
    inputs, targets = next_batch(packer, length)
    assert inputs.flatten().tolist() == (tokens.tolist() * context_length)
    assert targets.flatten().tolist() == (tokens.tolist() * (context_length + 1))[1 : length * context_length + 1]
    assert packer.epoch == context_length


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_stream_rows_are_dealt_to_the_processes(world_size) -> None:
    tokens = np.arange(57, dtype=np.int64)
    alone = StreamPacker(tokens, context_length=4)
    team = [StreamPacker(tokens, context_length=4, rank=r, world_size=world_size) for r in range(world_size)]
    for _ in range(12):
        for member in team:
            for one, all_rows in zip(member.next_row(), alone.next_row(), strict=True):
                assert np.array_equal(one, all_rows)


def test_best_fit_processes_share_no_document() -> None:
    tokens = corpus(11, 50, 9)
    owners: dict[int, int] = {}
    for rank in range(3):
        packer = BestFitPacker(tokens, end_of_text=EOT, context_length=10, buffer_size=4, rank=rank, world_size=3)
        while packer.epoch < 2:
            inputs, targets = packer.next_row()
            for token in {*inputs.tolist(), *targets.tolist()} - {EOT, -1}:
                assert owners.setdefault(token, rank) == rank
    assert len(set(owners.values())) == 3


# Exact resume


PACKERS = {
    "stream": lambda t: StreamPacker(t, context_length=13, rank=1, world_size=2),
    "crop": lambda t: BestFitPacker(t, end_of_text=EOT, context_length=13, buffer_size=9),
    "wait": lambda t: BestFitPacker(t, end_of_text=EOT, context_length=13, buffer_size=9, long_documents="wait"),
    "pad": lambda t: BestFitPacker(t, end_of_text=EOT, context_length=13, buffer_size=9, remainder="pad"),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_any_stored_position_gives_the_same_rows(tmp_path, kind) -> None:
    tokens = corpus(7, 45, 25)
    undisturbed = PACKERS[kind](tokens)
    rows, states = [], []
    for step in range(60):
        save_state({"packer": undisturbed.state_dict()}, tmp_path / f"{step}.pt")  # through a checkpoint file
        states.append(undisturbed.state_dict())
        rows.append(undisturbed.next_row())
    for step in range(60):
        resumed = PACKERS[kind](tokens)
        for _ in range(step % 3):
            resumed.next_row()  # what was there before is forgotten
        resumed.load_state_dict(load_state(tmp_path / f"{step}.pt")["packer"])
        assert resumed.state_dict() == states[step]
        for expected in rows[step : step + 25]:
            for mine, theirs in zip(resumed.next_row(), expected, strict=True):
                assert mine.tobytes() == theirs.tobytes()
        if step < 35:
            assert resumed.state_dict() == states[step + 25]


@pytest.mark.parametrize("kind", PACKERS)
def test_states_of_others_are_refused(kind) -> None:
    tokens = corpus(7, 45, 25)
    other = "stream" if kind != "stream" else "crop"
    with pytest.raises(ValueError, match="another packer"):
        PACKERS[kind](tokens).load_state_dict(PACKERS[other](tokens).state_dict())
    with pytest.raises(ValueError, match="tokens: stored"):
        PACKERS[kind](corpus(8, 45, 25)).load_state_dict(PACKERS[kind](tokens).state_dict())
    with pytest.raises(ValueError, match="no state of a packer"):
        PACKERS[kind](tokens).load_state_dict({"rows": 3})


# Masks


def test_masks_and_positions_equal_double_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    for seq in (1, 2, 17):
        ids = torch.randint(0, 4, (3, seq), generator=generator)
        documents = document_ids(ids, EOT)
        mask, positions = document_mask(documents), document_positions(documents)
        for b in range(3):
            for q in range(seq):
                begins = [i for i in range(q + 1) if ids[b, i] == EOT]
                first = begins[-1] if begins else 0
                assert documents[b, q] == len(begins)
                assert positions[b, q] == q - first
                for k in range(seq):
                    assert mask[b, q, k] == (first <= k <= q)


def test_positions_of_given_ids_restart_where_the_id_changes() -> None:
    ids = torch.tensor([[5, 5, 5, 9, 9, 2], [1, 2, 3, 4, 5, 6]])
    assert document_positions(ids).tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6]


# Bad input


def test_bad_arguments() -> None:
    tokens = corpus(1, 20, 10)
    for bad, message in (
        ({"context_length": 0}, "context_length must be at least 1"),
        ({"buffer_size": 0}, "buffer_size must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank must lie"),
        ({"world_size": 0}, "rank must lie"),
        ({"rank": 500, "world_size": 501}, "none of the"),
        ({"remainder": "drop"}, "remainder must be one of cut, pad"),
        ({"long_documents": "split"}, "long_documents must be one of crop, wait"),
        ({"end_of_text": 999_999}, "does not occur"),
    ):
        with pytest.raises(ValueError, match=message):
            BestFitPacker(tokens, **({"end_of_text": EOT, "context_length": 8} | bad))
    for bad, message in (
        ({"context_length": 0}, "context_length must be at least 1"),
        ({"context_length": len(tokens)}, "use a longer corpus"),
        ({"rank": -1}, "rank must lie"),
    ):
        with pytest.raises(ValueError, match=message):
            StreamPacker(tokens, **({"context_length": 8} | bad))
    with pytest.raises(ValueError, match="all 3 documents are empty"):
        find_documents(np.array([EOT] * 3), EOT)
    with pytest.raises(ValueError, match="these 0 tokens"):
        find_documents(np.array([], dtype=np.uint16), EOT)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        next_batch(StreamPacker(tokens, context_length=4), 0)
    with pytest.raises(ValueError, match="must not be negative"):
        LengthIndex(-1)
    with pytest.raises(ValueError, match="holds lengths 0 to 9; got 10"):
        LengthIndex(9).add(10)
    with pytest.raises(IndexError, match="buffer is empty"):
        BestFitBuffer(9).pop_shortest()


def test_torn_and_empty_documents_are_left_out() -> None:
    table = find_documents(np.array([EOT, 5, 6, EOT, EOT, 7, EOT, 8, 9]), EOT)
    assert [table.piece(i, int(n)).tolist() for i, n in enumerate(table.lengths)] == [[EOT, 5, 6], [EOT, 7]]


def test_documents_are_found_across_blocks(monkeypatch) -> None:
    tokens = corpus(2, 30, 9)
    whole = find_documents(tokens, EOT)
    monkeypatch.setattr("cs336_basics.packing.documents.BLOCK", 7)
    cut = find_documents(tokens, EOT)
    assert np.array_equal(whole.starts, cut.starts) and np.array_equal(whole.lengths, cut.lengths)
