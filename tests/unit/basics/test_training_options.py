"""Optimizers, weight averages and extra losses in the training loop: they learn and resume to the same bits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cs336_basics import training
from cs336_basics.checkpoint import load_state
from cs336_basics.evaluation import evaluate_windows
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import token_losses_and_normalizers, z_loss
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.training import train
from cs336_basics.training_config import OptimizerConfig, TrainConfig
from cs336_basics.training_loss import TrainingLoss
from tests.unit.basics.tiny_run import differences, tiny_config

STEPS = 20


def optimizer(name: str, rate: float, **settings: Any) -> OptimizerConfig:
    return OptimizerConfig(name=name, max_learning_rate=rate, warmup_steps=4, **settings)


RUNS: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": optimizer("muon", 0.02, weight_decay_on="matrices")},
    "soap": {"optimizer": optimizer("soap", 0.02, precondition_every=3)},
    "lion": {"optimizer": optimizer("lion", 0.01, schedule="linear")},
    "adafactor": {"optimizer": optimizer("adafactor", 0.02, schedule="inverse_sqrt")},
    "relative_adafactor": {"optimizer": optimizer("adafactor", 0.1, relative_step=True)},
    "schedule_free": {"optimizer": optimizer("schedule_free", 0.03, schedule="constant")},
    "ema": {"optimizer": optimizer("adamw", 0.02, schedule="trapezoid", decay_steps=5), "ema_decay": 0.8},
    "ema_ramp_lion": {"optimizer": optimizer("lion", 0.01), "ema_decay": 0.9, "ema_start": "ramp"},
    "chunks": {"optimizer": optimizer("adamw", 0.02), "chunked_loss": 48, "z_loss": 1e-3},
}


def read_log(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


class PowerCut(Exception):
    """Raised where a real run would be killed."""


@pytest.mark.parametrize("name", RUNS)
def test_learns_and_resumes_to_the_same_bits(corpus, tmp_path, monkeypatch, name) -> None:
    """Killed at step 13, after the checkpoint of step 10 and a validation at step 9; and stopped once at step 3."""
    config = tiny_config(corpus, num_steps=STEPS, sample_tokens=0, log_every=1, **RUNS[name])
    straight, broken, draw = tmp_path / "straight", tmp_path / "broken", training.get_batch
    train(config, straight, progress=False)
    for call in (6, 26):
        calls = iter(range(1, 1000))

        def failing(*arguments: Any, calls=calls, call=call, **options: Any) -> Any:
            if next(calls) == call:
                raise PowerCut
            return draw(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(training, "get_batch", failing)
            with pytest.raises(PowerCut):
                train(config, broken, progress=False)
        torch.manual_seed(999)
    newest = training.latest_checkpoint(broken)
    assert newest is not None and newest.name == "step_00000010.pt"
    train(config, broken, progress=False)
    assert differences(broken, straight) == []
    records = read_log(straight)
    assert records[-1]["train_loss"] < records[0]["train_loss"] - 0.5
    assert records[-1]["validation_loss"] < math.log(257) - 0.5


def checkpoints(directory: Path) -> list[dict[str, Any]]:
    return [load_state(path) for path in sorted((directory / "checkpoints").glob("*.pt"))]


def validation_loss(config: TrainConfig, weights: dict[str, torch.Tensor]) -> float:
    model = TransformerLM(config.model)
    model.load_state_dict(weights)
    valid = np.fromfile(config.valid_tokens, dtype="<u2").astype(np.int64)
    return evaluate_windows(model, valid, config.model.context_length).loss


def test_the_average_is_validated_and_saved(corpus, tmp_path) -> None:
    """From the weights in the checkpoints of all steps: their weighted mean in float64."""
    config = tiny_config(corpus, num_steps=8, checkpoint_every=1, keep_checkpoints=9, sample_tokens=0, ema_decay=0.7)
    train(config, tmp_path / "run", progress=False)
    history = [state["model"] for state in checkpoints(tmp_path / "run")]
    shares = 0.7 ** np.arange(7, -1, -1.0)
    saved = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    for key, value in saved.items():
        stack = torch.stack([weights[key].double() for weights in history])
        expected = torch.einsum("s,s...->...", torch.from_numpy(shares / shares.sum()), stack)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert read_log(tmp_path / "run")[-1]["validation_loss"] == pytest.approx(validation_loss(config, saved), rel=1e-6)


def test_schedule_free_validates_and_saves_its_average(corpus, tmp_path) -> None:
    """Checkpoints hold y and z; the saved model is x = (y - (1 - beta1) z) / beta1, and x is what was validated."""
    config = tiny_config(corpus, num_steps=12, sample_tokens=0, **RUNS["schedule_free"])
    train(config, tmp_path / "run", progress=False)
    last = checkpoints(tmp_path / "run")[-1]
    saved = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    names = [name for name, _ in TransformerLM(config.model).named_parameters()]
    for number, name in enumerate(names):
        y, z = last["model"][name].double(), last["optimizer"]["state"][number]["z"].double()
        torch.testing.assert_close(saved[name].double(), (y - 0.1 * z) / 0.9, rtol=1e-5, atol=1e-6)
        assert not torch.equal(saved[name], last["model"][name])
    assert read_log(tmp_path / "run")[-1]["validation_loss"] == pytest.approx(validation_loss(config, saved), rel=1e-6)


def test_chunks_train_as_the_plain_loss_does(corpus, tmp_path) -> None:
    records = {}
    for chunk in (0, 48):
        config = tiny_config(corpus, num_steps=8, log_every=1, sample_tokens=0, chunked_loss=chunk, z_loss=1e-2)
        train(config, tmp_path / str(chunk), progress=False)
        records[chunk] = read_log(tmp_path / str(chunk))
    for plain, chunked in zip(records[0], records[48], strict=True):
        for key in ("train_loss", "objective", "grad_norm"):
            assert chunked[key] == pytest.approx(plain[key], rel=2e-4), (plain["step"], key)
        assert plain["objective"] > plain["train_loss"]


# The loss


def test_z_loss_and_its_gradient_equal_torchs_and_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(5, 7, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(7, (5,), generator=generator)
    twin = logits.detach().clone().requires_grad_()

    def mine(x: torch.Tensor) -> torch.Tensor:
        losses, normalizers = token_losses_and_normalizers(x, targets)
        return losses.mean() + 0.3 * z_loss(normalizers)

    expected = torch.nn.functional.cross_entropy(twin, targets) + 0.3 * torch.logsumexp(twin, -1).square().mean()
    torch.testing.assert_close(mine(logits), expected, rtol=1e-12, atol=0)
    mine(logits).backward()
    expected.backward()
    torch.testing.assert_close(logits.grad, twin.grad, rtol=1e-12, atol=1e-15)
    torch.autograd.gradcheck(mine, (logits.detach().requires_grad_(),))


def test_z_loss_notices_a_shift_that_the_cross_entropy_does_not() -> None:
    logits, targets = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    for shift in (0.0, 5.0):
        losses, normalizers = token_losses_and_normalizers(logits + shift, targets)
        assert losses.tolist() == pytest.approx([math.log(4)] * 2)
        assert z_loss(normalizers).item() == pytest.approx((math.log(4) + shift) ** 2)


@pytest.mark.parametrize("chunk", [0, 5])
def test_the_models_auxiliary_loss_is_added(corpus, monkeypatch, chunk) -> None:
    monkeypatch.setattr(
        TransformerLM, "auxiliary_loss", lambda self: 0.25 * self.lm_head.weight.square().sum(), raising=False
    )
    config = tiny_config(corpus).model
    torch.manual_seed(0)
    model = TransformerLM(dataclasses.replace(config, attn_pdrop=0.0, residual_pdrop=0.0))
    loss, ids = TrainingLoss(model, chunk_tokens=chunk), torch.arange(34).reshape(2, 17)
    result = loss(ids[:, :-1], ids[:, 1:])
    plain = torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    extra = 0.25 * model.lm_head.weight.square().sum()
    torch.testing.assert_close(result.cross_entropy, plain.detach())
    torch.testing.assert_close(result.objective, plain + extra)
    result.objective.backward()
    actual = model.lm_head.weight.grad.clone()
    model.zero_grad()
    (plain + extra).backward()
    torch.testing.assert_close(actual, model.lm_head.weight.grad, rtol=1e-4, atol=1e-6)


def test_the_log_tells_objective_and_cross_entropy_apart(corpus, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(TransformerLM, "auxiliary_loss", lambda self: torch.tensor(2.5), raising=False)
    train(tiny_config(corpus, num_steps=6, sample_tokens=0), tmp_path / "run", progress=False)
    for record in read_log(tmp_path / "run"):
        assert record["objective"] == pytest.approx(record["train_loss"] + 2.5, rel=1e-6)


def test_a_models_auxiliary_loss_is_found_through_a_wrapper_and_none_counts_as_nothing(corpus, monkeypatch) -> None:
    model = TransformerLM(tiny_config(corpus).model).eval()
    ids = torch.arange(34).reshape(2, 17)
    losses = []
    for extra in (lambda self: None, lambda self: torch.tensor(2.0)):
        monkeypatch.setattr(TransformerLM, "auxiliary_loss", extra, raising=False)
        losses.append(TrainingLoss(model, torch.nn.Sequential(model))(ids[:, :-1], ids[:, 1:]))
    assert losses[0].objective.item() == losses[0].cross_entropy.item() == losses[1].cross_entropy.item()
    assert losses[1].objective.item() == pytest.approx(losses[0].objective.item() + 2.0)


def test_chunks_bound_logits_as_the_model_says(corpus) -> None:
    """logit_softcap is a choice of some models; the plain loss gets bounded logits from their forward."""
    model = TransformerLM(tiny_config(corpus).model).eval()
    ids = torch.arange(34).reshape(2, 17)
    logits = 2.0 * torch.tanh(model(ids[:, :-1]) / 2.0)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    model.config = SimpleNamespace(**dataclasses.asdict(model.config) | {"logit_softcap": 2.0})
    hidden_only = torch.nn.Module()
    hidden_only.hidden_states, hidden_only.lm_head = model.hidden_states, model.lm_head
    actual = TrainingLoss(model, hidden_only, chunk_tokens=5)(ids[:, :-1], ids[:, 1:]).objective
    torch.testing.assert_close(actual, expected)


def test_chunks_need_a_model_that_offers_its_hidden_states() -> None:
    with pytest.raises(ValueError, match=r"chunked_loss=8 needs .*Sequential does not offer; set chunked_loss=0"):
        TrainingLoss(torch.nn.Sequential(), chunk_tokens=8)


# Configuration


@pytest.mark.parametrize("name", ["adamw", "muon", "soap", "lion", "adafactor"])
@pytest.mark.parametrize("tied", [False, True])
def test_weight_decay_on_matrices_only(corpus, name, tied) -> None:
    config = dataclasses.replace(tiny_config(corpus).model, tie_embeddings=tied, positions="learned")
    model = TransformerLM(config)
    built = build_optimizer(optimizer(name, 0.1, weight_decay_on="matrices"), model.named_parameters())
    decay = {id(p): group["weight_decay"] for group in built.param_groups for p in group["params"]}
    names = {name: decay[id(p)] for name, p in model.named_parameters()}
    free = {"token_embeddings.weight", "position_embeddings.weight", "ln_final.weight"}
    free |= {"layers.0.ln1.weight", "layers.0.ln2.weight"}
    assert {key for key, value in names.items() if value == 0.0} == free
    assert {value for key, value in names.items() if key not in free} == {0.1}
    assert sum(len(group["params"]) for group in built.param_groups) == len(names)
    if name == "muon":
        muon = {id(p) for group in built.param_groups for p in group["params"] if group["muon"]}
        assert {key for key, p in model.named_parameters() if id(p) in muon} == {
            key for key in names if key.startswith("layers.") and ".ln" not in key
        }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lion", "eps": 1e-6}, "optimizer.eps=1e-06 does not apply to lion, only to adamw, muon, soap"),
        ({"name": "adafactor", "betas": (0.9, 0.99)}, "optimizer.betas=.* does not apply to adafactor"),
        ({"name": "adamw", "precondition_every": 5}, "precondition_every=5 does not apply to adamw, only to soap"),
        ({"name": "soap", "relative_step": True}, "relative_step=True does not apply to soap, only to adafactor"),
        ({"name": "soap", "precondition_every": 0}, "precondition_every must be at least 1; got 0"),
        ({"name": "schedule_free"}, "needs schedule='constant'; got 'cosine'"),
        ({"decay_steps": 5}, "decay_steps=5 does not apply to the cosine schedule, only to wsd and trapezoid"),
        ({"schedule": "wsd", "decay_steps": -1}, "decay_steps must not be negative; got -1"),
    ],
)
def test_optimizer_options_that_do_not_apply(settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        OptimizerConfig(**settings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"z_loss": -1e-4}, "z_loss must not be negative; got -0.0001"),
        ({"chunked_loss": -1}, "chunked_loss is a number of tokens, or 0 for all at once; got -1"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\); got 1.0"),
        (RUNS["schedule_free"] | {"ema_decay": 0.9}, "schedule_free averages the weights itself; set ema_decay=0"),
    ],
)
def test_run_options_out_of_range(make_config, changes, words) -> None:
    with pytest.raises(ValueError, match=words):
        make_config(**changes)


def test_trapezoid_is_another_name_of_wsd_and_linear_has_no_flat_part() -> None:
    settings = {"max_learning_rate": 0.5, "min_learning_rate": 0.05, "warmup_steps": 10}
    wsd, trapezoid = (OptimizerConfig(schedule=name, decay_steps=30, **settings) for name in ("wsd", "trapezoid"))
    linear, inverse = (OptimizerConfig(schedule=name, **settings) for name in ("linear", "inverse_sqrt"))
    rates = {c: [c.learning_rate(step, 100) for step in range(100)] for c in (wsd, trapezoid, linear, inverse)}
    assert rates[wsd] == rates[trapezoid] and rates[wsd][9:70] == [0.5] * 61
    assert rates[linear][54] == pytest.approx(0.275) and rates[linear][99] == pytest.approx(0.05)
    assert rates[inverse][39] == pytest.approx(0.25) and rates[inverse][99] == pytest.approx(0.5 / math.sqrt(10))
