"""An entry's life: trained by our loop, submitted, verified twice alike, trained again by staff; forged evidence refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cs336_course.leaderboards import baseline
from cs336_course.leaderboards.board import Budget, load_board
from cs336_course.leaderboards.evidence_folder import list_artifacts
from cs336_course.leaderboards.rerun import rerun_verdict
from cs336_course.leaderboards.submission import Material, submit
from cs336_course.leaderboards.verification import PASSED
from cs336_course.leaderboards.verify import Options, verify_entry

pytestmark = pytest.mark.long

BOARD = Path(__file__).parents[2] / "boards" / "stories-loss.toml"
RECIPE = {
    "source": "stories", "documents": 30, "seed": 7, "vocab_size": 300, "tokenizer_chars": 4000,
    "train": {
        "num_steps": 6, "batch_size": 2, "eval_every": 2, "eval_tokens": 500, "checkpoint_every": 6, "log_every": 1,
        "optimizer": {"max_learning_rate": 0.01, "warmup_steps": 2},
        "model": {"vocab_size": 310, "context_length": 48, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32},
    },
}  # fmt: skip
SECRETS = Options(b"one secret"), Options(b"another secret")


@pytest.fixture(scope="module")
def board():
    shipped = load_board(BOARD)
    division = dataclasses.replace(
        shipped.division("one-minute"),
        settings={"source": "stories", "documents": 6, "excess": True, "probe_windows": 3},
    )
    metric = dataclasses.replace(shipped.metric, maximum=10_000.0)
    return dataclasses.replace(shipped, divisions=(division,), metric=metric)


@pytest.fixture(scope="module")
def entered(board, tmp_path_factory):
    """(entry, evidence folder) of a tiny training run."""
    scratch, evidence = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("parent") / "evidence"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(baseline.RECIPES, (board.id, "one-minute"), RECIPE)
        material = baseline.make_baseline(board, board.divisions[0], scratch, lambda line: None)
    return submit(board, "one-minute", material, baseline.author(board), evidence), evidence


@pytest.fixture(scope="module")
def verified(board, entered):
    return [verify_entry(board, *entered, options) for options in SECRETS]


def test_the_claim_is_the_public_measurement(board, entered):
    entry, evidence = entered
    facts = json.loads((evidence / "run" / "evidence.json").read_text())
    assert entry.claimed.cpu_s == facts["cpu_s"] and entry.runs[0].weights_sha256 == facts["weights_sha256"]
    assert entry.artifacts == list_artifacts(evidence)
    assert [tokens for tokens, _ in entry.curve] == [2 * 2 * 48, 4 * 2 * 48, 6 * 2 * 48]


def test_an_honest_entry_is_verified_twice_within_tolerance(board, entered, verified):
    one, other = verified
    assert one.verdict == other.verdict == "verified" and one.secret_id != other.secret_id
    assert set(one.measured.probes.values()) == {PASSED}
    assert {"files", "chain", "weights", "clock", "budget", "causality"} <= one.measured.probes.keys()
    difference = abs(one.measured.value - other.measured.value)
    errors = (one.measured.standard_error**2 + other.measured.standard_error**2) ** 0.5
    assert 0 < difference < 4 * errors + board.metric.tolerance * one.measured.value


def test_staff_train_again(board, entered, verified):
    """Six steps from another seed end close by, in the same sandbox that serves questions."""
    found = rerun_verdict(board, *entered, SECRETS[0], verified[0], times=1)
    assert found.verdict == "verified" and len(found.reruns) == 1
    assert found.reruns[0] == pytest.approx(found.measured.value, rel=0.1) and found.reruns[0] != found.measured.value


def test_training_again_is_killed_at_the_budget(board, entered, verified):
    short = dataclasses.replace(board, divisions=(dataclasses.replace(board.divisions[0], budget=Budget(cpu_s=0.2)),))
    found = rerun_verdict(short, *entered, SECRETS[0], verified[0], times=1)
    assert found.verdict == "rejected" and "rerun: budget: not done after 0.2 s" in found.reason


# forged evidence


def forged(entered, tmp_path, change, *, listed=True, **fields):
    """A copy of the evidence with a change, and an entry that lists it as it is now."""
    entry, evidence = entered
    copy = tmp_path / "evidence"
    shutil.copytree(evidence, copy)
    change(copy)
    if listed:
        entry = dataclasses.replace(entry, artifacts=list_artifacts(copy), **fields)
    return entry, copy


def edit_log(folder):
    log = folder / "run" / "log.jsonl"
    lines = log.read_text().splitlines()
    record = json.loads(lines[3]) | {"validation_loss": 0.1}
    log.write_text("\n".join([*lines[:3], json.dumps(record), *lines[4:]]) + "\n")


def edit_facts(**values):
    def change(folder):
        path = folder / "run" / "evidence.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def other_weights(folder):
    path = folder / "artifacts" / "model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 0.001}, path)


def retrained(folder):
    other_weights(folder)
    from cs336_basics.runs.evidence import weights_sha256

    edit_facts(weights_sha256=weights_sha256(load_file(folder / "artifacts" / "model.safetensors")))(folder)


def pickled(folder):
    torch.save({}, folder / "artifacts" / "model.pt")


@pytest.mark.parametrize(
    ("change", "fields", "reason"),
    [
        (edit_log, {}, "chain: log.jsonl was changed at line 4"),
        (other_weights, {}, "weights: a foreign checkpoint: its weights are not those the run ended with"),
        (retrained, {}, "weights: a foreign checkpoint: its weights are not those the entry names"),
        (edit_facts(finished="2999-01-01T00:00:00+00:00"), {}, "clock: backdated"),
        (edit_facts(cpu_s=61.0), {}, "budget: 61.0 CPU seconds of 60"),
        (edit_facts(tokens=5), {}, "clock: evidence.json says 5 tokens"),
        (edit_facts(config_sha256="0"), {}, "chain: config.json is not the one"),
        (lambda f: (f / "run" / "log.jsonl").write_text("x\n"), {}, "run: the run's files are malformed"),
        (lambda f: shutil.rmtree(f / "run"), {}, "run: the evidence has no training run"),
        (pickled, {}, "evidence: artifact model.pt may run code when loaded; checkpoints are safetensors only"),
        (lambda f: (f / "code.zip").write_bytes(b"no zip"), {}, "evidence: code: code.zip is not a readable zip file"),
    ],
    ids=["edited log", "foreign", "swapped", "backdated", "over budget", "tokens", "config", "broken", "no run", "pickle", "code"],
)  # fmt: skip
def test_forged_evidence_is_refused_with_a_named_reason(board, entered, tmp_path, change, fields, reason):
    entry, folder = forged(entered, tmp_path, change, **fields)
    found = verify_entry(board, entry, folder, SECRETS[0])
    assert found.verdict == "rejected" and found.reason.startswith(reason) and found.measured is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_weights, "files: artifacts/model.safetensors was changed"),
        (lambda f: (f / "code.zip").unlink(), "files: code.zip is missing"),
        (lambda f: (f / "artifacts" / "more.json").write_text("{}"), "files: artifacts/more.json is not listed"),
    ],
    ids=["changed", "missing", "added"],
)
def test_evidence_must_be_what_the_entry_lists(board, entered, tmp_path, change, reason):
    entry, folder = forged(entered, tmp_path, change, listed=False)
    found = verify_entry(board, entry, folder, SECRETS[0])
    assert (found.verdict, found.reason) == ("rejected", reason)


def test_a_board_that_needs_a_run_says_so(board, tmp_path):
    with pytest.raises(ValueError, match="give --run"):
        submit(board, "one-minute", Material(), baseline.author(board), tmp_path / "e")
    closed = dataclasses.replace(board, closes=board.opens)
    with pytest.raises(ValueError, match="takes entries from"):
        submit(dataclasses.replace(closed, opens=closed.opens.replace(year=2020), closes=closed.opens.replace(year=2021)),
               "one-minute", Material(), baseline.author(board), tmp_path / "e")  # fmt: skip
