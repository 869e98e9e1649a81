"""Run directories, their locks, logs and configs, against what is on disk and what other processes see."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from cs336_basics.runs import log
from cs336_basics.runs.config import config_from_dict, config_to_dict, load_config
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.lock import AlreadyLockedError, exclusive_lock
from cs336_basics.runs.provenance import git_commit


@dataclasses.dataclass(frozen=True)
class ModelPart:
    num_layers: int = 2
    norm: Literal["pre", "post"] = "pre"
    rope_theta: float | None = 1e4


@dataclasses.dataclass(frozen=True)
class RunConfig:
    model: ModelPart = ModelPart()
    data: Path = Path("data/train.bin")
    betas: tuple[float, float] = (0.9, 0.95)
    stages: tuple[ModelPart, ...] = ()
    name: str = "first"
    compile: bool = False
    extra: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")


def start(path: Path, config: RunConfig | None = None, **options: object) -> RunDirectory:
    return RunDirectory.create_or_resume(path, config or RunConfig(), kind="train", **options)  # type: ignore[arg-type]


def files_of(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.name != "lock"}


# Configs


def test_config_survives_json_with_every_kind_of_field() -> None:
    config = RunConfig(
        ModelPart(4, "post", None), Path("x/y"), (0.8, 0.9), (ModelPart(), ModelPart(7)), "n", True, {"a": 1}
    )
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert plain["model"] == {"num_layers": 4, "norm": "post", "rope_theta": None}
    assert plain["stages"][1]["num_layers"] == 7 and plain["data"] == str(Path("x/y"))
    assert config_from_dict(RunConfig, plain) == config


def test_integer_is_a_float_but_bool_is_not_an_int() -> None:
    built = config_from_dict(RunConfig, {"betas": [1, 0], "model": {"rope_theta": 5}})
    assert built.betas == (1.0, 0.0) and all(type(beta) is float for beta in built.betas)
    assert type(built.model.rope_theta) is float
    with pytest.raises(TypeError, match=r"model\.num_layers must be int; got True"):
        config_from_dict(RunConfig, {"model": {"num_layers": True}})


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"modle": {}}, ValueError, "unknown config key modle .*did you mean model"),
        ({"model": {"num_layer": 3}}, ValueError, "did you mean model.num_layers"),
        ({"zzz": 1}, ValueError, "fields are betas, compile"),
        ({"model": {"norm": "mid"}}, ValueError, "model.norm must be one of 'pre', 'post'; got 'mid'"),
        ({"betas": [0.9]}, ValueError, "betas must have 2 entries; got 1"),
        ({"betas": 3}, TypeError, "betas must be a list; got 3"),
        ({"name": 7}, TypeError, "name must be str; got 7"),
        ({"model": {"rope_theta": "big"}}, TypeError, "rope_theta must be float; got 'big'"),
        ({"compile": 1}, TypeError, "compile must be bool; got 1"),
        ({"stages": [{"num_layers": 1}, {"x": 2}]}, ValueError, r"stages\[1\]\.x"),
        ({"name": ""}, ValueError, "name must not be empty"),
    ],
)
def test_wrong_configs_are_named(values: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        config_from_dict(RunConfig, values)


def test_missing_field_without_default_is_named() -> None:
    cls = dataclasses.make_dataclass("Needs", [("steps", int)], frozen=True)
    with pytest.raises(ValueError, match="steps is missing"):
        config_from_dict(cls, {})


def test_toml_with_overrides(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "toml"\n[model]\nnum_layers = 3\nnorm = "post"\n')
    overrides = ["model.num_layers=4", "model.rope_theta=none", "data=a/b c.bin", "betas=[0.5, 0.6]", 'name="x=1"']
    config = load_config(RunConfig, file, overrides=overrides)
    assert config == RunConfig(ModelPart(4, "post", None), Path("a/b c.bin"), (0.5, 0.6), name="x=1")
    assert load_config(RunConfig, None) == RunConfig()
    assert load_config(RunConfig, None, overrides=["name=2024-01-01"]).name == "2024-01-01"


def test_broken_toml_and_overrides_are_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("name = [")
    with pytest.raises(ValueError, match="bad.toml is not valid TOML"):
        load_config(RunConfig, file)
    with pytest.raises(ValueError, match="must look like"):
        load_config(RunConfig, None, overrides=["num_layers 4"])
    with pytest.raises(ValueError, match="name is a value"):
        load_config(RunConfig, None, overrides=["name=x", "name.y=1"])


# Starting, resuming, refusing


def test_a_run_from_start_to_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with start(path) as run:
        assert not run.resumed and not run.is_complete
        assert json.loads((path / "manifest.json").read_text())["status"] == "running"
        run.append_log({"step": 1, "loss": 4.0})
        run.append_log({"step": 2, "text": "caf\u00e9\n"})
        run.finish({"loss": 3.5})
    assert RunDirectory(path).is_complete and RunDirectory(path).summary() == {"loss": 3.5}
    assert [json.loads(line) for line in (path / "log.jsonl").read_text("utf-8").splitlines()] == [
        {"step": 1, "loss": 4.0},
        {"step": 2, "text": "caf\u00e9\n"},
    ]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["kind"] == "train" and manifest["status"] == "complete" and manifest["started"].endswith("+00:00")
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3])) and manifest["cpu_count"] == os.cpu_count()
    assert config_from_dict(RunConfig, json.loads((path / "config.json").read_text())) == RunConfig()


def test_unfinished_run_is_interrupted_and_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(tmp_path) as run:
        run.append_log({"step": 1})
        raise KeyboardInterrupt
    assert RunDirectory(tmp_path).manifest()["status"] == "interrupted"
    with start(tmp_path) as run:
        assert run.resumed and run.read_log() == [{"step": 1}]
        assert run.manifest()["status"] == "running" and len(run.manifest()["resumed"]) == 1


def test_complete_run_stays_complete_until_it_goes_on(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.finish({})
    with start(tmp_path) as run:
        assert run.is_complete
    assert RunDirectory(tmp_path).is_complete
    with start(tmp_path) as run:
        run.append_log({"step": 1})
        assert not run.is_complete
    assert RunDirectory(tmp_path).manifest()["status"] == "interrupted"


def test_other_config_is_refused_field_by_field_and_nothing_changes(tmp_path: Path) -> None:
    start(tmp_path).close()
    before = files_of(tmp_path)
    other = RunConfig(model=ModelPart(num_layers=5), name="second")
    with pytest.raises(ValueError) as caught:
        start(tmp_path, other)
    text = str(caught.value)
    assert "model.num_layers: was 2, now 5" in text and "name: was 'first', now 'second'" in text
    assert "norm" not in text and "another directory" in text
    assert files_of(tmp_path) == before
    with pytest.raises(ValueError, match="kind 'train', not 'tour'"):
        RunDirectory.create_or_resume(tmp_path, RunConfig(), kind="tour")
    start(tmp_path).close()  # the refusals gave the lock back


def test_changeable_fields_may_change_and_are_stored(tmp_path: Path) -> None:
    start(tmp_path).close()
    other = RunConfig(model=ModelPart(num_layers=5), name="second")
    with pytest.raises(ValueError, match="name: was"):
        start(tmp_path, other, changeable=("model",))
    with start(tmp_path, other, changeable=("model", "name")) as run:
        assert run.config()["name"] == "second" and run.config()["model"]["num_layers"] == 5


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no run .*thesis.tex"):
        start(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("a model's, not a run's")
    with pytest.raises(ValueError, match="it has config.json"):
        start(tmp_path / "model")
    assert files_of(tmp_path / "model") == {"config.json": b"a model's, not a run's"}
    with pytest.raises(ValueError, match="is a file"):
        start(tmp_path / "thesis.tex")


def test_start_killed_half_way_starts_again(tmp_path: Path) -> None:
    start(tmp_path).close()
    (tmp_path / "manifest.json").unlink()
    (tmp_path / ".manifest.json.x.partial").write_text("{")
    with start(tmp_path) as run:
        assert not run.resumed and run.manifest()["kind"] == "train"


def test_damaged_manifest_is_named(tmp_path: Path) -> None:
    start(tmp_path).close()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        start(tmp_path)


def test_reader_may_not_write(tmp_path: Path) -> None:
    start(tmp_path).close()
    with pytest.raises(RuntimeError, match="reading only"):
        RunDirectory(tmp_path).append_log({"step": 1})


# Locks


def test_second_run_in_one_directory_is_refused(tmp_path: Path) -> None:
    with start(tmp_path):
        with pytest.raises(AlreadyLockedError) as caught:
            start(tmp_path)
        text = str(caught.value)
        assert str(tmp_path) in text and f"process {os.getpid()}" in text and "another directory" in text
    start(tmp_path).close()


_HOLDER = """
import sys, dataclasses
from cs336_basics.runs.directory import RunDirectory
@dataclasses.dataclass(frozen=True)
class C: steps: int = 1
run = RunDirectory.create_or_resume(sys.argv[1], C(), kind="train")
run.append_log({"step": 1})
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_is_seen_by_other_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    config = dataclasses.make_dataclass("C", [("steps", int, 1)], frozen=True)()
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(AlreadyLockedError, match=f"process {holder.pid}"):
            RunDirectory.create_or_resume(tmp_path, config, kind="train")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with RunDirectory.create_or_resume(tmp_path, config, kind="train") as run:
        assert run.resumed and run.read_log() == [{"step": 1}]


def test_deleting_lock_leaves_no_file_and_still_excludes(tmp_path: Path) -> None:
    path = tmp_path / ".x.lock"
    for _ in range(3):
        with exclusive_lock(path, what="x", remedy="wait", delete_after=True):
            with pytest.raises(AlreadyLockedError), exclusive_lock(path, what="x", remedy="wait"):
                pass
    assert not path.exists()


# Logs


@pytest.mark.parametrize("torn", [b"", b'{"step": 4, "lo', b"\xff\xfe"])
def test_resumed_log_is_as_if_never_interrupted(tmp_path: Path, torn: bytes) -> None:
    records = [{"note": "start"}, *({"step": s, "loss": 1 / s} for s in range(1, 6)), {"note": "end"}]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with start(whole) as run:
        for record in records:
            run.append_log(record)
    with start(broken) as run:
        for record in [*records[:4], {"note": "lost"}]:  # up to step 3; the checkpoint is of step 2
            run.append_log(record)
    with open(broken / "log.jsonl", "ab") as file:
        file.write(torn)
    assert RunDirectory(broken).read_log() == [*records[:4], {"note": "lost"}]
    with start(broken) as run:
        run.truncate_log(2)
        for record in records[3:]:
            run.append_log(record)
    assert (broken / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_torn_line_goes_on_resume_even_without_truncation(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.append_log({"step": 1})
    with open(tmp_path / "log.jsonl", "ab") as file:
        file.write(b'{"step": 2')
    with start(tmp_path) as run:
        run.append_log({"step": 2})
    assert (tmp_path / "log.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_truncation_beyond_the_end_or_of_nothing_changes_nothing(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.truncate_log(3)
        assert not (tmp_path / "log.jsonl").exists() and run.read_log() == []
        run.append_log({"step": 1})
        stamp = (tmp_path / "log.jsonl").stat()
        run.truncate_log(10)
        assert (tmp_path / "log.jsonl").stat().st_ino == stamp.st_ino and run.read_log() == [{"step": 1}]
        run.truncate_log(0)
        assert (tmp_path / "log.jsonl").read_bytes() == b""


def test_damaged_line_is_named(tmp_path: Path) -> None:
    start(tmp_path).close()
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nhello\n[1]\n')
    with pytest.raises(ValueError, match="line 2 is not JSON"):
        RunDirectory(tmp_path).read_log()


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        with pytest.raises(ValueError, match="'loss' is nan"):
            run.append_log({"step": 1, "loss": float("nan")})
        assert run.read_log() == []


def test_full_disk_while_appending_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes five bytes of the line, then is full: the log must be as before."""
    run = start(tmp_path)
    run.append_log({"step": 1})
    real_open = open

    def open_on_full_disk(*args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        file = real_open(*args, **kwargs)  # type: ignore[call-overload]
        return _FullDisk(file)

    with monkeypatch.context() as patch:
        patch.setattr(log, "open", open_on_full_disk, raising=False)
        with pytest.raises(OSError) as caught:
            run.append_log({"step": 2, "loss": 1.25})
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "log.jsonl").read_bytes() == b'{"step": 1}\n'
    run.append_log({"step": 2})
    assert run.read_log() == [{"step": 1}, {"step": 2}]
    run.close()


class _FullDisk:
    """A file on a disk with room for five more bytes."""

    def __init__(self, file) -> None:  # type: ignore[no-untyped-def]
        self.file, self.room = file, 5

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def]
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(bytes(data)[: self.room])
        self.room -= written
        return written


# Provenance


def test_commit_is_that_of_the_checkout_that_tracks_the_file(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        git("init", "-q")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    tracked, untracked = tmp_path / "a.py", tmp_path / "b.py"
    tracked.write_text("1")
    untracked.write_text("1")
    git("add", "a.py")
    git("commit", "-q", "-m", "x")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tracked) == commit and len(commit) == 40
    assert git_commit(untracked) is None
    tracked.write_text("2")
    assert git_commit(tracked) == f"{commit}-dirty"
