"""Memory of a step: the formulas against what lives, the count against torch's profiler, and hand-counted bytes."""

from __future__ import annotations

import gc

import pytest
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_systems.memory import MODES, PRECISIONS, block_residual_bytes, step_memory
from cs336_systems.memory_measurement import LiveBytes, measure_step, memory_limit, memory_snapshot, trace_step

NAMES = ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff")
SHAPES = {  # model and batch size; each has its peak at another moment
    "logits": (dict(zip(NAMES, (1000, 64, 64, 3, 4, 256), strict=True)), 4),
    "scores": (dict(zip(NAMES, (100, 256, 32, 2, 8, 64), strict=True)), 2),
    "hidden": (dict(zip(NAMES, (50, 64, 64, 4, 2, 512), strict=True)), 8),
    "weights": (dict(zip(NAMES, (64, 16, 128, 6, 4, 512), strict=True)), 1),
    "embedding": (dict(zip(NAMES, (4000, 16, 128, 3, 4, None), strict=True)), 1),
}
MOMENTS = {
    "logits": "loss", "scores": "top block, attention", "hidden": "top block, feed-forward", "weights": "update",
    "embedding": "embedding",
}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SHAPES)
def test_formula_equals_measured_live_bytes(name, mode, precision):
    values, batch = SHAPES[name]
    config = ModelConfig(**values)
    predicted = step_memory(config, batch_size=batch, mode=mode, precision=precision)
    measured = measure_step(TransformerLM(config), batch_size=batch, mode=mode, precision=precision)
    assert predicted.peak == pytest.approx(measured, rel=0.005 if mode != "forward" else 0.03)
    if mode == "step":
        assert predicted.peak_moment == MOMENTS[name]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_kept_activations_are_what_is_alive_after_the_loss(precision):
    values, batch = SHAPES["scores"]
    config = ModelConfig(**values)
    model = TransformerLM(config)
    ids = torch.zeros(batch, config.context_length, dtype=torch.long)
    with LiveBytes(model.parameters()) as memory, torch.autocast("cpu", torch.bfloat16, enabled=precision != "float32"):
        before = memory.now
        loss = cross_entropy(model(ids), ids)
        kept = memory.now - before
    assert loss.requires_grad
    predicted = step_memory(config, batch_size=batch, precision=precision).activations
    assert predicted == pytest.approx(kept, rel=0.01)


def test_a_block_keeps_what_is_counted_by_hand():
    # B T = 2 * 8 = 16 tokens, d = 4, F = 12, two heads of width 2, in float32
    config = ModelConfig(vocab_size=7, context_length=8, d_model=4, num_layers=1, num_heads=2, d_ff=12)
    stream, hidden, scores, roots, turns = 10 * 16 * 4, 5 * 16 * 12, 2 * 2 * 8 * 8, 2 * 16, 2 * 8 * 1 * 2
    assert block_residual_bytes(config, batch_size=2) == 4 * (stream + hidden + scores + roots + turns)


def test_sixteen_bytes_per_parameter():
    config = ModelConfig(vocab_size=11, context_length=4, d_model=8, num_layers=2, num_heads=2, d_ff=16)
    parameters = sum(p.numel() for p in TransformerLM(config).parameters())
    memory = step_memory(config, batch_size=1)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * parameters
    assert step_memory(config, batch_size=1, mode="backward").optimizer == 0


def test_the_count_agrees_with_the_allocator_as_torch_profiles_it():
    config = ModelConfig(vocab_size=500, context_length=64, d_model=64, num_layers=2, num_heads=4, d_ff=192)
    model, ids = TransformerLM(config), torch.zeros(4, 64, dtype=torch.long)

    def backward():
        cross_entropy(model(ids), ids).backward()
        model.zero_grad()

    backward()
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        backward()
    now = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    weights = 4 * sum(p.numel() for p in model.parameters())
    assert measure_step(model, batch_size=4, mode="backward") - weights == pytest.approx(most, rel=0.005)


def test_shared_storage_counts_once_and_dies():
    with LiveBytes() as memory:
        x = torch.ones(10, 10)
        y = x[2:].T
        assert memory.now == 400
        del x
        assert memory.now == 400  # the view holds it
        del y
        assert memory.now == 0 and memory.peak == 400


@pytest.mark.parametrize("mode", MODES)
def test_a_step_on_the_meta_device_counts_the_same(mode):
    config = ModelConfig(
        vocab_size=60, context_length=32, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn="gelu",
        qk_norm=True, tie_embeddings=True,
    )  # fmt: skip
    assert trace_step(config, batch_size=2, mode=mode) == measure_step(TransformerLM(config), batch_size=2, mode=mode)


def test_bad_input_is_refused():
    config = ModelConfig(vocab_size=60, context_length=32, d_model=32, num_layers=2, num_heads=4)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        step_memory(config, batch_size=0)
    with pytest.raises(ValueError, match="mode must be one of forward, backward, step; got 'train'"):
        step_memory(config, batch_size=1, mode="train")
    with pytest.raises(ValueError, match="precision must be one of .*'float16'"):
        step_memory(config, batch_size=1, precision="float16")
    variant = ModelConfig(vocab_size=60, context_length=32, d_model=32, num_layers=2, num_heads=4, ffn="gelu")
    with pytest.raises(ValueError, match="has variants; use trace_step"):
        step_memory(variant, batch_size=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_snapshot_needs_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="CUDA GPU .* use LiveBytes"), memory_snapshot(tmp_path / "s.pickle"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_a_snapshot_is_written(tmp_path):
    with memory_snapshot(tmp_path / "s.pickle"):
        torch.ones(1000, device="cuda").sum()
    assert (tmp_path / "s.pickle").stat().st_size > 0


@pytest.mark.gpu
def test_formula_on_a_gpu():
    values, batch = SHAPES["hidden"]
    config = ModelConfig(**{**values, "d_model": 512, "d_ff": 2048, "num_heads": 8})
    measure_step(TransformerLM(config, device="cuda"), batch_size=batch)  # libraries take their workspaces
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    measure_step(TransformerLM(config, device="cuda"), batch_size=batch)
    measured = torch.cuda.max_memory_allocated() - before
    assert step_memory(config, batch_size=batch).peak == pytest.approx(measured, rel=0.05)


def test_memory_limit_is_what_the_machine_says():
    assert 0 < memory_limit(torch.device("cpu")) < 1 << 50
