"""Optimizer state on the CPU for a model that lives elsewhere: 8 of AdamW's 16 bytes per parameter leave the GPU.

    step:   gradients -> CPU;   update copies of the weights there;   copies -> the model

The arithmetic is that of the optimizer it wraps, on the CPU, so the result is bit for bit that of training the copies
there with the same gradients. The copies may have a wider dtype than the model: bfloat16 weights then have float32
masters, and updates smaller than a bfloat16 step are not lost.

Ren et al. 2021 (ZeRO-Offload), 2101.06840. Left out: overlapping the transfers with the backward pass. Read next:
`sharded_optimizer.py`, whose part on a process can be offloaded too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from cs336_basics.optimizer import EagerOptimizer


def offload(optimizer: torch.optim.Optimizer, *, dtype: torch.dtype | None = None) -> OffloadedOptimizer:
    """An optimizer that has made no step yet, with its state on the CPU from now on; see `OffloadedOptimizer`."""
    groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]

    def on_copies(first: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer.param_groups.clear()
        optimizer.state.clear()
        for group in first:
            optimizer.add_param_group(group)
        return optimizer

    return OffloadedOptimizer(groups, on_copies, dtype=dtype)


class OffloadedOptimizer(EagerOptimizer):
    """Wraps an optimizer class so that its state, and a copy of the weights, are on the CPU.

    `param_groups` hold the model's parameters, for schedules and zero_grad; their hyperparameters are copied to the
    inner optimizer before each step. A weight that was changed in place between steps (a loaded checkpoint, clipping)
    is copied anew; replacing `p.data` by another tensor is not noticed.

    Args:
        params: parameters or groups, on any device.
        optimizer_cls: called as optimizer_cls(groups, **kwargs) with the copies.
        dtype: of the copies; the parameters' own by default.

    Raises:
        ValueError: no parameters (from torch).
    """

    def __init__(
        self,
        params: Iterable[Any],
        optimizer_cls: Callable[..., torch.optim.Optimizer],
        *,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ):
        self._make_inner: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] = lambda groups: optimizer_cls(
            groups, **kwargs
        )
        self._inner: torch.optim.Optimizer | None = None
        self._dtype = dtype
        self._copies: dict[Tensor, Tensor] = {}
        self._versions: dict[Tensor, int] = {}
        super().__init__(params, {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; called for each one by torch's constructor too."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        own = {key: value for key, value in group.items() if key != "params"}
        inner_group = {**own, "params": [self._copy_of(p) for p in group["params"]]}
        if self._inner is None:
            self._inner = self._make_inner([inner_group])
        else:
            self._inner.add_param_group(inner_group)
        group.update({key: value for key, value in self._inner.param_groups[-1].items() if key != "params"})

    def _copy_of(self, p: Tensor) -> Tensor:
        """A parameter on the CPU with the values of `p`; pinned where a GPU reads it, so that transfers are fast."""
        copy = p.detach().to("cpu", self._dtype or p.dtype, copy=True)
        copy = copy.pin_memory() if p.device.type == "cuda" else copy
        self._copies[p], self._versions[p] = copy.requires_grad_(p.requires_grad), p._version
        return copy

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update every parameter that has a gradient; return the closure's loss if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        assert self._inner is not None
        self._pass_hyperparameters()
        updated = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in updated:
            copy = self._copies[p]
            if p._version != self._versions[p]:
                copy.copy_(p)
            assert p.grad is not None
            copy.grad = p.grad.to("cpu", copy.dtype)
        self._inner.step()
        for p in updated:
            p.copy_(self._copies[p])
            self._versions[p], self._copies[p].grad = p._version, None
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, and the copies where their dtype is not the model's."""
        assert self._inner is not None
        self._pass_hyperparameters()
        state = self._inner.state_dict()
        if self._dtype is not None:
            state["copies"] = [copy.detach().clone() for copy in self._ordered_copies()]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave; load the model's weights first."""
        assert self._inner is not None
        self._inner.load_state_dict({key: value for key, value in state_dict.items() if key != "copies"})
        for group, inner_group in zip(self.param_groups, self._inner.param_groups, strict=True):
            group.update({key: value for key, value in inner_group.items() if key != "params"})
        for p, copy in self._copies.items():
            copy.detach().copy_(p.detach())
            self._versions[p] = p._version
        for copy, saved in zip(self._ordered_copies(), state_dict.get("copies", ()), strict=False):
            copy.detach().copy_(saved)

    def __getattr__(self, name: str) -> Any:
        """An optimizer that averages weights (schedule-free) offers the average here too."""
        if name == "evaluation_weights" and hasattr(self.__dict__.get("_inner"), name):
            return self._evaluation_weights
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _evaluation_weights(self) -> dict[Tensor, Tensor]:
        averages = self._inner.evaluation_weights()  # type: ignore[union-attr]
        return {p: averages[copy].to(p) for p, copy in self._copies.items() if copy in averages}

    def _ordered_copies(self) -> list[Tensor]:
        """In the order of the groups."""
        return [self._copies[p] for group in self.param_groups for p in group["params"]]

    def _pass_hyperparameters(self) -> None:
        """Let the inner optimizer see learning rates and the like as they are now."""
        assert self._inner is not None
        for group, inner_group in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner_group.update({key: value for key, value in group.items() if key != "params"})
