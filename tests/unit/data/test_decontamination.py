"""Decontamination against sets of word tuples; planted quotations; what is said about short items."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from cs336_data.decontamination import decontaminate
from cs336_data.document_files import read_lines

WORDS = [f"word{i}" for i in range(300)]


def write(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in read_lines(path)]


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@pytest.mark.parametrize(("engine", "n", "processes"), [("plain", 13, 1), ("compiled", 13, 1), ("compiled", 4, 1)])
def test_documents_that_share_an_ngram_are_left_out(tmp_path, engine, n, processes):
    choice = random.Random(n)
    items = [" ".join(choice.choices(WORDS, k=choice.randrange(n, 60))) for _ in range(20)]
    documents = []
    for _ in range(400):
        words = choice.choices(WORDS, k=choice.randrange(80))
        if choice.random() < 0.4:  # a quotation, often too short to count, in other case and punctuation
            quoted = choice.choice(items).split()
            begin = choice.randrange(len(quoted))
            quotation = quoted[begin : begin + choice.randrange(n - 3, n + 4)]
            words[len(words) // 2 : len(words) // 2] = [word.upper() + "," for word in quotation]
        documents.append(" ".join(words))
    files = [write(tmp_path / "in" / "a.jsonl", documents[:250]), write(tmp_path / "in" / "b.jsonl", documents[250:])]
    known = set().union(*(grams(item, n) for item in items))
    dirty = [bool(grams(text, n) & known) for text in documents]
    assert 20 < sum(dirty) < 200
    found = decontaminate(
        files, tmp_path / "out", [write(tmp_path / "items.jsonl", items)], n=n, engine=engine,
        num_processes=processes, hits_file=tmp_path / "hits.jsonl",
    )  # fmt: skip
    kept = [text for file in files for text in texts_of(tmp_path / "out" / file.name)]
    assert kept == [text for text, drop in zip(documents, dirty, strict=True) if not drop]
    assert (found.documents, found.kept, found.items, found.short_items) == (400, len(kept), 20, 0)
    hits = [json.loads(line) for line in (tmp_path / "hits.jsonl").read_text().splitlines()]
    places = [f"a.jsonl:{i + 1}" for i in range(250)] + [f"b.jsonl:{i + 1}" for i in range(150)]
    assert [hit["document"] for hit in hits] == [place for place, drop in zip(places, dirty, strict=True) if drop]
    for hit in hits:
        document, item = documents[places.index(hit["document"])], items[int(hit["item"].split(":")[1]) - 1]
        assert hit["ngrams"] == len(grams(document, n) & known)
        assert tuple(hit["words"].split()) in grams(document, n) & grams(item, n)
    assert found.found_items == len({hit["item"] for hit in hits})


def test_items_shorter_than_n_are_counted_and_found_alone(tmp_path):
    items = write(tmp_path / "items.jsonl", ["What is two and two?", " ".join(WORDS[:13])])
    document = write(tmp_path / "in" / "a.jsonl", ["what is two and two", "he asked: what is two and two", ""])
    found = decontaminate([document], tmp_path / "out", [items])
    assert (found.short_items, found.kept) == (1, 2)
    assert texts_of(tmp_path / "out" / "a.jsonl") == ["he asked: what is two and two", ""]


def test_nothing_to_compare_with(tmp_path):
    document = write(tmp_path / "in" / "a.jsonl", ["text"])
    with pytest.raises(ValueError, match="hold no items; a check against nothing would pass everything"):
        decontaminate([document], tmp_path / "out", [write(tmp_path / "items.jsonl", [])])
    assert not (tmp_path / "out").exists()


def test_other_items_start_anew(tmp_path):
    """A job interrupted with one set of items does not go on with another."""
    document = write(tmp_path / "in" / "a.jsonl", [" ".join(WORDS[:20]), " ".join(WORDS[30:50])])
    first, second = (write(tmp_path / name, [text]) for name, text in (("1.jsonl", " ".join(WORDS[:20])),
                                                                       ("2.jsonl", " ".join(WORDS[30:50]))))  # fmt: skip
    with pytest.raises(OSError, match="directory"):
        decontaminate([document], tmp_path / "out", [first], hits_file=tmp_path / "in")
    assert (tmp_path / "out.parts" / "written-000000.json").exists()
    assert decontaminate([document], tmp_path / "out", [second]).kept == 1
    assert texts_of(tmp_path / "out" / "a.jsonl") == [" ".join(WORDS[:20])]
