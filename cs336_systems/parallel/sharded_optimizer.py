"""ZeRO stage 1: each process keeps the optimizer's state of some parameters, updates these, and sends them to the rest.

    step:   copy hyperparameters -> the inner optimizer steps the parameters this process owns -> broadcast from owners

Adam keeps 8 bytes per float32 parameter, of which N processes hold 8/N each. Whole parameters are given out, largest
first, each to the process that owns least so far: an update then sees what it sees on one process, so the result is the
same bit for bit, also for optimizers that look at a matrix as a whole (Muon, SOAP, Adafactor). The price is balance:
one table larger than the rest together stays with one process. A process may own nothing.

`param_groups` lists all parameters everywhere, so zero_grad and schedules work as ever. The state of a checkpoint is
that of the same optimizer on one process, whatever number of processes writes or reads it.

Source: Rajbhandari et al. 2019 (ZeRO), P_os. Handout: optimizer_state_sharding. Left out: sharding within a parameter
(`fsdp.py`). Read next: `gradient_sharding.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cs336_basics.optimizer import EagerOptimizer
from cs336_systems.parallel.process_group import broadcast_tensors, require_group


class ShardedOptimizer(EagerOptimizer):
    """`optimizer_cls(params, **kwargs)` with its state split over the processes.

    Args:
        params: all parameters or groups, in the same order on every process; gradients must be the same everywhere
            (or at least right at the owner) when `step` is called.
        optimizer_cls: the class of an optimizer that updates each parameter by itself, or a function that makes one.

    Raises:
        RuntimeError: there is no process group.
        ValueError: the optimizer is LBFGS, whose step is not one parameter's.
    """

    def __init__(self, params: Iterable[Any], optimizer_cls: Callable[..., torch.optim.Optimizer], **kwargs: Any):
        require_group()
        self.rank, self.owners = dist.get_rank(), dict[Tensor, int]()
        self._loads = [0] * dist.get_world_size()
        self.inner = optimizer_cls(params, **kwargs)  # has all parameters until `_keep_own` takes the others' away
        if isinstance(self.inner, torch.optim.LBFGS):
            raise ValueError("LBFGS looks at all parameters at once and cannot be sharded; use another optimizer")
        whole = [{**group, "params": list(group["params"])} for group in self.inner.param_groups]
        self._building = True
        super().__init__(whole, self.inner.defaults)
        self._building = False

    def owner(self, p: Tensor) -> int:
        """The process that updates `p`."""
        return self.owners[p]

    def choose_owner(self, p: Tensor) -> int:
        """The process that owns least so far; every process must choose the same."""
        return self._loads.index(min(self._loads))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters during training; every process must do so."""
        if not self._building:
            self.inner.add_param_group(dict(param_group))
            new = self.inner.param_groups[-1]
            param_group = {**new, "params": list(new["params"])}
        super().add_param_group(param_group)
        self._keep_own(len(self.param_groups) - 1)

    def _keep_own(self, index: int) -> None:
        """Give out the parameters of a new group and leave the inner optimizer those of this process."""
        for p in sorted(self.param_groups[index]["params"], key=lambda p: -p.numel()):
            self.owners[p] = self.choose_owner(p)
            self._loads[self.owners[p]] += p.numel()
        group = self.inner.param_groups[index]
        for p in group["params"]:
            if self.owners[p] != self.rank:
                self.inner.state.pop(p, None)
        group["params"] = [p for p in group["params"] if self.owners[p] == self.rank]

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Update the own parameters and receive the others'; return what the inner optimizer returns."""
        copy_hyperparameters(self.param_groups, self.inner.param_groups)
        result = self.inner.step(**kwargs) if closure is None else self.inner.step(closure, **kwargs)
        copy_hyperparameters(self.inner.param_groups, self.param_groups)
        self.send(self.owners)
        return result

    @torch.no_grad()
    def send(self, owners: dict[Tensor, int]) -> None:
        """Overwrite each tensor by its owner's, in the same order on every process."""
        for rank in range(dist.get_world_size()):
            broadcast_tensors([p for p, owner in owners.items() if owner == rank], source=rank)

    def __getattr__(self, name: str) -> Any:
        """An optimizer that averages weights (schedule-free) offers the average here too."""
        if name == "evaluation_weights" and hasattr(self.__dict__.get("inner"), name):
            return self._evaluation_weights
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _evaluation_weights(self) -> dict[Tensor, Tensor]:
        own = self.inner.evaluation_weights()  # type: ignore[attr-defined]
        values = {p: own.get(p, p).detach().clone() for p in self.owners}
        self.send({value: self.owners[p] for p, value in values.items()})
        return values

    # State: always in the layout of the same optimizer on one process

    def _places(self) -> dict[Tensor, int]:
        """The number of each parameter in a state dict."""
        return {p: place for place, p in enumerate(p for group in self.param_groups for p in group["params"])}

    def _own_state(self) -> dict[int, Any]:
        places = self._places()
        own = [places[p] for group in self.inner.param_groups for p in group["params"]]
        states = self.inner.state_dict()["state"]
        return {own[index]: {k: _on_cpu(v) for k, v in state.items()} for index, state in states.items()}

    def _whole_state(self, parts: Iterable[dict[int, Any]]) -> dict[str, Any]:
        places = self._places()
        groups = [{**group, "params": [places[p] for p in group["params"]]} for group in self.param_groups]
        merged = {place: state for part in parts for place, state in part.items()}
        return {"state": dict(sorted(merged.items())), "param_groups": groups}

    def state_dict(self) -> dict[str, Any]:
        """The whole state, on the CPU of every process; all must call it."""
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self._own_state())
        return self._whole_state(parts)

    def consolidated_state_dict(self) -> dict[str, Any] | None:
        """The whole state on rank 0, None on the others, which need no memory for it; all must call it."""
        parts: list[Any] | None = [None] * dist.get_world_size() if self.rank == 0 else None
        dist.gather_object(self._own_state(), parts)
        return None if parts is None else self._whole_state(parts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this process's part of a whole state.

        Raises:
            ValueError: the state has other groups or numbers of parameters.
        """
        sizes = [
            [len(group["params"]) for group in groups] for groups in (state_dict["param_groups"], self.param_groups)
        ]
        if sizes[0] != sizes[1]:
            raise ValueError(f"the state has parameter groups of sizes {sizes[0]}, this optimizer {sizes[1]}")
        places, state, groups, own = self._places(), {}, [], 0
        for stored, group in zip(state_dict["param_groups"], self.inner.param_groups, strict=True):
            first = own
            for p in group["params"]:
                if places[p] in state_dict["state"]:
                    state[own] = state_dict["state"][places[p]]
                own += 1
            groups.append({**stored, "params": list(range(first, own))})
        self.inner.load_state_dict({"state": state, "param_groups": groups})
        copy_hyperparameters(self.inner.param_groups, self.param_groups)


def copy_hyperparameters(source: list[dict[str, Any]], target: list[dict[str, Any]]) -> None:
    """Give each group of `target` everything but the parameters of its counterpart."""
    for old, new in zip(source, target, strict=True):
        new.update({key: value for key, value in old.items() if key != "params"})


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value
