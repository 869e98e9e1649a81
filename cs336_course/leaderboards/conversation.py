"""The judge's talk with a participant's code: one question at a time, each unknown until the one before is answered.

It uses the grader's worker (`../grading/client.py`, `isolation.py`): a locked-in process that holds neither expected
values nor the verdict. A question's inputs are put into a folder that the sandbox can only read, after the previous
answer has come. Read next: `worker/board_drivers.py`, `judges/loss.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_course.grading import isolation
from cs336_course.grading.client import Limits, Outcome, Worker
from cs336_course.grading.staging import SubmissionError, stage
from cs336_course.grading.worker import wire

SAFE_SUFFIXES = {".safetensors", ".json", ".jsonl", ".txt", ".md", ".toml"}
"""artifacts that are data and nothing else; no pickles"""


class ProbeFailure(ValueError):
    """A participant's code did something that no honest entry does."""

    def __init__(self, probe: str, text: str) -> None:
        super().__init__(f"{probe}: {text}")
        self.probe, self.text = probe, text


@dataclass(frozen=True)
class Question:
    """One case: what is done with which inputs."""

    driver: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What came back, and how long it took by the judge's clock, delivery included."""

    value: dict[str, Any]
    outside_s: float


class _Correspondent(Worker):
    """A worker that hands out the next question when an answer arrives."""

    def __init__(self, root: Path, tier: str, limits: Limits) -> None:
        super().__init__(root, tier, limits)
        self._box = root / "student" / "box"
        self._waiting: Iterator[Question] = iter(())
        self._number = 0
        self._prepared: bytes | None = None

    def converse(self, questions: Sequence[Question]) -> Outcome:
        """Ask all questions in a fresh child of the server."""
        for left in self._box.iterdir():  # by a child that ended early
            left.unlink()
        cases = [{"driver": q.driver, "inputs": {"box": self._number + i}} for i, q in enumerate(questions)]
        self._waiting = iter(questions)
        self._prepare()
        self._deliver()
        outcome = self.ask(cases)
        self._number = cases[-1]["inputs"]["box"] + 1  # type: ignore[index]
        return outcome

    def _deliver(self) -> None:
        """Put the prepared question into the box and prepare the one after."""
        if self._prepared is not None:
            half = self._box / "half"  # not atomic_write: waiting for the disk would count as the participant's time
            half.write_bytes(self._prepared)
            half.rename(self._box / f"{self._number}.frame")
            (self._box / f"{self._number - 1}.frame").unlink(missing_ok=True)
            self._number += 1
            self._prepare()

    def _prepare(self) -> None:
        question = next(self._waiting, None)
        self._prepared = None if question is None else wire.pack(question.inputs)

    def _message(self, timeout_s: float) -> dict[str, Any] | None:
        message = super()._message(timeout_s)
        if message is not None and message.get("event") == "answer":
            self._deliver()
        return message


class Conversation:
    """Questions to staged code; see `staged`."""

    def __init__(self, worker: _Correspondent, tier: str) -> None:
        self._worker, self.tier = worker, tier

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers of a fresh process to all questions, in order.

        Raises:
            ProbeFailure: "answers": the code raised, ended its process, ran too long or answered in no known form.
        """
        outcome = self._worker.converse(questions)
        answers = []
        for answer in outcome.answers:
            if "error" in answer:
                where = f" at {answer['where']}" if answer["where"] else ""
                raise ProbeFailure("answers", f"{answer['error']}{where}: {' '.join(answer['message'].split())[:200]}")
            answers.append(Answer(answer["value"], answer["wall_s"]))
        if len(answers) < len(questions):
            raise ProbeFailure(
                "answers", f"the code answered {len(answers)} of {len(questions)}; it ended: {outcome.reason}"
            )
        return answers

    def require(self, *names: str) -> None:
        """Raise a ProbeFailure unless the entrypoint has these functions."""
        has = self.ask([Question("ready", {"names": list(names)})])[0].value.get("has")
        missing = [name for name in names if not isinstance(has, list) or name not in has]
        if missing:
            raise ProbeFailure("answers", f"the entrypoint has no function {missing[0]}")


@contextlib.contextmanager
def staged(
    code: Path, artifacts: Path | None, *, tier: str = "auto", limits: Limits | None = None
) -> Iterator[Conversation]:
    """Lay out code and artifacts for a locked-in process and talk to it.

    Args:
        code: zip or folder with `cs336_*` packages and tests/adapters.py, the entrypoint.
        artifacts: folder of data files, or None.
        tier: see `grading/isolation.py`.
        limits: per question; 300 s and 4 GB by default.

    Raises:
        ProbeFailure: "evidence": code or artifacts that are refused, and why.
    """
    with tempfile.TemporaryDirectory(prefix="cs336-board-") as folder:
        root = Path(folder)
        isolation.prepare(root)
        shutil.copyfile(Path(__file__).parent / "worker" / "board_drivers.py", root / "worker" / "registry.py")
        try:
            stage(code, root / "student")
        except SubmissionError as error:
            raise ProbeFailure("evidence", f"code: {error}") from error
        (root / "student" / "box").mkdir()
        if artifacts is not None:
            copy_artifacts(artifacts, root / "student" / "artifacts")
        chosen = isolation.choose_tier(tier)
        worker = _Correspondent(root, chosen, limits or Limits(case_s=300, memory_mb=4096))
        with worker:
            yield Conversation(worker, chosen)


def copy_artifacts(source: Path, target: Path) -> None:
    """Copy data files; anything that could run code when it is loaded is refused.

    Raises:
        ProbeFailure: "evidence": a link, or a file of another kind than `SAFE_SUFFIXES`.
    """
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_symlink():
            raise ProbeFailure("evidence", f"artifact {name} is a link")
        if path.is_dir():
            continue
        if path.suffix not in SAFE_SUFFIXES:
            raise ProbeFailure(
                "evidence", f"artifact {name} may run code when loaded; checkpoints are safetensors only"
            )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
        os.chmod(target / name, 0o444)
