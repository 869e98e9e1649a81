"""Runs of the training loop on two processes: against a loop written out here, one process, each other, and resumed."""

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
from cs336_systems.parallel.parallel_config import ParallelConfig
from cs336_systems.parallel.strategies import make_strategy
from tests.processes import run_processes
from tests.unit.basics.tiny_run import tiny_config

SPREAD = {
    "ddp": ParallelConfig("ddp", bucket_mb=0.001),
    "ddp-naive": ParallelConfig("ddp-naive"),
    "ddp-flat": ParallelConfig("ddp-flat", offload_optimizer=True),
    "ddp-overlapped": ParallelConfig("ddp-overlapped", activation_checkpointing="nested"),
    "zero1": ParallelConfig("zero1"),
    "zero1 offloaded": ParallelConfig("zero1", offload_optimizer=True),
    "zero2": ParallelConfig("zero2", bucket_mb=0.001, activation_checkpointing="2"),
    "fsdp": ParallelConfig("fsdp"),
    "fsdp offloaded": ParallelConfig("fsdp", offload_optimizer=True, activation_checkpointing="all"),
}
"""each process with batches of its own"""
SHARED = {
    "tensor": ParallelConfig("tensor", activation_checkpointing="all"),
    "tensor offloaded": ParallelConfig("tensor", offload_optimizer=True),
    "pipeline": ParallelConfig("pipeline"),
    "pipeline offloaded": ParallelConfig(
        "pipeline", pipeline_schedule="gpipe", micro_batches=3, offload_optimizer=True
    ),
    "context": ParallelConfig("context", activation_checkpointing="2"),
    "context contiguous": ParallelConfig("context", context_layout="contiguous", offload_optimizer=True),
}
"""both processes on the batches of one"""
ALL = {**SPREAD, **SHARED}


def config_for(corpus: Path, optimizer: str = "adamw", **changes: Any) -> TrainConfig:
    """Six steps of a model without dropout whose 258 rows four does not divide; the norm is clipped each time."""
    model = ModelConfig(vocab_size=258, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=24)
    options: dict[str, Any] = {"model": model, "num_steps": 6, "checkpoint_every": 3, "eval_every": 6}
    schedule = "constant" if optimizer == "schedule_free" else "cosine"
    settings = OptimizerConfig(
        name=optimizer, schedule=schedule, max_learning_rate=0.01, warmup_steps=1, max_grad_norm=0.5
    )
    return tiny_config(corpus, **(options | {"optimizer": settings, "ema_decay": 0.5, "sample_tokens": 3} | changes))


Job = tuple[ParallelConfig, TrainConfig, Path]
"""how, what, run directory"""


def trained(rank: int, jobs: list[Job]) -> None:
    """One process's part of several runs, without their plots, which cost more than the training."""
    from cs336_basics import training
    from cs336_systems.parallel.strategies import make_strategy

    training._plot = lambda *arguments: False
    for parallel, config, directory in jobs:
        parallel.check_run(config)
        training.train(config, directory, strategy=make_strategy(parallel), progress=False)


def run(jobs: list[Job], world_size: int = 2) -> list[dict[str, torch.Tensor]]:
    """Train one after the other and return the final weights of each."""
    run_processes(trained, world_size, jobs)
    for _, config, directory in jobs:
        assert json.loads((directory / "summary.json").read_text())["steps"] == config.num_steps
    return [torch.load(directory / "model.pt", weights_only=True) for _, _, directory in jobs]


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> Path:
    """A folder with one finished run per case, and that of one process."""
    folder = tmp_path_factory.mktemp("runs")
    run([(parallel, config_for(corpus), folder / name) for name, parallel in ALL.items()])
    train(config_for(corpus), folder / "single", progress=False)
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


@pytest.fixture(scope="module")
def oracles(corpus) -> dict[int, dict[str, torch.Tensor]]:
    """Final weights by the number of batches of a step."""
    return {number: oracle(config_for(corpus), number) for number in (1, 2)}


@pytest.mark.parametrize("name", ALL)
def test_two_processes_train_as_one_on_all_batches(runs, oracles, name):
    batches = 2 if name in SPREAD else 1
    assert differences(weights_of(runs / name), oracles[batches], atol=2e-5) == []
    records = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
    assert records[-1]["tokens"] == 6 * 4 * 2 * 16 * batches
    assert records[0]["grad_norm"] > 0.5, "clipping must have been at work"


@pytest.mark.parametrize("name", SHARED)
def test_validation_and_samples_are_those_of_one_process(runs, name):
    actual, expected = (json.loads((runs / n / "log.jsonl").read_text().splitlines()[-1]) for n in (name, "single"))
    assert actual["validation_loss"] == pytest.approx(expected["validation_loss"], abs=1e-5)
    assert actual["sample"] == expected["sample"]
    assert actual["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "names"),
    [
        ("muon", ("ddp", "zero1", "zero1 offloaded", "zero2")),
        ("schedule_free", ("ddp", "zero1 offloaded", "fsdp", "fsdp offloaded")),
    ],
)
def test_other_optimizers_train_sharded_as_with_ddp(corpus, tmp_path, optimizer, names):
    config = config_for(corpus, optimizer, num_steps=3, ema_decay=0.0)
    expected, *others = run([(ALL[name], config, tmp_path / name) for name in names])
    for weights in others:
        assert differences(weights, expected, atol=2e-5) == []


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fsdp", {"optimizer": "muon"}, "Muon looks at a matrix as a whole.*zero1 or zero2"),
        ("tensor", {"optimizer": "soap"}, "SOAP looks at a matrix as a whole.*zero1 or zero2"),
        ("tensor", {"heads": 1}, "num_heads to be a multiple of 2; got 1; choose 2"),
        ("pipeline", {"layers": 1}, "got 1 layers for 2 stages"),
        ("context", {"context": 18}, "4 equal pieces; got 18 tokens; use 20"),
        ("pipeline", {"batch_size": 2}, "micro_batches=4 cannot be cut from batch_size=2"),
        ("tensor", {"z_loss": 0.1}, "plain loss only; unset z_loss"),
        ("fsdp", {"compile": True}, "cannot be compiled; use --no-compile"),
    ],
)
def test_what_does_not_go_together_is_refused(corpus, tmp_path, name, changes, message):
    sizes = {"num_heads": changes.pop("heads", 2), "num_layers": changes.pop("layers", 2)}
    model = ModelConfig(vocab_size=258, context_length=changes.pop("context", 16), d_model=16, d_ff=24, **sizes)
    config = config_for(corpus, changes.pop("optimizer", "adamw"), model=model, **changes)
    with pytest.raises((RuntimeError, ValueError), match=message):
        run([(ParallelConfig(ALL[name].strategy), config, tmp_path / "run")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "ddq"}, "choose one of single, ddp-naive"),
        ({"bucket_mb": 0.0}, "bucket_mb must be above 0"),
        ({"activation_checkpointing": "0"}, "none, all, nested, or a number of layers above 0"),
        ({"micro_batches": 0}, "micro_batches must be at least 1"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**changes)


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
    """Any layout goes on from any other's checkpoint to the same end."""
    config, pairs = config_for(corpus), []
    for family in (list(SPREAD), list(SHARED)):
        pairs += zip(family, [*family[1:], family[0]], strict=True)
    jobs = [
        (ALL[after], config, halfway(tmp_path / f"{before} then {after}", runs / before)) for before, after in pairs
    ]
    for (before, _), weights in zip(pairs, run(jobs), strict=True):
        assert differences(weights, weights_of(runs / before), atol=2e-5) == [], before


@pytest.mark.parametrize("name", ["tensor", "pipeline offloaded", "context"])
def test_one_process_goes_on_for_several_and_several_for_one(corpus, runs, tmp_path, name):
    config = config_for(corpus)
    alone, together = halfway(tmp_path / "alone", runs / name), halfway(tmp_path / "together", runs / "single")
    train(config, alone, progress=False)
    (weights,) = run([(ALL[name], config, together)])
    for ended in (weights_of(alone), weights):
        assert differences(ended, weights_of(runs / "single"), atol=2e-5) == []


@pytest.mark.parametrize("family", [tuple(SPREAD), ("single", *SHARED)], ids=["spread", "shared"])
def test_all_layouts_write_the_same_checkpoint(runs, family):
    stored = [torch.load(runs / name / "checkpoints/step_00000003.pt", weights_only=True) for name in family]
    for state in stored[1:]:
        assert state["optimizer"]["param_groups"] == stored[0]["optimizer"]["param_groups"]
        assert differences(state["model"], stored[0]["model"], atol=2e-5) == []
        assert differences(state["ema"]["average"], stored[0]["ema"]["average"], atol=2e-5) == []
        assert state["optimizer"]["state"].keys() == stored[0]["optimizer"]["state"].keys()
        for place, moments in stored[0]["optimizer"]["state"].items():
            for key in ("m", "v"):
                torch.testing.assert_close(state["optimizer"]["state"][place][key], moments[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "name", "world_size"),
    [("single", "fsdp", 2), ("fsdp", "single", 1), ("fsdp", "zero2", 3), ("zero1", "tensor", 2), ("context", "ddp", 2)],
)
def test_another_number_of_batches_goes_on_from_a_checkpoint(corpus, runs, tmp_path, source, name, world_size):
    """It draws other batches from there on, so only the loss of the end is compared."""
    config, directory = config_for(corpus), halfway(tmp_path / "after", runs / source)
    if name == "single":
        train(config, directory, progress=False)
    else:
        run([(ALL[name], config, directory)], world_size)
    kept, original = (
        [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (directory, runs / source)
    )
    assert kept[0] == original[0], "the log up to the checkpoint is the first run's"
    assert abs(kept[-1]["train_loss"] - original[-1]["train_loss"]) < 0.5


def test_variants_train_sharded_as_with_ddp(corpus, tmp_path):
    """Tied tables, and layers whose weights are read by others than their own forward."""
    sizes = {"vocab_size": 257, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    variants = [{"tie_embeddings": True}, {"moe": {"num_experts": 4, "bias_balancing": True}}, {"latent_attention": {}}]
    models = [config_from_dict(ModelConfig, {**sizes, **variant}) for variant in variants]
    configs = [config_for(corpus, model=model, num_steps=2, checkpoint_every=2) for model in models]
    jobs = [
        (ParallelConfig(name), c, tmp_path / f"{name} {i}") for i, c in enumerate(configs) for name in ("ddp", "fsdp")
    ]
    weights = run(jobs)
    for variant, expected, actual in zip(variants, weights[::2], weights[1::2], strict=True):
        assert differences(actual, expected, atol=1e-4) == [], variant


def test_one_process_with_checkpointing_and_offloading(corpus, runs, tmp_path):
    parallel = ParallelConfig(activation_checkpointing="nested", offload_optimizer=True)
    train(config_for(corpus), tmp_path / "run", strategy=make_strategy(parallel), progress=False)
    for name, value in weights_of(runs / "single").items():
        assert torch.equal(weights_of(tmp_path / "run")[name], value), name
