"""FSDP's exact mode: gradients of weights that equal those of one process on the whole batch, bit for bit.

    dx = from the own part of the batch
    dW = from x and dy / world_size of all processes, gathered along the first axis in rank order, by the layer's own
         forward and backward over the whole batch

A matrix product over all rows rounds differently from the sum of products over parts (about one unit in the last place
of 0.5 % of the entries), so averaging gradients can never equal one process. Doing the same product on the same rows
can, as long as the library computes each row of a product the same way however many rows there are (true on the CPUs
tried). The gradient of a sharded weight is cut to the own rows; that of a replicated one needs no averaging.

Every process does everybody's work for the weights, and communication grows with the activations: a mode to verify
with, on where `torch.use_deterministic_algorithms(True)` is. It covers Linear, Embedding and RMSNorm, whose first
argument must have the batch as its first axis, equally long everywhere. Read next: `fsdp.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cs336_systems.parallel.process_group import all_gather_rows
from cs336_systems.parallel.sharded_weight import ShardedWeight


def exact_forward(
    layer: nn.Module,
    weight: ShardedWeight | None,
    original: Callable[..., Tensor],
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    done: set[int],
) -> Tensor:
    """The layer's output, whose backward is that of the module's text.

    Args:
        layer: a module with one input and parameters of its own.
        weight: its sharded weight; None if all its parameters are replicated.
        original: its own forward.
        inputs, kwargs: what it was called with.
        done: gets the ids of replicated parameters whose gradients are complete.

    Raises:
        ValueError: more than one input.
    """
    if len(inputs) != 1 or kwargs:
        raise ValueError(f"exact mode knows layers of one input; {type(layer).__name__} got {len(inputs)} and {kwargs}")
    names = [name for name, p in layer._parameters.items() if p is not None]
    call = _Call(layer, weight, original, names, done)
    return _Exact.apply(call, inputs[0], *(layer._parameters[name] for name in names))


class _Call:
    """One call of a layer."""

    def __init__(self, layer: nn.Module, weight: ShardedWeight | None, original: Callable[..., Tensor],
                 names: list[str], done: set[int]):  # fmt: skip
        self.layer, self.weight, self.original, self.names, self.done = layer, weight, original, names, done

    def full_parameters(self) -> dict[str, Tensor]:
        """Copies without history, the sharded one gathered."""
        full = {name: self.layer._parameters[name].detach() for name in self.names}  # type: ignore[union-attr]
        if self.weight is not None:
            full["weight"] = self.weight.full(self.weight.parameter.dtype)
            self.weight.release()
        return full

    def run(self, x: Tensor, parameters: dict[str, Tensor]) -> Tensor:
        """The layer's own forward with these parameters."""
        with attributes_replaced(self.layer, parameters):
            return self.original(x)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(x)
        return call.run(x, call.full_parameters())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (x,), call, grad = ctx.saved_tensors, ctx.call, grads[0].contiguous()
        full = call.full_parameters()
        d_x = None
        if ctx.needs_input_grad[1]:
            own = x.detach().requires_grad_()
            with torch.enable_grad():
                (d_x,) = torch.autograd.grad(call.run(own, full), own, grad)
        wanted = [name for name, needed in zip(call.names, ctx.needs_input_grad[2:], strict=True) if needed]
        d_parameters = _whole_batch_gradients(call, full, wanted, x, grad) if wanted else {}
        return None, d_x, *(d_parameters.get(name) for name in call.names)


def _whole_batch_gradients(
    call: _Call, full: dict[str, Tensor], wanted: list[str], x: Tensor, grad: Tensor
) -> dict[str, Tensor]:
    """Gradients of the wanted parameters from everybody's rows: own rows of the sharded one, all of the others."""
    _check_equal_parts(x)
    every_x, every_grad = all_gather_rows(x.detach())[0], all_gather_rows(grad / dist.get_world_size())[0]
    for name in wanted:
        full[name].requires_grad_()
    with torch.enable_grad():
        found = torch.autograd.grad(call.run(every_x, full), [full[name] for name in wanted], every_grad)
    gradients = dict(zip(wanted, found, strict=True))
    for name in wanted:
        if call.weight is not None and name == "weight":
            gradients[name] = call.weight.own_rows(gradients[name])
        else:
            call.done.add(id(call.layer._parameters[name]))
    return gradients


def _check_equal_parts(x: Tensor) -> None:
    """Raise on every process unless all have inputs of one shape."""
    shapes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shapes, tuple(x.shape))
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"exact mode needs equally large parts of the batch on all processes; got {shapes}")


@contextlib.contextmanager
def attributes_replaced(layer: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """While inside, `layer.name` is the given tensor; the registered parameters stay what they are."""
    layer.__dict__.update(values)
    try:
        yield
    finally:
        for name in values:
            del layer.__dict__[name]
