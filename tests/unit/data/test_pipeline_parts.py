"""Sampling, funnel, sweeps and truth against hand-computed values or brute force."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from cs336_data.document import Document
from cs336_data.document_files import to_line, write_lines
from cs336_data.funnel import FunnelRow, build_funnel, summed_histograms, threshold_sweep
from cs336_data.sampling import BottomK
from cs336_data.steps import StepConfig, build_steps
from cs336_data.truth import jaccard, measure_run


def test_a_sample_is_those_with_the_smallest_hashes_in_any_order():
    names = [f"document {i}" for i in range(200)]
    digest = {n: hashlib.blake2b(f"7:{n}".encode(), digest_size=8).digest() for n in names}
    expected = sorted(names, key=digest.__getitem__)[:9]
    for seed in range(3):
        random.Random(seed).shuffle(names)
        sample = BottomK(9, seed=7)
        for name in names:
            sample.offer(name, lambda name=name: {"name": name})
        assert [item["name"] for item in sample.items()] == expected
    nothing = BottomK(0, seed=0)
    nothing.offer("a", dict)
    assert nothing.items() == []


def test_a_sweep_counts_the_documents_at_or_above_each_threshold():
    rng = random.Random(0)
    scores = [rng.random() for _ in range(500)]
    bins = [0] * 100
    for score in scores:
        bins[int(score * 100)] += 1
    for threshold, share in threshold_sweep(bins):
        assert share == pytest.approx(sum(int(s * 100) >= round(threshold * 100) for s in scores) / 500)
    assert threshold_sweep([0, 0])[0] == (0.0, 0.0)


def test_the_funnel_adds_up_files_and_corpus_steps():
    manifests = [
        {"reader": {"records": 8, "record_damaged": 1, "other_kind": 9},
         "funnel": {"extract": {"in": 8, "out": 7, "not_text": 1}, "language": {"in": 7, "out": 4, "other": 3}},
         "histograms": {"s": [1, 2]}},
        {"reader": {"records": 2}, "funnel": {"extract": {"in": 2, "out": 2}, "language": {"in": 2, "out": 2}},
         "histograms": {"s": [0, 5]}},
    ]  # fmt: skip
    rows = build_funnel(manifests, [{"step": "dedup_near", "in": 6, "out": 5}])
    assert rows == [
        FunnelRow("read", 11, 10, {"record_damaged": 1}), FunnelRow("extract", 10, 9, {"not_text": 1}),
        FunnelRow("language", 9, 6, {"other": 3}), FunnelRow("dedup_near", 6, 5),
    ]  # fmt: skip
    assert summed_histograms(manifests) == {"s": [1, 7]}


def test_jaccard_is_that_of_word_shingles():
    words = "a b c d e f g h".split()
    first, second = " ".join(words), " ".join([*words[:7], "x"])
    assert jaccard(first, second) == 3 / 5  # four 5-grams each, three in common
    assert jaccard("A, b! c d e", "a b c d e") == 1.0 and jaccard("", "") == 1.0


def write_jsonl(path: Path, lines: list[dict]) -> None:
    with write_lines(path) as write:
        for line in lines:
            write((json.dumps(line) + "\n").encode())


def test_a_run_is_graded_as_by_hand(tmp_path):
    run, crawl = tmp_path / "run", tmp_path / "crawl"
    blank = {"charset": "utf-8", "declared": "utf-8", "marker": "", "personal": [], "traps": [], "copy_of": "",
             "replaced": 0.0, "contaminated": False}  # fmt: skip
    prose = "one two three four five six seven eight nine ten"
    pages = [
        {"record_id": "a1", "kind": "article", "marker": "M1", "personal": [["email", "x@y.org"]], "traps": ["1.2.3"]},
        {"record_id": "a2", "kind": "article"}, {"record_id": "a3", "kind": "article", "copy_of": "a1"},
        {"record_id": "a4", "kind": "article", "contaminated": True},
        {"record_id": "f1", "kind": "foreign"}, {"record_id": "f2", "kind": "foreign"},
        {"record_id": "s1", "kind": "spam"}, {"record_id": "t1", "kind": "topic"},
        {"record_id": "x1", "kind": "damaged_member"},
    ]  # fmt: skip
    write_jsonl(crawl / "truth.jsonl", [blank | page for page in pages])
    ends = {"a1": "kept", "a2": "gopher", "a3": "kept", "a4": "kept", "f1": "language", "f2": "kept", "s1": "gopher",
            "t1": "gopher"}  # fmt: skip
    write_jsonl(run / "verdicts" / "f.jsonl.gz", [{"id": k, "step": s, "reason": s} for k, s in ends.items()])
    texts = {"a1": f"{prose} M1 1.2.3", "a3": f"{prose} M1 1.2.3", "a4": "x", "f2": "y"}
    with write_lines(run / "filtered" / "f.jsonl.gz") as write:
        for key, text in texts.items():
            write(to_line(Document(key, "", text)))
    write_jsonl(run / "corpus" / "01-dedup_documents.dropped.jsonl.gz", [{"id": "a3"}])
    write_jsonl(run / "corpus" / "02-decontaminate.dropped.jsonl.gz", [{"id": "a4"}])
    steps = ["read", "extract", "language", "gopher", "pii", "dedup_documents", "decontaminate"]
    (run / "funnel.json").write_text(json.dumps([{"step": step} for step in steps]))
    measured = measure_run(run, crawl)
    assert measured["steps"] == [
        {"step": "read", "aimed": 1, "aimed_dropped": 1, "dropped": 1, "rightly_dropped": 1},
        {"step": "extract", "aimed": 0, "aimed_dropped": 0, "dropped": 0, "rightly_dropped": 0},
        {"step": "language", "aimed": 2, "aimed_dropped": 1, "dropped": 1, "rightly_dropped": 1},
        {"step": "gopher", "aimed": 1, "aimed_dropped": 1, "dropped": 2, "rightly_dropped": 1},
    ]
    assert measured["kept_by_kind"] == {"article": 1, "foreign": 1}
    assert measured["wanted"]["article"] == [3, 2]
    assert measured["markers"] == [{"charset": "utf-8", "declared": "utf-8", "pages": 1, "intact": 1}]
    assert measured["personal"] == {"email": [1, 1], "look-alikes": [1, 1]}
    assert measured["copies"] == [
        {"replaced": 0.0, "pairs": 1, "alike": 1, "alike_found": 1, "unlike_dropped": 0, "jaccard": 1.0}
    ]
    assert measured["contaminated"] == {"planted": 1, "planted_dropped": 1, "dropped": 1}


def test_steps_stand_once_and_a_filter_of_ones_own_is_found():
    with pytest.raises(ValueError, match="each step may stand once"):
        build_steps([StepConfig("pii"), StepConfig("pii")])
    with pytest.raises(ValueError, match="looks like my_filters:too_short"):
        build_steps([StepConfig("function", {"path": "nonsense"})])
    [step] = build_steps([StepConfig("function", {"path": "tests.unit.data.hostile_steps:misbehave"})])
    assert step.label == "misbehave" and step.apply(Document("", "", "green")) == "green"
