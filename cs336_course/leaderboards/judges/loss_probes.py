"""Scoring windows of tokens by a model in the sandbox, and the probes that run among the scored questions.

The answer to a batch is an array (batch, seq, vocab) of log-probabilities. Batches come in random order, and with them,
indistinguishable, the probes' variants of windows that are scored too: cut and continued by other text at several places (causality),
alone (batch). A scored batch is asked once more at the end (repeat), some in another order in a new process (order).
Read next: `loss.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_course.leaderboards.conversation import Conversation, ProbeFailure, Question
from cs336_course.leaderboards.verification import PASSED

Ids = npt.NDArray[np.int64]
MAX_ANSWER_BYTES = 8 << 20
MAX_TALK_BYTES = 256 << 20
FLOOR = -20.0
"""log-probabilities below it are compared as if they were it"""
NORMALISATION = 1e-3
CUTS = 4
"""places at which a probed window is cut"""
REPEATED = 3
"""batches that are asked again"""


@dataclass(frozen=True)
class Window:
    """ids[:-1] are inputs, ids[first:] targets."""

    document: int
    ids: Ids
    first: int


@dataclass(frozen=True)
class _Batch:
    """Windows asked together, padded on the right to one length."""

    members: tuple[int, ...]
    ids: Ids
    probe: str = ""
    upto: tuple[int, ...] = ()
    """causality: per window, positions that the change must not reach"""


def score_windows(
    talk: Conversation, windows: Sequence[Window], *, vocab_size: int, rng: np.random.Generator, probe_windows: int,
    tolerance: float,
) -> tuple[list[float], dict[str, str]]:  # fmt: skip
    """Nats of each window's targets, and probe to "passed" or what is wrong.

    Raises:
        ProbeFailure: an answer of the wrong form, or a row that is no distribution.
    """
    scorer = _Scorer(talk, windows, vocab_size, tolerance)
    probed = rng.choice(len(windows), size=min(probe_windows, len(windows)), replace=False)
    scorer.keep = {int(i) for i in probed}
    batches = _batches(windows, vocab_size)
    alone = [_Batch((i,), windows[i].ids[None, :-1], "batch") for i in sorted(scorer.keep)]
    variants = [*_causality(windows, scorer.keep, vocab_size, rng), *alone]
    mixed: list[_Batch] = [*batches, *variants]
    order = [mixed[i] for i in rng.permutation(len(mixed))]
    for chunk in _chunks(order, vocab_size):
        scorer.ask([*chunk, *_repeated(chunk, scorer.keep)])
    again = [batch for batch in batches if scorer.keep & set(batch.members)][:REPEATED]
    scorer.ask([_Batch(b.members, b.ids, "order") for b in again[::-1]])
    scorer.compare_waiting()
    return scorer.nats, {name: scorer.failures.get(name, PASSED) for name in PROBES}


PROBES = ("normalisation", "causality", "batch", "repeat", "order")


class _Scorer:
    """Collects scores and the rows of probed windows; compares what has to agree."""

    def __init__(self, talk: Conversation, windows: Sequence[Window], vocab_size: int, tolerance: float) -> None:
        self.talk, self.windows, self.vocab_size, self.tolerance = talk, windows, vocab_size, tolerance
        self.nats = [float("nan")] * len(windows)
        self.keep: set[int] = set()
        self.rows: dict[int, npt.NDArray[Any]] = {}
        self.waiting: list[tuple[str, int, npt.NDArray[Any]]] = []
        self.failures: dict[str, str] = {}

    def ask(self, batches: Sequence[_Batch]) -> None:
        """Question a fresh process and use its answers."""
        if not batches:
            return
        answers = self.talk.ask([Question("log_probs", {"ids": batch.ids}) for batch in batches])
        for batch, answer in zip(batches, answers, strict=True):
            rows = self._checked(answer.value.get("value"), batch)
            for place, number in enumerate(batch.members):
                length = len(self.windows[number].ids) - 1
                self._use(batch, number, rows[place, : batch.upto[place] if batch.upto else length])

    def _checked(self, rows: Any, batch: _Batch) -> npt.NDArray[Any]:
        """The answer, if it is an array of log-probabilities."""
        shape = (*batch.ids.shape, self.vocab_size)
        if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.shape != shape:
            got = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise ProbeFailure("answers", f"log_probs must be floats of shape {shape}; got {got}")
        total = np.exp(rows.astype(np.float64)).sum(axis=-1)
        if not np.isfinite(total).all() or np.abs(total - 1).max() > NORMALISATION:
            worst = (
                float(total.flat[int(np.nanargmax(np.abs(total - 1)))]) if np.isfinite(total).any() else float("nan")
            )
            raise ProbeFailure("normalisation", f"the probabilities of the next token sum to {worst:.4f}, not to 1")
        return rows

    def _use(self, batch: _Batch, number: int, rows: npt.NDArray[Any]) -> None:
        """Score a window, or keep its rows for a comparison."""
        if batch.probe:
            if number in self.keep:
                self.waiting.append((batch.probe, number, rows.copy()))
            return
        window = self.windows[number]
        targets, places = window.ids[window.first :], np.arange(window.first - 1, len(window.ids) - 1)
        self.nats[number] = -float(rows[places, targets].astype(np.float64).sum())
        if not np.isfinite(self.nats[number]):
            raise ProbeFailure("answers", "a token that occurs has probability 0")
        if number in self.keep:
            self.rows[number] = rows.copy()

    def compare_waiting(self) -> None:
        """Compare every probe's rows with those that were scored."""
        for probe, number, rows in self.waiting:
            difference = np.abs(np.maximum(rows, FLOOR) - np.maximum(self.rows[number][: len(rows)], FLOOR))
            if difference.size and difference.max() > self.tolerance and probe not in self.failures:
                self.failures[probe] = (
                    f"{MEANINGS[probe]} by up to {difference.max():.3g} nats (rounding: {self.tolerance:g})"
                )


MEANINGS = {
    "causality": "other tokens after a position change the prediction at it",
    "batch": "a window alone is predicted otherwise than among others,",
    "repeat": "the same question gets another answer later,",
    "order": "a fresh process asked in another order answers otherwise,",
}


def _batches(windows: Sequence[Window], vocab_size: int) -> list[_Batch]:
    """Windows of similar length together, each batch's answer within the limit."""
    batches: list[_Batch] = []
    members: list[int] = []
    for number in sorted(range(len(windows)), key=lambda i: len(windows[i].ids)):
        length = len(windows[number].ids) - 1
        if members and (len(members) + 1) * length * vocab_size * 4 > MAX_ANSWER_BYTES:
            batches.append(_padded(windows, members))
            members = []
        members.append(number)
    return [*batches, _padded(windows, members)] if members else batches


def _padded(windows: Sequence[Window], members: Sequence[int]) -> _Batch:
    inputs = [windows[i].ids[:-1] for i in members]
    ids = np.zeros((len(inputs), max(map(len, inputs))), dtype=np.int64)
    for row, values in zip(ids, inputs, strict=True):
        row[: len(values)] = values
    return _Batch(tuple(members), ids)


def _causality(windows: Sequence[Window], chosen: set[int], vocab_size: int, rng: np.random.Generator) -> list[_Batch]:
    """Each chosen window cut at random places and continued by the end of another."""
    found = []
    for number in sorted(chosen):
        inputs = windows[number].ids[:-1]
        if len(inputs) < 2:
            continue
        cuts = rng.integers(1, len(inputs), size=CUTS)
        rows = []
        for cut in cuts:
            tail = np.resize(windows[int(rng.integers(len(windows)))].ids, len(inputs) - cut)
            if tail[0] == inputs[cut]:  # the first changed token is the one a peeking model sees
                tail[0] = (tail[0] + 1) % vocab_size
            rows.append(np.concatenate([inputs[:cut], tail]))
        found.append(_Batch((number,) * CUTS, np.stack(rows), "causality", tuple(map(int, cuts))))
    return found


def _repeated(chunk: Sequence[_Batch], keep: set[int]) -> list[_Batch]:
    """Scored batches of the chunk with probed windows, to be asked again after all others."""
    scored = [batch for batch in chunk if not batch.probe and keep & set(batch.members)]
    return [_Batch(batch.members, batch.ids, "repeat") for batch in scored[:REPEATED]]


def _chunks(batches: Sequence[_Batch], vocab_size: int) -> list[list[_Batch]]:
    """As many as the answers' size allows for one process."""
    chunks: list[list[_Batch]] = [[]]
    size = 0
    for batch in batches:
        cost = batch.ids.size * vocab_size * 4
        if chunks[-1] and size + cost > MAX_TALK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(batch)
        size += cost
    return chunks
