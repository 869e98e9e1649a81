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
    settings = OptimizerConfig(name=optimizer, max_learning_rate=0.01, warmup_steps=1, max_grad_norm=0.5)
    return tiny_config(corpus, **(options | {"optimizer": settings, "ema_decay": 0.5, "sample_tokens": 3} | changes))


def trained(rank: int, name: str, config: TrainConfig, directory: Path) -> dict[str, Any]:
    """One process of a run; single when `name` is."""
    from cs336_systems.parallel.strategies import STRATEGIES

    return train(config, directory, strategy=STRATEGIES[name](), progress=False)


def run(name: str, config: TrainConfig, directory: Path, world_size: int = 2) -> dict[str, torch.Tensor]:
    """Train and return the final weights."""
    if name == "single":
        train(config, directory, progress=False)
    else:
        summaries = run_processes(trained, world_size, name, config, directory)
        assert summaries[0]["steps"] == config.num_steps
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
def test_two_processes_train_as_one_on_all_batches(corpus, tmp_path, name):
    config = config_for(corpus)
    weights = run(name, config, tmp_path / name)
    assert differences(weights, oracle(config, 2), atol=2e-5) == []
    records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    assert records[-1]["tokens"] == 6 * 4 * 2 * 16 * 2
    assert records[0]["grad_norm"] > 0.5, "clipping must have been at work"


@pytest.mark.parametrize("name", ["ddp", "zero1", "zero2"])
def test_whole_matrix_optimizers_train_as_with_ddp(corpus, tmp_path, name):
    config = config_for(corpus, "muon", num_steps=3)
    expected = run("ddp", config, tmp_path / "expected")
    assert differences(run(name, config, tmp_path / name), expected, atol=1e-6) == []


def test_schedule_free_shows_the_same_average_however_it_is_sharded(corpus, tmp_path):
    config = config_for(corpus, "schedule_free", num_steps=3, ema_decay=0.0)
    expected = run("ddp", config, tmp_path / "ddp")
    for name in ("zero1", "fsdp"):
        assert differences(run(name, config, tmp_path / name), expected, atol=1e-6) == []


def test_fsdp_refuses_optimizers_of_whole_matrices(corpus, tmp_path):
    with pytest.raises(RuntimeError, match="Muon looks at a matrix as a whole.*zero1 or zero2"):
        run("fsdp", config_for(corpus, "muon"), tmp_path / "run")


def halfway(directory: Path, source: Path) -> None:
    """A run directory as it was when only the checkpoint of step 3 existed."""
    (directory / "checkpoints").mkdir(parents=True)
    for file in ("config.json", "manifest.json", "log.jsonl"):
        (directory / file).write_bytes((source / file).read_bytes())
    manifest = json.loads((directory / "manifest.json").read_text()) | {"status": "interrupted"}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    name = "checkpoints/step_00000003.pt"
    (directory / name).write_bytes((source / name).read_bytes())


def test_checkpoints_load_into_every_layout(corpus, tmp_path):
    """Two processes of any layout go on to the same end; one process reads the same weights and moments."""
    config = config_for(corpus)
    straight = {name: run(name, config, tmp_path / name) for name in NAMES}
    for before, after in zip(NAMES, (*NAMES[1:], "ddp"), strict=True):
        directory = tmp_path / f"{before} then {after}"
        halfway(directory, tmp_path / before)
        assert differences(run(after, config, directory), straight[before], atol=2e-5) == [], directory.name
    stored = [torch.load(tmp_path / n / "checkpoints/step_00000003.pt", weights_only=True) for n in NAMES]
    for state in stored[1:]:
        assert state["optimizer"]["param_groups"] == stored[0]["optimizer"]["param_groups"]
        assert differences(state["model"], stored[0]["model"], atol=2e-5) == []
        assert differences(state["ema"]["average"], stored[0]["ema"]["average"], atol=2e-5) == []
        for place, moments in stored[0]["optimizer"]["state"].items():
            for key in ("m", "v"):
                torch.testing.assert_close(state["optimizer"]["state"][place][key], moments[key], rtol=1e-3, atol=1e-6)


def test_one_process_and_several_exchange_checkpoints(corpus, tmp_path):
    """Another number of processes draws other batches, so only the state at the moment of loading is compared."""
    config = config_for(corpus)
    run("single", config, tmp_path / "single")
    run("fsdp", config, tmp_path / "fsdp")
    for source, name, world_size in (("single", "fsdp", 2), ("fsdp", "single", 1), ("fsdp", "zero2", 3)):
        directory = tmp_path / f"{source} then {name}"
        halfway(directory, tmp_path / source)
        run(name, config, directory, world_size)
        kept = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
        original = [json.loads(line) for line in (tmp_path / source / "log.jsonl").read_text().splitlines()]
        assert kept[0] == original[0], "the log up to the checkpoint is the first run's"
        assert abs(kept[-1]["train_loss"] - original[-1]["train_loss"]) < 0.5


@pytest.mark.parametrize(
    "variant", [{"tie_embeddings": True}, {"moe": {"num_experts": 4}}, {"latent_attention": {}}, {"qk_norm": True}]
)
def test_variants_train_sharded_as_with_ddp(corpus, tmp_path, variant):
    from cs336_basics.runs.config import config_from_dict

    sizes = {"vocab_size": 257, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    config = config_for(corpus, model=config_from_dict(ModelConfig, {**sizes, **variant}), num_steps=3)
    expected = run("ddp", config, tmp_path / "ddp")
    assert differences(run("fsdp", config, tmp_path / "fsdp"), expected, atol=1e-4) == []
