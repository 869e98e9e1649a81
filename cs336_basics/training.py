"""The training loop: one for pretraining, fine-tuning and scaling runs, on one process or many.

    repeat: batch -> forward -> loss -> backward (gradient_accumulation times) -> clip -> learning rate -> update

Everything that a later step depends on (weights, moments, random states, position in the data) is in each checkpoint,
so a run killed at any moment and started again with the same command ends, on a CPU, in the same weights bit for bit;
its log is cut back to the checkpoint and continues. Ctrl-C finishes the step, saves, and says how to go on.

How work is spread over processes is a `Strategy`; `SingleProcess` is the plain one, `cs336_systems/parallel` has
others. Handout: training_together, experiment_log. Read next: `runs/directory.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from cs336_basics import checkpoint
from cs336_basics.data import END_OF_TEXT, document_starts, get_batch, open_tokens, read_manifest
from cs336_basics.evaluation import Evaluation, evaluate_documents, evaluate_windows
from cs336_basics.generation import generate_text
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import clip_gradient, cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_basics.optimizers.muon import Muon, muon_groups
from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.trackers import open_trackers
from cs336_basics.runs.training_progress import training_progress
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.training_config import TrainConfig

CHECKPOINT_NAME = re.compile(r"step_(\d+)\.pt")


@runtime_checkable
class Strategy(Protocol):
    """How a run is spread over processes; all processes call all methods in the same order."""

    rank: int
    world_size: int

    def wrap(self, model: nn.Module, make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> Any:
        """Return (module to call, optimizer); `make_optimizer` takes named parameters."""
        ...

    def finish_gradients(self, module: nn.Module) -> None:
        """Wait until every gradient is the mean over processes."""
        ...

    def mean(self, value: float) -> float:
        """Mean of a number over processes."""
        ...

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path, **extra: Any) -> None:
        """Write a checkpoint."""
        ...

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> dict[str, Any]:
        """Restore from a checkpoint; return its entries."""
        ...


class SingleProcess:
    """The plain strategy: this process does everything."""

    rank = 0
    world_size = 1

    def wrap(self, model: nn.Module, make_optimizer: Callable[[Any], torch.optim.Optimizer]) -> Any:
        """The model itself."""
        return model, make_optimizer(model.named_parameters())

    def finish_gradients(self, module: nn.Module) -> None:
        """Nothing to wait for."""

    def mean(self, value: float) -> float:
        """The number itself."""
        return value

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, path: Path, **extra: Any) -> None:
        """One file."""
        checkpoint.save_checkpoint(module, optimizer, step, path, **extra)

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> dict[str, Any]:
        """One file."""
        state = checkpoint.load_state(path)
        checkpoint.restore(state, module, optimizer)
        return state


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM after which the run was saved; its text says where it stopped."""


class Diverged(ValueError):
    """The loss or its gradient became nan or infinite; `step` is the update in which it showed."""

    def __init__(self, what: str, step: int, config: TrainConfig) -> None:
        self.step = step
        super().__init__(
            f"the {what} at step {step}; lower optimizer.max_learning_rate "
            f"(now {config.optimizer.max_learning_rate}) or lengthen the warm-up, and start in a new directory"
        )


def train(
    config: TrainConfig,
    directory: str | os.PathLike[str],
    *,
    strategy: Strategy | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a model, or go on with the run that `directory` holds; a complete run returns its summary at once.

    Args:
        config: what to train on what; must equal the stored one when resuming (the device may differ).
        directory: run directory (config.json, log.jsonl, summary.json ...), which also gets checkpoints/, model.pt,
            model_config.json and loss.svg.
        strategy: how to spread the work; one process by default.
        progress: show a live bar with loss, tokens per second and time left on standard error.

    Returns:
        The summary: losses, perplexity, bits per byte, entropy floor where the corpus has one, tokens, seconds.

    Raises:
        AlreadyLockedError: another run is using the directory.
        ValueError: the directory holds another run; tokens do not fit the model.
        Diverged: the loss became nan or infinite, a ValueError.
        Interrupted: stopped by Ctrl-C or SIGTERM after saving.
    """
    with RunDirectory.create_or_resume(directory, config, kind="train", changeable=("device",)) as run:
        if run.is_complete:
            return run.summary()
        return _Trainer(config, run, strategy or SingleProcess()).run_to_end(progress)


class _Trainer:
    """The state of a run; `step` counts finished updates."""

    def __init__(self, config: TrainConfig, run: RunDirectory, strategy: Strategy) -> None:
        keep_freed_memory()
        self.config, self.run, self.strategy = config, run, strategy
        self.device = choose_device(config.device)
        self.autocast = uses_bfloat16(config.precision, self.device)
        self.train_tokens = self._open(config.train_tokens)
        self.valid_tokens = self._open(config.valid_tokens)
        self.tokenizer = None if config.tokenizer is None else Tokenizer.load(config.tokenizer)
        self.starts = None
        if config.windows == "documents" and self.tokenizer is not None:
            end_of_text = self.tokenizer.special_id(END_OF_TEXT)
            self.starts = document_starts(self.train_tokens, end_of_text, config.model.context_length)
        torch.manual_seed(config.seed)  # weights and dropout
        self.sampler = torch.Generator().manual_seed(config.seed * 1_000_003 + strategy.rank + 1)
        self.model = TransformerLM(config.model, device=self.device)
        self.module, self.optimizer = strategy.wrap(self.model, self._make_optimizer)
        self.forward = torch.compile(self.module) if config.compile else self.module
        self.step, self.seconds = 0, 0.0
        self._resume()

    def _make_optimizer(self, named_parameters: Any) -> AdamW:
        o = self.config.optimizer
        options: Any = {"lr": o.max_learning_rate, "betas": o.betas, "eps": o.eps, "weight_decay": o.weight_decay}
        if o.name == "muon":
            return Muon(muon_groups(named_parameters), **options)
        return AdamW([p for _, p in named_parameters], **options)

    def _open(self, path: Path) -> Any:
        vocab_size = read_manifest(path)["vocab_size"]
        if vocab_size > self.config.model.vocab_size:
            raise ValueError(
                f"{path} has ids up to {vocab_size - 1}, but model.vocab_size={self.config.model.vocab_size}; "
                f"set model.vocab_size to at least {vocab_size}"
            )
        return open_tokens(path)

    def _resume(self) -> None:
        for half_written in self.run.path.rglob(".*.partial"):  # left by a kill; we hold the lock
            half_written.unlink()
        newest = latest_checkpoint(self.run.path)
        if newest is not None:
            state = self.strategy.load(self.module, self.optimizer, newest)
            self.step, self.seconds = int(state["iteration"]), float(state["seconds"])
            self.sampler.set_state(state["sampler"])
            torch.set_rng_state(state["torch_rng"])
            if self.device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        if self.strategy.rank == 0:
            self.run.truncate_log(after_step=self.step if newest is not None else -1)

    def save(self) -> None:
        """Write a checkpoint of this moment and remove those that are too old."""
        folder = self.run.path / "checkpoints"
        self.strategy.save(
            self.module, self.optimizer, self.step, folder / f"step_{self.step:08d}.pt",
            seconds=self.seconds, sampler=self.sampler.get_state(), torch_rng=torch.get_rng_state(),
            cuda_rng=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        )  # fmt: skip
        if self.strategy.rank == 0:
            for old in sorted(folder.glob("step_*.pt"))[: -self.config.keep_checkpoints]:
                old.unlink()

    def run_to_end(self, progress: bool) -> dict[str, Any]:
        """All remaining steps, then the final validation and files."""
        config, main = self.config, self.strategy.rank == 0
        trackers = open_trackers(self.run.path, config) if main else contextlib.nullcontext(lambda record: None)
        with trackers as track, stop_requests() as stop, training_progress(self, shown=progress and main) as show:
            while self.step < config.num_steps:
                record = self._update()
                validate = self.step % config.eval_every == 0 or self.step == config.num_steps
                if validate:
                    record |= self._validate(full=self.step == config.num_steps)
                if main and (validate or self.step % config.log_every == 0 or self.step == 1):
                    self.run.append_log(record)
                    track(record)
                show(record)
                if stop() or self.step % config.checkpoint_every == 0 or self.step == config.num_steps:
                    self.save()
                if stop():
                    raise Interrupted(f"stopped after step {self.step} of {config.num_steps}; saved in {self.run.path}")
        return self._finish() if main else {}

    def _update(self) -> dict[str, Any]:
        """One optimizer update; returns its log record."""
        config, started = self.config, time.perf_counter()
        loss = torch.zeros((), device=self.device)
        for _ in range(config.gradient_accumulation):
            inputs, targets = get_batch(
                self.train_tokens, config.batch_size, config.model.context_length, self.device,
                generator=self.sampler, starts=self.starts,
            )  # fmt: skip
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
                part = cross_entropy(self.forward(inputs), targets) / config.gradient_accumulation
            part.backward()
            loss += part.detach()
        self.strategy.finish_gradients(self.module)
        norm = clip_gradient(self.module.parameters(), config.optimizer.max_grad_norm)
        learning_rate = config.optimizer.learning_rate(self.step, config.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        value = self.strategy.mean(loss.item())
        if not math.isfinite(value):
            raise Diverged(f"training loss became {value}", self.step + 1, config)
        if not math.isfinite(norm):
            raise Diverged(f"gradient's norm became {float(norm)}", self.step + 1, config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return {
            "step": self.step, "train_loss": value, "learning_rate": learning_rate, "grad_norm": float(norm),
            "tokens": self.step * config.tokens_per_step * self.strategy.world_size, "seconds": round(self.seconds, 3),
        }  # fmt: skip

    def evaluate(self, full: bool = True) -> Evaluation:
        """Validation loss on all or the first eval_tokens of the validation tokens."""
        tokens = self.valid_tokens if full else self.valid_tokens[: self.config.eval_tokens]
        options: dict[str, Any] = {"device": self.device, "batch_size": 32}
        if self.tokenizer is not None:
            options["token_bytes"] = self.tokenizer.token_byte_lengths()
        context = self.config.model.context_length
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            if self.config.eval_by == "documents" and self.tokenizer is not None:
                return evaluate_documents(
                    self.model, tokens, context, self.tokenizer.special_id(END_OF_TEXT), **options
                )
            return evaluate_windows(self.model, tokens, context, **options)

    def _validate(self, full: bool) -> dict[str, Any]:
        result = self.evaluate(full)
        if not math.isfinite(result.perplexity):
            raise Diverged(f"validation loss became {result.loss}", self.step, self.config)
        record = {"validation_loss": result.loss, "perplexity": result.perplexity}
        if result.bytes:
            record["bits_per_byte"] = result.bits_per_byte
        if self.config.sample_tokens and self.tokenizer is not None:
            record["sample"] = generate_text(  # type: ignore[assignment]
                self.model, self.tokenizer, self.config.sample_prompt, self.config.sample_tokens, seed=self.config.seed
            )
        return record

    def _finish(self) -> dict[str, Any]:
        """Write the final model, the plot and the summary."""
        save_model(self.model, self.run.path)
        log = self.run.read_log()
        manifest = read_manifest(self.config.valid_tokens)
        floor = manifest["nats"] / manifest["num_tokens"] if "nats" in manifest else None
        last = log[-1]
        keys = ("train_loss", "validation_loss", "perplexity", "bits_per_byte", "tokens", "seconds")
        summary = {"steps": self.step, **{key: last[key] for key in keys if key in last}, "device": str(self.device)}
        summary["parameters"] = self.model.get_num_params()
        if floor is not None:
            summary |= {"entropy_floor": floor, "above_floor": last["validation_loss"] / floor - 1}
        if not _plot(log, floor, self.run.path / "loss.svg"):
            summary["plot"] = "skipped: matplotlib is not installed (pip install matplotlib)"
        self.run.finish(summary)
        return summary


def _plot(log: list[dict[str, Any]], floor: float | None, path: Path) -> bool:
    """Draw the loss curves; False without matplotlib, which training itself does not need."""
    from cs336_basics.runs.plots import plot_loss_curves

    try:
        figure = plot_loss_curves(log, floor=floor)
    except ImportError:
        return False
    with atomic_write(path) as file:
        figure.savefig(file, format="svg")
    return True


def save_model(model: TransformerLM, directory: Path) -> None:
    """Write model.pt (weights) and model_config.json, as `TransformerLM.from_pretrained` reads them."""
    checkpoint.save_state(model.state_dict(), directory / "model.pt")
    write_json(directory / "model_config.json", asdict(model.config))


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of the highest step under `directory`/checkpoints."""
    found = [path for path in (directory / "checkpoints").glob("step_*.pt") if CHECKPOINT_NAME.fullmatch(path.name)]
    return max(found, key=lambda path: int(path.stem.removeprefix("step_")), default=None)


def choose_device(name: str) -> torch.device:
    """Turn "auto" into a GPU where there is one, else the CPU; other names are taken as they are."""
    if name != "auto":
        device = torch.device(name)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device {name!r} is asked for, but torch finds no CUDA GPU here; use device='cpu' or 'auto'"
            )
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether forward and backward run in bfloat16: when asked for, or on a GPU that has it when "auto"."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C and SIGTERM set a flag instead of breaking a step; a second Ctrl-C breaks it after all."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def remember(number: int, frame: Any) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep_freed_memory() -> None:
    """Ask glibc to reuse large freed blocks instead of returning them to the system, which speeds up CPU steps.

    By default each tensor above 32 MB is mapped afresh and its pages are zeroed one fault at a time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_threshold, one_gigabyte = -1, -3, 1 << 30
            libc.mallopt(mmap_threshold, one_gigabyte)
            libc.mallopt(trim_threshold, one_gigabyte)
