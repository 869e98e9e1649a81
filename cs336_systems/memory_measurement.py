"""Memory measured: every storage counted from the operation that makes it to its death, and a GPU's own records.

`LiveBytes` watches each operation under it (a TorchDispatchMode). Tensors that share memory share a storage, so it
counts storages, and each carries a weak reference that says when it dies. It sees what autograd keeps, as that lives on
in storages too; it does not see what an operation allocates and frees inside itself.

On torch's meta device tensors have sizes but no numbers: a step of any model runs there in seconds without memory
(`trace_step`), and the same count says what it would need. The formulas of `memory.py` are checked against both, and
the count against torch's profiler.

Handout: memory_profiling (`memory_snapshot`; open the file at https://pytorch.org/memory_viz). Left out: timelines,
which the snapshot draws. Read next: `profiling.py`.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_systems.memory import check_step


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors made while it is on; `now` and `peak` may be read at any time.

    Example:
        with LiveBytes(model.parameters()) as memory:
            model(ids)
        print(memory.peak)
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        for tensor in existing:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was there before; one that is counted already counts once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def died(_: Any) -> None:
            self.now -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, died)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def trace_step(config: ModelConfig, *, batch_size: int, mode: str = "step") -> int:
    """Peak bytes of a float32 step of any model, variants included, run on the meta device.

    Args:
        config: the model.
        batch_size: sequences of context_length, at least 1.
        mode: see `memory.MODES`; "step" runs two, since AdamW gets its state in the first.

    Raises:
        ValueError: as `memory.check_step`, and where a variant reads numbers, of which the meta device has none.
    """
    check_step(batch_size, mode, "float32")
    try:
        model = TransformerLM(config, device="meta")
        return measure_step(model, batch_size=batch_size, mode=mode)
    except NotImplementedError as error:
        raise ValueError(f"a step of this model cannot run on the meta device: {error}") from error


def measure_step(model: TransformerLM, *, batch_size: int, mode: str = "step", precision: str = "float32") -> int:
    """Peak bytes that `LiveBytes` counts in a step on the model's own device; see `memory.step_memory`."""
    check_step(batch_size, mode, precision)
    device = next(model.parameters()).device
    ids = torch.zeros(batch_size, model.config.context_length, dtype=torch.long, device=device)
    optimizer = AdamW(model.parameters())
    with LiveBytes(model.parameters()) as memory:
        if mode == "forward":
            with torch.no_grad(), autocast(device, precision):
                model(ids)
            return memory.peak
        for _ in range(2 if mode == "step" else 1):
            with autocast(device, precision):
                loss = cross_entropy(model(ids), ids)  # no name for the logits: it would keep them alive
            loss.backward()
            if mode == "step":
                optimizer.step()
            optimizer.zero_grad()
    return memory.peak


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast, or nothing for float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def memory_snapshot(path: str | os.PathLike[str], *, max_entries: int = 1_000_000) -> Iterator[None]:
    """Record each allocation on the GPU with its stack while inside, and write the record for the viewer afterwards.

    Args:
        path: file to write, usually "....pickle".
        max_entries: most events to keep, the last ones.

    Raises:
        ValueError: there is no CUDA GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("memory snapshots record a CUDA GPU and torch finds none here; use LiveBytes on a CPU")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.cuda.memory._record_memory_history(max_entries=max_entries)
    try:
        yield
        torch.cuda.synchronize()
    finally:
        partial = f"{os.fspath(path)}.partial"
        torch.cuda.memory._dump_snapshot(partial)
        torch.cuda.memory._record_memory_history(enabled=None)
        os.replace(partial, path)


def memory_limit(device: torch.device) -> int:
    """Bytes that a device can give now: free memory of a GPU, available memory of the machine otherwise."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (FileNotFoundError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
