"""Fully sharded data parallel (ZeRO stage 3): each process keeps its rows of every Linear and Embedding weight.

    forward of a layer:    gather its weight -> compute -> drop it; begin to gather the next layer's meanwhile
    backward of a layer:   gather again -> gradients -> drop it; scatter the mean of the weight's gradient

Per float32 parameter a process holds 16/N bytes (weight, gradient, moments) plus two gathered layers. The module is
changed in place: its classes and the names of its parameters stay, `parameters()` are the shards, and every other
parameter (norms, biases) is whole on every process, its gradient averaged at the end. Autograd keeps a pointer to "this
layer's weight" where it would keep the weight (`saved_tensors_hooks`), and gathers it anew when backward asks; the
arithmetic is that of the unsharded layer.

With `compute_dtype`, weights are cast before they are sent and layers compute in it; shards, gradients and replicated
parameters stay as they are (float32). Under autocast a Linear's weight is sent in autocast's dtype.

Equal to one process on the whole batch up to the rounding of sums (about 1e-8 in float32): one product over all rows
rounds differently from the sum of two over halves. Where `torch.use_deterministic_algorithms` is on, the exact mode of
`fsdp_exact.py` removes even that, at a price.

All processes must run the same layers in the same order; a layer that only some of them run is an error after the
group's time limit. A weight that is read other than through its module's forward must be named in `keep_whole`.

Source: Rajbhandari et al. 2019 (ZeRO), P_os+g+p; Zhao et al. 2023 (PyTorch FSDP). Handout: fsdp. Left out:
torch.compile, building a model that no process can hold whole. Read next: `fsdp_exact.py`, `strategies.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cs336_basics.layers import Embedding, Linear, RMSNorm
from cs336_systems.parallel.ddp import fill_buckets, forget_unused, persistent_buffers
from cs336_systems.parallel.fsdp_exact import attributes_replaced, exact_forward
from cs336_systems.parallel.process_group import broadcast_tensors, check_same_module, require_group
from cs336_systems.parallel.sharded_weight import ShardedWeight

SHARDED_CLASSES = (Linear, Embedding, nn.Linear, nn.Embedding)


class FSDP(nn.Module):
    """Call it as the module, then `finish_gradient_synchronization` after the backward (or the last of several).

    Args:
        module: every process's own copy; rank 0's values are taken. Changed in place.
        compute_dtype: dtype of weights and activations in forward and backward; None for that of the weights.
        keep_whole: names of submodules, such as "router", at or below which weights are not sharded.

    Raises:
        RuntimeError: there is no process group.
        ValueError: the processes hold different modules, a tensor is where the group cannot send it, or compute_dtype
            is no floating-point type.
    """

    def __init__(self, module: nn.Module, compute_dtype: torch.dtype | None = None, *, keep_whole: Sequence[str] = ()):
        super().__init__()
        require_group()
        if compute_dtype is not None and not compute_dtype.is_floating_point:
            raise ValueError(f"compute_dtype must be a floating-point type such as torch.float16; got {compute_dtype}")
        check_same_module(module)
        broadcast_tensors([*module.parameters(), *module.buffers()])
        self.module, self.compute_dtype = module, compute_dtype
        self.weights = self._shard(keep_whole)
        self._order = _Prefetch()
        self._exact: set[int] = set()  # replicated parameters whose gradient is that of the whole batch already
        for layer in module.modules():
            weight = self.weights.get(id(getattr(layer, "weight", None)))
            if weight is not None or isinstance(layer, RMSNorm):
                layer.forward = _forward_of(layer, weight, self)
        self.sharded = [weight.parameter for weight in self.weights.values()]
        self.replicated = [p for p in module.parameters() if id(p) not in self.weights]
        self._shared_buffers = persistent_buffers(module)

    def _shard(self, keep_whole: Sequence[str]) -> dict[int, ShardedWeight]:
        """Replace the weights of Linear and Embedding modules; returns them by the id of their shard."""
        by_original: dict[Tensor, ShardedWeight] = {}  # tied modules share one
        for name, layer in self.module.named_modules():
            if isinstance(layer, SHARDED_CLASSES) and not set(name.split(".")) & set(keep_whole):
                original: Any = layer.weight
                if original not in by_original:
                    by_original[original] = ShardedWeight(original)
                layer.weight = by_original[original].parameter
        for name, p in self.module.named_parameters():
            if p in by_original:
                raise ValueError(f"{name} is also the weight of a layer to be sharded; name that layer in keep_whole")
        return {id(weight.parameter): weight for weight in by_original.values()}

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's own."""
        with self._order.learning():
            return self.module(*inputs, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """For symmetry with DDP: shards are averaged in every backward, the rest by the one finish at the end."""
        yield

    @torch.no_grad()
    def finish_gradient_synchronization(self) -> None:
        """Wait for all shards' gradients and average those of the replicated parameters."""
        for weight in self.weights.values():
            weight.settle()
            weight.release()
        inexact = [p for p in self.replicated if p.requires_grad and id(p) not in self._exact]
        used = [p.grad is not None for p in inexact]
        for bucket in fill_buckets(inexact, bucket_bytes=float("inf")):
            bucket.launch()
            bucket.wait()
        forget_unused(inexact, used)
        self._exact.clear()
        broadcast_tensors(self._shared_buffers)

    def gather_full_params(self) -> dict[str, Tensor]:
        """Every parameter in full, by its name in the wrapped module; all processes must call it."""
        return {name: self.whole(p, p.detach()) for name, p in self.module.named_parameters()}

    def whole(self, parameter: Tensor, rows: Tensor) -> Tensor:
        """All rows of a tensor that is sharded as `parameter` is; `rows` itself where the parameter is replicated."""
        weight = self.weights.get(id(parameter))
        return rows if weight is None else weight.all_rows(rows)

    def part(self, parameter: Tensor, full: Tensor) -> Tensor:
        """The inverse of `whole`: this process's rows."""
        weight = self.weights.get(id(parameter))
        return full if weight is None else weight.own_rows(full)

    def full_shape(self, parameter: Tensor) -> torch.Size:
        """The shape that `parameter` has in the unsharded module."""
        weight = self.weights.get(id(parameter))
        return parameter.shape if weight is None else weight.shape


class _Prefetch:
    """Which layer follows which, learnt from the last pass; at most two layers are gathered at a time.

    Layers also run outside of a pass: in evaluation, and again in backward where activations are checkpointed. They
    teach nothing there, and the latter go backwards from segment to segment, so nothing is gathered ahead of them.
    """

    def __init__(self) -> None:
        self._is_learning = False
        self.after: dict[int, tuple[ShardedWeight, torch.dtype]] = {}
        self.before: dict[int, tuple[ShardedWeight, torch.dtype]] = {}
        self._last: tuple[int, ShardedWeight, torch.dtype] | None = None

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        """One forward pass."""
        self._last, self._is_learning = None, True
        try:
            yield
        finally:
            self._is_learning = False

    def entered(self, layer: int, weight: ShardedWeight, dtype: torch.dtype) -> None:
        """A layer begins its forward: the layer before it is done, so the next one's weight may come."""
        if self._is_learning and self._last is not None:
            self.after[self._last[0]] = (weight, dtype)
            self.before[layer] = self._last[1:]
        self._last = (layer, weight, dtype)
        if layer in self.after and (self._is_learning or not torch.is_grad_enabled()):
            self.after[layer][0].start_gather(self.after[layer][1])

    def needed_in_backward(self, layer: int) -> None:
        """Backward has come to a layer: the one before it is next, if backward needs its weight at all."""
        if layer in self.before and self.before[layer][0].needed_in_backward:
            self.before[layer][0].start_gather(self.before[layer][1])


def _forward_of(layer: nn.Module, weight: ShardedWeight | None, fsdp: FSDP) -> Callable[..., Any]:
    """The forward that takes the place of the layer's own."""
    original = layer.forward

    def forward(*inputs: Any, **kwargs: Any) -> Any:
        held: Any = layer.weight if weight is None else weight.parameter
        device = held.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        exact = torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled()
        if exact and fsdp.compute_dtype is None and autocast is None:
            return exact_forward(layer, weight, original, inputs, kwargs, done=fsdp._exact)
        if weight is None:
            return original(*inputs, **kwargs)
        is_linear = isinstance(layer, (Linear, nn.Linear))
        dtype = fsdp.compute_dtype or (autocast if is_linear and autocast else weight.parameter.dtype)
        fsdp._order.entered(id(layer), weight, dtype)
        replaced = {"weight": weight.gathered(dtype)}
        if fsdp.compute_dtype is not None:
            inputs = tuple(_cast(value, dtype) for value in inputs)
            others = {name: p for name, p in layer._parameters.items() if name != "weight" and p is not None}
            replaced |= {name: p.to(dtype) for name, p in others.items()}
        pack, unpack = _pointer_hooks(replaced["weight"], weight, lambda: fsdp._order.needed_in_backward(id(layer)))
        with attributes_replaced(layer, replaced), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            return original(*inputs, **kwargs)

    return forward


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _pointer_hooks(
    full: Tensor, weight: ShardedWeight, reached: Callable[[], None]
) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
    """Functions by which autograd keeps views of the gathered weight as their geometry, and all else as it is."""
    storage, dtype = full.untyped_storage().data_ptr(), full.dtype

    def pack(saved: Tensor) -> Any:
        if saved.numel() == 0 or saved.untyped_storage().data_ptr() != storage:
            return saved
        weight.needed_in_backward = True
        return saved.shape, saved.stride(), saved.storage_offset()

    def unpack(kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        again = weight.full(dtype)
        reached()
        return again.as_strided(*kept)

    return pack, unpack
