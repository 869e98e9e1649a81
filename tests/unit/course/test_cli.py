"""The `cs336` command, called as a user calls it: verbs on tiny inputs, exit codes, messages, streams.

What a verb prints is compared with what the library gives for the same call, or with files it wrote read back.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from cs336_basics.corpora.download import DownloadError
from cs336_basics.evaluation import evaluate_documents, evaluate_windows
from cs336_basics.generation import generate_text
from cs336_basics.model import TransformerLM
from cs336_basics.runs.lock import AlreadyLockedError
from cs336_basics.tokenization.text_stream import decode_stream
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.training import Interrupted
from cs336_course import cli

pytest.importorskip("tyro")
ROOT = Path(__file__).parents[3]
MODEL = ["--model.d-model", "32", "--model.num-layers", "1", "--model.num-heads", "2", "--model.context-length", "32"]


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def result(*arguments: str | Path) -> dict:
    """The JSON result of a command that must succeed."""
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def python(program: str, **options) -> subprocess.Popen[str]:
    """A process of this Python with the checkout in reach."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with stories, a tokenizer, token files and a trained model, all made by the command."""
    folder = tmp_path_factory.mktemp("work")
    made = result("data", "stories", folder / "stories", "--num-train", "60", "--num-valid", "20", "--num-cloze", "5")
    assert made["train_documents"] == 60
    text = folder / "stories" / "train.txt"
    code, out, _ = call("tokenizer", "train", text, "--out", folder / "tok", "--vocab-size", "300")
    assert code == 0 and "300 tokens" in out
    for split in ("train", "valid"):
        source, target = folder / "stories" / f"{split}.txt", folder / f"{split}.bin"
        assert result("tokenizer", "encode", source, target, "--tokenizer", folder / "tok")["nats"] > 0
    config = folder / "tiny.toml"
    config.write_text(
        f'train_tokens = "{(folder / "train.bin").as_posix()}"\nvalid_tokens = "{(folder / "valid.bin").as_posix()}"\n'
        f'tokenizer = "{(folder / "tok").as_posix()}"\nnum_steps = 9\nbatch_size = 2\ndevice = "cpu"\n'
        "[model]\nvocab_size = 300\nd_model = 64\n[optimizer]\nwarmup_steps = 1\nbetas = [0.8, 0.9]\n"
    )
    summary = result("train", "--out", folder / "run", "--config", config, *MODEL, "--num-steps", "4")
    assert summary["steps"] == 4
    return folder


# The command itself


def test_help_is_light_and_lists_every_command():
    program = (
        "import sys; from cs336_course.cli import main; code = main(['--help']);"
        "print('heavy:', sorted({'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules)), code)"
    )
    out, _ = python(program).communicate(timeout=60)
    assert out.splitlines()[-1] == "heavy: [] 0"
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself_with_an_example(name):
    code, out, _ = call(*name.split(), "--help")
    assert code == 0
    assert f"usage: cs336 {name}" in out
    assert f"Example: cs336 {name} " in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean `cs336 train`?"),
        (["tokenizer", "decod"], "did you mean `cs336 tokenizer decode`?"),
        (["zzz"], "unknown command 'zzz'; `cs336 --help` lists all"),
        (["train"], "--out"),
        (["generate"], "MODEL"),
        (["tour", "--qick"], "--quick"),
        (["evaluate", "a", "b", "--by", "sentences"], "windows"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_groups_and_version():
    assert call()[0] == 2
    assert call("data")[0] == 2
    code, out, _ = call("data", "--help")
    assert code == 0 and "data stories" in out and "generate" not in out
    assert call("--version")[1].startswith("cs336 ")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("bad number 3; choose 4"), 1, "error: bad number 3; choose 4\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.txt"), 1, "No such file or directory: a.txt"),
        (FileNotFoundError("no model in x"), 1, "error: no model in x\n"),
        (OSError(errno.ENOSPC, "No space left on device", "m.pt"), 1, "device: m.pt; free some space and give"),
        (AlreadyLockedError("runs/a is in use"), 1, "error: runs/a is in use\n"),
        (DownloadError("no route"), 1, "error: no route\n"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), 1, "install it with: pip install wandb"),
        (ImportError("plots need matplotlib"), 1, "error: plots need matplotlib\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (Interrupted("stopped after step 3; saved in r"), 130, "stopped after step 3; saved in r"),
    ],
)
def test_errors_become_a_line_and_a_code(monkeypatch, error, code, message):
    def fail(argv):
        raise error

    monkeypatch.setitem(sys.modules, "failing_verb", types.SimpleNamespace(fail=fail))
    monkeypatch.setitem(cli.COMMANDS, "fail", ("failing_verb:fail", ""))
    monkeypatch.delenv("CS336_TRACEBACK", raising=False)
    got, out, err = call("fail")
    assert (got, out) == (code, "")
    assert message in err and "Traceback" not in err
    if code == 1:
        monkeypatch.setenv("CS336_TRACEBACK", "1")
        with pytest.raises(type(error)):
            call("fail")


def test_bugs_are_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "failing_verb", types.SimpleNamespace(fail=lambda argv: 1 / 0))
    monkeypatch.setitem(cli.COMMANDS, "fail", ("failing_verb:fail", ""))
    with pytest.raises(ZeroDivisionError):
        call("fail")


def test_a_closed_pipe_is_quiet():
    process = python("import sys; from cs336_course.cli import main; sys.stdin.read(); sys.exit(main(['--help']))",
                     stdin=subprocess.PIPE)  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    process.stdout.close()
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


# Corpora and tokenizers


def test_stdlib(tmp_path):
    values = result("data", "stdlib", tmp_path / "lib", "--max-bytes", "1500000")
    text = (tmp_path / "lib" / "train.txt").read_text(encoding="utf-8")
    assert text.count("<|endoftext|>") == values["train_documents"]
    assert len(text.replace("<|endoftext|>", "").encode()) == values["train_bytes"] <= 1_500_000


def test_get_refuses_a_wrong_address(tmp_path):
    code, out, err = call("data", "get", "tinystories", "--dest", tmp_path, "--base-url", "ftp://example.invalid")
    assert (code, out) == (2, "")
    assert "base_url must start with http:// or https://" in err


def test_decode_gives_the_text_back(work):
    code, out, _ = call("tokenizer", "decode", work / "valid.bin", "--tokenizer", work / "tok")
    assert code == 0
    assert out == (work / "stories" / "valid.txt").read_text(encoding="utf-8")
    head = call("tokenizer", "decode", work / "valid.bin", "--tokenizer", work / "tok", "--limit", "5")[1]
    assert out.startswith(head) and 0 < len(head) < 50


def test_inspect(work):
    values = result("tokenizer", "inspect", work / "tok", "--text", "Mia was sad.")
    assert "".join(values["pieces"]) == "Mia was sad."
    assert values["bytes_per_token"] == len("Mia was sad.") / len(values["ids"])
    assert values["vocab_size"] == 300 and values["merges"] == 300 - 257
    assert "longest tokens" in call("tokenizer", "inspect", work / "tok")[1]


def test_streamed_text_never_breaks_a_character():
    tokenizer = Tokenizer({i: bytes([i]) for i in range(256)}, [])
    text = "na\u00efve \u4e16\u754c \U0001f600!"
    pieces = list(decode_stream(tokenizer, text.encode()))
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert "".join(decode_stream(tokenizer, b"a\xe4\xb8")) == b"a\xe4\xb8".decode("utf-8", errors="replace")
    with pytest.raises(ValueError, match="id 999 is not in the tokenizer"):
        list(decode_stream(tokenizer, [999]))


# Models


def test_train_flags_override_the_file(work):
    config = json.loads((work / "run" / "config.json").read_text())
    assert config["num_steps"] == 4 and config["batch_size"] == 2  # flag; file
    assert (
        config["model"]["d_model"] == 32 and config["model"]["d_ff"] == 64
    )  # 8/3 of 32, to the nearest multiple of 64
    assert config["optimizer"]["betas"] == [0.8, 0.9]
    assert config["eval_every"] == 200  # default


def test_train_again_returns_the_finished_run(work):
    log = (work / "run" / "log.jsonl").read_bytes()
    again = result("train", "--out", work / "run", "--config", work / "tiny.toml", *MODEL, "--num-steps", "4")
    assert again["steps"] == 4
    assert (work / "run" / "log.jsonl").read_bytes() == log
    code, _, err = call("train", "--out", work / "run", "--config", work / "tiny.toml", *MODEL, "--num-steps", "5")
    assert code == 1 and "num_steps: was 4, now 5" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_stps = 3", "did you mean num_steps?"),
        ("[model]\nnum_layers = 'x'", "model.num_layers must be int"),
        ("batch_size = 0", "batch_size must be at least 1; got 0"),
        ("= 3", "tiny.toml"),
    ],
)
def test_train_refuses_a_wrong_file(tmp_path, text, message):
    (tmp_path / "tiny.toml").write_text(text)
    code, _, err = call("train", "--out", tmp_path / "run", "--config", tmp_path / "tiny.toml")
    assert code == 1 and message in err
    assert not (tmp_path / "run").exists()


def test_train_names_the_shipped_configs(tmp_path):
    code, _, err = call("train", "--out", tmp_path / "run", "--config", "tinystory")
    assert code == 1 and "tinystories" in err and "gpt2-xl" in err


@pytest.mark.parametrize(("seed", "temperature"), [(0, 1.0), (7, 0.5), (0, 0.0)])
def test_generate_writes_what_the_library_writes(work, seed, temperature):
    options = ["--seed", str(seed), "--temperature", str(temperature), "--max-new-tokens", "20", "--device", "cpu"]
    code, out, _ = call("generate", work / "run", "--prompt", "Once, ", *options)
    model, tokenizer = TransformerLM.from_pretrained(work / "run"), Tokenizer.load(work / "tok")
    expected = generate_text(model, tokenizer, "Once, ", 20, seed=seed, temperature=temperature)
    assert code == 0
    assert out == f"Once, {expected}\n"


def test_generate_needs_a_model_and_a_tokenizer(work, tmp_path):
    assert "no model in" in call("generate", tmp_path)[2]
    for name in ("model.pt", "model_config.json"):
        (tmp_path / name).write_bytes((work / "run" / name).read_bytes())
    code, _, err = call("generate", tmp_path)
    assert code == 1 and "--tokenizer FOLDER" in err
    assert call("generate", tmp_path, "--tokenizer", work / "tok", "--max-new-tokens", "3")[0] == 0
    assert "no tokenizer in" in call("generate", tmp_path, "--tokenizer", tmp_path / "none")[2]


@pytest.mark.parametrize("by", ["windows", "documents"])
@pytest.mark.parametrize("kind", ["tokens", "text"])
def test_evaluate(work, by, kind):
    data = work / "valid.bin" if kind == "tokens" else work / "stories" / "valid.txt"
    values = result("evaluate", work / "run", data, "--by", by, "--device", "cpu")
    model, tokens = TransformerLM.from_pretrained(work / "run").eval(), np.fromfile(work / "valid.bin", dtype="<u2")
    if by == "windows":
        expected = evaluate_windows(model, tokens, 32)
    else:
        expected = evaluate_documents(model, tokens, 32, Tokenizer.load(work / "tok").special_id("<|endoftext|>"))
    assert values["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(expected.loss), rel=1e-5)
    assert values["tokens"] == expected.tokens
    nats = json.loads((work / "stories" / "manifest.json").read_text())["valid"]["nats"]
    assert values["entropy_floor"] == pytest.approx(nats / len(tokens))
    assert values["above_floor"] == pytest.approx(values["loss"] / values["entropy_floor"] - 1)


def test_evaluate_changed_text_has_no_floor(work, tmp_path):
    (tmp_path / "manifest.json").write_bytes((work / "stories" / "manifest.json").read_bytes())
    (tmp_path / "valid.txt").write_text("Once, Mia was sad.\n<|endoftext|>", encoding="utf-8")
    assert "entropy_floor" not in result("evaluate", work / "run", tmp_path / "valid.txt", "--device", "cpu")


def test_evaluate_refuses_tokens_of_another_vocabulary(work, tmp_path):
    call("tokenizer", "train", work / "stories" / "valid.txt", "--out", tmp_path / "tok", "--vocab-size", "270")
    call("tokenizer", "encode", work / "stories" / "valid.txt", tmp_path / "v.bin", "--tokenizer", tmp_path / "tok")
    code, _, err = call("evaluate", work / "run", tmp_path / "v.bin")
    assert code == 1 and "vocabulary of 270" in err


def test_model_info(work):
    values = result("model", "info", "gpt2-xl")
    assert values["parameters"] == 1_640_452_800
    assert values["largest batch in 80 GB"] == 3
    built = sum(weight.numel() for weight in torch.load(work / "run" / "model.pt", weights_only=True).values())
    assert result("model", "info", work / "run")["parameters"] == built
    assert "1,640,452,800" in call("model", "info", "gpt2-xl")[1]
    assert "gpt2-small" in call("model", "info", "gpt3")[2]
