"""The synthetic crawl is what its truth says, by an independent reader, and the same on every call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cs336_basics.runs.config import config_to_dict
from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl
from cs336_data.synthetic_crawl.pages import UNREADABLE
from cs336_data.synthetic_crawl.pydoc_pages import article_pages, reference_pages
from tests.unit.data.pipeline_cases import SMALL, read_jsonl

warc = pytest.importorskip("fastwarc.warc")
html2text = pytest.importorskip("resiliparse.extract.html2text")

SOUND = CrawlOptions(**{**config_to_dict(SMALL), "reference": 3, "broken": 0})


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    write_crawl(folder, SOUND)
    return folder


@pytest.fixture(scope="module")
def truth(crawl) -> dict[str, dict]:
    return {page["record_id"]: page for page in read_jsonl(crawl / "truth.jsonl")}


def payloads(crawl: Path, kind: str, record_type) -> dict[str, bytes]:
    """Record id -> body, by fastwarc alone."""
    found = {}
    for path in sorted((crawl / kind).iterdir()):
        with path.open("rb") as file:
            for record in warc.ArchiveIterator(file, record_types=record_type, parse_http=True):
                found[record.record_id.strip("<>")] = record.reader.read()
    return found


def test_an_independent_reader_finds_the_pages_of_the_truth(crawl, truth):
    bodies = payloads(crawl, "warc", warc.WarcRecordType.response)
    assert bodies.keys() == truth.keys()
    for key, body in bodies.items():
        page = truth[key]
        text = body.decode(page["charset"])
        assert len(body) == page["bytes"]
        plain = html2text.extract_plain_text(text)
        assert page["marker"] in plain
        assert all(planted in plain for _, planted in page["personal"])
        assert all(trap in plain for trap in page["traps"])


def test_counts_are_those_of_the_options(crawl, truth):
    counts = Counter(page["kind"] for page in truth.values())
    assert counts["article"] == SOUND.articles + SOUND.copies + SOUND.near_copies
    for kind in ("boilerplate", "spam", "adult", "hostile", "foreign"):
        assert counts[kind] == getattr(SOUND, kind)
    assert counts["topic"] + counts["module"] + counts["class"] == SOUND.reference
    assert json.loads((crawl / "manifest.json").read_text())["pages"] == dict(sorted(counts.items()))
    assert len(list((crawl / "warc").iterdir())) == SOUND.files


def test_wet_files_hold_the_text_of_the_pages(crawl, truth):
    bodies = payloads(crawl, "warc", warc.WarcRecordType.response)
    texts = payloads(crawl, "wet", warc.WarcRecordType.conversion)
    assert {key.removesuffix("-text") for key in texts} == truth.keys()
    utf8 = [key for key, page in truth.items() if page["charset"] == "utf-8"]
    for key in utf8:
        assert texts[f"{key}-text"].decode() == html2text.extract_plain_text(bodies[key].decode())


def test_copies_are_copies_and_near_copies_nearly(crawl, truth):
    bodies = payloads(crawl, "warc", warc.WarcRecordType.response)
    copies = [page for page in truth.values() if page["copy_of"]]
    assert sum(page["replaced"] == 0 for page in copies) == SOUND.copies
    for page in copies:
        charset = page["charset"]
        text, original = (bodies[key].decode(charset).split() for key in (page["record_id"], page["copy_of"]))
        contaminated = truth[page["copy_of"]]["contaminated"] or truth[page["copy_of"]]["personal"]
        if page["replaced"] == 0 and not contaminated:
            assert text == original
        elif page["replaced"] == 0.2 and not contaminated:
            assert 0.05 < sum(a != b for a, b in zip(text, original, strict=False)) / len(text) < 0.35


def test_passages_of_the_evaluation_set_stand_where_the_truth_says(crawl, truth):
    passages = [line["text"] for line in read_jsonl(crawl / "evaluation.jsonl")]
    validation = " ".join(" ".join(line["text"].split()) for line in read_jsonl(crawl / "validation.jsonl"))
    assert passages and all(len(p.split()) == 40 and p in validation for p in passages)
    bodies = payloads(crawl, "wet", warc.WarcRecordType.conversion)
    for key, body in bodies.items():
        text = " ".join(body.decode().split())
        assert any(p in text for p in passages) == truth[key.removesuffix("-text")]["contaminated"]


def test_the_same_options_give_the_same_bytes_in_another_process(crawl, tmp_path):
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        "from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl\n"
        "write_crawl(Path(sys.argv[1]), CrawlOptions(**json.loads(sys.argv[2])))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path), json.dumps(config_to_dict(SOUND))]
    subprocess.run(command, check=True, timeout=100, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert (tmp_path / "manifest.json").read_bytes() == (crawl / "manifest.json").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.gz")}
    write_crawl(tmp_path, SOUND)  # is there already
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.gz")} == stamps


def test_every_kind_of_damage_is_there(tmp_path):
    options = CrawlOptions(articles=5, reference=0, boilerplate=0, spam=0, adult=0, hostile=0, foreign=0, copies=0,
                           near_copies=0, broken=11, files=2)  # fmt: skip
    write_crawl(tmp_path, options)
    kinds = Counter(page["kind"] for page in read_jsonl(tmp_path / "truth.jsonl"))
    assert set(kinds) >= UNREADABLE and sum(kinds.values()) == 16


def test_articles_are_prose_and_never_repeat_a_paragraph():
    pages = article_pages(60, seed=3)
    paragraphs = [line for page in pages for line in page.body.splitlines() if line.startswith("<p>")]
    assert len(pages) == 60 and len(set(paragraphs)) == len(paragraphs)
    assert article_pages(60, seed=3) == pages != article_pages(60, seed=4)


def test_reference_pages_hold_no_path_of_this_machine():
    for page in reference_pages(6, seed=0):
        assert "file:" not in page.body.replace("file:/", "file:", 1) or "/lib/python" not in page.body
        assert str(Path(json.__file__).parents[1]) not in page.body


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="articles must be at least 1"):
        CrawlOptions(articles=0)
    with pytest.raises(ValueError, match="made of different articles"):
        CrawlOptions(articles=10, copies=11)
    with pytest.raises(ValueError, match="too many"):
        write_crawl(tmp_path, CrawlOptions(articles=100_000))
