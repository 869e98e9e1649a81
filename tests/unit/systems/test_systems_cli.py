"""The measuring verbs of `cs336 systems`, called as a user calls them on tiny inputs."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from cs336_basics.model_config import ModelConfig
from cs336_course import cli
from cs336_systems.memory import step_memory

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")


def call(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def tiny(tmp_path):
    """A config file of a tiny model."""
    path = tmp_path / "tiny.toml"
    path.write_text("[model]\nvocab_size = 31\ncontext_length = 8\nd_model = 16\nnum_layers = 1\nnum_heads = 2\n")
    return path


def test_benchmark(tiny, tmp_path):
    code, out, err = call(
        "systems", "benchmark", "--sizes", tiny, "10B", "--context-lengths", 4, 8, "--warmups", 0, "--repeats", 2,
        "--batch-size", 1, "--memory-gb", 1, "--device", "cpu", "--out", tmp_path / "b", "--json",
    )  # fmt: skip
    assert code == 0, err
    rows = json.loads(out)
    assert [(row["name"] == "10B", row["context_length"]) for row in rows] == [
        (False, 4),
        (False, 8),
        (True, 4),
        (True, 8),
    ]
    assert [bool(row["skipped"]) for row in rows] == [False, False, True, True]
    assert "[3/4] 10B, context 4: skipped, needs" in err
    assert "skipped: needs" in (tmp_path / "b" / "report.md").read_text()


def test_profile(tiny, tmp_path):
    code, out, err = call("systems", "profile", "--size", tiny, "--device", "cpu", "--out", tmp_path / "p")
    assert code == 0, err
    assert "attention/softmax" in out and (tmp_path / "p" / "flame_graph.svg").is_file()


def test_memory(tiny):
    code, out, err = call("systems", "memory", "--size", tiny, "--batch-size", 2, "--trace", "--json")
    assert code == 0, err
    values = json.loads(out)
    config = ModelConfig(vocab_size=31, context_length=8, d_model=16, num_layers=1, num_heads=2)
    assert values["peak, GB"] == step_memory(config, batch_size=2).peak / 1e9
    assert values["peak on the meta device, float32, GB"] == pytest.approx(values["peak, GB"], rel=0.01)


def test_mixed_precision():
    code, out, _ = call("systems", "mixed-precision", "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["0.01 a thousand times, float16 += float16"] == "9.953125"


def test_leaderboard_step():
    code, out, err = call("systems", "leaderboard-step", "--device", "cpu", "--warmups", 0, "--repeats", 1, "--json")
    assert code == 0, err
    assert json.loads(out)["update_error"] < 1e-3
    code, _, err = call("systems", "leaderboard-step", "--device", "cpu", "--shape", "full")
    assert code == 1 and "error: the plain step at this shape needs 11,110 GB" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("benchmark", "--sizes", "huge"), "no config file huge; .* or a size: small, medium, large, xl, 10B"),
        (("benchmark", "--repeats", 0), "repeats must be at least 1; got 0"),
        (("profile", "--batch-size", 0, "--device", "cpu"), "batch_size must be at least 1; got 0"),
        (("memory", "--batch-size", 0), "batch_size must be at least 1; got 0"),
    ],
)
def test_bad_input_is_told_in_a_line(arguments, message):
    code, _, err = call("systems", *arguments)
    assert code == 1 and err.count("\n") == 1
    assert pytest.importorskip("re").search(message, err)
