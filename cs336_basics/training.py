"""The training loop: one for pretraining, fine-tuning and scaling runs, on one process or many.

    repeat: batch -> forward -> loss -> backward (gradient_accumulation times) -> clip -> learning rate -> update

Everything that a later step depends on (weights, moments, random states, position in the data) is in each checkpoint,
so a run killed at any moment and started again with the same command ends, on a CPU, in the same weights bit for bit;
its log is cut back to the checkpoint and continues. Ctrl-C finishes the step, saves, and says how to go on.
Validation, samples and the final file see the average of the weights where there is one: the moving average of
`ema.py`, or the one that schedule-free AdamW computes. What is minimised is in `training_loss.py`.

Handout: training_together, experiment_log. Left out: how work is spread over processes (`training_strategy.py`).
Read next: `runs/directory.py`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cs336_basics import checkpoint
from cs336_basics.data import END_OF_TEXT, document_starts, get_batch, open_tokens, read_manifest
from cs336_basics.ema import WeightAverage, weights_replaced
from cs336_basics.evaluation import Evaluation, evaluate_documents, evaluate_windows
from cs336_basics.generation import generate_text
from cs336_basics.model import TransformerLM
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.packing.packer import next_batch
from cs336_basics.packing.windows import packer_for_windows
from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.evidence import write_evidence
from cs336_basics.runs.log_chain import LogChain
from cs336_basics.runs.machine import choose_device, keep_freed_memory, stop_requests, uses_bfloat16
from cs336_basics.runs.trackers import open_trackers
from cs336_basics.runs.training_progress import training_progress
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.training_config import TrainConfig
from cs336_basics.training_loss import TrainingLoss
from cs336_basics.training_strategy import SingleProcess, Strategy

CHECKPOINT_NAME = re.compile(r"step_(\d+)\.pt")


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
    strategy, run = strategy or SingleProcess(), RunDirectory(directory)
    with contextlib.ExitStack() as stack:

        def open_for_writing() -> bool:  # rank 0 holds the lock; the others read
            nonlocal run
            run = RunDirectory.create_or_resume(directory, config, kind="train", changeable=("device",))
            stack.enter_context(run)
            return run.is_complete

        if strategy.on_main(open_for_writing):
            return run.summary()
        return _Trainer(config, run, strategy).run_to_end(progress)


class _Trainer:
    """The state of a run; `step` counts finished updates."""

    def __init__(self, config: TrainConfig, run: RunDirectory, strategy: Strategy) -> None:
        keep_freed_memory()
        self.config, self.run, self.strategy = config, run, strategy
        self.device = choose_device(config.device)
        bfloat16 = uses_bfloat16(config.precision, self.device)
        self.precision = functools.partial(torch.autocast, self.device.type, dtype=torch.bfloat16, enabled=bfloat16)
        self.train_tokens = self._open(config.train_tokens)
        self.valid_tokens = self._open(config.valid_tokens)
        self.tokenizer = None if config.tokenizer is None else Tokenizer.load(config.tokenizer)
        self.starts = None
        if config.windows == "documents" and self.tokenizer is not None:
            end_of_text = self.tokenizer.special_id(END_OF_TEXT)
            self.starts = document_starts(self.train_tokens, end_of_text, config.model.context_length)
        self.packer = packer_for_windows(
            config.windows, self.train_tokens, context_length=config.model.context_length,
            end_of_text=self._end_of_text() if config.windows == "best-fit" else None,
            rank=strategy.batch_rank, world_size=strategy.num_batches,
        )  # fmt: skip
        torch.manual_seed(config.seed)  # weights and dropout
        self.sampler = torch.Generator().manual_seed(config.seed * 1_000_003 + strategy.batch_rank + 1)
        self.model = TransformerLM(config.model, device=self.device)
        self.num_parameters = self.model.get_num_params()  # before a strategy splits them
        self.module, self.optimizer = strategy.wrap(
            self.model, lambda named_parameters: build_optimizer(config.optimizer, named_parameters)
        )
        if strategy.batch_rank:  # the weights are rank 0's; dropout differs
            torch.manual_seed(config.seed * 1_000_003 + strategy.batch_rank)
        self.loss = TrainingLoss(
            self.model, self.module, z_loss=config.z_loss, chunk_tokens=config.chunked_loss, compile=config.compile,
            end_of_text=self._end_of_text() if config.document_mask else None, precision=self.precision,
        )  # fmt: skip
        self.ema: WeightAverage | None = None
        if config.ema_decay:
            self.ema = WeightAverage(self.model.named_parameters(), decay=config.ema_decay, start=config.ema_start)
        self.step, self.seconds = 0, 0.0
        self._cpu_start = time.process_time()
        self._resume()

    def _open(self, path: Path) -> Any:
        vocab_size = read_manifest(path)["vocab_size"]
        if vocab_size > self.config.model.vocab_size:
            raise ValueError(
                f"{path} has ids up to {vocab_size - 1}, but model.vocab_size={self.config.model.vocab_size}; "
                f"set model.vocab_size to at least {vocab_size}"
            )
        return open_tokens(path)

    def _resume(self) -> None:
        newest = self.strategy.on_main(self._clean_up)
        if newest is not None:
            state = self.strategy.load(self.module, self.optimizer, newest)
            self.step, self.seconds = int(state["iteration"]), float(state["seconds"])
            self._cpu_start -= float(state.get("cpu_seconds", 0.0))
            self.sampler.set_state(state["sampler"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            torch.set_rng_state(state["torch_rng"])
            if self.device.type == "cuda" and state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
            if self.packer is not None:
                self.packer.load_state_dict(state["packer"])
        if self.strategy.rank == 0:
            self.run.truncate_log(after_step=self.step if newest is not None else -1)
            self.chain = LogChain(self.run.log_path, self.run.path / "config.json")

    def _clean_up(self) -> Path | None:
        """Remove what a kill left half-written (we hold the lock); return the newest checkpoint."""
        for half_written in self.run.path.rglob(".*.partial"):
            half_written.unlink()
        return latest_checkpoint(self.run.path)

    def cpu_seconds(self) -> float:
        """CPU time of all threads of this process, and of the sessions before."""
        return time.process_time() - self._cpu_start

    def save(self) -> None:
        """Write a checkpoint of this moment and remove those that are too old."""
        folder = self.run.path / "checkpoints"
        self.strategy.save(
            self.module, self.optimizer, self.step, folder / f"step_{self.step:08d}.pt",
            packer=None if self.packer is None else self.packer.state_dict(),
            seconds=self.seconds, cpu_seconds=self.cpu_seconds(),
            sampler=self.sampler.get_state(), torch_rng=torch.get_rng_state(),
            cuda_rng=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            ema=None if self.ema is None else self.ema.state_dict(),
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
                    self.chain.follow()
                    track(record)
                show(record)
                stopped = self.strategy.mean(float(stop())) > 0  # a signal to one process stops all after this step
                if stopped or self.step % config.checkpoint_every == 0 or self.step == config.num_steps:
                    self.save()
                if stopped:
                    raise Interrupted(f"stopped after step {self.step} of {config.num_steps}; saved in {self.run.path}")
        return self._finish()

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one forward pass."""
        batch_size = self.config.batch_size
        if self.packer is not None:
            return next_batch(self.packer, batch_size, device=self.device)
        return get_batch(
            self.train_tokens, batch_size, self.config.model.context_length, self.device, generator=self.sampler,
            starts=self.starts,
        )  # fmt: skip

    def _end_of_text(self) -> int | None:
        """Id of the separator, where there is a tokenizer to tell it."""
        return None if self.tokenizer is None else self.tokenizer.special_id(END_OF_TEXT)

    def _update(self) -> dict[str, Any]:
        """One optimizer update; returns its log record."""
        config, parts, started = self.config, self.config.gradient_accumulation, time.perf_counter()
        total = torch.zeros(2, device=self.device)  # objective and cross-entropy
        for remaining in reversed(range(parts)):
            with self.strategy.accumulating(self.module) if remaining else contextlib.nullcontext():
                total += self.strategy.forward_backward(self.module, self.loss, self._next_batch(), parts) / parts
        self.strategy.finish_gradients(self.module)
        norm = self.strategy.clip_gradient(self.module, config.optimizer.max_grad_norm)
        learning_rate = config.optimizer.learning_rate(self.step, config.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        objective, cross_entropy = (self.strategy.mean(value) for value in total.tolist())
        if not math.isfinite(objective):
            raise Diverged(f"training loss became {objective}", self.step + 1, config)
        if not math.isfinite(norm):
            raise Diverged(f"gradient's norm became {float(norm)}", self.step + 1, config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if config.model.moe is not None and config.model.moe.bias_balancing:
            from cs336_basics.variants.mixture_of_experts import update_selection_biases

            update_selection_biases(self.model)
        if self.ema is not None:
            self.ema.update()
        self.step += 1
        self.seconds += time.perf_counter() - started
        extra = {} if objective == cross_entropy else {"objective": objective}
        return {
            "step": self.step, "train_loss": cross_entropy, **extra, "learning_rate": learning_rate,
            "grad_norm": float(norm), "seconds": round(self.seconds, 3),
            "tokens": self.step * config.tokens_per_step * self.strategy.num_batches,
        }  # fmt: skip

    def evaluate(self, full: bool = True) -> Evaluation:
        """Validation loss on all or the first eval_tokens of the validation tokens."""
        tokens = self.valid_tokens if full else self.valid_tokens[: self.config.eval_tokens]
        options: dict[str, Any] = {"device": self.device, "batch_size": 32}
        if self.tokenizer is not None:
            options["token_bytes"] = self.tokenizer.token_byte_lengths()
        context = self.config.model.context_length
        with self.precision():
            if self.config.eval_by == "documents" and self.tokenizer is not None:
                return evaluate_documents(
                    self.model, tokens, context, self.tokenizer.special_id(END_OF_TEXT), **options
                )
            return evaluate_windows(self.model, tokens, context, **options)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """While inside, the model holds the weights to show: an average where there is one."""
        source: Any = self.ema or self.optimizer
        return weights_replaced(source.evaluation_weights() if hasattr(source, "evaluation_weights") else {})

    def _validate(self, full: bool) -> dict[str, Any]:
        with self.averaged():
            return self._validation_record(full)

    def _validation_record(self, full: bool) -> dict[str, Any]:
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
        """Write the final model, the plot and the summary; the other processes than rank 0 return nothing."""
        with self.averaged():
            weights = self.strategy.weights(self.module)
            if self.strategy.rank:
                return {}
            save_model(self.model, self.run.path, weights)
        log = self.run.read_log()
        data = {"train_tokens": self.config.train_tokens, "valid_tokens": self.config.valid_tokens}
        write_evidence(
            self.run, weights=weights, inputs={name: read_manifest(path).get("sha256", "") for name, path in data.items()},
            chain_head=self.chain.head, tokens=log[-1]["tokens"], train_s=round(self.seconds, 3),
            cpu_s=round(self.cpu_seconds(), 3), processes=self.strategy.world_size, device=str(self.device),
        )  # fmt: skip
        manifest = read_manifest(self.config.valid_tokens)
        floor = manifest["nats"] / manifest["num_tokens"] if "nats" in manifest else None
        last = log[-1]
        keys = ("train_loss", "validation_loss", "perplexity", "bits_per_byte", "tokens", "seconds")
        summary = {"steps": self.step, **{key: last[key] for key in keys if key in last}, "device": str(self.device)}
        summary["parameters"] = self.num_parameters
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


def save_model(model: TransformerLM, directory: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write model.pt (`weights`, by default the model's own) and model_config.json, for `from_pretrained`."""
    checkpoint.save_state(model.state_dict() if weights is None else weights, directory / "model.pt")
    write_json(directory / "model_config.json", asdict(model.config))


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of the highest step under `directory`/checkpoints."""
    found = [path for path in (directory / "checkpoints").glob("step_*.pt") if CHECKPOINT_NAME.fullmatch(path.name)]
    return max(found, key=lambda path: int(path.stem.removeprefix("step_")), default=None)
