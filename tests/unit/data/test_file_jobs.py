"""Jobs over files: inputs that cannot work, workers that die, errors of workers, one job at a time, damaged plans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cs336_basics.runs.lock import AlreadyLockedError
from cs336_data.file_jobs import open_job
from cs336_data.units import plan_units


def files(folder: Path, *names: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(name)
    return [folder / name for name in names]


def test_inputs_that_cannot_work(tmp_path):
    first, second = files(tmp_path / "in", "a.txt", "b.jsonl")
    (other,) = files(tmp_path / "other", "a.txt")
    with pytest.raises(ValueError, match="no input files"):
        plan_units([], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no file at .*missing.txt"):
        plan_units([first, tmp_path / "missing.txt"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no file at .*in"):
        plan_units([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(ValueError, match="have one name and would overwrite each other"):
        plan_units([first, second, other], tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output in (tmp_path / "in", tmp_path / "other" / ".." / "in", tmp_path / "link", first):
        with pytest.raises(ValueError, match="stands in the output folder"):
            plan_units([first, second], output)


def test_units(tmp_path, monkeypatch):
    """Document files alone, others together up to the limit; the order given does not matter."""
    monkeypatch.setattr("cs336_data.units._FILES_PER_UNIT", 2)
    names = ["a.txt", "b.txt", "c.jsonl", "d.jsonl.zst", "e", "f.html", "g.txt"]
    paths = files(tmp_path / "in", *names)
    units = plan_units(paths[::-1], tmp_path / "out")
    grouped = [["a.txt", "b.txt"], ["c.jsonl"], ["d.jsonl.zst"], ["e", "f.html"], ["g.txt"]]
    assert [[path.name for path in unit.paths] for unit in units] == grouped
    assert [unit.number for unit in units] == [0, 1, 2, 3, 4]
    assert list(units[0].texts()) == [b"a.txt", b"b.txt"]
    (tmp_path / "in" / "a.txt").write_bytes(b"caf\xe9\0")
    assert next(units[0].texts()) == "caf\ufffd\0".encode(), "what is no UTF-8 becomes U+FFFD"


def die_in_worker(folder: Path, number: int) -> int:
    """Leave a file; the third call dies as if out of memory, once, and not before the first is done."""
    (folder / f"done-{number}").touch()
    if number == 2 and multiprocessing.parent_process() and not (folder / "died").exists():
        end = time.monotonic() + 60
        while not (folder / "done-0").exists() and time.monotonic() < end:
            time.sleep(0.01)
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(folder: Path, number: int) -> int:
    raise ValueError(f"unit {number} is wrong")


def test_a_worker_that_dies_and_one_that_refuses(tmp_path):
    units = plan_units([path for i in range(4) for path in files(tmp_path / "in", f"{i}.jsonl")], tmp_path / "out")

    def run(function) -> list[int]:
        with open_job(tmp_path / "out", units, num_processes=2, progress=False) as job:
            return job.run("stage", function, [(job.folder, unit.number) for unit in units])

    with pytest.raises(ChildProcessError, match="a worker process died.*same command again"):
        run(die_in_worker)
    assert (tmp_path / "out.parts" / "done-0").exists(), "what is done stays done"
    assert run(die_in_worker) == [0, 1, 2, 3]
    assert not (tmp_path / "out.parts").exists() and not (tmp_path / "out.parts.lock").exists()
    with pytest.raises(ValueError, match="unit 0 is wrong"):
        run(refuse)


def test_one_job_per_output(tmp_path):
    units = plan_units(files(tmp_path / "in", "a.jsonl"), tmp_path / "out")
    with open_job(tmp_path / "out", units, num_processes=1, progress=False):
        with pytest.raises(AlreadyLockedError, match="output .*out is in use"):
            with open_job(tmp_path / "out", units, num_processes=1, progress=False):
                raise AssertionError("two jobs with one output")


def test_wrong_number_of_processes(tmp_path):
    units = plan_units(files(tmp_path / "in", "a.jsonl"), tmp_path / "out")
    with pytest.raises(ValueError, match="num_processes must be at least 1; got 0"):
        with open_job(tmp_path / "out", units, num_processes=0, progress=False):
            pass


@pytest.mark.parametrize("plan", ["", "{", "[]", '{"format": "other"}', None])
def test_a_work_folder_of_something_else_is_started_anew(tmp_path, plan):
    units = plan_units(files(tmp_path / "in", "a.jsonl"), tmp_path / "out")
    parts = tmp_path / "out.parts"
    files(parts, "old")
    if plan is not None:
        (parts / "plan.json").write_text(plan)
    with open_job(tmp_path / "out", units, num_processes=1, progress=False, threshold=0.5) as job:
        assert [path.name for path in job.folder.iterdir()] == ["plan.json"]


ORPHANS = """
import os, sys, time
from pathlib import Path
from cs336_data.file_jobs import open_job
from cs336_data.units import plan_units

def work(folder, number):
    (folder / f"pid-{os.getpid()}").touch()
    time.sleep(60)

if __name__ == "__main__":
    units = plan_units(Path(sys.argv[1]).iterdir(), sys.argv[2])
    with open_job(sys.argv[2], units, num_processes=2, progress=False) as job:
        job.run("stage", work, [(job.folder, unit.number) for unit in units])
"""


def test_workers_end_with_their_parent(tmp_path):
    """A parent killed by SIGKILL leaves no process behind."""
    files(tmp_path / "in", "a.jsonl", "b.jsonl")
    (tmp_path / "job.py").write_text(ORPHANS)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / "in"), str(tmp_path / "out")]
    run = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    limit, pids = time.monotonic() + 200, []
    while len(pids) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
        pids = [int(path.name[4:]) for path in (tmp_path / "out.parts").glob("pid-*")]
    run.send_signal(signal.SIGKILL)
    run.wait(10)
    assert len(pids) == 2
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
