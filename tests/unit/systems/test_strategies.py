"""Runs of the training loop on two processes: against a loop written out here, against each other, and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cs336_basics.data import get_batch, open_tokens
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.config import config_from_dict
from cs336_basics.training import train
from cs336_basics.training_config import OptimizerConfig, TrainConfig
from tests.processes import run_processes
from tests.unit.basics.tiny_run import tiny_config

NAMES = ("ddp", "zero1", "zero2", "fsdp")


def config_for(corpus: Path, optimizer: str = "adamw", **changes: Any) -> TrainConfig:
    """Six steps of a model without dropout whose 257 rows no even number divides; the norm is clipped each time."""
    model = ModelConfig(vocab_size=257, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=24)
    options: dict[str, Any] = {
        "model": model,
        "num_steps": 6,
        "checkpoint_every": 3,
        "eval_every": 6,
        "sample_tokens": 3,
    }
    schedule = "constant" if optimizer == "schedule_free" else "cosine"
    settings = OptimizerConfig(
        name=optimizer, schedule=schedule, max_learning_rate=0.01, warmup_steps=1, max_grad_norm=0.5
    )
    return tiny_config(corpus, **(options | {"optimizer": settings, "ema_decay": 0.5, "sample_tokens": 3} | changes))


Job = tuple[str, TrainConfig, Path]
"""strategy, configuration, run directory"""


def trained(rank: int, jobs: list[Job]) -> None:
    """One process's part of several runs, without their plots, which cost more than the training."""
    from cs336_basics import training
    from cs336_systems.parallel.strategies import STRATEGIES

    training._plot = lambda *arguments: False
    for name, config, directory in jobs:
        training.train(config, directory, strategy=STRATEGIES[name](), progress=False)


def run(jobs: list[Job], world_size: int = 2) -> list[dict[str, torch.Tensor]]:
    """Train one after the other and return the final weights of each."""
    run_processes(trained, world_size, jobs)
    for _, config, directory in jobs:
        assert json.loads((directory / "summary.json").read_text())["steps"] == config.num_steps
    return [torch.load(directory / "model.pt", weights_only=True) for _, _, directory in jobs]


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> Path:
    """A folder with one finished run per strategy."""
    folder = tmp_path_factory.mktemp("runs")
    run([(name, config_for(corpus), folder / name) for name in NAMES])
    return folder


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return torch.load(directory / "model.pt", weights_only=True)


def differences(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> list[str]:
    assert list(actual) == list(expected)
    close = {name: torch.allclose(actual[name], expected[name], rtol=1e-4, atol=atol) for name in expected}
    return [name for name, is_close in close.items() if not is_close]


def oracle(config: TrainConfig, world_size: int) -> dict[str, torch.Tensor]:
    """One model, the batches of all ranks in one backward, torch's AdamW and clipping, averaged weights by hand."""
    torch.manual_seed(config.seed)
    model = TransformerLM(config.model)
    tokens, settings = open_tokens(config.train_tokens), config.optimizer
    samplers = [torch.Generator().manual_seed(config.seed * 1_000_003 + rank + 1) for rank in range(world_size)]
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=settings.betas, eps=settings.eps, weight_decay=settings.weight_decay
    )
    averages: dict[str, torch.Tensor] = {}
    for step in range(config.num_steps):
        pairs = [
            get_batch(tokens, config.batch_size, config.model.context_length, "cpu", generator=sampler)
            for sampler in samplers
            for _ in range(config.gradient_accumulation)
        ]
        inputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step, config.num_steps)
        optimizer.step()
        optimizer.zero_grad()
        rate = (1 - config.ema_decay) / (1 - config.ema_decay ** (step + 1))
        for name, p in model.state_dict().items():
            averages[name] = p.clone() if step == 0 else averages[name].lerp(p, rate)
    return averages


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_as_one_on_all_batches(corpus, runs, name):
    assert differences(weights_of(runs / name), oracle(config_for(corpus), 2), atol=2e-5) == []
    records = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
    assert records[-1]["tokens"] == 6 * 4 * 2 * 16 * 2
    assert records[0]["grad_norm"] > 0.5, "clipping must have been at work"


@pytest.mark.parametrize(
    ("optimizer", "names"), [("muon", ("ddp", "zero1", "zero2")), ("schedule_free", ("ddp", "zero1", "fsdp"))]
)
def test_other_optimizers_train_sharded_as_with_ddp(corpus, tmp_path, optimizer, names):
    config = config_for(corpus, optimizer, num_steps=3, ema_decay=0.0)
    expected, *others = run([(name, config, tmp_path / name) for name in names])
    for weights in others:
        assert differences(weights, expected, atol=2e-5) == []


def test_fsdp_refuses_optimizers_of_whole_matrices(corpus, tmp_path):
    with pytest.raises(RuntimeError, match="Muon looks at a matrix as a whole.*zero1 or zero2"):
        run([("fsdp", config_for(corpus, "muon"), tmp_path / "run")])


def halfway(directory: Path, source: Path) -> Path:
    """A run directory as it was when only the checkpoint of step 3 existed."""
    (directory / "checkpoints").mkdir(parents=True)
    for file in ("config.json", "manifest.json", "log.jsonl"):
        (directory / file).write_bytes((source / file).read_bytes())
    manifest = json.loads((directory / "manifest.json").read_text()) | {"status": "interrupted"}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    name = "checkpoints/step_00000003.pt"
    (directory / name).write_bytes((source / name).read_bytes())
    return directory


def test_checkpoints_load_into_every_layout(corpus, runs, tmp_path):
    """Two processes of any layout go on to the same end."""
    config, pairs = config_for(corpus), list(zip(NAMES, (*NAMES[1:], "ddp"), strict=True))
    jobs = [(after, config, halfway(tmp_path / f"{before} then {after}", runs / before)) for before, after in pairs]
    for (before, _), weights in zip(pairs, run(jobs), strict=True):
        assert differences(weights, weights_of(runs / before), atol=2e-5) == [], before


def test_all_layouts_write_the_same_checkpoint(runs):
    stored = [torch.load(runs / name / "checkpoints/step_00000003.pt", weights_only=True) for name in NAMES]
    for state in stored[1:]:
        assert state["optimizer"]["param_groups"] == stored[0]["optimizer"]["param_groups"]
        assert differences(state["model"], stored[0]["model"], atol=2e-5) == []
        assert differences(state["ema"]["average"], stored[0]["ema"]["average"], atol=2e-5) == []
        for place, moments in stored[0]["optimizer"]["state"].items():
            for key in ("m", "v"):
                torch.testing.assert_close(state["optimizer"]["state"][place][key], moments[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "name", "world_size"), [("single", "fsdp", 2), ("fsdp", "single", 1), ("fsdp", "zero2", 3)]
)
def test_another_number_of_processes_goes_on_from_a_checkpoint(corpus, runs, tmp_path, source, name, world_size):
    """It draws other batches from there on, so only the loss of the end is compared."""
    config = config_for(corpus)
    if source == "single":
        train(config, tmp_path / "single", progress=False)
    origin = (tmp_path if source == "single" else runs) / source
    directory = halfway(tmp_path / f"{source} then {name}", origin)
    if name == "single":
        train(config, directory, progress=False)
    else:
        run([(name, config, directory)], world_size)
    kept, original = (
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()] for path in (directory, origin)
    )
    assert kept[0] == original[0], "the log up to the checkpoint is the first run's"
    assert abs(kept[-1]["train_loss"] - original[-1]["train_loss"]) < 0.5


def test_variants_train_sharded_as_with_ddp(corpus, tmp_path):
    """Tied tables, and layers whose weights are read by others than their own forward."""
    sizes = {"vocab_size": 257, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    variants = [{"tie_embeddings": True}, {"moe": {"num_experts": 4, "bias_balancing": True}}, {"latent_attention": {}}]
    models = [config_from_dict(ModelConfig, {**sizes, **variant}) for variant in variants]
    configs = [config_for(corpus, model=model, num_steps=2, checkpoint_every=2) for model in models]
    jobs = [(name, c, tmp_path / f"{name} {i}") for i, c in enumerate(configs) for name in ("ddp", "fsdp")]
    weights = run(jobs)
    for variant, expected, actual in zip(variants, weights[::2], weights[1::2], strict=True):
        assert differences(actual, expected, atol=1e-4) == [], variant
