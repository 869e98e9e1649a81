"""Problems exact_deduplication and minhash_deduplication: what stays, what goes, and that hashing finds the pairs."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest

STEMS = "river stone cloud market garden window letter morning engine forest silver paper harbor summer mirror".split()
VOCABULARY = [f"{stem}{ending}" for stem in STEMS for ending in ("", "s", "ed", "ing", "ful", "less", "er", "est")]


def words(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=count)


def changed(document: list[str], places: int) -> list[str]:
    """The document with as many words replaced, far from each other."""
    step = len(document) // places
    return [f"changed{i}" if i % step == step // 2 else word for i, word in enumerate(document)]


def similarity(first: list[str], second: list[str], n: int) -> float:
    sets = [{tuple(document[i : i + n]) for i in range(len(document) - n + 1)} for document in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def write_files(folder: Path, contents: dict[str, str | bytes]) -> list[Path]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return [folder / name for name in contents]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def lines(adapters, tmp_path):
    """Function: files -> files after line deduplication; the inputs must stay as they are."""

    def run(contents: dict[str, str | bytes]) -> dict[str, bytes]:
        files = write_files(tmp_path / "in", contents)
        before = read_files(tmp_path / "in")
        adapters.run_exact_line_deduplication(input_files=files, output_directory=tmp_path / "out")
        assert read_files(tmp_path / "in") == before, "an input file was changed"
        return read_files(tmp_path / "out")

    return run


@pytest.fixture
def near(adapters, tmp_path):
    """Function: (documents, settings) -> names that stay; each must stay byte for byte."""

    def run(contents: dict[str, str | bytes], *, out: str = "out", reverse: bool = False, **settings) -> set[str]:
        folder = tmp_path / "in"
        files = [folder / name for name in contents] if folder.exists() else write_files(folder, contents)
        before = read_files(folder)
        options = {"num_hashes": 100, "num_bands": 20, "ngrams": 5, "jaccard_threshold": 0.8} | settings
        adapters.run_minhash_deduplication(
            input_files=files[::-1] if reverse else files, output_directory=tmp_path / out, **options
        )
        assert read_files(folder) == before, "an input file was changed"
        kept = read_files(tmp_path / out)
        assert all(content == before[name] for name, content in kept.items()), "a document that stays was rewritten"
        return set(kept)

    return run


def test_lines_that_occur_twice_disappear_everywhere(lines):
    """Also their first copy; the order of the others stays, and a file left empty is still written."""
    found = lines({
        "a.txt": "Menu\nThe fox sleeps.\nCopyright\n",
        "b.txt": "Menu\nThe owl is awake.\nAnd calls.\nCopyright\n",
        "c.txt": "Copyright\nMenu\n",
        "d.txt": "Only here.\n",
    })  # fmt: skip
    assert found == {
        "a.txt": b"The fox sleeps.\n",
        "b.txt": b"The owl is awake.\nAnd calls.\n",
        "c.txt": b"",
        "d.txt": b"Only here.\n",
    }


def test_lines_repeated_within_one_file(lines):
    assert lines({"a.txt": "one\ntwo\none\nthree\n", "b.txt": "four\n"}) == {
        "a.txt": b"two\nthree\n",
        "b.txt": b"four\n",
    }


def test_a_last_line_without_its_end_is_the_same_line(lines):
    assert lines({"a.txt": "x\nsame", "b.txt": "same\ny\n"}) == {"a.txt": b"x\n", "b.txt": b"y\n"}


def test_lines_are_compared_exactly_and_kept_as_bytes(lines):
    """Case, spaces and accents tell lines apart, and bytes that are no UTF-8 go through."""
    latin = "caf\u00e9".encode("latin-1") + b"\n"
    contents = {"a.txt": latin + b"Word\n two\n", "b.txt": "word\ntwo\ncaf\u00e9\n".encode()}
    assert lines(contents) == contents


def test_lines_of_an_empty_file(lines):
    assert lines({"a.txt": "", "b.txt": "text\n"}) == {"a.txt": b"", "b.txt": b"text\n"}


def test_identical_documents(near):
    first, second = " ".join(words(1, 200)), " ".join(words(2, 200))
    kept = near({"a.txt": first, "b.txt": second, "c.txt": first, "d.txt": first})
    assert "b.txt" in kept and len(kept & {"a.txt", "c.txt", "d.txt"}) == 1 and len(kept) == 2


def test_near_duplicates(near):
    document = words(3, 400)
    copy = changed(document, 4)
    assert 0.88 < similarity(document, copy, 5) < 0.92
    kept = near({"a.txt": " ".join(document), "b.txt": " ".join(copy), "c.txt": " ".join(words(4, 400))})
    assert "c.txt" in kept and len(kept) == 2, "documents of similarity 0.9 are duplicates at threshold 0.8"


def test_case_accents_punctuation_and_spaces_do_not_count(near):
    text = " ".join(["Zo\u00eb's caf\u00e9 opens: at eight!", *words(5, 60)])
    other = unicodedata.normalize("NFD", text).upper().replace(" ", " \n\t ").replace(":", " -")
    plain = text.replace("\u00eb", "e").replace("\u00e9", "e").replace("!", "")
    assert len(near({"a.txt": text, "b.txt": other, "c.txt": plain})) == 1


def test_punctuation_parts_words(near):
    """ "well-known" is two words, not one: removing the hyphen would make all shingles differ."""
    document = words(6, 120)
    hyphens = "-".join(document)
    assert len(near({"a.txt": " ".join(document), "b.txt": hyphens})) == 1


def test_candidates_are_verified(near):
    """With one row per band nearly every pair that shares a shingle is a candidate; similarity decides."""
    document = words(7, 300)
    other = changed(document, 30)
    assert 0.25 < similarity(document, other, 5) < 0.5
    contents = {"a.txt": " ".join(document), "b.txt": " ".join(other)}
    assert len(near(contents, num_bands=100)) == 2, "candidates below the threshold were called duplicates"
    assert len(near(contents, num_bands=100, jaccard_threshold=0.2, out="low")) == 1


def test_hashing_decides_what_is_compared(near):
    """With one band of 500 rows a pair of similarity 0.9 is found with probability 0.9^500: never."""
    document = words(8, 400)
    contents = {"a.txt": " ".join(document), "b.txt": " ".join(changed(document, 4))}
    assert len(near(contents, num_hashes=500, num_bands=1)) == 2, "all pairs were compared; only candidates should be"
    assert len(near(contents, num_hashes=500, num_bands=50, out="many")) == 1


def test_clusters_are_connected(near):
    """B is like A and C, which are less like each other: one of the three stays."""
    b = words(9, 400)
    a, c = ["first"] * 42 + b[42:], b[:-42] + ["last"] * 42
    assert similarity(a, b, 5) > 0.85 and similarity(b, c, 5) > 0.85 and similarity(a, c, 5) < 0.8
    contents = {name: " ".join(document) for name, document in (("a.txt", a), ("b.txt", b), ("c.txt", c))}
    assert len(near(contents, num_hashes=500, num_bands=100)) == 1


@pytest.mark.parametrize("ngrams", [5, 1])
def test_short_documents_are_not_alike_because_they_are_short(near, ngrams):
    """Fewer words than a shingle has: no shingles would mean a similarity of 0/0."""
    contents = {"a.txt": "two words", "b.txt": "other text", "c.txt": "", "d.txt": " ".join(words(10, 50))}
    assert near(contents, ngrams=ngrams) == set(contents)


def test_equal_short_documents(near):
    assert len(near({"a.txt": "Not found", "b.txt": "not found.", "c.txt": "Found not"})) == 2


def test_the_order_of_the_inputs_changes_no_clusters(near):
    documents = {f"{i:02d}.txt": words(i, 150) for i in range(8)}
    documents |= {f"{i:02d}-copy.txt": changed(documents[f"{i:02d}.txt"], 1) for i in range(0, 8, 2)}
    contents = {name: " ".join(document) for name, document in documents.items()}
    forwards = near(contents)
    backwards = near(contents, out="backwards", reverse=True)
    assert {name[:2] for name in forwards} == {name[:2] for name in backwards}
    assert len(forwards) == len(backwards) == 8


def test_other_shingle_lengths(near):
    """The same words in another order are alike as single words only."""
    document = words(11, 200)
    contents = {"a.txt": " ".join(document), "b.txt": " ".join(document[::-1])}
    assert len(near(contents, ngrams=3)) == 2
    assert len(near(contents, ngrams=1, out="words")) == 1
