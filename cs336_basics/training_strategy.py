"""How a training run is spread over processes: the interface, and the plain form in which one process does everything.

The loop of `training.py` says what is to be done in an update; a `Strategy` says who does it. Those for many processes
are in `cs336_systems/parallel/strategies.py`, which this package does not know. Read next: `training.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from cs336_basics import checkpoint
from cs336_basics.nn_utils import clip_gradient
from cs336_basics.training_loss import TrainingLoss

Result = TypeVar("Result")


@runtime_checkable
class Strategy(Protocol):
    """How a run is spread over processes; all processes call all methods in the same order.

    A step takes `num_batches` different batches, of which this process draws number `batch_rank`: its own in data
    parallel training, the same as the others where the processes share the work on one.
    """

    rank: int
    world_size: int
    batch_rank: int
    num_batches: int

    def wrap(self, model: nn.Module, make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> Any:
        """Return (module to call, optimizer); `make_optimizer` takes named parameters."""
        ...

    def accumulating(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Inside, backward only adds up gradients: more of this update's batch follows."""
        ...

    def forward_backward(
        self, module: nn.Module, loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int
    ) -> Tensor:
        """Add the gradient of the loss on (inputs, targets) over `parts`; return objective and cross-entropy."""
        ...

    def finish_gradients(self, module: nn.Module) -> None:
        """Wait until every gradient is the mean over processes."""
        ...

    def clip_gradient(self, module: nn.Module, max_norm: float) -> Tensor:
        """Scale the gradients so that their joint norm is at most `max_norm`; return the norm before scaling."""
        ...

    def mean(self, value: float) -> float:
        """Mean of a number over processes."""
        ...

    def on_main(self, action: Callable[[], Result]) -> Result:
        """What `action` returns on rank 0, which alone runs it; its error is raised on all."""
        ...

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The state dict of the model as one process has it, complete on rank 0."""
        ...

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path, **extra: Any) -> None:
        """Write a checkpoint, which any strategy can load."""
        ...

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> dict[str, Any]:
        """Restore from a checkpoint; return its entries."""
        ...


class SingleProcess:
    """The plain strategy: this process does everything."""

    rank = batch_rank = 0
    world_size = num_batches = 1

    def wrap(self, model: nn.Module, make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> Any:
        """The model itself."""
        return model, make_optimizer(model.named_parameters())

    def accumulating(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Nothing to hold back."""
        return contextlib.nullcontext()

    def forward_backward(
        self, module: nn.Module, loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int
    ) -> Tensor:
        """Forward, then backward."""
        return loss_backward(loss, batch, parts)

    def finish_gradients(self, module: nn.Module) -> None:
        """Nothing to wait for."""

    def clip_gradient(self, module: nn.Module, max_norm: float) -> Tensor:
        """All gradients are here."""
        return clip_gradient(module.parameters(), max_norm)

    def mean(self, value: float) -> float:
        """The number itself."""
        return value

    def on_main(self, action: Callable[[], Result]) -> Result:
        """Run it."""
        return action()

    def weights(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's own."""
        return module.state_dict()

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path, **extra: Any) -> None:
        """One file."""
        checkpoint.save_checkpoint(module, optimizer, step, path, **extra)

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> dict[str, Any]:
        """One file."""
        state = checkpoint.load_state(path)
        checkpoint.restore(state, module, optimizer)
        return state


def loss_backward(loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int) -> Tensor:
    """Run backward from the loss on (inputs, targets) over `parts`; return objective and cross-entropy, detached."""
    value = loss(*batch)
    (value.objective / parts).backward()
    return torch.stack((value.objective.detach(), value.cross_entropy))
