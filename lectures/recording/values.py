"""Values as small JSON: what the page shows of a variable, however large the variable is.

    plain      3, 2.5, true, null, "text"         as they are
    others     {"t": type, ...}
        tensors and arrays   "s" shape, "d" dtype, "n" numbers shown (a row, or rows of rows), "cut" if not all,
                             "st" [min, mean, max, std, number of NaN], "sampled" if of a sample, "g" needs gradient,
                             "dev" device unless cpu, "mem" number of the storage: equal for views of one memory
        list, tuple, set     "n" length, "v" the first items
        dict                 "n" length, "k" the first [key, value]
        str, bytes           "n" length, "x" the beginning, when long
        dataclass and others "f" [field, value], or "x" its repr()

A tensor's numbers are copied when the statement has run, so a later change in place does not reach back. Bounds: 64
numbers of a tensor (the corners of a larger one), 32 items of a container, depth 3, 400 letters. Statistics of more
than 2^20 numbers come from an even sample. A `repr` that fails is shown as its error.

Read next: `recorder.py`, which calls `snapshot` and `fingerprint`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import weakref
from typing import Any

MAX_NUMBERS = 64
MAX_ITEMS = 32
MAX_DEPTH = 3
MAX_LETTERS = 400
MAX_EXACT = 1 << 20
SMALL_BYTES = 8192

Json = Any


class Snapshots:
    """Takes snapshots; remembers which storages it has met, to number them."""

    def __init__(self) -> None:
        self._storages: dict[tuple[str, int], int] = {}

    def snapshot(self, value: Any, depth: int = 0) -> Json:
        """`value` as JSON; never fails on a value and never runs longer than its bounds allow, user code excepted."""
        if value is None or isinstance(value, bool) or type(value) is int and abs(value) < 2**53:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"t": "float", "x": str(value)}
        if isinstance(value, (str, bytes, int)):
            return _text(value)
        kind = type(value)
        if _is(value, "torch", "Tensor"):
            return self._tensor(value)
        if _is(value, "numpy", "ndarray"):
            return self._array(value)
        if _is(value, "numpy", "generic"):
            return {"t": str(value.dtype), "x": str(value)}
        if isinstance(value, dict):
            return self._dict(value, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        fields = _fields(value)
        if fields is not None and depth < MAX_DEPTH:
            shown = [[name, self.snapshot(item, depth + 1)] for name, item in fields[:MAX_ITEMS]]
            return {"t": kind.__name__, "f": shown}
        return {"t": kind.__name__, "x": guarded_repr(value)}

    def _items(self, value: Any, depth: int) -> Json:
        """A list, tuple or set."""
        head = {"t": type(value).__name__, "n": len(value)}
        if depth >= MAX_DEPTH:
            return head
        items = (
            sorted(value, key=guarded_repr)[:MAX_ITEMS] if isinstance(value, (set, frozenset)) else value[:MAX_ITEMS]
        )
        return head | {"v": [self.snapshot(item, depth + 1) for item in items]}

    def _dict(self, value: dict[Any, Any], depth: int) -> Json:
        """A dict, in its own order."""
        head = {"t": type(value).__name__, "n": len(value)}
        if depth >= MAX_DEPTH:
            return head
        first = [pair for pair, _ in zip(value.items(), range(MAX_ITEMS), strict=False)]
        return head | {"k": [[self.snapshot(k, depth + 1), self.snapshot(v, depth + 1)] for k, v in first]}

    def _tensor(self, value: Any) -> Json:
        """A torch tensor."""
        import torch

        head: dict[str, Json] = {"t": "Tensor", "s": list(value.shape), "d": str(value.dtype).removeprefix("torch.")}
        if value.requires_grad:
            head["g"] = 1
        if value.device.type != "cpu":
            head["dev"] = str(value.device)
        if value.device.type == "meta" or value.layout != torch.strided:
            return head
        head["mem"] = self._storage("torch", value.untyped_storage().data_ptr())
        with torch.no_grad():
            plain = value.detach()
            shown = _corners(plain)
            sample = _thinned(plain)
            if not (value.dtype.is_complex or value.dtype == torch.bool):
                shown, sample = _widened(shown), _widened(sample)
            return head | _numbers(shown.cpu().numpy(), sample.cpu().numpy(), plain.numel())

    def _array(self, value: Any) -> Json:
        """A numpy array."""
        head: dict[str, Json] = {"t": "ndarray", "s": list(value.shape), "d": str(value.dtype)}
        base = value
        while getattr(base, "base", None) is not None and hasattr(base.base, "__array_interface__"):
            base = base.base
        if value.size:
            head["mem"] = self._storage("numpy", base.__array_interface__["data"][0])
        return head | _numbers(_corners(value), _thinned(value), value.size)

    def _storage(self, library: str, address: int) -> int:
        """A small number for a place in memory."""
        return self._storages.setdefault((library, address), len(self._storages) + 1)


def fingerprint(value: Any) -> Any:
    """Something cheap that changes when the value does; None where only a snapshot can tell."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return type(value), str(value) if isinstance(value, float) else value
    if _is(value, "torch", "Tensor"):
        if value.device.type == "cpu" and value.numel() * value.element_size() <= SMALL_BYTES:
            return None
        try:
            return _Same(value), value._version
        except RuntimeError:  # inference tensors count no versions
            return None
    if _is(value, "numpy", "ndarray") and value.nbytes > SMALL_BYTES:
        return _Same(value), 0
    return None


class _Same:
    """Equal only to another reference to the same living object; keeps nothing alive."""

    def __init__(self, value: Any):
        self.reference = weakref.ref(value)

    def __eq__(self, other: object) -> bool:
        mine = self.reference()
        return isinstance(other, _Same) and mine is not None and mine is other.reference()

    __hash__ = None  # type: ignore[assignment]


def _is(value: Any, library: str, name: str) -> bool:
    """isinstance, without importing the library."""
    module = sys.modules.get(library)
    return module is not None and isinstance(value, getattr(module, name))


def _text(value: str | bytes | int) -> Json:
    """Text, bytes or a large integer, cut to size."""
    if isinstance(value, bool) or type(value) is int and abs(value) < 2**53:
        return value
    if isinstance(value, int):
        digits = guarded_repr(value)
        return {"t": type(value).__name__, "x": digits}
    if type(value) is str and len(value) <= MAX_LETTERS:
        return value.encode("utf-8", "replace").decode()
    head = value[:MAX_LETTERS]
    shown = head.encode("utf-8", "replace").decode() if isinstance(head, str) else repr(head)
    return {"t": type(value).__name__, "n": len(value), "x": shown}


def _fields(value: Any) -> list[tuple[str, Any]] | None:
    """The fields of a dataclass, a named tuple or something with asdict(); None for other objects."""
    try:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [
                (f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr and hasattr(value, f.name)
            ]
        if callable(getattr(value, "asdict", None)) and not isinstance(value, type):
            return [(str(name), item) for name, item in value.asdict().items()]
    except Exception:  # the author's own asdict or property: shown by repr instead
        return None
    return None


def guarded_repr(value: Any) -> str:
    """`repr(value)`, cut to size; an error in it is shown in its place."""
    try:
        shown = repr(value)
    except Exception as error:
        return f"<repr failed: {type(error).__name__}: {error}>"[:MAX_LETTERS]
    shown = shown.encode("utf-8", "replace").decode()
    return shown if len(shown) <= MAX_LETTERS else shown[: MAX_LETTERS - 3] + "..."


def _widened(tensor: Any) -> Any:
    """A tensor that numpy can hold: its small floats as float32."""
    import torch

    return tensor.to(torch.float32) if tensor.dtype.is_floating_point and tensor.dtype != torch.float64 else tensor


def _corners(array: Any) -> Any:
    """All numbers of a small array; the first matrix of a large one, of that the edges, of at most 8 x 8."""
    size = math.prod(array.shape)
    if size <= MAX_NUMBERS:
        return array
    while array.ndim > 2:
        array = array[0]
    for axis in range(array.ndim):
        length = array.shape[axis]
        limit = MAX_NUMBERS if array.ndim == 1 else 8
        if length > limit:
            index = [*range(limit // 2), *range(length - limit // 2, length)]
            array = array[index] if axis == 0 else array[:, index]
    return array


def _thinned(array: Any) -> Any:
    """The array, or every second row (and so on) of one that is too large: a view, never a copy."""
    while math.prod(array.shape) > MAX_EXACT:
        axis = max(range(array.ndim), key=lambda i: array.shape[i])
        array = array[(slice(None),) * axis + (slice(None, None, 2),)]
    return array


def _numbers(shown: Any, sample: Any, size: int) -> dict[str, Json]:
    """The numbers shown and the statistics."""
    import numpy as np

    result: dict[str, Json] = {"n": _rounded(shown)}
    if shown.size < size:
        result["cut"] = 1
    if not size or sample.dtype.kind not in "fiu" or size == 1:
        return result
    numbers = sample.astype(np.float64)
    missing = int(np.isnan(numbers).sum())
    numbers = numbers[np.isfinite(numbers)]
    if numbers.size:
        found = [numbers.min(), numbers.mean(), numbers.max(), numbers.std()]
        result["st"] = [*(float(f"{x:.5g}") for x in found), missing]
    if sample.size < size:
        result["sampled"] = 1
    return result


def _rounded(array: Any) -> Json:
    """Nested lists of short numbers."""
    if array.ndim:
        return [_rounded(part) for part in array]
    item = array.item()
    if isinstance(item, float):
        return float(f"{item:.5g}") if math.isfinite(item) else str(item)
    return item if isinstance(item, (bool, int)) else str(item)
