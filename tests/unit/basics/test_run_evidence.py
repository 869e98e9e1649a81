"""Evidence of runs: the chain shows every edit of a log, survives kills and resumes, and the hashes are of the files."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from cs336_basics.runs.evidence import tree_sha256, weights_sha256
from cs336_basics.runs.log import append_record, truncate_records
from cs336_basics.runs.log_chain import LogChain, broken_line
from cs336_basics.training import train
from tests.unit.basics.tiny_run import tiny_config, write_tiny_corpus


@pytest.fixture
def log(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    chain = LogChain(tmp_path / "log.jsonl", tmp_path / "config.json")
    for step in range(5):
        append_record(tmp_path / "log.jsonl", {"step": step})
        chain.follow()
    return tmp_path / "log.jsonl"


def found(log):
    return broken_line(
        log.read_bytes(), log.with_suffix(".chain").read_text(), (log.parent / "config.json").read_bytes()
    )


def test_links_are_hashes_of_the_one_before_and_the_line(log):
    link = hashlib.sha256(b"{}").hexdigest()
    for line, written in zip(
        log.read_bytes().splitlines(True), log.with_suffix(".chain").read_text().split(), strict=True
    ):
        link = hashlib.sha256(link.encode() + line).hexdigest()
        assert written == link
    assert found(log) is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [*lines[:2], b'{"step": 9}\n', *lines[3:]], 3),
        (lambda lines: lines[:1] + lines[2:], 2),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: lines[:-1], 5),
        (lambda lines: [*lines, b'{"step": 5}\n'], 6),
    ],
    ids=["edited", "removed", "reordered", "cut", "added"],
)
def test_every_change_of_the_log_shows(log, change, line):
    log.write_bytes(b"".join(change(log.read_bytes().splitlines(True))))
    assert found(log) == line


def test_another_configuration_shows(log):
    (log.parent / "config.json").write_text('{"x": 1}')
    assert found(log) == 1


def test_a_chain_is_cut_with_its_log_and_goes_on(log):
    truncate_records(log, after_step=2)
    chain = LogChain(log, log.parent / "config.json")
    append_record(log, {"step": 3, "again": True})
    chain.follow()
    assert found(log) is None and chain.head == log.with_suffix(".chain").read_text().split()[-1]
    log.with_suffix(".chain").write_text("")  # killed before the links were written
    LogChain(log, log.parent / "config.json")
    assert found(log) is None


def test_weights_are_hashed_by_name_type_shape_and_value():
    weights = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(1, dtype=torch.bfloat16)}
    same = {"a": weights["a"].clone(), "b": torch.arange(6.0).reshape(3, 2).T.contiguous().T.reshape(2, 3)}
    assert weights_sha256(weights) == weights_sha256(dict(reversed(same.items())))
    for other in (
        {**weights, "b": weights["b"].reshape(3, 2)},
        {**weights, "b": weights["b"].double()},
        {**weights, "b": weights["b"] + 1e-6},
        {"b": weights["b"], "c": weights["a"]},
    ):
        assert weights_sha256(other) != weights_sha256(weights)


def test_trees_are_hashed_by_name_and_content(tmp_path):
    (tmp_path / "x.py").write_text("a")
    before = tree_sha256(tmp_path)
    (tmp_path / "note.bin").write_text("b")
    assert tree_sha256(tmp_path) == before
    (tmp_path / "x.py").rename(tmp_path / "y.py")
    assert tree_sha256(tmp_path) != before


def test_a_training_run_leaves_evidence_that_fits_its_files(tmp_path):
    write_tiny_corpus(tmp_path)
    config = tiny_config(tmp_path)
    summary = train(config, tmp_path / "run", progress=False)
    run = tmp_path / "run"
    evidence = json.loads((run / "evidence.json").read_text())
    weights = torch.load(run / "model.pt", weights_only=True)
    assert evidence["weights_sha256"] == weights_sha256(weights)
    assert evidence["config_sha256"] == hashlib.sha256((run / "config.json").read_bytes()).hexdigest()
    assert evidence["inputs"]["train_tokens"] == hashlib.sha256(config.train_tokens.read_bytes()).hexdigest()
    assert evidence["tokens"] == summary["tokens"] and evidence["sessions"] == 1
    assert evidence["log"]["lines"] == len((run / "log.jsonl").read_text().splitlines())
    assert found(run / "log.jsonl") is None and evidence["cpu_s"] > 0
