"""Ring all-reduce, simulated: who sends which chunk when, what each rank then holds, and how many bytes that takes.

The vector of each of n ranks is cut into n chunks. In each step every rank sends one chunk to its right neighbour.

    reduce-scatter   n-1 steps; in step t rank r sends chunk (r - t) mod n, and the receiver ADDS it to its own;
                     then rank r holds the finished sum of chunk (r + 1) mod n
    all-gather       n-1 steps; in step t rank r sends chunk (r + 1 - t) mod n, and the receiver REPLACES its own

Each rank sends 2 (n-1)/n of its vector, whatever n is: the ring uses every link in every step. The "alternate" ring
passes whole vectors instead: n-1 steps, (n-1) vectors sent, n/2 times as much. A chunk's sum is finished at one rank
and copied, so all ranks end with the same bits; in the alternate ring each rank adds in its own order.

Patarasu & Yuan 2009; handout (2026): alternate_ring_all_reduce. Left out: time (`communication_accounting.py`) and
trees. Read next: `collectives.py`, which measures the real thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Phase = Literal["reduce-scatter", "all-gather", "pass on"]


@dataclass(frozen=True)
class RingStep:
    """One step of all ranks.

    `chunks[r]` is the chunk that rank r sends to rank (r + 1) mod n. `held[r][c]` says, after the step, whose
    contributions rank r has summed in its chunk c. `sent_bytes[r]` is what rank r sent.
    """

    phase: Phase
    chunks: tuple[int, ...]
    held: tuple[tuple[frozenset[int], ...], ...]
    sent_bytes: tuple[int, ...]


@dataclass(frozen=True)
class RingRun:
    """Every step, and the vector each rank ends with."""

    steps: tuple[RingStep, ...]
    results: tuple[Tensor, ...]

    @property
    def sent_bytes(self) -> tuple[int, ...]:
        """Bytes that each rank sent."""
        return tuple(map(sum, zip(*(step.sent_bytes for step in self.steps), strict=True))) or (0,)


def ring_all_reduce(vectors: Sequence[Float[Tensor, " size"]]) -> RingRun:
    """Sum the vectors of all ranks as a ring of them would.

    Args:
        vectors: rank r's at index r, of equal size and dtype; they are not changed. A size that n does not divide
            gives chunks that differ by one element.

    Raises:
        ValueError: no rank, or vectors that differ in size or dtype.
    """
    chunks = [list(vector.clone().tensor_split(len(vectors))) for vector in _checked(vectors)]
    n = len(chunks)
    held = [[frozenset({rank}) for _ in range(n)] for rank in range(n)]
    steps = []
    for t in range(n - 1):
        steps.append(_step("reduce-scatter", [(rank - t) % n for rank in range(n)], chunks, held))
    for t in range(n - 1):
        steps.append(_step("all-gather", [(rank + 1 - t) % n for rank in range(n)], chunks, held))
    return RingRun(tuple(steps), tuple(torch.cat(own) for own in chunks))


def alternate_ring_all_reduce(vectors: Sequence[Float[Tensor, " size"]]) -> RingRun:
    """The naive ring: each rank passes on the whole vector it received last and adds it to its sum.

    Args and Raises: as `ring_all_reduce`. `held` has one column, each rank's sum.
    """
    sums = [vector.clone() for vector in _checked(vectors)]
    n = len(sums)
    travelling = list(vectors)
    held = [frozenset({rank}) for rank in range(n)]
    steps = []
    for t in range(n - 1):
        sent_bytes = tuple(_num_bytes(vector) for vector in travelling)
        travelling = [travelling[rank - 1] for rank in range(n)]
        for rank in range(n):
            sums[rank] += travelling[rank]
            held[rank] |= {(rank - 1 - t) % n}
        steps.append(RingStep("pass on", (0,) * n, tuple((owners,) for owners in held), sent_bytes))
    return RingRun(tuple(steps), tuple(sums))


def _checked(vectors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The vectors, or a ValueError."""
    if not vectors:
        raise ValueError("a ring needs at least one rank; got no vectors")
    for rank, vector in enumerate(vectors):
        if vector.dim() != 1 or vector.shape != vectors[0].shape or vector.dtype != vectors[0].dtype:
            raise ValueError(
                f"all ranks need one-dimensional vectors of one size and dtype; rank 0 has {tuple(vectors[0].shape)} "
                f"{vectors[0].dtype}, rank {rank} {tuple(vector.shape)} {vector.dtype}"
            )
    return vectors


def _step(phase: Phase, sent: list[int], chunks: list[list[Tensor]], held: list[list[frozenset[int]]]) -> RingStep:
    """All ranks send at once: read everything that travels, then let it arrive."""
    n = len(chunks)
    travelling = [(chunks[rank][chunk].clone(), held[rank][chunk]) for rank, chunk in enumerate(sent)]
    for rank, chunk in enumerate(sent):
        right, (values, owners) = (rank + 1) % n, travelling[rank]
        if phase == "reduce-scatter":
            values, owners = chunks[right][chunk] + values, held[right][chunk] | owners
        chunks[right][chunk], held[right][chunk] = values, owners
    sent_bytes = tuple(_num_bytes(values) for values, _ in travelling)
    return RingStep(phase, tuple(sent), tuple(map(tuple, held)), sent_bytes)


def _num_bytes(vector: Tensor) -> int:
    """Size of what is sent."""
    return vector.numel() * vector.element_size()


def draw_ring(run: RingRun) -> str:
    """A table per step: rows are ranks, columns chunks, a cell lists the contributions summed ("012" or "0+11").

    "*" marks a finished chunk, ">" the chunk that the rank has just sent.
    """
    n = len(run.results)
    separator = "" if n <= 10 else "+"
    width = len(separator.join(map(str, range(n)))) + 2
    lines = [
        f"{n} ranks, each sends {' / '.join(map(str, sorted(set(run.sent_bytes))))} bytes in {len(run.steps)} steps"
    ]
    for index, step in enumerate(run.steps):
        lines += ["", f"step {index + 1}: {step.phase}"]
        for rank, cells in enumerate(step.held):
            texts = []
            for chunk, owners in enumerate(cells):
                mark = ">" if step.chunks[rank] == chunk else " "
                done = "*" if len(owners) == n else " "
                texts.append((mark + separator.join(map(str, sorted(owners))) + done).ljust(width))
            lines.append(f"  rank {rank:<3} " + " ".join(texts).rstrip())
    return "\n".join(lines)
