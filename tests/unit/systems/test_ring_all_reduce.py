"""The ring against plain sums and against the counts written down in the handout's formulas."""

from __future__ import annotations

import pytest
import torch

from cs336_systems.parallel.ring_all_reduce import alternate_ring_all_reduce, draw_ring, ring_all_reduce


def random_vectors(n: int, size: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n * 100 + size)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(n)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("size", [0, 1, 5, 24])
@pytest.mark.parametrize("ring", [ring_all_reduce, alternate_ring_all_reduce])
def test_every_rank_ends_with_the_sum(ring, n, size):
    vectors = random_vectors(n, size)
    before = [vector.clone() for vector in vectors]
    for result in ring(vectors).results:
        torch.testing.assert_close(result, torch.stack(vectors).sum(dim=0), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(vectors, before, strict=True)), "the inputs were changed"


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_bytes_per_rank(n):
    vectors = random_vectors(n, 24 * n, torch.float32)
    size_bytes = 4 * 24 * n
    assert ring_all_reduce(vectors).sent_bytes == (2 * (n - 1) * size_bytes // n,) * n
    assert alternate_ring_all_reduce(vectors).sent_bytes == ((n - 1) * size_bytes,) * n
    assert len(ring_all_reduce(vectors).steps) == 2 * (n - 1)


def test_only_the_ring_gives_all_ranks_the_same_bits():
    vectors = random_vectors(5, 1000, torch.float32)
    ring = ring_all_reduce(vectors).results
    assert all(torch.equal(ring[0], other) for other in ring)
    alternate = alternate_ring_all_reduce(vectors).results
    assert any(not torch.equal(alternate[0], other) for other in alternate)


def test_after_the_reduce_scatter_each_rank_holds_one_finished_chunk():
    n = 4
    held = ring_all_reduce(random_vectors(n, 8)).steps[n - 2].held
    for rank, cells in enumerate(held):
        finished = [chunk for chunk, owners in enumerate(cells) if owners == set(range(n))]
        assert finished == [(rank + 1) % n]


def test_held_is_what_the_values_say():
    """Rank r contributes 2^r, so that a value spells out who is in it."""
    n = 4
    vectors = [torch.full((n,), 2.0**rank) for rank in range(n)]
    chunks = [vector.tolist() for vector in vectors]
    for step in ring_all_reduce(vectors).steps:
        travelling = [chunks[rank][chunk] for rank, chunk in enumerate(step.chunks)]
        for rank, chunk in enumerate(step.chunks):
            right = (rank + 1) % n
            chunks[right][chunk] = travelling[rank] + (chunks[right][chunk] if step.phase == "reduce-scatter" else 0)
        assert chunks == [[sum(2.0**owner for owner in owners) for owners in row] for row in step.held]


def test_picture_of_two_ranks():
    assert draw_ring(ring_all_reduce([torch.ones(2), torch.ones(2)])).splitlines() == [
        "2 ranks, each sends 8 bytes in 2 steps",
        "",
        "step 1: reduce-scatter",
        "  rank 0   >0    01*",
        "  rank 1    01* >1",
        "",
        "step 2: all-gather",
        "  rank 0    01* >01*",
        "  rank 1   >01*  01*",
    ]


@pytest.mark.parametrize(
    "vectors", [[], [torch.ones(2), torch.ones(3)], [torch.ones(2), torch.ones(2, dtype=torch.float64)]]
)
def test_bad_vectors(vectors):
    with pytest.raises(ValueError, match="at least one rank|one size and dtype"):
        ring_all_reduce(vectors)
