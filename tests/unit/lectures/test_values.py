"""Snapshots of values, against numpy and against the values themselves."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lectures.pages.briefs import brief
from lectures.recording.values import Snapshots, fingerprint


def snapshot(value):
    result = Snapshots().snapshot(value)
    json.dumps(result, allow_nan=False)  # every snapshot is JSON
    return result


def test_plain_values_are_themselves():
    for value in (None, True, 3, -2.5, "text", ""):
        assert snapshot(value) == value
    assert snapshot(float("nan")) == {"t": "float", "x": "nan"} and snapshot(math.inf)["x"] == "inf"
    assert snapshot(2**80) == {"t": "int", "x": str(2**80)}
    assert snapshot("x" * 1000) == {"t": "str", "n": 1000, "x": "x" * 400}
    assert snapshot("\ud800") == "?"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
def test_statistics_are_those_of_numpy(dtype):
    x = (torch.randn(30, 50, generator=torch.Generator().manual_seed(0)) * 10).abs().to(dtype)
    found = snapshot(x)
    exact = x.double().numpy()
    for name, value in zip(("min", "mean", "max", "std"), found["st"], strict=False):
        assert value == pytest.approx(getattr(np, name)(exact), rel=1e-4), name
    assert found["s"] == [30, 50] and found["d"] == str(dtype).removeprefix("torch.") and found["cut"] == 1
    corner = exact[np.ix_([0, 1, 2, 3, 26, 27, 28, 29], [0, 1, 2, 3, 46, 47, 48, 49])]
    np.testing.assert_allclose(np.array(found["n"], dtype=float), corner, rtol=1e-4)


def test_nan_infinity_and_odd_tensors():
    found = snapshot(torch.tensor([1.0, math.nan, math.inf, -1.0]))
    assert found["n"] == [1.0, "nan", "inf", -1.0] and found["st"] == [-1.0, 0.0, 1.0, 1.0, 1]
    assert snapshot(torch.tensor(3.5))["n"] == 3.5 and "st" not in snapshot(torch.tensor(3.5))
    assert snapshot(torch.zeros(0, 3))["n"] == [] and snapshot(torch.zeros(2, 2, 2))["n"] == [[[0, 0], [0, 0]]] * 2
    assert snapshot(torch.tensor([True, False]))["n"] == [True, False]
    assert snapshot(torch.empty(5, device="meta")) == {"t": "Tensor", "s": [5], "d": "float32", "dev": "meta"}
    assert snapshot(torch.eye(3).to_sparse())["s"] == [3, 3]
    assert snapshot(torch.ones(2, requires_grad=True))["g"] == 1
    assert snapshot(torch.ones(2, dtype=torch.complex64))["n"] == ["(1+0j)", "(1+0j)"]
    assert snapshot(np.float32(0.5)) == {"t": "float32", "x": "0.5"}


def test_a_large_tensor_is_small_and_not_copied():
    big = torch.zeros(1).expand(2**14, 2**14)  # one number seen as a gigabyte
    found = snapshot(big)
    assert len(json.dumps(found)) < 2000 and found["sampled"] == 1 and found["st"][:3] == [0, 0, 0]
    large = np.broadcast_to(np.float32(2), (2**15, 2**15))
    assert snapshot(large)["st"][1] == 2.0
    assert len(json.dumps(snapshot(torch.randn(64, 64)))) < 1500


def test_storage_tells_views_from_copies():
    snapshots = Snapshots()
    x, a = torch.arange(6.0), np.arange(6.0)
    mem = [snapshots.snapshot(t)["mem"] for t in (x, x[2:], x.view(2, 3).T, x.clone())]
    assert mem[0] == mem[1] == mem[2] != mem[3]
    mem = [snapshots.snapshot(t)["mem"] for t in (a, a[2:], a.reshape(2, 3), a.copy())]
    assert mem[0] == mem[1] == mem[2] != mem[3]


class Rude:
    def __repr__(self):
        raise KeyError("no")


def test_objects_of_all_kinds():
    @dataclasses.dataclass
    class Point:
        x: int
        y: list

    assert snapshot(Point(1, [2])) == {"t": "Point", "f": [["x", 1], ["y", {"t": "list", "n": 1, "v": [2]}]]}
    assert "repr failed: KeyError" in snapshot(Rude())["x"]
    assert snapshot({1: "a"}) == {"t": "dict", "n": 1, "k": [[1, "a"]]}
    assert snapshot({3, 1, 2})["v"] == [1, 2, 3]
    assert snapshot(list(range(100)))["n"] == 100 and len(snapshot(list(range(100)))["v"]) == 32
    deep: list = []
    for _ in range(50):
        deep = [deep]
    assert len(json.dumps(snapshot(deep))) < 200
    loop: list = []
    loop.append(loop)
    assert snapshot(loop)["n"] == 1


def test_a_fingerprint_changes_with_the_value():
    x = torch.zeros(10_000)
    before = fingerprint(x)
    assert fingerprint(x) == before
    x[5] = 1
    assert fingerprint(x) != before
    assert fingerprint(torch.zeros(10_000)) != fingerprint(x)
    assert fingerprint(1) != fingerprint(True) and fingerprint(1.0) != fingerprint(1) and fingerprint([1]) is None


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                    max_leaves=20))  # fmt: skip
def test_any_value_is_json_and_has_a_short_form(value):
    found = snapshot(value)
    assert len(brief(found)) <= 90
    if isinstance(value, list):
        assert found["n"] == len(value)


def test_short_forms():
    assert brief(1234567) == "1,234,567" and brief(0.125) == "0.125" and brief(2.0) == "2.0" and brief(1e-9) == "1e-09"
    assert brief(None) == "None" and brief(True) == "True" and brief("a") == '"a"'
    assert brief(snapshot((1, 2))) == "(1, 2)" and brief(snapshot([])) == "[]"
    assert brief(snapshot(torch.ones(2, 2))) == "[[1.0, 1.0], [1.0, 1.0]]"
    assert brief(snapshot(torch.ones(64, 64))) == "1.0 to 1.0, mean 1.0"
