"""Plans against a search by bisection; the mixed file against its sources, document by document."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_basics.data import open_tokens, read_manifest, write_tokens
from cs336_data.mixing import count_tokens, mix, plan_mixture, temperature_weights

END = 0


def by_bisection(available: dict[str, int], weights: dict[str, float], total: int, epochs: float) -> dict[str, float]:
    """min(epochs n, lambda w) summing to the budget, lambda found by halving."""
    low, high = 0.0, 1e12
    for _ in range(300):
        middle = (low + high) / 2
        if sum(min(epochs * n, middle * weights[name]) for name, n in available.items()) < total:
            low = middle
        else:
            high = middle
    return {name: min(epochs * n, high * weights[name]) for name, n in available.items()}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.01, 100)), min_size=1, max_size=6),
    st.floats(0.01, 0.999),
    st.floats(0.3, 8),
)
def test_plan(sources, share, epochs):
    available = {f"s{i}": n for i, (n, _) in enumerate(sources)}
    weights = {f"s{i}": w for i, (_, w) in enumerate(sources)}
    total = max(1, math.floor(share * epochs * sum(available.values())))
    if total > epochs * sum(available.values()):
        return
    plan = plan_mixture(available, weights, total_tokens=total, max_epochs=epochs)
    expected = by_bisection(available, weights, total, epochs)
    for row in plan:
        assert row.taken == pytest.approx(expected[row.name], rel=1e-6, abs=0.51)
        assert row.epochs <= epochs * (1 + 1e-9) and row.epochs == pytest.approx(expected[row.name] / row.available)
    assert sum(row.share for row in plan) == pytest.approx(1)


def test_plan_by_hand():
    """web may give 0.7 of 1000; wiki's 0.3 would be 6 epochs of 50, so it gives 4 and web the rest."""
    web, wiki, none = plan_mixture(
        {"web": 2000, "wiki": 50, "none": 9}, {"web": 7, "wiki": 3, "none": 0}, total_tokens=1000
    )
    assert (web.taken, web.epochs, web.weight, web.share) == (800, 0.4, 0.7, 0.8)
    assert (wiki.taken, wiki.epochs) == (200, 4.0)
    assert (none.taken, none.epochs) == (0, 0)
    assert [row.taken for row in plan_mixture({"a": 30, "b": 10})] == [30, 10]


def test_temperature():
    sizes = {"a": 8, "b": 1}
    assert temperature_weights(sizes, 1) == {"a": 8 / 9, "b": 1 / 9}
    assert temperature_weights(sizes, 3) == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert temperature_weights(sizes, 1e9) == pytest.approx({"a": 0.5, "b": 0.5})
    with pytest.raises(ValueError, match="temperature must be positive; got 0"):
        temperature_weights(sizes, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": 10}, {"b": 1}), "a, b is only in one of them"),
        (({"a": 0},), "every source needs at least 1 token"),
        (({"a": 5}, {"a": -1}), "weights must be at least 0"),
        (({"a": 5}, {"a": float("nan")}), "weights must be at least 0"),
        (({"a": 5, "b": 5}, {"a": 0, "b": 0}), "one above 0"),
        (({},), "one above 0"),
    ],
)
def test_plans_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_mixture(*arguments)
    with pytest.raises(
        ValueError, match=r"41 tokens cannot be taken from sources of 10 tokens in at most 4 epochs \(40\)"
    ):
        plan_mixture({"a": 10}, total_tokens=41)


def write_source(folder: Path, name: str, documents: list[list[int]], files: int = 2, **facts: object) -> list[Path]:
    paths = []
    for number in range(files):
        part = documents[number::files]
        paths.append(folder / f"{name}-{number}.bin")
        write_tokens(paths[-1], (i for document in part for i in [*document, END]), vocab_size=70_000, **facts)
    return paths


def documents_of(tokens: np.ndarray) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    current: list[int] = []
    for token in tokens.tolist():
        if token == END:
            found.append(tuple(current))
            current = []
        else:
            current.append(token)
    assert not current
    return found


def test_mixed_documents(tmp_path, monkeypatch):
    """Every document whole, as often as its source is read, half an epoch more for some, repeats far apart."""
    monkeypatch.setattr("cs336_data.mixing._BLOCK_TOKENS", 100)
    choice = random.Random(0)
    web = [[10_000 + i] * choice.randrange(12) + [1] for i in range(200)]
    wiki = [[20_000 + i] * 5 for i in range(40)]
    sources = {"web": write_source(tmp_path, "web", web), "wiki": write_source(tmp_path, "wiki", wiki, files=3)}
    available = count_tokens(sources)
    assert available == {"web": sum(len(d) + 1 for d in web), "wiki": 240}
    plan = plan_mixture(available, {"web": available["web"], "wiki": 600}, total_tokens=available["web"] + 600)
    seen: list[int] = []
    manifest = mix(
        sources, plan, tmp_path / "train.bin", end_of_text=END, on_progress=lambda done, total: seen.append(done)
    )
    assert seen == sorted(set(seen)) and len(seen) > 10
    mixed = documents_of(open_tokens(tmp_path / "train.bin"))
    counts = Counter(mixed)
    assert {document: counts[document] for document in map(tuple, web)} == Counter(map(tuple, web))
    times = [counts[tuple(document)] for document in wiki]
    assert Counter(times) == {2: 20, 3: 20}, "2.5 epochs: half of the documents once more"
    assert len(mixed) == manifest["documents"] == 200 + 100
    repeated = [document for document in mixed if document in set(map(tuple, wiki))]
    for stretch in (repeated[:40], repeated[40:80]):
        assert sorted(stretch) == sorted(map(tuple, wiki)), "no document comes twice before all have come once"
    order = [document for document in mixed if document in set(map(tuple, web))]
    assert order != list(map(tuple, web)) and read_manifest(tmp_path / "train.bin")["mixture"][1]["epochs"] == 2.5


def test_the_seed_chooses_the_order(tmp_path):
    sources = {"a": write_source(tmp_path, "a", [[i, i] for i in range(1, 100)])}
    plan = plan_mixture(count_tokens(sources), total_tokens=100)
    data = []
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        mix(sources, plan, tmp_path / f"{name}.bin", end_of_text=END, seed=seed)
        data.append((tmp_path / f"{name}.bin").read_bytes())
    assert data[0] == data[1] != data[2]
    assert 100 <= len(data[0]) // 4 < 103, "whole documents: at most one more than asked for"


def test_sources_that_do_not_fit_together(tmp_path):
    good = write_source(tmp_path, "good", [[1], [2]])
    other = write_source(tmp_path, "other", [[1], [2]], tokenizer_sha256="abc")
    plan = plan_mixture({"a": 4, "b": 4})
    with pytest.raises(ValueError, match="differ in tokenizer_sha256"):
        mix({"a": good, "b": other}, plan, tmp_path / "out.bin", end_of_text=END)
    with pytest.raises(ValueError, match=r"does not end with <\|endoftext\|> \(id 7\)"):
        mix({"a": good, "b": good}, plan, tmp_path / "out.bin", end_of_text=7)
    with pytest.raises(ValueError, match="is one of the sources"):
        mix({"a": good, "b": good}, plan, good[0], end_of_text=END)
    (tmp_path / "good-0.bin.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no manifest"):
        mix({"a": good, "b": good}, plan, tmp_path / "out.bin", end_of_text=END)
    assert not (tmp_path / "out.bin").exists()
