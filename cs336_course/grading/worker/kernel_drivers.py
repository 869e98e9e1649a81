"""Driver of assignment 2's kernels: classes of torch.autograd.Function, forward and backward.

Triton kernels run on a GPU where there is one, else in Triton's interpreter. Read next: `parallel_drivers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .drivers import Inputs, SchemaError
from .drivers import _array as array


def autograd_function(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Output, gradients for a given output gradient, and what was saved in between.

    Inputs: `getter` (adapter that returns the class), `tensors`, `flags` (further positional arguments), `weight` (None:
    the sum of the output is differentiated, which sends back an expanded one), `saved_shape` (which saved tensors to
    return), `watch` (find the largest intermediate of forward). Without `backward`, forward only.
    """
    import torch

    function = getattr(adapters, inputs["getter"])()
    if not (isinstance(function, type) and issubclass(function, torch.autograd.Function)):
        raise SchemaError(f"{inputs['getter']} must return a class of torch.autograd.Function")
    device = "cuda" if inputs["getter"].endswith("triton") and torch.cuda.is_available() else "cpu"
    leaves = [torch.from_numpy(value.copy()).to(device).requires_grad_() for value in inputs["tensors"]]
    largest = None
    if inputs.get("watch"):
        with _watcher() as watch:
            out = function.apply(*leaves, *inputs["flags"])
        largest = watch.largest
    else:
        out = function.apply(*leaves, *inputs["flags"])
    saved = [t for t in getattr(out.grad_fn, "saved_tensors", ()) if t is not None]
    answer: dict[str, Any] = {
        "out": array(out),
        "saved": [array(t) for t in saved if list(t.shape) == inputs.get("saved_shape")],
        "saved_sizes": [int(t.numel()) for t in saved],
        "largest": largest,
        "gradients": [],
    }
    if inputs["backward"]:
        weight = inputs["weight"]
        (out.sum() if weight is None else (out * torch.from_numpy(weight).to(device)).sum()).backward()
        answer["gradients"] = [None if leaf.grad is None else array(leaf.grad) for leaf in leaves]
    return answer


def _watcher() -> Any:
    """A context that sees every operation of torch below autograd and keeps the largest size of a result."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if hasattr(value, "numel"):
                    self.largest = max(self.largest, int(np.prod(value.shape)))
            return result

    return Watch()


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {"autograd_function": autograd_function}
