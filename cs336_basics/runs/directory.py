"""The run directory: one folder per run, the same for every package.

    config.json     the resolved configuration, nested as the dataclass is
    manifest.json   kind, started, resumed, status (running, interrupted, complete), versions, machine, commit
    log.jsonl       one JSON record per line, appended as the run goes; records of a training run carry "step"
    summary.json    the results, written by `finish`
    lock            held while a process writes here (see `lock.py`)

Checkpoints and other files of the run lie beside these under their own names. A killed run leaves status "running" and
a free lock; it resumes with the same configuration, cuts the log back to its checkpoint (`truncate_log`) and goes on,
and the finished log is then as if the run had never stopped.

Left out: choosing names for runs, comparing runs. Read next: `config.py`, then `report.py`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.config import config_differences, config_to_dict
from cs336_basics.runs.lock import exclusive_lock
from cs336_basics.runs.log import append_record, drop_torn_line, read_records, truncate_records
from cs336_basics.runs.provenance import describe_environment


class RunDirectory:
    """One run's folder. `RunDirectory(path)` only reads; `RunDirectory.create_or_resume(...)` also holds the lock and
    may write.

    Example:
        with RunDirectory.create_or_resume("runs/tiny", config, kind="train") as run:
            run.append_log({"step": 1, "loss": 4.2})
            run.finish({"loss": 4.2})
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.resumed = False  # True when `create_or_resume` found an earlier run here
        self._lock: contextlib.ExitStack | None = None
        self._status = ""  # known to the holder of the lock only

    @property
    def log_path(self) -> Path:
        """The log file."""
        return self.path / "log.jsonl"

    @classmethod
    def create_or_resume(
        cls, path: str | os.PathLike[str], config: Any, *, kind: str, changeable: Collection[str] = ()
    ) -> RunDirectory:
        """Start a run in a new or empty folder, or take up the one that is there.

        Args:
            path: the folder; parents are created.
            config: a frozen dataclass.
            kind: what sort of run this is ("train", "tour", ...).
            changeable: dotted names of fields that may differ on resuming ("device", or "logging" for all of its
                fields).

        Returns:
            The locked directory; use it as a context manager, or call `close`. `resumed` says which of the two it was.
            A run that was complete stays so until something is appended.

        Raises:
            AlreadyLockedError: another run is using the folder.
            ValueError: the folder holds something else, or a run of another kind or configuration. Nothing is touched
                then.
        """
        run = cls(path)
        run._refuse_foreign_folder()
        new = json.loads(json.dumps(config_to_dict(config), allow_nan=False))
        run.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            remedy = "wait for it, stop it, or choose another directory"
            stack.enter_context(exclusive_lock(run.path / "lock", what=f"run directory {run.path}", remedy=remedy))
            run.resumed = (run.path / "manifest.json").exists()
            if run.resumed:
                run._check_same_run(new, kind, changeable)
            run._record_start(new, kind)
            run._lock = stack.pop_all()  # from here on the lock is held until `close`
        return run

    def _refuse_foreign_folder(self) -> None:
        """A folder with files that no run of ours made is left alone; a start killed half-way may be taken up."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run directory {self.path} is a file; choose another directory")
        names = {p.name for p in self.path.iterdir()} if self.path.exists() else set()
        ours = {"lock", "config.json"} if "lock" in names else set()
        foreign = sorted(name for name in names - ours if not name.endswith(".partial"))
        if foreign and not {"config.json", "manifest.json"} <= names:
            raise ValueError(
                f"directory {self.path} is not empty and holds no run (it has {', '.join(foreign[:3])}, but not both "
                "config.json and manifest.json); choose a new or empty directory"
            )

    def _check_same_run(self, new: dict[str, Any], kind: str, changeable: Collection[str]) -> None:
        """Raise unless the stored run is of this kind and configuration."""
        stored_kind = self.manifest()["kind"]
        if stored_kind != kind:
            raise ValueError(f"{self.path} holds a run of kind {stored_kind!r}, not {kind!r}; choose another directory")
        differences = config_differences(self.config(), new)
        changed = [name for name in differences if not any(f"{name}.".startswith(f"{free}.") for free in changeable)]
        if changed:
            lines = [f"  {name}: was {differences[name][0]!r}, now {differences[name][1]!r}" for name in changed]
            raise ValueError(
                f"{self.path} holds a run with another configuration:\n" + "\n".join(lines) + "\n"
                "choose another directory, or use the same configuration to resume"
            )

    def _record_start(self, config: dict[str, Any], kind: str) -> None:
        """Write config and manifest; config first, so that a folder with a manifest is always a whole run."""
        write_json(self.path / "config.json", config)
        if self.resumed:
            drop_torn_line(self.log_path)
            manifest = self.manifest()
            if manifest["status"] != "complete":
                manifest |= {"status": "running", "resumed": [*manifest["resumed"], _utc_now()]}
        else:
            manifest = {"kind": kind, "status": "running", "started": _utc_now(), "resumed": []}
            manifest |= describe_environment()
        write_json(self.path / "manifest.json", manifest)
        self._status = manifest["status"]

    def config(self) -> dict[str, Any]:
        """The stored configuration; `config_from_dict` makes a dataclass of it."""
        return self._read_json("config.json")

    def manifest(self) -> dict[str, Any]:
        """The stored manifest."""
        return self._read_json("manifest.json")

    def summary(self) -> dict[str, Any]:
        """What `finish` wrote; FileNotFoundError before."""
        return self._read_json("summary.json")

    @property
    def is_complete(self) -> bool:
        """True after `finish`."""
        return (self.path / "manifest.json").exists() and self.manifest()["status"] == "complete"

    def _read_json(self, name: str) -> dict[str, Any]:
        """One of our JSON files."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.path / name} is damaged ({error}); restore it or choose another directory"
            ) from error

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Append one record to log.jsonl, as `log.append_record`; a run that was complete is running again."""
        self._require_lock()
        if self._status == "complete":
            self._set_status("running")
        append_record(self.log_path, record)

    def truncate_log(self, after_step: int) -> None:
        """Forget what was logged after the checkpoint one resumes from, as `log.truncate_records`."""
        self._require_lock()
        truncate_records(self.log_path, after_step=after_step)

    def read_log(self) -> list[dict[str, Any]]:
        """All whole records of log.jsonl, oldest first; empty before the first."""
        return read_records(self.log_path)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, then mark the run complete. The lock stays until `close`."""
        self._require_lock()
        write_json(self.path / "summary.json", dict(summary))
        self._set_status("complete")

    def close(self) -> None:
        """Give the lock back; a run that was not finished is marked interrupted. Closing twice does nothing."""
        if self._lock is None:
            return
        try:
            if self._status == "running":
                self._set_status("interrupted")
        finally:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_lock(self) -> None:
        """Only the holder of the lock writes."""
        if self._lock is None:
            raise RuntimeError(
                f"{self.path} is open for reading only; RunDirectory.create_or_resume opens it for writing"
            )

    def _set_status(self, status: str) -> None:
        """Record the new status, and for a complete run the time."""
        manifest = self.manifest() | {"status": status}
        manifest.pop("finished", None)
        write_json(self.path / "manifest.json", manifest | ({"finished": _utc_now()} if status == "complete" else {}))
        self._status = status


def _utc_now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
