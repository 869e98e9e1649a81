"""Whatever comes in: skipped, counted, set aside or refused with a clear error; never lost, never half-written."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from cs336_data import guarded_worker
from cs336_data.document_files import read_lines
from cs336_data.executors import run_one
from cs336_data.file_task import UnreadableFileError, output_paths, process_file
from cs336_data.guarded_worker import GuardedWorker, WorkerError
from cs336_data.pipeline import find_inputs, make_tasks, run_pipeline
from cs336_data.pipeline_config import LimitsConfig
from cs336_data.steps import StepConfig, build_steps
from cs336_data.synthetic_crawl.crawl import write_crawl
from cs336_data.synthetic_crawl.pages import UNREADABLE
from cs336_data.synthetic_crawl.records import gzip_member, http_response, warc_record
from tests.unit.data.pipeline_cases import SMALL, make_config, read_jsonl, write_documents

for package in ("fastwarc", "resiliparse", "fasttext"):
    pytest.importorskip(package)

PROSE = "The harbour was quiet in the morning, and the boats lay side by side in the cold light of the day. " * 3
HOSTILE = (StepConfig("function", {"path": "tests.unit.data.hostile_steps:misbehave"}),)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    write_crawl(folder, SMALL)
    return folder


def make_task(run: Path, config):
    [task] = make_tasks(config, find_inputs(config.inputs, run), run)
    return task


def warc_file(path: Path, *bodies: bytes) -> Path:
    members = [
        gzip_member(
            warc_record(
                "response", http_response(body), record_id=f"urn:uuid:{number}", url=f"https://example.org/{number}",
                content_type="application/http; msgtype=response",
            )
        )
        for number, body in enumerate(bodies)
    ]  # fmt: skip
    path.write_bytes(b"".join(members))
    return path


def page(text: str) -> bytes:
    return f"<html><body><p>{text}</p></body></html>".encode()


def test_every_damaged_record_is_counted_and_nothing_else_is_lost(crawl, tmp_path):
    run_pipeline(make_config(crawl / "warc" / "*.gz", steps=(), corpus_steps=()), tmp_path / "run", progress=False)
    truth = read_jsonl(crawl / "truth.jsonl")
    verdicts = [line for path in (tmp_path / "run" / "verdicts").iterdir() for line in read_jsonl(path)]
    sound = {page["record_id"] for page in truth if page["kind"] not in UNREADABLE}
    assert Counter(line["id"] for line in verdicts) == Counter(sound)  # each once
    dropped = {line["id"]: line["reason"] for line in verdicts if line["step"] != "kept"}
    kinds = {page["record_id"]: page["kind"] for page in truth}
    assert {(kinds[key], reason) for key, reason in dropped.items()} == {("image", "not_text"), ("empty", "empty_text")}
    [read, *_] = json.loads((tmp_path / "run" / "funnel.json").read_text())
    assert read["came"] == len(truth)
    assert sum(read["reasons"].values()) == sum(page["kind"] in UNREADABLE for page in truth)


def test_documents_that_crash_loop_or_hoard_are_set_aside_and_the_others_kept(tmp_path):
    texts = ["fine one", "crash", "fine two", "loop", "hoard", "raise", "green", "fine three"]
    source = write_documents(tmp_path / "in.jsonl", texts)
    limits = LimitsConfig(document_cpu_s=0.5, document_memory_mb=300, strikes=2)
    config = make_config(source, steps=HOSTILE, corpus_steps=(), limits=limits)
    run_pipeline(config, tmp_path / "run", progress=False)
    verdicts = read_jsonl(tmp_path / "run" / "verdicts" / "in.jsonl.gz")
    assert [line["reason"] for line in verdicts] == [
        "", "worker_died", "", "cpu_time_limit", "memory_limit", "error", "green", "",
    ]  # fmt: skip
    kept = read_jsonl(tmp_path / "run" / "documents" / "in.jsonl.gz")
    assert [document["text"] for document in kept] == ["fine one", "fine two", "fine three"]
    aside = read_jsonl(tmp_path / "run" / "quarantine" / "in.jsonl")
    assert [line["ordinal"] for line in aside] == [1, 3, 4, 5]
    assert aside[3]["detail"] == "ValueError: no"


def test_a_file_that_is_no_crawl_is_set_aside_and_the_run_goes_on(tmp_path):
    good = warc_file(tmp_path / "good.warc.gz", page(PROSE))
    (tmp_path / "bad.warc.gz").write_bytes(random.Random(0).randbytes(5_000))
    (tmp_path / "text.warc.gz").write_bytes(gzip.compress(b"just a letter\n" * 50))
    (tmp_path / "empty.warc.gz").write_bytes(b"")
    config = make_config(tmp_path / "*.gz", steps=(), corpus_steps=())
    summary = run_pipeline(config, tmp_path / "run", progress=False)
    assert (summary["files"], summary["unreadable_files"], summary["documents"]) == (2, 2, 1)
    assert set(json.loads((tmp_path / "run" / "quarantine" / "files.json").read_text())) == {"bad", "text"}
    good.unlink()
    (tmp_path / "empty.warc.gz").unlink()
    with pytest.raises(ValueError, match="none of the 2 input files could be read"):
        run_pipeline(config, tmp_path / "second", progress=False)


def test_a_page_of_50_mb_and_an_endless_one_cost_nothing(tmp_path):
    huge = warc_file(tmp_path / "huge.warc.gz", page("a" * 50_000_000), page(PROSE))
    summary = run_pipeline(make_config(huge, steps=(), corpus_steps=()), tmp_path / "run", progress=False)
    assert summary["documents"] == 1 and summary["records"] == 2
    assert json.loads((tmp_path / "run" / "funnel.json").read_text())[0]["reasons"] == {"record_too_large": 1}


def test_a_broken_line_of_a_document_file_costs_that_line(tmp_path):
    source = write_documents(tmp_path / "in.jsonl", ["one", "two"])
    source.write_bytes(source.read_bytes() + b'{"text": 5}\n{"te\n')
    summary = run_pipeline(make_config(source, steps=(), corpus_steps=()), tmp_path / "run", progress=False)
    assert summary["documents"] == 2
    reasons = [line["reason"] for line in read_jsonl(tmp_path / "run" / "verdicts" / "in.jsonl.gz")]
    assert reasons == ["", "", "error", "error"]


def test_inputs_that_cannot_work_are_refused_before_any_work(tmp_path):
    source = write_documents(tmp_path / "in.jsonl", ["one"])
    with pytest.raises(FileNotFoundError, match="no input file matches"):
        run_pipeline(make_config(tmp_path / "*.warc"), tmp_path / "run")
    with pytest.raises(ValueError, match="lies in the output directory"):
        run_pipeline(make_config(source), tmp_path)
    with pytest.raises(ValueError, match="did you mean 'language'"):
        make_config(source, steps=(StepConfig("langage"),))
    with pytest.raises(TypeError, match="minimun"):
        run_pipeline(make_config(source, steps=(StepConfig("language", {"minimun": 1}),)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_stops_the_run_with_the_remedy(tmp_path):
    source = write_documents(tmp_path / "in.jsonl", ["one"])
    steps = (StepConfig("function", {"path": "tests.unit.data.hostile_steps:needs_a_package"}),)
    with pytest.raises(WorkerError, match="pip install greenlib"):
        run_pipeline(make_config(source, steps=steps), tmp_path / "run", progress=False)
    assert not list((tmp_path / "run" / "filtered").glob("*"))


def test_a_full_disk_leaves_no_partial_file_and_says_what_to_do(tmp_path, monkeypatch):
    source = write_documents(tmp_path / "in.jsonl", ["one"])
    config = make_config(source, steps=())
    task = make_task(tmp_path / "run", config)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        process_file(task, [])
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    monkeypatch.setattr(guarded_worker, "_limit_memory", lambda megabytes: None)
    state = guarded_worker._ChildState(LimitsConfig())
    answer = state.answer({"task": vars(task), "skip": [], "stop": None}, lambda ordinal: None)
    assert answer["kind"] == "machine" and "no space left" in answer["text"]


def test_a_reader_that_dies_at_a_record_gives_up_the_rest_of_the_file(tmp_path):
    source = write_documents(tmp_path / "in.jsonl", ["one", "two", "three"])
    task = make_task(tmp_path / "run", make_config(source, steps=()))
    manifest = process_file(task, [], stop=(1, "reading record 1 fails"))
    assert manifest["given_up_at"] == {"ordinal": 1, "why": "reading record 1 fails"}
    assert [line["id"] for line in read_jsonl(output_paths(task)["verdicts"])] == ["in.jsonl:0"]
    assert read_jsonl(output_paths(task)["quarantine"])[0]["reason"] == "rest_of_file"


def test_a_worker_says_so_when_a_file_vanishes(tmp_path):
    source = write_documents(tmp_path / "in.jsonl", ["one"])
    task = make_task(tmp_path / "run", make_config(source, steps=()))
    source.unlink()
    with GuardedWorker(LimitsConfig()) as worker:
        outcome = run_one(worker, task)
    assert outcome.manifest is None and "in.jsonl" in outcome.error


@pytest.mark.parametrize("seed", range(12))
def test_fuzzed_archives_never_break_a_worker_nor_its_accounts(crawl, tmp_path, seed):
    rng = random.Random(seed)
    source = sorted((crawl / ("warc" if seed % 2 else "wet")).iterdir())[seed % 3]
    data = bytearray(source.read_bytes())
    if seed % 4 == 3:
        data = bytearray(gzip.decompress(crawl_without_damage(data)))  # a plain WARC
    for _ in range(rng.randint(1, 12)):
        place, width = rng.randrange(len(data)), rng.randint(1, 40)
        fuzz = rng.choice([b"", rng.randbytes(width), bytes(width), b"\x1f\x8b\x08" + bytes(7), b"WARC/1.0\r\n"])
        data[place : place + width] = fuzz
    fuzzed = tmp_path / "fuzzed.warc.gz"
    fuzzed.write_bytes(data)
    task = make_task(tmp_path / "run", make_config(fuzzed, steps=(StepConfig("pii"),)))
    with contextlib.suppress(UnreadableFileError):
        manifest = process_file(task, build_steps([StepConfig("pii")]))
        verdicts = read_jsonl(output_paths(task)["verdicts"])
        kept = list(read_lines(output_paths(task)["filtered"]))
        assert len(verdicts) == manifest["reader"].get("records", 0) == manifest["funnel"]["extract"].get("in", 0)
        assert len(kept) == sum(line["step"] == "kept" for line in verdicts)


def crawl_without_damage(data: bytes) -> bytes:
    """The members of a gzip file that unpack."""
    import zlib

    whole, rest = b"", bytes(data)
    while rest:
        unpacker = zlib.decompressobj(31)
        try:
            unpacker.decompress(rest)
        except zlib.error:
            break
        if not unpacker.eof:
            break
        whole += rest[: len(rest) - len(unpacker.unused_data)]
        rest = unpacker.unused_data
    return whole


def test_files_of_one_name_from_two_folders_do_not_meet(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_documents(tmp_path / folder / "in.jsonl", [f"text of {folder}"])
    run_pipeline(make_config(tmp_path / "*" / "in.jsonl", steps=()), tmp_path / "run", progress=False)
    texts = [d["text"] for path in (tmp_path / "run" / "documents").glob("*.gz") for d in read_jsonl(path)]
    assert sorted(texts) == ["text of a", "text of b"]
