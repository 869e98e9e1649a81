"""Pipelines of 2 and 4 real processes against the single process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from cs336_basics.optimizer import AdamW
from cs336_systems.parallel.pipeline_parallel import Pipeline, PipelineStage, layers_of_stages
from cs336_systems.parallel.pipeline_schedule import SCHEDULES, Pass, Schedule
from tests.processes import run_processes
from tests.unit.systems.parallel_cases import TOLERANCE, single_process, tiny_batch, tiny_model

BATCH = 5  # three micro-batches of 2, 2 and 1 rows: their means do not count alike
MODELS: list[dict[str, Any]] = [
    {"num_layers": 5},
    {"num_layers": 4, "positions": "sinusoidal", "norm": "post"},
    {"num_layers": 4, "positions": "learned", "logit_softcap": 5.0, "embedding_norm": True},
]


def backwards_in_reverse(stages: int, micro_batches: int) -> Schedule:
    """Not one of ours: GPipe with the backward passes in the opposite order."""
    forwards = [Pass("forward", m) for m in range(micro_batches)]
    return [[*forwards, *(Pass("backward", m) for m in reversed(range(micro_batches)))] for _ in range(stages)]


def run_pipelines(rank: int) -> list[Any]:
    """Loss and own gradients by model and schedule; two steps each, gradients adding up."""
    n = dist.get_world_size()
    inputs, targets = tiny_batch(BATCH)
    results = []
    for changes in MODELS:
        for make_schedule in (*SCHEDULES.values(), backwards_in_reverse):
            stage = PipelineStage(tiny_model(**changes), stage=rank, num_stages=n)
            pipeline = Pipeline(stage)
            for _ in range(2):
                loss = pipeline.step(inputs, targets, make_schedule(n, 3))
            grads = {name: p.grad for name, p in stage.named_parameters()}
            results.append((changes, loss, grads))
    return results


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_pipeline_equals_a_single_process(world_size):
    by_rank = run_processes(run_pipelines, world_size)
    for per_rank in zip(*by_rank, strict=True):
        changes = per_rank[0][0]
        _, expected_loss, expected = single_process(*tiny_batch(BATCH), **changes)
        grads: dict[str, torch.Tensor] = {}
        for _, loss, own in per_rank:
            torch.testing.assert_close(loss, expected_loss, **TOLERANCE)
            assert not grads.keys() & own.keys(), "two stages hold the same parameter"
            grads |= own
        assert grads.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(grads[name], 2 * grad, **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}")


def train_a_pipeline(rank: int) -> list[float]:
    stage = PipelineStage(tiny_model(num_layers=2), stage=rank, num_stages=dist.get_world_size())
    pipeline, optimizer = Pipeline(stage), AdamW(stage.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(pipeline.step(*tiny_batch(4), SCHEDULES["1f1b"](dist.get_world_size(), 4)).item())
        optimizer.step()
    return losses


def test_loss_curve_equals_a_single_process():
    model = tiny_model(num_layers=2)
    optimizer = AdamW(model.parameters(), lr=0.01)
    inputs, targets = tiny_batch(4)
    expected = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    for losses in run_processes(train_a_pipeline, 2):
        assert losses == pytest.approx(expected, rel=1e-7)


def wrong_calls(rank: int) -> list[str]:
    n = dist.get_world_size()
    texts = []
    try:
        Pipeline(PipelineStage(tiny_model(num_layers=2), stage=1 - rank, num_stages=n))
    except ValueError as error:
        texts.append(str(error))
    pipeline = Pipeline(PipelineStage(tiny_model(num_layers=2), stage=rank, num_stages=n))
    for schedule in (SCHEDULES["gpipe"](3, 2), SCHEDULES["gpipe"](2, 9)):
        try:
            pipeline.step(*tiny_batch(4), schedule)
        except ValueError as error:
            texts.append(str(error))
    return texts


def wait_for_a_neighbour_that_went_away(rank: int) -> str:
    n = dist.get_world_size()
    pipeline = Pipeline(PipelineStage(tiny_model(num_layers=2), stage=rank, num_stages=n), timeout_s=6)
    if rank == 1:
        try:
            pipeline.step(*tiny_batch(4), SCHEDULES["1f1b"](2, 2))
        except RuntimeError as error:
            return str(error)
    return ""


def test_a_message_that_never_comes_is_an_error():
    assert "imed out" in run_processes(wait_for_a_neighbour_that_went_away, 2)[1]


def test_wrong_calls():
    for rank, texts in enumerate(run_processes(wrong_calls, 2)):
        assert f"rank {rank} of 2 must hold stage {rank}" in texts[0]
        assert "schedule is for 3 stages" in texts[1]
        assert "4 rows cannot be cut into 9 micro-batches" in texts[2]


@pytest.mark.parametrize(
    ("layers", "stages", "expected"), [(5, 2, [3, 2]), (4, 4, [1, 1, 1, 1]), (11, 4, [3, 3, 3, 2]), (3, 1, [3])]
)
def test_layers_are_shared_out_evenly(layers, stages, expected):
    ranges = layers_of_stages(layers, stages)
    assert [len(own) for own in ranges] == expected
    assert [index for own in ranges for index in own] == list(range(layers))


def test_models_that_cannot_be_a_pipeline():
    with pytest.raises(ValueError, match="2 layers for 3 stages"):
        PipelineStage(tiny_model(), stage=0, num_stages=3)
    with pytest.raises(ValueError, match="tie_embeddings"):
        PipelineStage(tiny_model(tie_embeddings=True), stage=0, num_stages=2)
    with pytest.raises(ValueError, match="stream"):
        PipelineStage(tiny_model(smear=True), stage=0, num_stages=2)
