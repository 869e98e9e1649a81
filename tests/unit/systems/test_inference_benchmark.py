"""The benchmark's arithmetic against counts by hand, and both verbs as a user calls them."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from cs336_basics.tokenization import Tokenizer
from cs336_course import cli
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.inference_benchmark import step_bytes, time_engine
from cs336_systems.inference.sampling import SamplingParams
from tests.unit.systems.inference_cases import build, decode_by_hand

LETTERS = "abcdefghijklmnopqrstuvwxyz .!"


@pytest.mark.parametrize("path", ["fused", "modules"])
def test_bytes_of_a_step(path):
    """Two layers of d_model 16, d_ff 24, vocabulary 29: matrices (and for modules the gains); keys and values."""
    engine = Engine(build(), path=path, page_size=4)
    engine.runner.forward([engine.runner.new_row()], [[1]])
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 24) + 29 * 16
    gains = 5 * 16 if path == "modules" else 0
    assert step_bytes(engine, 3, 10) == 4 * (matrices + gains) + 3 * 10 * 2 * 2 * 16 * 4


def test_times_agree_with_each_other():
    engine = Engine(build(), max_batch=3, page_size=4)
    found = time_engine(engine, 3, prompt_tokens=5, new_tokens=6, bandwidth=1e9)
    assert found.batch == 3 and found.first_token_ms > 0
    assert found.tokens_per_s == pytest.approx(3 / (found.token_ms / 1e3))
    assert found.bandwidth_utilisation == pytest.approx(found.bytes_per_step / (found.token_ms / 1e3) / 1e9)
    for wrong in ({"prompt_tokens": 20, "new_tokens": 5}, {"prompt_tokens": 0, "new_tokens": 5}):
        with pytest.raises(ValueError, match="context of 24"):
            time_engine(engine, 3, bandwidth=1e9, **wrong)
    with pytest.raises(ValueError, match="max_batch=3"):
        time_engine(engine, 4, prompt_tokens=5, new_tokens=6, bandwidth=1e9)


@pytest.fixture
def saved(tmp_path):
    """A model with a tokenizer of 28 letters and signs, 28 the end of a text."""
    model = build()
    (tmp_path / "model_config.json").write_text(json.dumps(asdict(model.config)))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    Tokenizer({i: LETTERS[i].encode() for i in range(28)}, [], ["<|endoftext|>"]).save(tmp_path / "tokenizer")
    return model


def test_generate_writes_what_decoding_by_hand_writes(saved, tmp_path, capsys):
    pytest.importorskip("tyro")
    (tmp_path / "more.txt").write_text("cd\n\nabca\n")
    words = ["systems", "generate", str(tmp_path), "--prompts", "ab", "--prompt-file", str(tmp_path / "more.txt"),
             "--samples", "2", "--max-new-tokens", "9", "--seed", "5", "--device", "cpu"]  # fmt: skip
    prompts = ["ab", "cd", "", "abca"]
    assert cli.main([*words, "--out", str(tmp_path / "samples.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(line["prompt"], line["sample"]) for line in lines] == [(p, i) for p in prompts for i in range(2)]
    for line in lines:
        ids = [LETTERS.index(c) for c in line["prompt"]] or [28]
        params, where = SamplingParams(max_tokens=9, seed=5), {"stream": prompts.index(line["prompt"])}
        expected, logprobs = decode_by_hand(saved, ids, params, sample=line["sample"], **where)
        stopped = 28 in expected
        expected = expected[: expected.index(28)] if stopped else expected
        assert line["ids"] == expected and line["text"] == "".join(LETTERS[i] for i in expected)
        assert line["logprobs"] == pytest.approx(logprobs[: len(expected)], abs=2e-5)
        assert line["finish_reason"] == ("stop" if stopped else "length")
    capsys.readouterr()
    assert cli.main(words) == 0
    assert capsys.readouterr().out == "\n".join(line["prompt"] + line["text"] + "\n" for line in lines)
    assert cli.main(["systems", "generate", str(tmp_path), "--prompts", "a" * 25]) == 1
    assert "25 tokens and the model sees 24" in capsys.readouterr().err


def test_the_command(saved, tmp_path, capsys, monkeypatch):
    pytest.importorskip("tyro")
    monkeypatch.setattr("cs336_systems.inference.inference_benchmark.BANDWIDTH_BYTES", 1 << 20)
    words = ["systems", "inference", "--model", str(tmp_path), "--batch-sizes", "1", "2", "--prompt-tokens", "4",
             "--new-tokens", "4", "--device", "cpu", "--out", str(tmp_path / "out")]  # fmt: skip
    assert cli.main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [t["batch"] for t in values["times"]] == [1, 2] and values["path"] == "fused"
    assert values["times"] == json.loads((tmp_path / "out" / "inference.json").read_text())["times"]
    assert "tokens/s" in (tmp_path / "out" / "report.md").read_text()
    assert cli.main([*words, "--path", "modules"]) == 0
    assert "| batch |" in capsys.readouterr().out
    assert cli.main([*words, "--threads", "0"]) == 1
    assert "at least 1; got (1, 2) and 0" in capsys.readouterr().err
