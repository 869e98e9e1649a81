"""Harmful text: obscene or sexually explicit (nsfw), and abusive towards someone (toxic).

The two are different questions: "this f*cking printer" is obscene and insults nobody; "you worthless fool" is toxic and
fit to print. Which model answers:

    1. the course's fastText models (Dolma's, trained on comments of the Jigsaw data), if the user has their files
    2. ours: logistic regression over hashed n-grams, trained on generated sentences; see models/harm_card.md

`model_name` says which. Both know sentences better than pages, and are too sure of themselves on pages; so a page is
judged window by window, and its score is the highest of a window, with the mean beside it.

Handout: `harmful_content`. Left out: languages other than English. Read next: `quality_classifier.py`.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path

from cs336_data.classifiers.logistic_regression import LogisticModel
from cs336_data.document import Document
from cs336_data.fasttext_model import FastTextModel
from cs336_data.model_assets import find_asset

OFFICIAL = {
    "nsfw": ("dolma_fasttext_nsfw_jigsaw_model.bin", "jigsaw_fasttext_bigrams_nsfw_final.bin",
             "dolma-jigsaw-fasttext-bigrams-nsfw.bin"),
    "toxic": ("dolma_fasttext_hatespeech_jigsaw_model.bin", "jigsaw_fasttext_bigrams_hatespeech_final.bin",
              "dolma-jigsaw-fasttext-bigrams-hatespeech.bin"),
}  # fmt: skip
MODELS = Path(__file__).with_name("models")
WINDOW = 1000
"""Characters of a window at most; lines longer than that are cut between words."""
_PIECE = re.compile(rf"\S.{{0,{WINDOW - 1}}}(?!\S)|\S{{{WINDOW}}}")


@dataclass(frozen=True, slots=True)
class PageHarm:
    """A page window by window: the highest and the mean probability, and the text of the worst window."""

    highest: float
    mean: float
    worst: str


class HarmClassifier:
    """P(harmful) by the best model at hand. Loads at first use, again in each process."""

    def __init__(self, kind: str, *, assets: Path | None = None) -> None:
        """Choose the model.

        Args:
            kind: "nsfw" or "toxic".
            assets: folder with the official models; by default the course's folders.

        Raises:
            ValueError: another kind.
        """
        if kind not in OFFICIAL:
            raise ValueError(f"kind must be 'nsfw' or 'toxic'; got {kind!r}")
        self.kind = kind
        self._official = find_asset(OFFICIAL[kind], assets=assets)
        self.model_name = self._official.name if self._official else f"cs336-{kind}-ngrams"
        self._model: LogisticModel | FastTextModel | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_model": None}

    def probability(self, text: str) -> float:
        """P(harmful) of a short text as a whole, in [0, 1]."""
        if self._model is None:
            path = self._official
            self._model = FastTextModel(path) if path else LogisticModel.load(MODELS / f"{self.kind}.npz")
        if isinstance(self._model, LogisticModel):
            return self._model.probability(text)
        answers = dict(self._model.probabilities(text, k=2))
        return next((p for label, p in answers.items() if label.startswith(self.kind)), 0.0)

    def classify(self, text: str) -> tuple[str, float]:
        """("nsfw", p) or ("non-nsfw", p), likewise for toxic; p is the probability of the label."""
        probability = self.probability(text)
        return (self.kind, probability) if probability >= 0.5 else (f"non-{self.kind}", 1 - probability)

    def judge_page(self, text: str) -> PageHarm:
        """Window by window, each a line or a part of one; adjacent short lines share a window."""
        pieces = windows(text)
        if not pieces:
            return PageHarm(0.0, 0.0, "")
        scores = [self.probability(piece) for piece in pieces]
        worst = max(range(len(scores)), key=scores.__getitem__)
        return PageHarm(scores[worst], min(scores[worst], math.fsum(scores) / len(scores)), pieces[worst])


class HarmFilter:
    """Rejects pages with a harmful window; notes `nsfw_score` or `toxic_score` and the model in the metadata."""

    def __init__(self, kind: str, *, maximum: float = 0.9, assets: Path | None = None) -> None:
        if not 0 <= maximum <= 1:
            raise ValueError(f"maximum must be a probability in [0, 1]; got {maximum}")
        self.classifier, self.maximum = HarmClassifier(kind, assets=assets), maximum

    def __call__(self, document: Document) -> str | None:
        """`nsfw` or `toxic` when the highest window is above the maximum, else None."""
        kind, page = self.classifier.kind, self.classifier.judge_page(document.text)
        document.metadata |= {
            f"{kind}_score": round(page.highest, 4), f"{kind}_mean": round(page.mean, 4),
            f"{kind}_model": self.classifier.model_name,
        }  # fmt: skip
        return kind if page.highest > self.maximum else None


def windows(text: str, *, size: int = 100) -> list[str]:
    """Lines in groups of up to `size` characters; a longer line stands alone, cut at `WINDOW`."""
    groups: list[str] = []
    for line in text.splitlines():
        for piece in _PIECE.findall(line) if len(line) > WINDOW else [line.strip()]:
            if not piece:
                continue
            if groups and len(groups[-1]) + len(piece) < size:
                groups[-1] += "\n" + piece
            else:
                groups.append(piece)
    return groups


def classify_nsfw(text: str) -> tuple[str, float]:
    """("nsfw" or "non-nsfw", its probability). Source: handout, `harmful_content`."""
    return _default("nsfw").classify(text)


def classify_toxic_speech(text: str) -> tuple[str, float]:
    """("toxic" or "non-toxic", its probability). Source: handout, `harmful_content`."""
    return _default("toxic").classify(text)


@functools.cache
def _default(kind: str) -> HarmClassifier:
    return HarmClassifier(kind)
