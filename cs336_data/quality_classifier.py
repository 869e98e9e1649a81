"""Does a page read like a reference work ("wiki") or like the rest of the crawl ("cc")?

Two kinds of classifier answer:

    fastText      word pairs, trained on reference pages against crawl pages: the course's way and DCLM's. It learns topics
                  as well as quality, is as good as its examples, and is used when a trained model is given.
    page model    logistic regression over nineteen counts (`classifiers/page_features.py`), needs no package for models, was
                  trained on generated pages and docstrings, and is used otherwise; see models/quality_card.md.

`train_quality` trains either, measures it on pages held back and sweeps the threshold. Which share to keep is the real
decision: DCLM keeps about the top 10 %.

Handout: `quality_classifier`. Read next: `rules/gopher.py`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cs336_data.classifiers.evaluation import Evaluation, SweepRow, evaluate, threshold_sweep
from cs336_data.classifiers.page_model import PageModel, train_page_model
from cs336_data.document import Document
from cs336_data.fasttext_model import FastTextModel, train_fasttext
from cs336_data.model_assets import find_asset

GOOD, OTHER = "wiki", "cc"
OFFICIAL = ("quality_classifier.bin", "quality_model.bin")
BUNDLED = Path(__file__).with_name("models") / "quality.json"
MAX_CHARACTERS = 50_000


class QualityClassifier:
    """P(wiki) of a page. Loads at first use, again in each process."""

    def __init__(self, model: Path | None = None, *, assets: Path | None = None) -> None:
        """Choose the model.

        Args:
            model: a .bin of fastText with the labels wiki and cc, or a .json of `PageModel`.
            assets: folder in which to look for quality_classifier.bin if no model is given; by default the course's.

        Raises:
            FileNotFoundError: the model given does not exist.
        """
        if model is not None and not Path(model).is_file():
            raise FileNotFoundError(f"no quality model {model}; train one with: cs336 data train-quality")
        self.path = Path(model) if model else find_asset(OFFICIAL, assets=assets) or BUNDLED
        self.model_name = "cs336-quality-pages" if self.path == BUNDLED else self.path.name
        self._model: PageModel | FastTextModel | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_model": None}

    def score(self, text: str) -> float:
        """P(wiki) in [0, 1]; 0 for a text without words."""
        if self._model is None:
            self._model = PageModel.load(self.path) if self.path.suffix == ".json" else FastTextModel(self.path)
        if isinstance(self._model, PageModel):
            return self._model.probability(text)
        if not text.strip():
            return 0.0
        answers = dict(self._model.probabilities(text[:MAX_CHARACTERS], k=2))
        if not answers.keys() & {GOOD, OTHER}:
            raise ValueError(f"{self.path} knows the labels {sorted(answers)}; expected {GOOD} and {OTHER}")
        return answers.get(GOOD, 1 - answers.get(OTHER, 0.0))

    def classify(self, text: str) -> tuple[str, float]:
        """("wiki", p) or ("cc", p), where p is the probability of the label."""
        score = self.score(text)
        return (GOOD, score) if score >= 0.5 else (OTHER, 1 - score)


class QualityFilter:
    """Keeps pages of at least a score; notes `quality_score` and `quality_model` in the metadata."""

    def __init__(self, *, minimum: float = 0.5, model: Path | None = None, assets: Path | None = None) -> None:
        if not 0 <= minimum <= 1:
            raise ValueError(f"minimum must be a probability in [0, 1]; got {minimum}")
        self.classifier, self.minimum = QualityClassifier(model, assets=assets), minimum

    def __call__(self, document: Document) -> str | None:
        """`low_quality` or None."""
        score = self.classifier.score(document.text)
        document.metadata |= {"quality_score": round(score, 4), "quality_model": self.classifier.model_name}
        return "low_quality" if score < self.minimum else None


@dataclass(frozen=True)
class TrainedQuality:
    """A model in a file and what it did on the pages held back."""

    path: Path
    kind: str
    num_training: int
    evaluation: Evaluation
    sweep: list[SweepRow]


def train_quality(
    good: Sequence[str],
    other: Sequence[str],
    path: Path,
    *,
    kind: str = "fasttext",
    held_out: float = 0.2,
    epochs: int = 5,
    learning_rate: float = 0.2,
    seed: int = 0,
) -> TrainedQuality:
    """Train a quality classifier and measure it.

    Args:
        good: pages of reference quality (label wiki).
        other: pages of the crawl (label cc).
        path: where the model goes: .bin for fastText, .json for the page model.
        kind: "fasttext" or "pages".
        held_out: share of the pages kept for measuring, chosen by a hash of the text so that copies of one page stay on
            one side; in (0, 1).
        epochs: passes of fastText.
        learning_rate: of fastText.
        seed: of fastText.

    Raises:
        ValueError: an argument out of range, or too few pages (one per class in either part).
        ImportError: fastText is asked for and no package can train it.
    """
    if kind not in ("fasttext", "pages"):
        raise ValueError(f"kind must be 'fasttext' or 'pages'; got {kind!r}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, both excluded; got {held_out}")
    wanted = ".bin" if kind == "fasttext" else ".json"
    if Path(path).suffix != wanted:
        raise ValueError(f"a model of kind {kind!r} goes into a {wanted} file; got {path}")
    labelled = [(text, True) for text in good] + [(text, False) for text in other]
    training = [entry for entry in labelled if _fraction(entry[0]) >= held_out]
    testing = [entry for entry in labelled if _fraction(entry[0]) < held_out]
    if {label for _, label in training} != {True, False} or {label for _, label in testing} != {True, False}:
        raise ValueError(
            f"{len(good)} good and {len(other)} other pages are too few to train and measure; give some hundred of each"
        )
    if kind == "fasttext":
        examples = [(text[:MAX_CHARACTERS], GOOD if label else OTHER) for text, label in training]
        train_fasttext(examples, path, epochs=epochs, learning_rate=learning_rate, seed=seed)
    else:
        train_page_model([text for text, _ in training], [label for _, label in training]).save(path)
    classifier = QualityClassifier(path)
    scores, labels = [classifier.score(text) for text, _ in testing], [label for _, label in testing]
    return TrainedQuality(path, kind, len(training), evaluate(scores, labels), threshold_sweep(scores, labels))


def _fraction(text: str) -> float:
    """A number in [0, 1) that depends on the words of a text only."""
    digest = hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def classify_quality(text: str) -> tuple[str, float]:
    """("wiki" or "cc", its probability). Source: handout, `quality_classifier`."""
    return _default().classify(text)


@functools.cache
def _default() -> QualityClassifier:
    return QualityClassifier()
