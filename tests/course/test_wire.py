"""Messages between judge and worker: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from cs336_course.grading.worker import wire


def test_round_trip():
    tree = {"a": [1, 2.5, None, True, "x"], "b": b"\x00\xff", "c": np.arange(6, dtype=np.int64).reshape(2, 3),
            "d": {"$array": 0, "e": np.array(3.5)}, "f": np.zeros((0, 2), np.float32)}  # fmt: skip
    back = wire.unpack(wire.pack(tree))
    assert back["a"] == tree["a"] and back["b"] == tree["b"] and back["d"]["$array"] == 0
    for one, two in ((back["c"], tree["c"]), (back["d"]["e"], tree["d"]["e"]), (back["f"], tree["f"])):
        assert one.dtype == two.dtype and one.shape == two.shape and np.array_equal(one, two)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([object()]), np.array(["text"]), {"x": {1, 2}}, 1j])
def test_other_values_are_refused(value):
    with pytest.raises(wire.WireError):
        wire.pack({"value": value})


def test_pickled_arrays_never_run(capsys):
    data = io.BytesIO()
    np.save(data, np.array([Evil()], dtype=object), allow_pickle=True)
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w") as archive:
        archive.writestr("tree.json", '{"$array": 0}')
        archive.writestr("0.npy", data.getvalue())
    with pytest.raises(wire.WireError):
        wire.unpack(payload.getvalue())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("payload", [b"", b"PK", pickle.dumps({"a": 1}), b"\x00" * 100])
def test_garbage(payload):
    with pytest.raises(wire.WireError):
        wire.unpack(payload)


def test_frames_are_cut_out_of_any_pieces():
    stream = b"".join(len(p).to_bytes(8, "big") + p for p in (b"one", b"", b"three"))
    reader = wire.FrameReader()
    assert [f for i in range(len(stream)) for f in reader.feed(stream[i : i + 1])] == [b"one", b"", b"three"]
    with pytest.raises(wire.WireError, match="limit"):
        wire.FrameReader(limit=10).feed((11).to_bytes(8, "big"))
