"""The benchmark: checked results, rows for all combinations, bandwidths by hand; and the verbs."""

from __future__ import annotations

import json

import pytest
import torch
import torch.distributed as dist

from cs336_course.cli import main
from cs336_systems.parallel.collectives import (
    CollectivesConfig,
    Measurement,
    bus_factor,
    measure,
    measure_rank,
    prepare,
)
from tests.processes import run_processes

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")


def prepared_results(rank: int) -> dict[str, list[float]]:
    """What each collective leaves on this rank, whose numbers are all rank + 1."""
    results = {}
    for operation in OPERATIONS:
        run, result, _ = prepare(operation, 2 * dist.get_world_size(), torch.device("cpu"))
        run()
        results[operation] = result.tolist()
    return results


def test_each_operation_does_what_its_name_says():
    for result in run_processes(prepared_results, 3):
        assert result["all_reduce"] == [6.0] * 6
        assert result["all_gather"] == result["all_to_all"] == [1, 1, 2, 2, 3, 3]
        assert result["reduce_scatter"] == [6.0, 6.0]
        assert result["broadcast"] == [1.0] * 6


def all_rows(rank: int) -> list[Measurement]:
    config = CollectivesConfig(operations=OPERATIONS, sizes_mb=(0.00001, 0.01), warmups=1, repeats=3)
    return measure_rank(config, "gloo")


def test_rows_are_the_same_on_all_ranks():
    first, second = run_processes(all_rows, 2)
    assert first == second
    assert [(row.operation, row.size_bytes) for row in first] == [(o, s) for o in OPERATIONS for s in (8, 10_000)]
    assert all(0 < row.fastest_s <= row.median_s <= row.slowest_s for row in first)


def test_bandwidths_by_hand():
    row = Measurement("all_reduce", "gloo", 4, 1_000_000, median_s=0.001, fastest_s=0.001, slowest_s=0.001)
    assert row.algbw_gb_per_s == pytest.approx(1.0)
    assert row.busbw_gb_per_s == pytest.approx(1.5)
    assert [bus_factor(operation, 4) for operation in OPERATIONS] == [1.5, 0.75, 0.75, 1.0, 0.75]


def test_the_verb_writes_json_and_markdown(tmp_path, capsys):
    arguments = "--sizes-mb 0.001 --world-sizes 2 --warmups 1 --repeats 2"
    assert main(["systems", "collectives", *arguments.split(), "--out", str(tmp_path)]) == 0
    assert "| all-reduce | gloo | 2 | 0.001 |" in capsys.readouterr().out
    saved = json.loads((tmp_path / "collectives.json").read_text())
    (row,) = saved["measurements"]
    assert row["size_bytes"] == 1000 and row["busbw_gb_per_s"] == row["algbw_gb_per_s"] > 0
    assert saved["environment"]["torch"] == torch.__version__
    assert "busbw" in (tmp_path / "report.md").read_text()


def test_drawings(capsys):
    assert main(["systems", "ring", "--ranks", "3", "--numbers", "6"]) == 0
    assert "3 ranks, each sends 32 bytes in 4 steps" in capsys.readouterr().out
    assert main(["systems", "pipeline", "--schedule", "gpipe", "--stages", "2", "--micro-batches", "3"]) == 0
    assert "bubble 25.0%" in capsys.readouterr().out
    assert main(["systems", "ring", "--ranks", "0"]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": ("gossip",)}, "operations must be among"),
        ({"backends": ("mpi",)}, "backends must be among"),
        ({"sizes_mb": ()}, "sizes_mb is empty"),
        ({"sizes_mb": (0.0,)}, "must be positive"),
        ({"repeats": 0}, "at least 1"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        CollectivesConfig(**changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")
@pytest.mark.parametrize(("backend", "message"), [("nccl", "one GPU per rank"), ("gloo-cuda", "needs a GPU")])
def test_without_a_gpu(backend, message):
    with pytest.raises(ValueError, match=message):
        measure(CollectivesConfig(backends=(backend,)))
