"""Problem data_loading: shapes, targets, uniform starts, memory-mapped input, devices."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from .assertions import assert_implemented


def test_get_batch(adapters, device):
    """1000 batches of 32 from 0..99 with context 7: starts uniform over 0..92."""
    dataset, batch_size, context_length = np.arange(100), 32, 7
    starts: Counter[int] = Counter()
    for _ in range(1000):
        x, y = adapters.run_get_batch(
            dataset=dataset, batch_size=batch_size, context_length=context_length, device=device
        )
        assert x.shape == y.shape == (batch_size, context_length)
        assert torch.equal(y, x + 1), "the target of a token is the next token"
        starts.update(x[:, 0].tolist())
    assert max(starts) <= 92, f"start {max(starts)} leaves no target for the last token"
    assert set(starts) == set(range(93)), (
        f"starts {sorted(set(range(93)) - set(starts))} never occur: the last is len - context_length - 1, inclusive"
    )
    mean = 1000 * batch_size / 93
    sigma = math.sqrt(mean * (1 - 1 / 93))
    for start, count in starts.items():
        assert abs(count - mean) < 5 * sigma, f"start {start} occurs {count} times, not about {mean:.0f}: not uniform"


def test_get_batch_smallest_dataset(adapters, device):
    """context_length + 1 tokens allow exactly one start."""
    x, y = adapters.run_get_batch(dataset=np.arange(8), batch_size=3, context_length=7, device=device)
    assert x.tolist() == [list(range(7))] * 3
    assert y.tolist() == [list(range(1, 8))] * 3


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64"])
def test_get_batch_from_memory_map(adapters, device, tmp_path, dtype):
    """Token files are uint16 or uint32 memory maps; an embedding wants int64, and 65535 is not -1."""
    path = tmp_path / "tokens.bin"
    np.array([65535, 0, 40000, 7, 65535], dtype=dtype).tofile(path)
    dataset = np.memmap(path, dtype=dtype, mode="r")
    x, y = adapters.run_get_batch(dataset=dataset, batch_size=2, context_length=4, device=device)
    assert x.dtype == y.dtype == torch.int64, f"cast the batch (not the file) to int64; got {x.dtype}"
    assert x.tolist() == [[65535, 0, 40000, 7]] * 2
    assert y.tolist() == [[0, 40000, 7, 65535]] * 2


def test_get_batch_does_not_alias_the_dataset(adapters):
    dataset = np.arange(10)
    x, _ = adapters.run_get_batch(dataset=dataset, batch_size=1, context_length=9, device="cpu")
    x += 100
    assert dataset.max() == 9, "a batch must be a copy: writing to it changed the dataset"


def test_get_batch_device(adapters, device):
    x, y = adapters.run_get_batch(dataset=np.arange(20), batch_size=2, context_length=4, device=device)
    assert x.device.type == y.device.type == torch.device(device).type


def test_get_batch_refuses_a_missing_device(adapters):
    with pytest.raises((RuntimeError, AssertionError)) as refusal:
        adapters.run_get_batch(dataset=np.arange(100), batch_size=2, context_length=7, device="cuda:99")
        pytest.fail("device cuda:99 does not exist, but a batch came back: move the tensors to the device asked for")
    assert_implemented(refusal.value)
