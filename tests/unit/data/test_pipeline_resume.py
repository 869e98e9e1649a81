"""The result of a run depends on input and configuration alone: not on kills, worker counts, order or executor."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cs336_basics.runs.config import config_to_dict
from cs336_data.executors import run_one
from cs336_data.file_task import manifest_path
from cs336_data.guarded_worker import GuardedWorker
from cs336_data.pipeline import find_inputs, make_tasks, run_pipeline
from cs336_data.pipeline_config import ExecutionConfig, LimitsConfig, SlurmConfig
from cs336_data.synthetic_crawl.crawl import write_crawl
from tests.unit.data.pipeline_cases import SMALL, make_config, result_bytes, write_documents

for package in ("fastwarc", "resiliparse", "fasttext"):
    pytest.importorskip(package)

LIMIT_S = 120
RUN = """
import json, sys
from pathlib import Path
from cs336_basics.runs.config import config_from_dict
from cs336_data.pipeline import run_pipeline
from cs336_data.pipeline_config import PipelineConfig
run_pipeline(config_from_dict(PipelineConfig, json.loads(sys.argv[1])), Path(sys.argv[2]), progress=False)
"""


@pytest.fixture(scope="module")
def crawl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    write_crawl(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def straight(crawl, tmp_path_factory) -> dict[str, str]:
    """The bytes of an undisturbed run."""
    run = tmp_path_factory.mktemp("straight") / "run"
    run_pipeline(make_config(crawl / "warc" / "*.gz"), run, progress=False)
    return result_bytes(run)


def start_child(crawl: Path, run: Path) -> subprocess.Popen[bytes]:
    config = json.dumps(config_to_dict(make_config(crawl / "warc" / "*.gz")))
    return subprocess.Popen([sys.executable, "-c", RUN, config, str(run)], start_new_session=True)


def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(crawl, straight, tmp_path):
    run, rng, kills = tmp_path / "run", random.Random(0), 0
    for enough in sorted(rng.sample(range(4, len(straight)), 3)):  # files there, at random places of the run
        child, end = start_child(crawl, run), time.monotonic() + LIMIT_S
        while child.poll() is None and count_files(run) < enough and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            kills += 1
        child.wait(LIMIT_S)
    assert start_child(crawl, run).wait(LIMIT_S) == 0
    assert kills == 3
    assert result_bytes(run) == straight
    assert not list(run.rglob("*.partial"))


def count_files(run: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(run))


def test_workers_killed_while_they_work_lose_nothing(crawl, straight, tmp_path):
    """Twice in each file, at records drawn from a seed; the first kill of a later file comes as it begins."""
    config, rng = make_config(crawl / "warc" / "*.gz"), random.Random(0)
    tasks = make_tasks(config, find_inputs(config.inputs, tmp_path / "run"), tmp_path / "run")
    killed: list[int] = []
    with GuardedWorker(LimitsConfig(strikes=100)) as worker:
        for task in tasks:
            records, done = [rng.randint(1, 8) for _ in range(2)], threading.Event()
            shooter = threading.Thread(target=shoot, args=(worker, records, done, killed))
            shooter.start()
            outcome = run_one(worker, task)
            done.set()
            shooter.join()
            assert outcome.manifest is not None and outcome.manifest["given_up_at"] is None
    assert len(killed) >= 2
    folders = ("filtered/", "verdicts/", "samples/", "quarantine/crawl", "manifests/")
    expected = {name: value for name, value in straight.items() if name.startswith(folders)}
    found = result_bytes(tmp_path / "run")
    assert {name: value for name, value in found.items() if not name.endswith(".partial")} == expected


def shoot(worker: GuardedWorker, records: list[int], done: threading.Event, killed: list[int]) -> None:
    """Kill the worker's child each time one is at the next of `records`, or past it; `killed` gets their ids."""
    for record in records:
        pid = None
        while pid is None or pid in killed or worker.ordinal < record:
            if done.wait(0.0005):
                return
            pid = worker.pid
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_workers_changes_nothing(crawl, straight, tmp_path, workers):
    config = make_config(crawl / "warc" / "*.gz", execution=ExecutionConfig(workers=workers))
    run_pipeline(config, tmp_path / "run", progress=False)
    assert result_bytes(tmp_path / "run") == straight


def test_the_order_and_naming_of_inputs_change_nothing(crawl, straight, tmp_path):
    files = sorted((crawl / "warc").glob("*.gz"), reverse=True)
    run_pipeline(make_config(*files, files[0]), tmp_path / "run", progress=False)
    assert result_bytes(tmp_path / "run") == straight


def test_a_finished_run_is_not_worked_on_again_and_a_damaged_output_is_repaired(crawl, straight, tmp_path):
    config, run = make_config(crawl / "warc" / "*.gz"), tmp_path / "run"
    summary = run_pipeline(config, run, progress=False)
    assert run_pipeline(config, run, progress=False) == summary
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"interrupted"'))
    victim = run / "filtered" / "crawl-00001.jsonl.gz"
    victim.write_bytes(victim.read_bytes()[:-20])
    before = {path.name: path.stat().st_mtime_ns for path in (run / "filtered").iterdir()}
    run_pipeline(config, run, progress=False)
    after = {path.name: path.stat().st_mtime_ns for path in (run / "filtered").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {victim.name}
    assert result_bytes(run) == straight


def test_files_that_come_or_go_are_noticed(tmp_path):
    first = write_documents(tmp_path / "a.jsonl", ["The boat left the harbour at noon."])
    config = make_config(tmp_path / "*.jsonl", steps=())
    run_pipeline(config, tmp_path / "run", progress=False)
    write_documents(tmp_path / "b.jsonl", ["The train left the town at night.", "And it never came back."])
    assert run_pipeline(config, tmp_path / "run", progress=False)["documents"] == 3
    first.unlink()
    assert run_pipeline(config, tmp_path / "run", progress=False)["documents"] == 2
    assert sorted(path.name for path in (tmp_path / "run" / "filtered").iterdir()) == ["b.jsonl.gz"]


def test_another_configuration_in_the_same_directory_is_refused(crawl, tmp_path):
    config = make_config(crawl / "warc" / "crawl-00000.warc.gz")
    run_pipeline(config, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="another configuration"):
        run_pipeline(replace(config, seed=5), tmp_path / "run", progress=False)
    run_pipeline(replace(config, execution=ExecutionConfig(workers=2)), tmp_path / "run", progress=False)


def test_slurm_jobs_give_the_same_bytes(crawl, straight, tmp_path):
    pytest.importorskip("submitit")
    execution = ExecutionConfig(executor="slurm", workers=2, slurm=SlurmConfig(cluster="local"))
    run_pipeline(make_config(crawl / "warc" / "*.gz", execution=execution), tmp_path / "run", progress=False)
    assert result_bytes(tmp_path / "run") == straight


def test_ray_actors_give_the_same_bytes_and_a_killed_one_is_replaced(crawl, straight, tmp_path, require):
    require("ray")
    import ray

    execution = ExecutionConfig(executor="ray", workers=2)
    config = make_config(crawl / "warc" / "*.gz", execution=execution)
    run = tmp_path / "run"
    start_ray(ray)
    try:
        shooter = threading.Thread(target=kill_an_actor_process, args=(os.getpid(), run))
        shooter.start()
        run_pipeline(config, run, progress=False)
        shooter.join(LIMIT_S)
    finally:
        ray.shutdown()
    assert result_bytes(run) == straight


def start_ray(ray) -> None:
    """A cluster of two workers; Ray gives up after 30 s, which a busy machine may need more than once."""
    for attempt in range(3):
        try:
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
            return
        except Exception as error:
            ray.shutdown()
            if attempt == 2 or "timed out during startup" not in str(error):
                raise


def kill_an_actor_process(parent: int, run: Path) -> None:
    """SIGKILL the first process of an actor that has begun a file (its guarded child's parent)."""
    import psutil

    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        for process in psutil.Process(parent).children(recursive=True):
            try:
                if any("cs336_data.guarded_worker" in part for part in process.cmdline()):
                    os.kill(process.ppid(), signal.SIGKILL)
                    return
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        time.sleep(0.02)


def test_a_file_of_the_run_is_described_by_its_manifest(crawl, tmp_path):
    config = make_config(crawl / "wet" / "crawl-00000.warc.wet.gz")
    run_pipeline(config, tmp_path / "run", progress=False)
    [task] = make_tasks(config, find_inputs(config.inputs, tmp_path / "run"), tmp_path / "run")
    manifest = json.loads(manifest_path(task).read_text())
    source = crawl / "wet" / "crawl-00000.warc.wet.gz"
    assert manifest["input"]["bytes"] == source.stat().st_size
    came = manifest["funnel"]["extract"]["in"]
    assert came == manifest["reader"]["records"] > 5
