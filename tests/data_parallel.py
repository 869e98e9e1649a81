"""What the three suites of data parallel training share: toy models, a training run per process, the comparison.

Every process starts from other weights and trains on its part of a batch of 20; afterwards it must hold what one
process holds that started from rank 0's weights and trained on whole batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .assertions import assert_close, is_close
from .conftest import load_adapters
from .processes import run_processes

STEPS = 5


class ToyModel(nn.Module):
    """Three layers, a frozen bias, and a frozen parameter that forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 10, bias=False)
        self.fc2 = nn.Linear(10, 50)
        self.fc2.bias.requires_grad_(False)
        self.fc3 = nn.Linear(50, 5, bias=False)
        self.fixed = nn.Parameter(torch.tensor([2.0, 2.0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class TiedModel(nn.Module):
    """Two layers share one weight, whose gradient is complete only after both."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(10, 10, bias=False)
        self.fc2 = nn.Linear(10, 50, bias=False)
        self.fc3 = nn.Linear(50, 10, bias=False)
        self.fc4 = nn.Linear(10, 50, bias=False)
        self.fc5 = nn.Linear(50, 5, bias=False)
        self.fc4.weight = self.fc2.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return self.fc5(torch.relu(self.fc4(torch.relu(self.fc3(x)))))


MODELS = {"toy": ToyModel, "tied": TiedModel}


def batches(steps: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    """Twenty rows, in another order at each step."""
    generator = torch.Generator().manual_seed(42)
    x, y = torch.randn(20, 10, generator=generator), torch.randn(20, 5, generator=generator)
    for _ in range(steps):
        order = torch.randperm(20, generator=generator)
        yield x[order], y[order]


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def wrapped(adapters: Any, kind: str, module: nn.Module, bucket_size_mb: float | None) -> nn.Module:
    if kind == "bucketed":
        return adapters.get_ddp_bucketed(module, bucket_size_mb=bucket_size_mb)
    return {"ddp": adapters.get_ddp, "individual": adapters.get_ddp_individual_parameters}[kind](module)


def train(
    rank: int, world_size: int, adapters_name: str, kind: str, model: str, bucket: float | None
) -> dict[str, Any]:
    """One process's run; what it held at the start, after wrapping and after each step."""
    adapters = load_adapters(adapters_name)
    torch.manual_seed(rank)
    module = MODELS[model]()
    names, initial = [name for name, _ in module.named_parameters()], state_of(module)
    ddp = wrapped(adapters, kind, module, bucket)
    record = {"initial": initial, "wrapped": state_of(ddp.module), "names": names, "steps": []}
    record["ddp names"] = [name for name, _ in ddp.named_parameters()]
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    finish = {
        "ddp": adapters.ddp_on_after_backward,
        "individual": adapters.ddp_individual_parameters_on_after_backward,
        "bucketed": adapters.ddp_bucketed_on_after_backward,
    }[kind]
    rows = slice(rank * 20 // world_size, (rank + 1) * 20 // world_size)
    for x, y in batches():
        if kind == "bucketed":
            adapters.ddp_bucketed_on_train_batch_start(ddp_model=ddp, optimizer=optimizer)
        optimizer.zero_grad()
        nn.functional.mse_loss(ddp(x[rows]), y[rows]).backward()
        finish(ddp_model=ddp, optimizer=optimizer)
        optimizer.step()
        record["steps"].append(state_of(ddp.module))
    return record


def baseline(initial: dict[str, Tensor], model: str) -> list[dict[str, Tensor]]:
    """One process on whole batches."""
    module = MODELS[model]()
    module.load_state_dict(initial)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    states = []
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        optimizer.step()
        states.append(state_of(module))
    return states


def check_data_parallel(
    adapters_name: str, kind: str, model: str, *, world_size: int = 2, bucket: float | None = None
) -> None:
    """Train on `world_size` processes and on one, and compare after every step."""
    records = run_processes(train, world_size, world_size, adapters_name, kind, model, bucket)
    initial, expected = records[0]["initial"], baseline(records[0]["initial"], model)
    for rank, record in enumerate(records):
        assert len(record["ddp names"]) == len(record["names"]), "the container must not add or drop parameters"
        for name, value in record["wrapped"].items():
            hint = f"rank {rank}, {name}: after wrapping every process must hold rank 0's parameters, frozen ones too"
            np.testing.assert_array_equal(value.numpy(), initial[name].numpy(), err_msg=hint)
        for step, state in enumerate(record["steps"]):
            for name, value in state.items():
                where = f"rank {rank}, {name}, after step {step + 1}"
                before = (record["steps"][step - 1] if step else record["wrapped"])[name]
                wanted = expected[step][name] - (expected[step - 1] if step else initial)[name]
                if step == 0 and wanted.any() and is_close(value - before, wanted * world_size):
                    raise AssertionError(f"{where}: gradients are summed over processes; they must be averaged")
                hint = f"{where}: must equal one process on the whole batch"
                assert_close(value, expected[step][name], rtol=1e-5, atol=1e-7, hint=hint)
                same = torch.equal(value, records[0]["steps"][step][name])
                assert same, f"{where}: the processes have drifted apart"
    moved = [name for name in initial if not torch.equal(expected[-1][name], initial[name])]
    assert moved, "nothing was trained; the comparison would be empty"
