"""What a long run asks of the machine: a device, an arithmetic, memory that is reused, a warning before it is stopped.

Read next: `../training.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


def choose_device(name: str) -> torch.device:
    """Turn "auto" into a GPU where there is one, else the CPU; other names are taken as they are."""
    if name != "auto":
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device {name!r} is asked for, but torch finds no CUDA GPU here; use device='cpu' or 'auto'"
            )
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether forward and backward run in bfloat16: when asked for, or on a GPU that has it when "auto"."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C and SIGTERM set a flag instead of breaking a step; a second Ctrl-C breaks it after all."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def remember(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Ask glibc to reuse large freed blocks instead of returning them to the system, which speeds up CPU steps.

    By default each tensor above 32 MB is mapped afresh and its pages are zeroed one fault at a time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_threshold, one_gigabyte = -1, -3, 1 << 30
            libc.mallopt(mmap_threshold, one_gigabyte)
            libc.mallopt(trim_threshold, one_gigabyte)
