"""The training loop's strategies: data parallel and the three stages of sharding, chosen by name.

    name     each process holds                              gradients                    optimizer
    ddp      everything                                      bucketed all-reduce          the plain one
    zero1    weights, gradients, 1/N of the moments          bucketed all-reduce          ShardedOptimizer
    zero2    weights, 1/N of gradients and moments           bucketed reduce to owners    ShardedOptimizer
    fsdp     1/N of everything                               reduce-scatter               the plain one, on shards

Checkpoints are written by rank 0 in the layout of one process, so each of these and `SingleProcess` reads them all.
What differs between processes (random states, position in the data) is stored under "ranks". A run that goes on with
another number of processes gives the old ones their states back and the new ones states drawn from rank 0's: a correct
continuation, not the same batches.

FSDP refuses optimizers that look at a matrix as a whole (Muon, SOAP, Adafactor): a process has only its rows.

Handout: naive_ddp to fsdp. Read next: `cli.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_basics import checkpoint
from cs336_basics.nn_utils import clip_gradient
from cs336_basics.optimizers.adafactor import Adafactor
from cs336_basics.optimizers.muon import Muon
from cs336_basics.optimizers.soap import SOAP
from cs336_basics.training import Result, Strategy
from cs336_systems.parallel.ddp import DDPBucketed
from cs336_systems.parallel.fsdp import FSDP
from cs336_systems.parallel.gradient_sharding import GradientShardedDDP
from cs336_systems.parallel.process_group import (
    COLLECTIVE_TIMEOUT_S,
    clip_sharded_gradients,
    control_device,
    joined_group,
)
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
WHOLE_MATRIX = (Muon, SOAP, Adafactor)
READ_DIRECTLY = ("router", "kv_up", "filter")
"""submodules of our variants whose weights are read by others than their own forward"""


class DDPStrategy:
    """Data parallel in buckets; the base of the others. Needs a process group."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """DDPBucketed and the plain optimizer."""
        return DDPBucketed(model), make_optimizer(model.named_parameters())

    def accumulating(self, module: Any) -> contextlib.AbstractContextManager[None]:
        """Nothing is sent inside."""
        return module.no_sync()

    def finish_gradients(self, module: Any) -> None:
        """Wait for the means; the experts' loads, which balance them, are summed."""
        module.finish_gradient_synchronization()
        for name, buffer in module.module.named_buffers():
            if name.endswith("tokens_per_expert"):
                dist.all_reduce(buffer)

    def clip_gradient(self, module: Any, max_norm: float) -> Tensor:
        """Every process has the whole gradient."""
        return clip_gradient(module.parameters(), max_norm)

    def mean(self, value: float) -> float:
        """Mean over processes, added in float64."""
        total = torch.tensor(value, dtype=torch.float64, device=control_device())
        dist.all_reduce(total)
        return total.item() / self.world_size

    def on_main(self, action: Callable[[], Result]) -> Result:
        """Run on rank 0 and send the result, or the error, to all."""
        sent: list[Any] = [None, None]
        if self.rank == 0:
            try:
                sent[0] = action()
            except Exception as error:
                sent[1] = error
        failure, message = sent[1], [sent[0], None if sent[1] is None else f"rank 0 failed: {sent[1]}"]
        dist.broadcast_object_list(message)
        if failure is not None:
            raise failure
        if message[1] is not None:
            raise ValueError(message[1])
        return message[0]

    def weights(self, module: Any) -> dict[str, Tensor]:
        """The model's own, which all processes have."""
        return module.module.state_dict()

    def optimizer_state(self, module: Any, optimizer: Any) -> dict[str, Any] | None:
        """The optimizer's state as one process has it; needed on rank 0 only."""
        return optimizer.state_dict()

    def average_state(self, module: Any, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a moving average of the weights as one process has it."""
        return state

    def save(self, module: Any, optimizer: Any, step: int, path: Path, **extra: Any) -> None:
        """Rank 0 writes one file in the layout of a single process."""
        if extra.get("ema") is not None:
            extra["ema"] = self.average_state(module, extra["ema"])
        own = {key: value for key, value in extra.items() if key != "ema"}
        ranks: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(own, ranks)
        state = {"model": self.weights(module), "optimizer": self.optimizer_state(module, optimizer), "iteration": step}
        if self.rank == 0:
            checkpoint.save_state({**state, **extra, "ranks": ranks}, path)

    def load(self, module: Any, optimizer: Any, path: Path) -> dict[str, Any]:
        """Each process reads the file and takes its part."""
        state = checkpoint.load_state(path)
        self.restore(state, module, optimizer)
        own = (state.get("ranks") or [state])[self.rank :][:1]
        if own:
            return {
                **state,
                **{key: own[0][key] for key in own[0] if key not in ("model", "optimizer", "ema", "ranks")},
            }
        return _state_of_new_rank(state, self.rank)

    def restore(self, state: dict[str, Any], module: Any, optimizer: Any) -> None:
        """Put weights and optimizer state into place."""
        checkpoint.restore(state, module.module, optimizer)


def _state_of_new_rank(state: dict[str, Any], rank: int) -> dict[str, Any]:
    """Rank 0's entries with random states of its own for a process that the checkpoint does not know."""
    source = torch.Generator()
    source.set_state(state["sampler"])
    seed = int(torch.randint(2**62, (), generator=source)) + 2 * rank
    fresh = {"sampler": torch.Generator().manual_seed(seed).get_state()}
    return {**state, **fresh, "torch_rng": torch.Generator().manual_seed(seed + 1).get_state(), "cuda_rng": None}


class ZeRO1Strategy(DDPStrategy):
    """The optimizer's state is split."""

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """DDPBucketed and a ShardedOptimizer."""
        return DDPBucketed(model), _sharded(make_optimizer(model.named_parameters()))

    def optimizer_state(self, module: Any, optimizer: Any) -> dict[str, Any] | None:
        """Gathered on rank 0."""
        return optimizer.consolidated_state_dict()


class ZeRO2Strategy(ZeRO1Strategy):
    """Gradients are split too."""

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """GradientShardedDDP and a ShardedOptimizer."""
        optimizer = _sharded(make_optimizer(model.named_parameters()))
        return GradientShardedDDP(model, optimizer), optimizer

    def clip_gradient(self, module: Any, max_norm: float) -> Tensor:
        """By the norm of all owners' gradients."""
        return clip_sharded_gradients(module.parameters(), [], max_norm)


def _sharded(optimizer: torch.optim.Optimizer) -> ShardedOptimizer:
    """An optimizer that has made no step yet, sharded."""
    return ShardedOptimizer(optimizer.param_groups, lambda groups: optimizer)


class FSDPStrategy(DDPStrategy):
    """Everything is split."""

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """FSDP and the plain optimizer on the shards."""
        module = FSDP(model, keep_whole=READ_DIRECTLY)
        optimizer = make_optimizer(model.named_parameters())
        if isinstance(optimizer, WHOLE_MATRIX):
            raise ValueError(
                f"{type(optimizer).__name__} looks at a matrix as a whole, of which FSDP gives each process some rows; "
                "use strategy zero1 or zero2, or the optimizer adamw, lion or schedule_free"
            )
        return module, optimizer

    def clip_gradient(self, module: Any, max_norm: float) -> Tensor:
        """By the norm of all shards, and of the replicated gradients once."""
        sharded = [weight.parameter for weight in module.weights.values()]
        return clip_sharded_gradients(sharded, module.replicated, max_norm)

    def weights(self, module: Any) -> dict[str, Tensor]:
        """Gathered one by one; rank 0 keeps them."""
        whole = self._gather_on_main(module)
        return {name: whole(p, p.detach()) for name, p in module.module.state_dict(keep_vars=True).items()}

    def _gather_on_main(self, module: FSDP) -> Callable[[Tensor, Tensor], Tensor]:
        """(parameter, rows) -> the whole tensor on the CPU of rank 0, and on the others nothing that takes memory."""

        def gathered(parameter: Tensor, rows: Tensor) -> Tensor:
            whole = module.whole(parameter, rows)
            return whole.cpu() if self.rank == 0 else whole.new_empty(0)

        return gathered

    def optimizer_state(self, module: Any, optimizer: Any) -> dict[str, Any] | None:
        """Moments have the shape of their shard and are gathered; counters stay."""
        state, gathered = optimizer.state_dict(), self._gather_on_main(module)
        return {**state, "state": _map_moments(state["state"], optimizer, lambda p: p.shape, gathered)}

    def average_state(self, module: Any, state: dict[str, Any]) -> dict[str, Any]:
        """Averages are shaped as the parameters."""
        parameters, gathered = dict(module.module.named_parameters()), self._gather_on_main(module)
        return {**state, "average": {name: gathered(parameters[name], a) for name, a in state["average"].items()}}

    def restore(self, state: dict[str, Any], module: Any, optimizer: Any) -> None:
        """Cut everything into rows."""
        checkpoint.check_entries(state)
        checkpoint.check_weights(state["model"], module.module, shape_of=module.full_shape)
        stored = state["optimizer"]
        try:
            parts = _map_moments(stored["state"], optimizer, module.full_shape, module.part)
            optimizer.load_state_dict({**stored, "state": parts})
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the checkpoint's optimizer state does not fit this optimizer: {error}") from error
        own = module.module.state_dict(keep_vars=True)
        module.module.load_state_dict({name: module.part(own[name], full) for name, full in state["model"].items()})
        if state.get("ema") is not None:
            average = state["ema"]["average"]
            state["ema"]["average"] = {name: module.part(own[name], full) for name, full in average.items()}


def _map_moments(
    states: dict[int, Any],
    optimizer: torch.optim.Optimizer,
    shape: Callable[[Tensor], torch.Size],
    change: Callable[[Tensor, Tensor], Tensor],
) -> dict[int, Any]:
    """A state dict's entries with `change(parameter, tensor)` for each tensor that has its parameter's `shape`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def changed(p: Tensor, value: Any) -> Any:
        return change(p, value) if isinstance(value, Tensor) and value.shape == shape(p) else value

    return {i: {k: changed(parameters[i], v) for k, v in states[i].items()} for i in sorted(states)}


STRATEGIES: dict[str, type[DDPStrategy]] = {
    "ddp": DDPStrategy,
    "zero1": ZeRO1Strategy,
    "zero2": ZeRO2Strategy,
    "fsdp": FSDPStrategy,
}


@contextlib.contextmanager
def joined_strategy(name: str, *, device: torch.device, timeout_s: float = COLLECTIVE_TIMEOUT_S) -> Iterator[Strategy]:
    """Join the group that torchrun has started and give the strategy `name` (see STRATEGIES) for `train`.

    Raises:
        ValueError: no such strategy, or not started by torchrun.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy={name!r} is not known; choose one of {sorted(STRATEGIES)}")
    with joined_group(device=device, timeout_s=timeout_s):
        yield STRATEGIES[name]()
