"""Strategies that split what data parallel repeats: the optimizer's state, gradients, weights (ZeRO stages 1 to 3).

A process of ZeRO 1 and 2 owns whole parameters, so any optimizer works. FSDP cuts each weight into rows and refuses
optimizers that look at a matrix as a whole (Muon, SOAP, Adafactor).

Handout: optimizer_state_sharding, fsdp. Read next: `shared_batch_strategies.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cs336_basics import checkpoint
from cs336_basics.optimizers.adafactor import Adafactor
from cs336_basics.optimizers.muon import Muon
from cs336_basics.optimizers.soap import SOAP
from cs336_systems.parallel.fsdp import FSDP
from cs336_systems.parallel.gradient_sharding import GradientShardedDDP
from cs336_systems.parallel.group_strategy import (
    DDPStrategy,
    GroupStrategy,
    MakeOptimizer,
    finish_data_parallel,
    placed,
    prepared,
)
from cs336_systems.parallel.process_group import clip_sharded_gradients
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer

WHOLE_MATRIX = (Muon, SOAP, Adafactor)
READ_DIRECTLY = ("router", "kv_up", "filter")
"""submodules of our variants whose weights are read by others than their own forward"""


class ZeRO1Strategy(DDPStrategy):
    """The optimizer's state is split."""

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """DDPBucketed and a ShardedOptimizer."""
        ddp = self.data_parallel(prepared(model, self.parallel))
        return ddp, self.sharded(make_optimizer(model.named_parameters()))

    def sharded(self, optimizer: torch.optim.Optimizer) -> ShardedOptimizer:
        """An optimizer that has made no step yet, sharded; what is left to this process may go to the CPU."""
        whole = ShardedOptimizer(optimizer.param_groups, lambda groups: optimizer)
        whole.inner = placed(whole.inner, self.parallel)
        return whole

    def optimizer_state(self, module: Any, optimizer: Any) -> dict[str, Any] | None:
        """Gathered on rank 0."""
        return optimizer.consolidated_state_dict()


class ZeRO2Strategy(ZeRO1Strategy):
    """Gradients are split too."""

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """GradientShardedDDP and a ShardedOptimizer."""
        optimizer = self.sharded(make_optimizer(prepared(model, self.parallel).named_parameters()))
        return GradientShardedDDP(model, optimizer, bucket_size_mb=self.parallel.bucket_mb), optimizer

    def clip_gradient(self, module: Any, max_norm: float) -> Tensor:
        """By the norm of all owners' gradients."""
        return clip_sharded_gradients(module.parameters(), [], max_norm)


class PartsStrategy(GroupStrategy):
    """The base of those whose processes hold parts of tensors.

    Their wrapper tells by `whole`, `part` and `full_shape` how a tensor that is cut as a parameter is relates to the
    uncut one, and lists the parameters that are cut (`sharded`) and those that are not (`replicated`).
    """

    def cut(self, model: nn.Module) -> Any:
        """The wrapper of a model that is cut in place."""
        raise NotImplementedError

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """The wrapper and the plain optimizer on the parts."""
        module = self.cut(prepared(model, self.parallel))
        optimizer = make_optimizer(model.named_parameters())
        if isinstance(optimizer, WHOLE_MATRIX):
            raise ValueError(
                f"{type(optimizer).__name__} looks at a matrix as a whole, of which strategy {self.parallel.strategy} "
                "gives each process a part; use strategy zero1 or zero2, or the optimizer adamw, lion or schedule_free"
            )
        return module, placed(optimizer, self.parallel)

    def clip_gradient(self, module: Any, max_norm: float) -> Tensor:
        """By the norm of all shards, and of the replicated gradients once."""
        return clip_sharded_gradients(module.sharded, module.replicated, max_norm)

    def weights(self, module: Any) -> dict[str, Tensor]:
        """Gathered one by one; rank 0 keeps them."""
        whole = self._gather_on_main(module)
        return {name: whole(p, p.detach()) for name, p in module.module.state_dict(keep_vars=True).items()}

    def _gather_on_main(self, module: Any) -> Callable[[Tensor, Tensor], Tensor]:
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
        """Cut everything into parts."""
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


class FSDPStrategy(PartsStrategy):
    """Rows of every weight; see `fsdp.py`."""

    def cut(self, model: nn.Module) -> FSDP:
        """FSDP with the weights that our variants read directly left whole."""
        return FSDP(model, keep_whole=READ_DIRECTLY)

    def finish_gradients(self, module: FSDP) -> None:
        """Wait for the means; the experts' loads are summed as in data parallel."""
        finish_data_parallel(module)
