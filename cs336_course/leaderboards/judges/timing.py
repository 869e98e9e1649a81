"""Times that count: many repeats on fresh inputs, beside our reference in the same session, under two clocks.

    inside     the saved clock in the participant's process, around the call and the copy of its result
    outside    the judge's time between delivering the inputs and holding the answer

A process can lie about the first and not about the second, so the second bounds the first: what an entry spends outside
of its calls must be what the reference spends there. Entry and reference take turns, so that a machine that slows down
slows both. Read next: `attention.py`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cs336_course.leaderboards.conversation import Answer, Conversation, ProbeFailure, Question
from cs336_course.leaderboards.verification import PASSED, Measurement

MIN_REPEATS = 20
CLOCK_SHARE, CLOCK_MS = 0.25, 0.5
"""How much longer a turn may last than the entry's clock explains: a share of the turn, and a little. The boards' calls
take a few milliseconds, so an allowance of milliseconds would let a clock that shows nothing at all pass."""


@dataclass
class Timed:
    """The repeats of one contestant, in seconds."""

    inside: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """Take a timed answer.

        Raises:
            ProbeFailure: its own clock says nothing, or more than passed outside.
        """
        seconds = answer.value.get("seconds")
        if not isinstance(seconds, float) or not 0 < seconds <= answer.outside_s:
            raise ProbeFailure("clock", f"{seconds} s inside of {answer.outside_s:.6f} s outside is not possible")
        self.inside.append(seconds)
        self.outside.append(answer.outside_s)

    @property
    def median_ms(self) -> float:
        """Of the calls."""
        return 1e3 * statistics.median(self.inside)

    def around_ms(self, percentile: float = 50) -> float:
        """What passed around the calls."""
        return 1e3 * float(np.percentile(np.subtract(self.outside, self.inside), percentile))

    def percentiles_ms(self) -> tuple[float, float]:
        """10th and 90th."""
        low, high = np.percentile(self.inside, [10, 90])
        return 1e3 * float(low), 1e3 * float(high)


@dataclass(frozen=True)
class Round:
    """What one process is asked: only the questions in the middle are timed."""

    before: Sequence[Question]
    timed: Sequence[Question]
    after: Sequence[Question] = ()


def take_turns(
    entry: Conversation, baseline: Conversation, make_round: Callable[[int], Round], *, repeats: int, rounds: int,
    check: Callable[[int, str, Sequence[Answer]], None],
) -> tuple[Timed, Timed]:  # fmt: skip
    """Time both contestants in turns.

    Args:
        entry, baseline: the contestants; each round is a fresh process of each.
        make_round: from the round's number; preparations and warm-ups come before what is timed.
        repeats: timed questions in all, at least 20.
        rounds: turns.
        check: gets round, contestant ("entry" or "reference") and all answers of the round; raises ProbeFailure.

    Raises:
        ValueError: fewer than 20 repeats, or no round.
    """
    if repeats < MIN_REPEATS or rounds < 1:
        raise ValueError(f"settings.repeats must be at least {MIN_REPEATS} and rounds 1; got {repeats} and {rounds}")
    times = {"reference": Timed(), "entry": Timed()}
    for turn in range(rounds):
        asked = make_round(turn)
        contestants = [("reference", baseline), ("entry", entry)]
        for name, talk in contestants if turn % 2 == 0 else contestants[::-1]:  # who comes second may find warm caches
            answers = talk.ask([*asked.before, *asked.timed, *asked.after])
            for answer in answers[len(asked.before) : len(asked.before) + len(asked.timed)]:
                times[name].add(answer)
            check(turn, name, answers)
    return times["entry"], times["reference"]


def clock_probe(entry: Timed, baseline: Timed) -> str:
    """ "passed", or how much time passed outside of the entry's clock that should not have.

    Looked at twice: at the tenth percentile, which a busy machine hardly lifts, and at the median, for a clock that lies
    in part of the calls; there the machine's unrest is allowed for, as seen around the reference's calls, which an entry
    cannot make longer.
    """
    unrest = baseline.around_ms(90) - baseline.around_ms()
    for percentile, allowed in ((10, 0.0), (50, unrest)):
        around, usual = entry.around_ms(percentile), baseline.around_ms(percentile)
        if around - usual > CLOCK_SHARE * (entry.median_ms + usual) + CLOCK_MS + allowed:
            return (
                f"patched timer or work outside of the call: {around:.1f} ms pass around a call of "
                f"{entry.median_ms:.2f} ms, around the reference's {usual:.1f} ms"
            )
    return PASSED


def settled(measure: Callable[[], Measurement]) -> Measurement:
    """A measurement in which nothing but the clock failed is made again, twice at most: a busy machine passes then."""
    for _ in range(2):
        found = measure()
        if found.failed.keys() != {"clock"}:
            return found
    return measure()


def ratio(entry: Timed, baseline: Timed) -> tuple[float, float]:
    """(median entry / median baseline, its standard error by 200 resamples)."""
    rng = np.random.default_rng(0)
    ours, theirs = np.array(entry.inside), np.array(baseline.inside)
    draws = [
        float(np.median(rng.choice(ours, len(ours)))) / float(np.median(rng.choice(theirs, len(theirs))))
        for _ in range(200)
    ]
    return float(np.median(ours) / np.median(theirs)), float(np.std(draws))


def beside(entry: Timed, baseline: Timed) -> dict[str, float]:
    """Milliseconds for the table."""
    low, high = entry.percentiles_ms()
    return {
        "median ms": entry.median_ms, "p10 ms": low, "p90 ms": high, "reference median ms": baseline.median_ms,
        "repeats": float(len(entry.inside)),
    }  # fmt: skip


def relative_error(found: Any, expected: np.ndarray) -> float:
    """|found - expected| / |expected| in 2-norms; infinite for anything but a finite array of that shape."""
    if not isinstance(found, np.ndarray) or found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found.astype(np.float64) - expected) / max(float(np.linalg.norm(expected)), 1e-30))
