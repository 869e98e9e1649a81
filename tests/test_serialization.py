"""Problem checkpointing: model, optimizer and iteration survive a round trip through a path or a file object."""

from __future__ import annotations

import io

import pytest
import torch

from .assertions import assert_close, assert_implemented

SETTINGS = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}


class Net(torch.nn.Module):
    """Three layers, one of them frozen, so that some parameters have no optimizer state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(6, 10)
        self.frozen = torch.nn.Linear(10, 10).requires_grad_(False)
        self.fc3 = torch.nn.Linear(10, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(torch.relu(self.frozen(torch.relu(self.fc1(x)))))


def fresh(adapters, seed: int) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Net()
    return model, adapters.get_adamw_cls()(model.parameters(), **SETTINGS)


def train(model: Net, optimizer: torch.optim.Optimizer, num_steps: int, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        x, y = torch.rand(4, 6, generator=generator), torch.rand(4, 2, generator=generator)
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()


def assert_same_state(actual, expected) -> None:
    """Dicts, lists, numbers and tensors, entry by entry."""
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for key in expected:
            assert_same_state(actual[key], expected[key])
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert_close(actual, expected, atol=1e-8, rtol=1e-5, hint="every tensor must come back as it was saved")
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for mine, theirs in zip(actual, expected, strict=True):
            assert_same_state(mine, theirs)
    else:
        assert actual == expected


@pytest.fixture(params=["path", "str", "file_object"])
def place(request, tmp_path):
    """Functions (where to write, where to read) for each kind of target."""
    path = tmp_path / "checkpoint.pt"
    if request.param == "file_object":
        buffer = io.BytesIO()
        return lambda: buffer, lambda: buffer.seek(0) or buffer
    target = str(path) if request.param == "str" else path
    return lambda: target, lambda: target


def test_checkpointing(adapters, place):
    out, src = place
    model, optimizer = fresh(adapters, 1)
    train(model, optimizer, 10, seed=2)
    adapters.run_save_checkpoint(model, optimizer, iteration=10, out=out())
    new_model, new_optimizer = fresh(adapters, 3)
    iteration = adapters.run_load_checkpoint(src=src(), model=new_model, optimizer=new_optimizer)
    assert iteration == 10 and isinstance(iteration, int), f"load returns the saved iteration, 10; got {iteration!r}"
    assert_same_state(new_model.state_dict(), model.state_dict())
    assert_same_state(new_optimizer.state_dict(), optimizer.state_dict())


def test_checkpointing_then_training_continues_exactly(adapters, place):
    """Ten steps, checkpoint, five more: a resumed run ends with the same weights."""
    out, src = place
    model, optimizer = fresh(adapters, 1)
    train(model, optimizer, 10, seed=2)
    adapters.run_save_checkpoint(model, optimizer, iteration=10, out=out())
    resumed_model, resumed_optimizer = fresh(adapters, 3)
    adapters.run_load_checkpoint(src=src(), model=resumed_model, optimizer=resumed_optimizer)
    train(model, optimizer, 5, seed=4)
    train(resumed_model, resumed_optimizer, 5, seed=4)
    assert_same_state(resumed_model.state_dict(), model.state_dict())


def test_checkpoint_is_a_snapshot(adapters):
    """Training on after saving must not change what was saved."""
    model, optimizer = fresh(adapters, 1)
    buffer = io.BytesIO()
    adapters.run_save_checkpoint(model, optimizer, iteration=0, out=buffer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, optimizer, 3, seed=5)
    buffer.seek(0)
    adapters.run_load_checkpoint(src=buffer, model=model, optimizer=optimizer)
    assert_same_state(model.state_dict(), before)


def test_checkpoint_loads_weights_only(adapters, tmp_path):
    """torch.load runs no pickled code by default (torch 2.6); tensors and plain values need none."""
    model, optimizer = fresh(adapters, 1)
    train(model, optimizer, 2, seed=2)
    adapters.run_save_checkpoint(model, optimizer, iteration=2, out=tmp_path / "checkpoint.pt")
    torch.load(tmp_path / "checkpoint.pt", weights_only=True)


def test_load_checkpoint_refuses_another_model(adapters, tmp_path):
    model, optimizer = fresh(adapters, 1)
    adapters.run_save_checkpoint(model, optimizer, iteration=1, out=tmp_path / "checkpoint.pt")
    other = torch.nn.Linear(6, 10)
    other_optimizer = adapters.get_adamw_cls()(other.parameters(), **SETTINGS)
    with pytest.raises((RuntimeError, ValueError, KeyError)) as refusal:
        adapters.run_load_checkpoint(src=tmp_path / "checkpoint.pt", model=other, optimizer=other_optimizer)
        pytest.fail("the weights of another architecture were accepted; use load_state_dict(strict=True)")
    assert_implemented(refusal.value)
