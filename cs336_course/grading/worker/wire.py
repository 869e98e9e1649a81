"""What passes between judge and worker: trees of plain values and arrays, as frames of bytes. No pickle anywhere.

    frame = length (8 bytes, big-endian) + payload        payload = zip of `tree.json` and one .npy per array

A tree is None, bool, int, float, str, bytes, a numeric array, or a list or dict (keys: str) of trees. Reading checks
everything, because the bytes may come from student code: sizes, number and type of arrays, depth.

This file is copied beside `serve.py` into the sandbox, so it imports the standard library and numpy only. Read next:
`serve.py`.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from typing import Any

import numpy as np

MAX_FRAME_BYTES = 64 << 20
MAX_ARRAYS = 4096
MAX_DEPTH = 32
Tree = Any


class WireError(ValueError):
    """Bytes that are no well-formed message."""


def pack(tree: Tree) -> bytes:
    """The payload for a tree; a value of any other type raises a WireError."""
    arrays: list[np.ndarray] = []
    text = json.dumps(_encoded(tree, arrays, 0))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tree.json", text)
        for number, array in enumerate(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
            archive.writestr(f"{number}.npy", data.getvalue())
    return buffer.getvalue()


def unpack(payload: bytes) -> Tree:
    """The tree of a payload.

    Raises:
        WireError: anything but a payload that `pack` could have written.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS + 1 or sum(member.file_size for member in members) > MAX_FRAME_BYTES:
                raise WireError("too many or too large arrays")
            tree = json.loads(archive.read("tree.json"))
            arrays = [_read_array(archive, f"{number}.npy") for number in range(len(members) - 1)]
        return _decoded(tree, arrays, 0)
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"malformed message ({type(error).__name__})") from error


def write_frame(descriptor: int, payload: bytes) -> None:
    """Write one frame to a file descriptor."""
    view = memoryview(len(payload).to_bytes(8, "big") + payload)
    while view:
        view = view[os.write(descriptor, view) :]


class FrameReader:
    """Collects bytes as they come and cuts them into frames."""

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes; a frame over the limit raises a WireError."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= 8:
            length = int.from_bytes(self._buffer[:8], "big")
            if length > self._limit:
                raise WireError(f"a message of {length} bytes; the limit is {self._limit}")
            if len(self._buffer) < 8 + length:
                break
            frames.append(bytes(self._buffer[8 : 8 + length]))
            del self._buffer[: 8 + length]
        return frames


def _encoded(tree: Tree, arrays: list[np.ndarray], depth: int) -> Any:
    """`tree` as JSON, its arrays moved into the list."""
    if depth > MAX_DEPTH:
        raise WireError("nested too deeply")
    if tree is None or type(tree) in (bool, int, float, str):
        return tree
    if isinstance(tree, (bytes, bytearray)):
        return {"$bytes": bytes(tree).hex()}
    if type(tree) is np.ndarray:
        if tree.dtype.kind not in "biuf" or len(arrays) >= MAX_ARRAYS:
            raise WireError(f"an array of dtype {tree.dtype}, or too many arrays")
        arrays.append(tree)
        return {"$array": len(arrays) - 1}
    if type(tree) in (list, tuple):
        return [_encoded(item, arrays, depth + 1) for item in tree]
    if type(tree) is dict and all(type(key) is str for key in tree):
        return {"$dict": {key: _encoded(value, arrays, depth + 1) for key, value in tree.items()}}
    raise WireError(f"a value of type {type(tree).__name__}")


def _decoded(tree: Any, arrays: list[np.ndarray], depth: int) -> Tree:
    """The inverse of `_encoded`."""
    if depth > MAX_DEPTH:
        raise WireError("nested too deeply")
    if isinstance(tree, list):
        return [_decoded(item, arrays, depth + 1) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "$bytes":
        return bytes.fromhex(value)
    if kind == "$array":
        return arrays[value]
    if kind == "$dict":
        return {key: _decoded(item, arrays, depth + 1) for key, item in value.items()}
    raise WireError(f"unknown mark {kind!r}")


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
    if array.dtype.kind not in "biuf":
        raise WireError(f"an array of dtype {array.dtype}")
    return array
