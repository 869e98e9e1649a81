"""A training run of this package in a directory: steps, log, held-out accuracy, checkpoints, resume, summary.

    before the first step    greedy answers to the whole test split: the accuracy to beat
    now and then             the same on a part of it; a checkpoint; what the trainer has to show
    at the end               the whole test split again, compared question by question with the first time

Whatever has `step`, `state` and `set_state` can be trained here: SFT, DPO, GRPO, PPO, expert iteration. A run that was
killed goes on from its last checkpoint and ends, on a CPU, as it would have. Read next: `sft.py`, `grpo.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from cs336_alignment.rollouts import Sampler, greedy_rewards
from cs336_alignment.statistics import compare_paired
from cs336_alignment.task import Example, Task
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics import checkpoint
from cs336_basics.model import TransformerLM
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.intervals import wilson_interval
from cs336_basics.runs.machine import keep_freed_memory, stop_requests
from cs336_basics.training import Interrupted, latest_checkpoint, save_model

KEPT_CHECKPOINTS = 2
PLAIN_SECONDS = 10.0


class Trainer(Protocol):
    """What can be trained here; `config` has num_steps, eval_every, eval_examples and checkpoint_every."""

    model: nn.Module
    optimizer: Any
    """as torch.optim.Optimizer"""
    config: Any
    steps_done: int

    def step(self) -> dict[str, Any]:
        """One step; returns what there is to log, "step" included."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """The questions that a run is judged by."""

    task: Task
    examples: Sequence[Example]
    sampler: Sampler
    eos_id: int

    def evaluate(self, count: int | None = None) -> list[dict[str, float]]:
        """Rewards of greedy answers to the first `count` questions, or all."""
        return greedy_rewards(self.sampler, self.task, self.examples[:count], self.eos_id)


def run_training(
    trainer: Trainer,
    directory: str | os.PathLike[str],
    *,
    kind: str,
    config: Any,
    held_out: HeldOut | None = None,
    before: list[dict[str, float]] | None = None,
    tokenizer: Any = None,
    transcripts: Callable[[], list[dict[str, Any]]] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train to the end, or go on with the run in `directory`; a complete run returns its summary at once.

    Args:
        trainer: fresh, with the model as it was before the run.
        directory: gets config, log, checkpoints, answers.json, summary and the trained model.
        kind: what sort of run this is.
        config: the frozen dataclass that is stored, and must be the same to go on.
        held_out: questions to answer; none, no accuracy.
        before: the answers before the run where they are known already.
        tokenizer: saved beside the model.
        transcripts: called after each `config.sample_every` steps; its records go to samples.jsonl.
        progress: a live bar on standard error.

    Raises:
        ValueError: the directory holds something else, or the training diverged.
        Interrupted: Ctrl-C, after saving.
    """
    keep_freed_memory()
    with RunDirectory.create_or_resume(directory, config, kind=kind, changeable=("device",)) as run:
        if run.is_complete:
            return run.summary()
        answers, earlier = _resume(trainer, run)
        started = time.perf_counter() - earlier
        if held_out is not None and "before" not in answers:
            answers["before"] = held_out.evaluate() if before is None else before
            write_json(run.path / "answers.json", answers)
            run.append_log({"step": 0, **_accuracy(answers["before"])})
        _run(trainer, run, held_out, transcripts, progress, started)
        if held_out is not None:
            answers["after"] = held_out.evaluate()
            write_json(run.path / "answers.json", answers)
        save_trained(trainer.model, run.path, tokenizer)
        summary = _summary(run, trainer, answers) | {"seconds": time.perf_counter() - started}
        run.finish(summary)
    return summary


def _run(
    trainer: Trainer, run: RunDirectory, held_out: HeldOut | None,
    transcripts: Callable[[], list[dict[str, Any]]] | None, progress: bool, started: float,
) -> None:  # fmt: skip
    config = trainer.config
    with stop_requests() as stop, step_progress(trainer, shown=progress) as show:
        while trainer.steps_done < config.num_steps:
            record = trainer.step()
            done, last = trainer.steps_done, trainer.steps_done == config.num_steps
            if held_out is not None and done % config.eval_every == 0 and not last:
                record |= _accuracy(held_out.evaluate(config.eval_examples))
            run.append_log(record)
            if transcripts is not None and (done % config.sample_every == 0 or last):
                _append_lines(run.path / "samples.jsonl", transcripts())
            show(record)
            if stop() or done % config.checkpoint_every == 0:
                _save(trainer, run, time.perf_counter() - started)
            if stop():
                raise Interrupted(f"stopped after step {done} of {config.num_steps}; saved in {run.path}")


def _resume(trainer: Trainer, run: RunDirectory) -> tuple[dict[str, Any], float]:
    """Restore the newest checkpoint; returns the answers that are there already and the seconds spent on it."""
    newest, seconds = latest_checkpoint(run.path), 0.0
    if newest is not None:
        state = checkpoint.load_state(newest)
        checkpoint.restore(state, trainer.model, trainer.optimizer)
        trainer.set_state(state["trainer"])
        seconds = float(state["seconds"])
    run.truncate_log(after_step=trainer.steps_done if newest is not None else 0)
    samples = run.path / "samples.jsonl"
    if samples.exists():
        kept = [line for line in samples.read_text(encoding="utf-8").splitlines()
                if json.loads(line)["step"] <= trainer.steps_done]  # fmt: skip
        samples.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    path = run.path / "answers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}, seconds


def _save(trainer: Trainer, run: RunDirectory, seconds: float) -> None:
    folder = run.path / "checkpoints"
    path = folder / f"step_{trainer.steps_done:08d}.pt"
    checkpoint.save_checkpoint(
        trainer.model, trainer.optimizer, trainer.steps_done, path, trainer=trainer.state(), seconds=seconds
    )
    for old in sorted(folder.glob("step_*.pt"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def save_trained(model: nn.Module, directory: Path, tokenizer: Any = None) -> None:
    """Write the model as `cs336 generate` or transformers read it, and the tokenizer beside it."""
    if isinstance(model, TransformerLM):
        save_model(model, directory)
    elif hasattr(model, "save_pretrained"):
        model.save_pretrained(directory)  # type: ignore[operator]
    else:
        checkpoint.save_state(model.state_dict(), directory / "model.pt")
    inner: Any = TextTokenizer(tokenizer).tokenizer if tokenizer is not None else None
    if hasattr(inner, "save_pretrained"):
        inner.save_pretrained(directory)
    elif hasattr(inner, "save"):
        inner.save(directory / "tokenizer")


def _accuracy(rewards: Sequence[Mapping[str, float]]) -> dict[str, float]:
    right = sum(score["answer_reward"] for score in rewards)
    return {"accuracy": right / len(rewards), "format": sum(s["format_reward"] for s in rewards) / len(rewards)}


def _summary(run: RunDirectory, trainer: Trainer, answers: dict[str, Any]) -> dict[str, Any]:
    log = run.read_log()
    numbers = {k: v for k, v in log[-1].items() if isinstance(v, (int, float)) and k not in ("accuracy", "format")}
    summary: dict[str, Any] = {"steps": trainer.steps_done, "last": numbers}
    if answers:
        summary |= compare_answers(answers["before"], answers["after"])
    return summary


def compare_answers(before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Accuracy with its 95 % interval before and after, and the paired comparison of the same questions."""
    summary: dict[str, Any] = {"questions": len(after)}
    for name, scores in (("before", before), ("after", after)):
        right = sum(score["answer_reward"] > 0 for score in scores)
        summary |= {f"accuracy_{name}": right / len(scores), f"interval_{name}": list(wilson_interval(right, len(scores))),
                    f"format_{name}": sum(score["format_reward"] > 0 for score in scores) / len(scores)}  # fmt: skip
    paired = compare_paired([s["answer_reward"] > 0 for s in before], [s["answer_reward"] > 0 for s in after])
    return summary | {"gained": paired.gained, "lost": paired.lost, "p_value": paired.p_value}


def _append_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@contextlib.contextmanager
def step_progress(trainer: Trainer, *, shown: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function of a step's record that moves a bar on standard error, or prints a line now and then."""
    if not shown:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, total = Console(stderr=True), trainer.config.num_steps
    first, started, last_line = trainer.steps_done, time.monotonic(), time.monotonic()
    columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=trainer.steps_done)

        def show(record: Mapping[str, Any]) -> None:
            nonlocal last_line
            names = ("loss", "mean_reward", "entropy", "length", "accuracy")
            text = ", ".join(f"{name} {record[name]:.3g}" for name in names if name in record)
            bar.update(task, completed=record["step"], description=text)
            now = time.monotonic()
            if not console.is_terminal and (now - last_line > PLAIN_SECONDS or record["step"] == total):
                last_line = now
                left = (total - record["step"]) * (now - started) / max(record["step"] - first, 1)
                console.print(f"step {record['step']}/{total} {text}, {left:.0f} s left", highlight=False)

        yield show
