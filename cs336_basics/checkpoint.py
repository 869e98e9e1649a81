"""Checkpoints: model, optimizer and step in one file, written whole or not at all, read without running code.

A checkpoint is a dictionary of tensors and plain values saved by `torch.save`; it is read with `weights_only=True`,
so a file from a stranger cannot execute anything. A path is written through a temporary name and a rename: a kill or
a full disk leaves the former checkpoint as it was. The training loop adds its random states as further entries.

Handout: checkpointing. Left out: sharded layouts (`cs336_systems/parallel`). Read next: `training.py`.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from torch import nn

from cs336_basics.runs.atomic import atomic_write

UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, struct.error),
    pickle.UnpicklingError,
)
"""what torch.load raises for damaged or foreign files, seen by trying"""

Destination = str | os.PathLike[str] | BinaryIO | IO[bytes]


def save_state(state: dict[str, Any], out: Destination) -> None:
    """`torch.save` to a path, atomically, or to an open binary file."""
    if isinstance(out, (str, os.PathLike)):
        with atomic_write(out) as file:
            torch.save(state, file)
    else:
        torch.save(state, out)


def load_state(src: Destination) -> dict[str, Any]:
    """Read what `save_state` wrote, onto the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty, cut short, or no checkpoint of ours.
    """
    name = os.fspath(src) if isinstance(src, (str, os.PathLike)) else "the given file"
    if isinstance(src, (str, os.PathLike)) and not Path(src).is_file():
        raise FileNotFoundError(f"no checkpoint at {name}")
    try:
        state = torch.load(src, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} is no readable checkpoint (cut short, or made by another program): {said}; "
            "remove it to fall back to an older one"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{name} holds a {type(state).__name__}, not a checkpoint dictionary")
    return state


def save_checkpoint(
    model: nn.Module, optimizer: torch.optim.Optimizer, iteration: int, out: Destination, **extra: Any
) -> None:
    """Save the states of `model` and `optimizer`, the number of finished steps, and `extra` values or tensors."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": iteration, **extra}
    save_state(state, out)


def load_checkpoint(src: Destination, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore `model` and `optimizer` in place; return the number of finished steps.

    Raises:
        FileNotFoundError, ValueError: see `load_state`; also ValueError, before anything is changed, when the
            checkpoint's weights do not have the model's names and shapes.
    """
    return restore(load_state(src), model, optimizer)


def restore(state: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a loaded checkpoint into `model` and `optimizer`; see `load_checkpoint`."""
    check_entries(state)
    check_weights(state["model"], model)
    try:  # the optimizer first: it checks its groups before it changes anything
        optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the checkpoint's optimizer state does not fit this optimizer: {error}") from error
    model.load_state_dict(state["model"])
    return int(state["iteration"])


def check_entries(state: dict[str, Any]) -> None:
    """Raise a ValueError unless a loaded dictionary is a training checkpoint."""
    missing = {"model", "optimizer", "iteration"} - state.keys()
    if missing:
        raise ValueError(
            f"not a training checkpoint: it lacks {sorted(missing)}; it holds {sorted(map(str, state))[:8]}"
        )


def check_weights(
    weights: dict[str, Any], model: nn.Module, *, shape_of: Callable[[Any], Any] = lambda value: value.shape
) -> None:
    """Raise a ValueError naming the differences unless `weights` has exactly the model's names and shapes.

    `shape_of` tells the shape that a tensor of the model has in a checkpoint, for models that hold parts of tensors.
    """
    have = {key: tuple(value.shape) for key, value in weights.items()}
    want = {key: tuple(shape_of(value)) for key, value in model.state_dict(keep_vars=True).items()}
    wrong = [
        f"{key}: checkpoint {have.get(key)}, model {want.get(key)}"
        for key in {**want, **have}
        if have.get(key) != want.get(key)
    ]
    if wrong:
        raise ValueError(
            f"the checkpoint belongs to another model; {len(wrong)} weights differ, such as {'; '.join(wrong[:3])}; "
            "build the model with the configuration it was trained with"
        )
