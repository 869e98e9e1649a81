"""The training loop against a plain loop of torch parts, and against itself interrupted: not a bit may differ."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cs336_basics import training, training_loss, training_strategy
from cs336_basics.checkpoint import load_state
from cs336_basics.evaluation import evaluate_documents, evaluate_windows
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import token_losses_and_normalizers
from cs336_basics.runs.lock import AlreadyLockedError
from cs336_basics.training import Interrupted, train
from cs336_basics.training_config import OptimizerConfig
from tests.unit.basics.tiny_run import tiny_config


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Path:
    """An undisturbed run; nobody changes it."""
    directory = tmp_path_factory.mktemp("runs") / "straight"
    train(tiny_config(corpus), directory, progress=False)
    return directory


def read_log(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def timeless(directory: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in read_log(directory)]


def weights(directory: Path) -> dict[str, bytes]:
    state = torch.load(directory / "model.pt", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in state.items()}


def assert_same_run(actual: Path, expected: Path) -> None:
    assert weights(actual) == weights(expected)
    assert (actual / "model.pt").read_bytes() == (expected / "model.pt").read_bytes()
    assert timeless(actual) == timeless(expected)
    summary, straight = (json.loads((d / "summary.json").read_text()) for d in (actual, expected))
    assert summary | {"seconds": 0} == straight | {"seconds": 0}
    assert json.loads((actual / "manifest.json").read_text())["status"] == "complete"


def plain_loop(config, tokens: np.ndarray) -> list[tuple[float, float, float]]:
    """(loss, gradient norm, learning rate) per step from torch.nn.functional, torch.optim and a closed form."""
    o, context, accumulation = config.optimizer, config.model.context_length, config.gradient_accumulation
    torch.manual_seed(config.seed)
    model = TransformerLM(config.model).train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=o.betas, eps=o.eps, weight_decay=o.weight_decay)
    sampler, records = torch.Generator().manual_seed(config.seed * 1_000_003 + 1), []
    for step in range(1, config.num_steps + 1):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(accumulation):
            starts = torch.randint(len(tokens) - context, (config.batch_size,), generator=sampler).tolist()
            x = torch.tensor(np.stack([tokens[s : s + context] for s in starts]))
            y = torch.tensor(np.stack([tokens[s + 1 : s + 1 + context] for s in starts]))
            loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
            (loss / accumulation).backward()
            total += loss.item() / accumulation
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), o.max_grad_norm).item()
        low, top = o.max_learning_rate / 10, o.max_learning_rate
        if step < o.warmup_steps:
            rate = top * step / o.warmup_steps
        else:
            done = (step - o.warmup_steps) / (config.num_steps - o.warmup_steps)
            rate = low + (top - low) * (1 + math.cos(math.pi * done)) / 2
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        records.append((total, norm, rate))
    return records


@pytest.mark.parametrize("max_grad_norm", [0.3, 100.0], ids=["clipped", "free"])
def test_every_step_equals_a_plain_loop(make_config, tmp_path, tokens, max_grad_norm) -> None:
    optimizer = OptimizerConfig(max_learning_rate=0.02, warmup_steps=5, max_grad_norm=max_grad_norm)
    config = make_config(log_every=1, optimizer=optimizer, sample_tokens=0)
    train(config, tmp_path / "run", progress=False)
    records = read_log(tmp_path / "run")
    assert [r["step"] for r in records] == list(range(1, 31))
    for record, (loss, norm, rate) in zip(records, plain_loop(config, tokens), strict=True):
        assert record["train_loss"] == pytest.approx(loss, rel=2e-4), record["step"]
        assert record["grad_norm"] == pytest.approx(norm, rel=2e-3), record["step"]
        assert record["learning_rate"] == pytest.approx(rate, rel=1e-12)
        assert record["tokens"] == record["step"] * 4 * 2 * 16
    assert records[-1]["train_loss"] < records[0]["train_loss"] - 1.0


def test_accumulated_gradients_are_the_mean_of_their_parts(make_config, tmp_path, tokens, monkeypatch) -> None:
    """4 parts of 8 windows give the gradient of all 32 at once; the windows are recorded as they are drawn."""
    drawn, seen, draw = [], [], training.get_batch

    def recording(*arguments: Any, **options: Any) -> Any:
        drawn.append(draw(*arguments, **options))
        return drawn[-1]

    def spy(parameters: Any, max_norm: float) -> torch.Tensor:
        seen.append([p.grad.clone() for p in parameters])
        return torch.zeros(())

    monkeypatch.setattr(training, "get_batch", recording)
    monkeypatch.setattr(training_strategy, "clip_gradient", spy)
    base = make_config()
    sizes = dataclasses.replace(base.model, attn_pdrop=0.0, residual_pdrop=0.0)
    optimizer = OptimizerConfig(warmup_steps=0)
    train(
        make_config(model=sizes, optimizer=optimizer, num_steps=1, batch_size=8, gradient_accumulation=4),
        tmp_path / "run", progress=False,
    )  # fmt: skip
    torch.manual_seed(base.seed)
    model = TransformerLM(sizes)
    x, y = (torch.cat([part[i] for part in drawn]) for i in (0, 1))
    assert x.shape == (32, 16)
    loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward()
    for p, gradient in zip(model.parameters(), seen[0], strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-7)
    assert read_log(tmp_path / "run")[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_log_files_and_summary(make_config, finished) -> None:
    config, records = make_config(), read_log(finished)
    assert [r["step"] for r in records] == [1, 4, 8, 9, 12, 16, 18, 20, 24, 27, 28, 30]
    assert [r["step"] for r in records if "validation_loss" in r] == [9, 18, 27, 30]
    valid = np.fromfile(config.valid_tokens, dtype="<u2").astype(np.int64)
    model = TransformerLM.from_pretrained(finished)
    sizes = np.array([1] * 256 + [0])
    expected = evaluate_windows(model, valid, 16, token_bytes=sizes)
    assert records[-1]["validation_loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert records[-1]["perplexity"] == pytest.approx(math.exp(expected.loss), rel=1e-6)
    assert records[-1]["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert all(isinstance(r["sample"], str) for r in records if "validation_loss" in r)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 30 and summary["parameters"] == model.get_num_params() and summary["device"] == "cpu"
    assert summary["validation_loss"] == records[-1]["validation_loss"]
    assert [r["seconds"] for r in records] == sorted(r["seconds"] for r in records)
    assert train(make_config(), finished, progress=False) == summary, "a complete run is not trained again"


def test_partial_validation_uses_the_first_tokens(make_config, tmp_path) -> None:
    """At step 2 on 60 tokens, by documents; the weights of that moment are in the checkpoint."""
    config = make_config(num_steps=6, eval_every=2, checkpoint_every=2, keep_checkpoints=9, eval_by="documents")
    train(config, tmp_path / "run", progress=False)
    model = TransformerLM(config.model)
    model.load_state_dict(load_state(tmp_path / "run" / "checkpoints" / "step_00000002.pt")["model"])
    valid = np.fromfile(config.valid_tokens, dtype="<u2").astype(np.int64)
    expected = evaluate_documents(model, valid[:60], 16, 256)
    records = {r["step"]: r for r in read_log(tmp_path / "run")}
    assert records[2]["validation_loss"] == pytest.approx(expected.loss, rel=1e-6)
    model.load_state_dict(torch.load(tmp_path / "run" / "model.pt", weights_only=True))
    assert records[6]["validation_loss"] == pytest.approx(evaluate_documents(model, valid, 16, 256).loss, rel=1e-6)


@pytest.mark.parametrize("keep", [1, 3])
def test_old_checkpoints_are_removed(make_config, tmp_path, keep) -> None:
    train(make_config(keep_checkpoints=keep), tmp_path / "run", progress=False)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == [f"step_{step:08d}.pt" for step in range(5, 31, 5)][-keep:]


def test_entropy_floor_and_plot(make_config, tmp_path, corpus, loss_plots) -> None:
    for name in ("valid.bin", "valid.bin.json"):
        shutil.copy(corpus / name, tmp_path)
    manifest = json.loads((tmp_path / "valid.bin.json").read_text())
    (tmp_path / "valid.bin.json").write_text(json.dumps(manifest | {"nats": 50.0}))
    summary = train(make_config(valid_tokens=tmp_path / "valid.bin"), tmp_path / "run", progress=False)
    assert summary["entropy_floor"] == pytest.approx(50 / manifest["num_tokens"])
    assert summary["above_floor"] == pytest.approx(summary["validation_loss"] / summary["entropy_floor"] - 1)
    if "plot" not in summary:
        assert b"<svg" in (tmp_path / "run" / "loss.svg").read_bytes()


def test_seeds_change_the_run_and_only_the_seeds(make_config, finished, tmp_path) -> None:
    train(make_config(), tmp_path / "again", progress=False)
    assert_same_run(tmp_path / "again", finished)
    train(make_config(seed=4), tmp_path / "other", progress=False)
    assert weights(tmp_path / "other") != weights(finished)


# Interruptions


class PowerCut(Exception):
    """Raised where a real run would be killed."""


def break_at(monkeypatch, name: str, call: int) -> None:
    """Let the `call`-th call of training.<name>, or of the strategy's, fail."""
    module = training if hasattr(training, name) else training_strategy
    original, calls = getattr(module, name), iter(range(1, 10_000))

    def broken(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise PowerCut
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, broken)


@pytest.mark.parametrize("steps", [(7,), (13,), (20,), (1,), (7, 13, 20), (29, 30)])
def test_a_broken_run_resumes_to_the_same_bits(make_config, finished, tmp_path, monkeypatch, steps) -> None:
    """Each break comes in the second half of the batch of its step, counted from the checkpoint before."""
    run, done = tmp_path / "broken", 0
    for step in steps:
        with monkeypatch.context() as patch:
            break_at(patch, "get_batch", 2 * (step - done))
            with pytest.raises(PowerCut):
                train(make_config(), run, progress=False)
        newest = training.latest_checkpoint(run)
        done = 0 if newest is None else load_state(newest)["iteration"]
        assert done == (step - 1) // 5 * 5
        torch.manual_seed(999)  # a new process starts elsewhere
    train(make_config(), run, progress=False)
    assert_same_run(run, finished)


@pytest.mark.parametrize("name", ["evaluate_windows", "generate_text", "save_model", "clip_gradient"])
def test_a_break_anywhere_resumes_to_the_same_bits(make_config, finished, tmp_path, monkeypatch, name) -> None:
    run = tmp_path / "broken"
    with monkeypatch.context() as patch:
        break_at(patch, name, 1 if name == "save_model" else 2)
        with pytest.raises(PowerCut):
            train(make_config(), run, progress=False)
    train(make_config(), run, progress=False)
    assert_same_run(run, finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 8, 30])
def test_signals_finish_the_step_save_and_resume_to_the_same_bits(
    make_config, finished, tmp_path, monkeypatch, number, step
) -> None:
    run, draw, calls = tmp_path / "stopped", training.get_batch, iter(range(1, 10_000))

    def with_signal(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 2 * step:
            os.kill(os.getpid(), number)
        return draw(*arguments, **options)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "get_batch", with_signal)
        with pytest.raises(Interrupted, match=f"stopped after step {step} of 30; saved in .*stopped"):
            train(make_config(), run, progress=False)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    newest = training.latest_checkpoint(run)
    assert newest is not None and newest.name == f"step_{step:08d}.pt"
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    train(make_config(), run, progress=False)
    assert_same_run(run, finished)


def test_a_second_ctrl_c_breaks_at_once(make_config, tmp_path, monkeypatch) -> None:
    def impatient(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one must not return here")

    monkeypatch.setattr(training, "get_batch", impatient)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(make_config(), tmp_path / "run", progress=False)
    assert caught.type is KeyboardInterrupt


def test_a_damaged_newest_checkpoint_is_named_and_can_be_removed(make_config, finished, tmp_path) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(finished, run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    newest = run / "checkpoints" / "step_00000030.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"step_00000030\.pt is no readable checkpoint.*remove it to fall back"):
        train(make_config(), run, progress=False)
    newest.unlink()
    train(make_config(), run, progress=False)
    assert_same_run(run, finished)


def test_stray_partial_files_are_ignored(make_config, finished, tmp_path, monkeypatch) -> None:
    run = tmp_path / "broken"
    with monkeypatch.context() as patch:
        break_at(patch, "get_batch", 15)
        with pytest.raises(PowerCut):
            train(make_config(), run, progress=False)
    for name in (".step_00000010.pt.abc.partial", "step_foreign.pt", "step_00000099.pt.partial"):
        (run / "checkpoints" / name).write_bytes(b"torn")
    (run / ".model.pt.abc.partial").write_bytes(b"torn")
    (run / "checkpoints" / "step_foreign.pt").unlink()
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "train_l')
    train(make_config(), run, progress=False)
    assert_same_run(run, finished)


def test_torn_files_of_a_killed_run_are_cleared_away(make_config, tmp_path, monkeypatch) -> None:
    run = tmp_path / "broken"
    with monkeypatch.context() as patch:
        break_at(patch, "get_batch", 15)
        with pytest.raises(PowerCut):
            train(make_config(), run, progress=False)
    (run / "checkpoints" / ".step_00000010.pt.abcdefgh.partial").write_bytes(b"half a checkpoint")
    train(make_config(), run, progress=False)
    assert not list(run.rglob("*.partial"))


# Errors


def test_two_runs_in_one_directory(make_config, tmp_path, monkeypatch) -> None:
    seen = []

    def second(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(AlreadyLockedError, match=rf"in use by process {os.getpid()}; wait for it, stop it"):
            train(make_config(), tmp_path / "run", progress=False)
        seen.append(True)
        raise PowerCut

    monkeypatch.setattr(training, "get_batch", second)
    with pytest.raises(PowerCut):
        train(make_config(), tmp_path / "run", progress=False)
    assert seen == [True]


def test_another_configuration_is_refused_and_the_device_is_free(make_config, finished) -> None:
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != "lock"}
    optimizer = OptimizerConfig(max_learning_rate=0.5, warmup_steps=5)
    with pytest.raises(ValueError, match=r"(?s)optimizer\.max_learning_rate: was 0\.01, now 0\.5.*another directory"):
        train(make_config(optimizer=optimizer), finished, progress=False)
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != "lock"} == before
    assert train(make_config(device="auto"), finished, progress=False)["steps"] == 30


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_advice(make_config, tmp_path, monkeypatch, value) -> None:
    calls = iter(range(1, 1000))

    def exploding(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, normalizers = token_losses_and_normalizers(logits, targets)
        return losses * value if next(calls) == 13 else losses, normalizers

    monkeypatch.setattr(training_loss, "token_losses_and_normalizers", exploding)
    words = rf"loss became {value} at step 7; lower optimizer\.max_learning_rate \(now 0\.01\)"
    with pytest.raises(ValueError, match=words):
        train(make_config(), tmp_path / "run", progress=False)
    newest = training.latest_checkpoint(tmp_path / "run")
    assert newest is not None and newest.name == "step_00000005.pt"
    assert all(torch.isfinite(w).all() for w in load_state(newest)["model"].values())


def test_tokens_that_do_not_fit_the_model(make_config, tmp_path) -> None:
    small = dataclasses.replace(make_config().model, vocab_size=200)
    with pytest.raises(ValueError, match=r"ids up to 256, but model\.vocab_size=200; set .* at least 257"):
        train(make_config(model=small), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1; got -1"),
        ({"num_steps": 5}, "warmup_steps=5 must be less than num_steps=5; shorten the warm-up"),
        ({"tokenizer": None}, "need the tokenizer; set its folder"),
    ],
)
def test_configurations_out_of_range(make_config, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        make_config(**changes)


def test_too_few_validation_tokens_are_refused_before_training(make_config) -> None:
    with pytest.raises(ValueError, match="eval_tokens"):
        make_config(eval_tokens=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_learning_rate": 0.0},
        {"max_learning_rate": math.nan},
        {"min_learning_rate": 1.0},
        {"warmup_steps": -1},
        {"max_grad_norm": 0.0},
    ],
)
def test_optimizer_settings_out_of_range(changes) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(changes))} .*got"):
        OptimizerConfig(**changes)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "trapezoid", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_schedules_begin_above_zero_and_end_at_the_minimum(schedule, warmup) -> None:
    config = OptimizerConfig(max_learning_rate=0.5, min_learning_rate=0.05, schedule=schedule, warmup_steps=warmup)
    rates = [config.learning_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.5 / max(1, warmup), rel=0.01) and max(rates) <= 0.5
    assert rates[: max(warmup, 1)] == sorted(rates[: max(warmup, 1)])
    assert rates[max(warmup, 1) :] == sorted(rates[max(warmup, 1) :], reverse=True)
    assert rates[-1] == pytest.approx(0.5 if schedule == "constant" else 0.05)


def test_bfloat16_training_learns_and_keeps_float32_weights(make_config, tmp_path) -> None:
    config = make_config(precision="bfloat16", optimizer=OptimizerConfig(max_learning_rate=0.02, warmup_steps=5))
    train(config, tmp_path / "run", progress=False)
    records = read_log(tmp_path / "run")
    assert records[-1]["train_loss"] < records[0]["train_loss"] - 1.0
    assert all(w.dtype == torch.float32 for w in torch.load(tmp_path / "run" / "model.pt", weights_only=True).values())


@pytest.mark.parametrize("attention", ["plain", "blocked"])
def test_attention_choices_train_alike(make_config, tmp_path, tokens, attention) -> None:
    model = dataclasses.replace(make_config().model, attention=attention, attn_pdrop=0.0)
    config = make_config(model=model, num_steps=12, log_every=1, sample_tokens=0)
    train(config, tmp_path / "run", progress=False)
    plain = dataclasses.replace(config, model=dataclasses.replace(model, attention="plain"))
    for record, (loss, _, _) in zip(read_log(tmp_path / "run"), plain_loop(plain, tokens), strict=True):
        assert record["train_loss"] == pytest.approx(loss, rel=2e-4)


def test_progress_goes_to_standard_error_only(make_config, tmp_path, capsys) -> None:
    train(make_config(num_steps=6), tmp_path / "run", progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "step 6/6 loss" in captured.err and "valid" in captured.err
