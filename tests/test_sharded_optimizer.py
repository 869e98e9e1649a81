"""Problem optimizer_state_sharding: against the same optimizer of torch in one process, to the last bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from .conftest import load_adapters
from .data_parallel import MODELS, batches, state_of
from .processes import run_processes

SETTINGS = {"lr": 0.1, "weight_decay": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}


def train(rank: int, adapters_name: str | None, model: str, late_group: bool) -> dict[str, Tensor]:
    """Ten steps of AdamW, sharded, or (adapters_name None) plain; with `late_group`, a weight joins half-way."""
    torch.manual_seed(42)
    module = MODELS[model]()
    late = module.fc3.weight
    first = [p for p in module.parameters() if not (late_group and p is late)]
    if adapters_name is None:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(first, **SETTINGS)
    else:
        optimizer = load_adapters(adapters_name).get_sharded_optimizer(first, torch.optim.AdamW, **SETTINGS)
    for step, (x, y) in enumerate(batches(10)):
        if late_group and step == 5:
            optimizer.add_param_group({"params": [late], "lr": 0.01})
        if step == 7:
            optimizer.param_groups[0]["lr"] = 0.03  # as a schedule does
        optimizer.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        optimizer.step()
    return state_of(module)


@pytest.mark.parametrize(
    ("model", "world_size", "late_group"),
    [("toy", 2, False), ("tied", 2, False), ("toy", 2, True), ("tied", 4, False)],
)
def test_sharded_optimizer_updates_as_the_plain_one(adapters_name, model, world_size, late_group):
    expected = train(0, None, model, late_group)
    for rank, state in enumerate(run_processes(train, world_size, adapters_name, model, late_group)):
        for name, value in state.items():
            hint = (
                f"rank {rank}, {name}: update each parameter on one process by the plain optimizer and broadcast it; "
                "hyperparameters of param_groups must reach it at each step"
            )
            np.testing.assert_allclose(value.numpy(), expected[name].numpy(), err_msg=hint)
