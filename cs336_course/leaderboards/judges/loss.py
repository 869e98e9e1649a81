"""Judge of a language model: its loss on hidden text, and whether it is an honest probability model.

The model runs in the sandbox and returns log-probabilities of all next tokens; the targets are picked here.

    normalisation   exp of every row sums to 1
    causality       other tokens after position t change nothing up to t
    batch           a window alone gets what it got among others
    repeat          the same question at the end gets the same answer: no training on what is measured
    order           a fresh process, asked in another order, agrees
    round trip      the tokenizer's ids stand for exactly the text
    memorised       the public half is not much easier than the hidden one

The windows of a probe are windows that are scored, mixed among them, so a model cannot behave for the probes alone.
Per document and in sum:  bits per byte = nats / (ln 2 * bytes)  with the end of the text as part of it; on stories the
metric is nats / floor - 1 in percent. Standard errors are over documents (ratio estimator). Read next:
`loss_probes.py`, `evaluation_text.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.evaluation import document_rows
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_course.leaderboards.conversation import ProbeFailure
from cs336_course.leaderboards.judges.evaluation_text import Source, Text, evaluation_texts
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.judges.loss_probes import Window, score_windows
from cs336_course.leaderboards.verification import PASSED, Measurement

Floats = npt.NDArray[np.float64]
MEMORISED_ERRORS, MEMORISED_SHARE = 5.0, 0.03


@dataclass(frozen=True)
class LossSettings:
    """Sizes of the measurement."""

    source: Source
    documents: int
    """of each half; the course's size is a million tokens"""
    max_chars: int = 2000
    """longer documents of real text are cut"""
    file: str = ""
    sha256: str = ""
    probe_windows: int = 6
    """windows that each probe asks about"""
    tolerance: float = 2e-3
    """largest difference of a log-probability that rounding may make"""
    excess: bool = False
    """rank by the percentage above the entropy floor instead of bits per byte"""


@dataclass(frozen=True)
class HalfResult:
    """Sums over the documents of a half."""

    nats: Floats
    bytes: Floats
    floor: Floats | None
    tokens: int
    probes: dict[str, str]

    def ratio(self, below: Floats) -> tuple[float, float]:
        """(sum of nats / sum of `below`, standard error over documents)."""
        value = float(self.nats.sum() / below.sum())
        rest = self.nats - value * below
        return value, float(np.sqrt((rest**2).sum()) / below.sum())


def measure(judging: Judging) -> Measurement:
    """Loss on the wanted half, with all probes; the hidden half is compared with the public one."""
    settings = judging.settings(LossSettings)
    tokenizer = load_tokenizer(judging.artifacts)
    shape = model_shape(judging.artifacts, tokenizer.vocab_size)
    result = measure_half(judging, settings, tokenizer, shape)
    probes = dict(result.probes)
    if judging.half == "hidden":
        public = measure_half(replace(judging, half="public"), settings, tokenizer, shape)
        probes["memorised"] = _memorised(public, result, settings)
    bits, bits_error = (x / math.log(2) for x in result.ratio(result.bytes))
    beside = {
        "bits per byte": bits,
        "loss per token": float(result.nats.sum() / result.tokens),
        "tokens": float(result.tokens),
    }
    value, error = bits, bits_error
    if result.floor is not None:
        beside["floor, bits per byte"] = float(result.floor.sum() / result.bytes.sum() / math.log(2))
        above, above_error = result.ratio(result.floor)
        beside["above the floor, %"] = 100 * (above - 1)
        if settings.excess:
            value, error = 100 * (above - 1), 100 * above_error
    return Measurement(value, error, probes, beside)


def measure_half(judging: Judging, settings: LossSettings, tokenizer: Tokenizer, shape: tuple[int, int]) -> HalfResult:
    """Score all documents of a half.

    Raises:
        ProbeFailure: the code fails to answer, or the tokenizer does not give the text back.
    """
    texts = evaluation_texts(
        settings.source, settings.documents, judging.random("texts"), max_chars=settings.max_chars, file=settings.file,
        sha256=settings.sha256,
    )  # fmt: skip
    windows = [
        Window(number, ids, first)
        for number, text in enumerate(texts)
        for ids, first in _rows(tokenizer, text.text, shape[0])
    ]
    assert judging.talk is not None
    nats, probes = score_windows(
        judging.talk, windows, vocab_size=shape[1], rng=judging.random("questions"),
        probe_windows=settings.probe_windows, tolerance=settings.tolerance,
    )  # fmt: skip
    per_document = np.zeros(len(texts))
    for window, value in zip(windows, nats, strict=True):
        per_document[window.document] += value
    return HalfResult(
        per_document, np.array([float(len(text.text.encode())) for text in texts]), _floors(texts),
        sum(len(window.ids) - window.first for window in windows), {"round trip": PASSED, **probes},
    )  # fmt: skip


def _floors(texts: list[Text]) -> Floats | None:
    floors = [text.floor_nats for text in texts if text.floor_nats is not None]
    return np.array(floors) if len(floors) == len(texts) else None


def _rows(tokenizer: Tokenizer, text: str, context: int) -> list[tuple[npt.NDArray[np.int64], int]]:
    """The windows of one document, begun and ended by the end-of-text token."""
    try:
        end, ids = tokenizer.special_id(END_OF_TEXT), tokenizer.encode(text)
    except ValueError as error:
        raise ProbeFailure("round trip", str(error)) from error
    if b"".join(tokenizer.vocab[i] for i in ids) != text.encode():
        raise ProbeFailure("round trip", "the tokenizer's ids do not stand for the text")
    return [
        (np.asarray(row, dtype=np.int64), first) for row, first in document_rows(np.array([*ids, end]), context, end)
    ]


def _memorised(public: HalfResult, hidden: HalfResult, settings: LossSettings) -> str:
    """Both halves are drawn alike, so a model that knows neither finds them equally hard."""
    by_floor = settings.excess and public.floor is not None and hidden.floor is not None
    (easy, easy_error), (hard, hard_error) = (
        half.ratio(half.floor if by_floor and half.floor is not None else half.bytes) for half in (public, hidden)
    )
    gap = hard - easy
    if gap > MEMORISED_ERRORS * math.hypot(easy_error, hard_error) and gap > MEMORISED_SHARE * hard:
        return f"the public half is {100 * gap / hard:.1f} % easier than the hidden one, which is drawn alike"
    return PASSED


def load_tokenizer(artifacts: Path) -> Tokenizer:
    """The participant's tokenizer, read here: it is data.

    Raises:
        ProbeFailure: "evidence": missing or malformed.
    """
    try:
        return Tokenizer.load(artifacts / "tokenizer")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProbeFailure("evidence", f"tokenizer: {error}") from error


def model_shape(artifacts: Path, tokenizer_size: int) -> tuple[int, int]:
    """(context length, size of the vocabulary) of the participant's model, from model_config.json.

    Any context is allowed, and a vocabulary with more rows than the tokenizer has ids.

    Raises:
        ProbeFailure: "evidence": missing, or no positive whole numbers.
    """
    try:
        config = json.loads((artifacts / "model_config.json").read_text(encoding="utf-8"))
        context, vocab_size = config["context_length"], config.get("vocab_size", tokenizer_size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProbeFailure("evidence", f"model_config.json needs context_length: {error}") from error
    if type(context) is not int or not 1 <= context <= 1 << 20:
        raise ProbeFailure("evidence", f"context_length must be a whole number from 1; got {context!r}")
    if type(vocab_size) is not int or not tokenizer_size <= vocab_size <= 1 << 20:
        raise ProbeFailure(
            "evidence", f"vocab_size must be at least the tokenizer's {tokenizer_size}; got {vocab_size!r}"
        )
    return context, vocab_size
