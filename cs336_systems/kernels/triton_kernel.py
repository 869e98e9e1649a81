"""Triton where it is wanted: kernels that become Triton's at their first launch, and checks before a launch.

    @kernel
    def double(X, Y, N, BLOCK: tl.constexpr): ...          # plain text until
    double[grid](x, y, n, BLOCK=1024)                      # the first launch imports Triton and hands it over

Importing a module of kernels thus needs neither Triton nor a GPU. A machine without a GPU runs the kernels slowly in
Triton's interpreter: set TRITON_INTERPRET=1 in the environment before Python starts. The interpreter computes bfloat16
wrongly without saying so, hence it is refused there.

Custom operators (`torch.library.custom_op`) stand around each launch so that torch.compile takes it as one node, in
both worlds. Left out: tuning; the choice of tiles is a table beside each kernel. Read next: `weighted_sum.py`, the
first kernel to read.
"""

from __future__ import annotations

import contextlib
import importlib
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

tl: Any = None
"""stands for triton.language in the text of kernels; bound at the first launch"""

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETER_PROGRAMS = 3
"""programs of a persistent kernel in the interpreter: enough that each handles several rows, and some one less"""


def import_triton() -> Any:
    """The package, or an ImportError that says how to get it."""
    try:
        return importlib.import_module("triton")
    except ModuleNotFoundError as error:
        raise ImportError(
            "this kernel needs Triton, which exists for Linux: pip install triton; the PyTorch form of every kernel "
            "(the classes ending in PyTorch) needs nothing more"
        ) from error


class Kernel:
    """A function in Triton's language; `kernel[grid](...)` launches it, as with triton.jit."""

    def __init__(self, function: Callable[..., None]):
        self.function, self.__doc__, self.__name__ = function, function.__doc__, function.__name__
        self._jitted: Any = None

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        return self.jitted()[grid]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Kernels call each other in Triton's world only."""
        raise TypeError(f"{self.__name__} is a Triton kernel; launch it with {self.__name__}[grid](...)")

    def jitted(self) -> Any:
        """What triton.jit makes of a copy of the function that sees `tl` and the kernels it calls."""
        if self._jitted is None:
            triton, function = import_triton(), self.function
            used = {name: function.__globals__.get(name) for name in function.__code__.co_names}
            called = {name: value.jitted() for name, value in used.items() if isinstance(value, Kernel)}
            scope = function.__globals__ | called | {"tl": triton.language}
            copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
            copy.__annotations__, copy.__module__ = function.__annotations__, function.__module__
            copy.__qualname__, copy.__kwdefaults__ = function.__qualname__, function.__kwdefaults__
            self._jitted = triton.jit(copy)
        return self._jitted


def kernel(function: Callable[..., None]) -> Any:
    """Decorator: a Triton kernel, built at its first launch."""
    return Kernel(function)


def interpreting() -> bool:
    """Whether launches go to Triton's interpreter (TRITON_INTERPRET=1)."""
    return bool(import_triton().knobs.runtime.interpret)


def check_launch(**tensors: Tensor) -> None:
    """Raise a ValueError where a launch would give an obscure error or wrong numbers.

    Args:
        tensors: floating-point arguments by the name to use in the message; all on one device.

    Raises:
        ValueError: several devices, a CPU tensor without the interpreter, bfloat16 in it, or another dtype than
            float32, float16 and bfloat16.
        ImportError: no Triton.
    """
    devices = {name: tensor.device for name, tensor in tensors.items()}
    if len(set(devices.values())) != 1:
        raise ValueError(f"all tensors must be on one device; got {devices}")
    interpreted, (device, *_) = interpreting(), devices.values()
    if device.type != "cuda" and not interpreted:
        raise ValueError(
            f"Triton kernels run on a CUDA device; got tensors on {device}; move them, use the PyTorch form, or set "
            "TRITON_INTERPRET=1 before Python starts to run them in the (slow) interpreter"
        )
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise ValueError(f"{name} must be float32, float16 or bfloat16; got {tensor.dtype}")
        if interpreted and tensor.dtype == torch.bfloat16:
            raise ValueError(f"{name} is bfloat16, which Triton's interpreter computes wrongly; use float32 there")


def launch_on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes the tensor's GPU the current one, which is where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def num_programs(tensor: Tensor, per_multiprocessor: int) -> int:
    """Programs that fill the tensor's GPU, for kernels whose programs loop over the work."""
    if not tensor.is_cuda:
        return INTERPRETER_PROGRAMS
    return per_multiprocessor * torch.cuda.get_device_properties(tensor.device).multi_processor_count


def next_power_of_2(number: int) -> int:
    """Smallest power of two that is at least `number` (>= 1)."""
    return 1 << (number - 1).bit_length()


def as_rows(tensor: Tensor) -> Tensor:
    """All axes but the last as one, the last one dense: what the row kernels take. Copies only when it must."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(-1) == 1 and rows.stride(0) >= rows.shape[-1] else rows.contiguous()
