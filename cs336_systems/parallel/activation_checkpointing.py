"""Activation checkpointing: keep a segment's input instead of everything computed in it, and compute it again later.

    forward    run the segment without recording; keep its input and the state of the random generators
    backward   restore the generators, run the segment once more with recording, and differentiate that

It costs one more forward pass and saves the residuals, all that the layers inside would have kept for their gradients.
A plan says what is checkpointed: a tree whose leaves are the layers and whose inner tuples are checkpoints.

    none  (0, 1, 2, 3)      all  ((0,), (1,), (2,), (3,))      every 2  ((0, 1), (2, 3))
    nested (recursive halving)  (((0,), (1,)), ((2,), (3,)))

What a plan costs is counted in `checkpointing_plan.py`. `torch.utils.checkpoint` is the library's form, and the oracle
here. Chen et al. 2016, 1604.06174; handout (2026): gradient_checkpointing. Left out: choosing single operations
(selective checkpointing), offloading inputs. Read next: `optimizer_offload.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cs336_basics.model import TransformerLM
from cs336_systems.parallel.checkpointing_plan import Plan, check_plan


class _Checkpoint(torch.autograd.Function):
    """The parameters are inputs too, so that their gradients flow through the graph around the checkpoint.

    Hooks on them then fire once, after the last use, and `torch.autograd.grad` works.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], num_parameters: int, *tensors: Tensor) -> Tensor:
        inputs, parameters = tensors[: len(tensors) - num_parameters], tensors[len(tensors) - num_parameters :]
        ctx.function, ctx.parameters = function, parameters
        ctx.save_for_backward(*inputs)
        ctx.surroundings = _Surroundings(inputs[0].device)
        return function(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in ctx.saved_tensors]
        with torch.enable_grad(), ctx.surroundings.restored():
            # autocast treats leaves in another way, so the function gets none, as in the first run
            output = ctx.function(*(x.view_as(x) for x in inputs))
        sources = [x for x, wanted in zip((*inputs, *ctx.parameters), needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(output, sources, grads[0], allow_unused=True))
        return None, None, *(next(found) if wanted else None for wanted in needed)


class _Surroundings:
    """What a second run of a function needs beside its inputs: random states and autocast, as they are now."""

    def __init__(self, device: torch.device):
        self.device, kind = device, device.type
        self.cpu_state = torch.get_rng_state()
        self.device_state = torch.cuda.get_rng_state(device) if kind == "cuda" else None
        self.autocast: dict[str, Any] = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Inside, everything is as it was; afterwards the random states are as if nothing had happened."""
        devices = [self.device] if self.device_state is not None else []
        with torch.random.fork_rng(devices=devices), torch.autocast(**self.autocast):
            torch.set_rng_state(self.cpu_state)
            if self.device_state is not None:
                torch.cuda.set_rng_state(self.device_state, self.device)
            yield


def checkpoint(function: Callable[..., Tensor], *inputs: Tensor, parameters: Sequence[Tensor] = ()) -> Tensor:
    """`function(*inputs)`, of which only the inputs are kept for the backward pass.

    Args:
        function: of tensors, to one tensor; it must compute the same when called again with the same random numbers.
        inputs: at least one tensor.
        parameters: every other tensor inside whose gradient is wanted. One that is left out gets none.

    Raises:
        ValueError: no input, or (where gradients are recorded) nothing in it that needs a gradient.
    """
    if not inputs:
        raise ValueError("a checkpoint keeps its inputs; got none")
    if not torch.is_grad_enabled():
        return function(*inputs)
    if not any(x.requires_grad for x in (*inputs, *parameters)):
        raise ValueError("nothing in this checkpoint needs a gradient; pass the module's parameters as parameters=...")
    return _Checkpoint.apply(function, len(parameters), *inputs, *parameters)


def run_plan(plan: Plan, layers: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Run layers in the order of the plan, each tuple inside it as a checkpoint.

    Args:
        plan: leaves are indices of layers.
        layers: functions of one tensor; of those that are modules the parameters are found.
    """
    for item in plan:
        if isinstance(item, int):
            x = layers[item](x)
        else:
            inner = [layers[index] for index in _leaves(item)]
            parameters = [p for layer in inner if isinstance(layer, nn.Module) for p in layer.parameters()]
            unique = list({id(p): p for p in parameters if p.requires_grad}.values())
            x = checkpoint(lambda y, item=item: run_plan(item, layers, y), x, parameters=unique)
    return x


def _leaves(plan: Plan) -> list[int]:
    """Indices in order."""
    return [leaf for item in plan for leaf in ([item] if isinstance(item, int) else _leaves(item))]


class _AtPositions(nn.Module):
    """A block with its token positions filled in."""

    def __init__(self, layer: nn.Module, positions: Tensor):
        super().__init__()
        self.layer, self.positions = layer, positions

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.positions)


class CheckpointedTransformerLM(TransformerLM):
    """A TransformerLM that follows a plan while gradients are recorded; made by `checkpoint_activations`."""

    plan: Plan

    def hidden_states(
        self, token_ids: Int[Tensor, "... seq"], cache: list[Any] | None = None, start: int = 0
    ) -> Float[Tensor, "... seq d_model"]:
        """As TransformerLM; with a cache, or without gradients, nothing is checkpointed."""
        seq = token_ids.shape[-1]
        if cache is not None or not torch.is_grad_enabled() or start + seq > self.config.context_length:
            return super().hidden_states(token_ids, cache, start)
        positions = torch.arange(start, start + seq, device=token_ids.device)
        layers = [_AtPositions(layer, positions) for layer in self.layers]
        return self.ln_final(run_plan(self.plan, layers, self._embed(token_ids, positions)))


def checkpoint_activations(model: TransformerLM, plan: Plan) -> CheckpointedTransformerLM:
    """Make a model follow a plan, in place: weights, names and results stay; see `checkpointing_plan.py` for plans.

    Raises:
        ValueError: a plan that is not each layer once in order, or a variant whose layers leave something behind
            beside their output (an auxiliary loss, a stream they share).
    """
    check_plan(plan, model.config.num_layers)
    if model.config.moe is not None or model.stream is not None:
        raise ValueError(
            "a checkpoint keeps what goes in and what comes out of a layer; mixtures of experts and streams shared "
            "between layers leave more behind; train them without activation checkpointing"
        )
    model.__class__ = CheckpointedTransformerLM
    assert isinstance(model, CheckpointedTransformerLM)
    model.plan = plan
    return model
