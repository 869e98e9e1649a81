"""Make the bank: train every run of the design that it does not have yet, and append its record.

    DIR/stories/, DIR/stdlib/   text, tokenizer of 512 tokens, token files
    DIR/runs/ID/                a training run while it is going; deleted once its record is written
    DIR/bank.jsonl              the records

The command can be stopped or killed at any time and given again: finished runs are in the bank, a half-finished one
goes on from its checkpoint. Each run has one thread; with several workers, several runs go at once (tiny models gain
nothing from more threads, and lose much on a shared machine).

Handout: scaling_laws. Read next: `bank.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_basics.ablations.corpus import TRAIN_TOKENS, VALID_TOKENS, CorpusOptions, corpus_stage
from cs336_basics.corpora.corpus_files import file_sha256
from cs336_basics.corpora.stdlib_source import write_stdlib
from cs336_basics.data import read_manifest
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.child_processes import training_context
from cs336_basics.runs.config import config_to_dict
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.lock import exclusive_lock
from cs336_basics.runs.log import append_record, drop_torn_line
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.training import Diverged, train
from cs336_basics.training_config import TrainConfig
from cs336_scaling.bank import is_held_out, load_bank
from cs336_scaling.flops import count_flops, count_parameters
from cs336_scaling.sweep_design import VOCAB_SIZE, RunSpec

BANK = "bank.jsonl"
CURVE_POINTS = 10


@dataclass(frozen=True)
class CorpusSize:
    """How much text is made."""

    num_train: int = 80_000
    """stories to train on"""
    num_valid: int = 400
    """stories to validate on"""
    max_bytes: int | None = None
    """of the Python library; all by default"""


def run_sweep(
    specs: Iterable[RunSpec],
    directory: Path,
    *,
    workers: int = 1,
    size: CorpusSize | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Train what is missing; returns the bank's path.

    Args:
        specs: the runs to have.
        directory: see the module docstring.
        workers: runs at once.
        size: of the corpora, for tests.
        say: gets a line per finished run.

    Raises:
        AlreadyLockedError: another sweep is going on there. KeyboardInterrupt: stopped; what runs is saved.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    directory.mkdir(parents=True, exist_ok=True)
    bank = directory / BANK
    with exclusive_lock(directory / "lock", what=f"the sweep in {directory}", remedy="wait for it or stop it"):
        drop_torn_line(bank)
        done = {record["id"] for record in load_bank(bank)} if bank.exists() else set()
        missing = [spec for spec in specs if spec.id not in done]
        folders = {name: prepare_corpus(directory / name, name, size or CorpusSize()) for name in
                   sorted({spec.corpus for spec in missing})}  # fmt: skip
        jobs = [(spec, folders[spec.corpus], directory / "runs" / spec.id) for spec in missing]
        total, left = len(done) + len(jobs), sum(spec.estimated_seconds() for spec in missing)
        for count, record in enumerate(_results(jobs, workers), start=len(done) + 1):
            append_record(bank, record)
            shutil.rmtree(directory / "runs" / record["id"], ignore_errors=True)
            left -= record["estimated_seconds"]
            loss = "diverged" if record["loss"] is None else f"loss {record['loss']:.4f}"
            shape = f"d {record['model']['d_model']} L {record['model']['num_layers']}"
            say(
                f"{count}/{total} {record['corpus']} {record['role']} C {record['budget']:.0e} {shape}: {loss} in "
                f"{record['seconds']:.0f} s (estimated {record['estimated_seconds']:.0f}); about "
                f"{left / workers / 60:.0f} min left"
            )
    return bank


def _results(jobs: list[tuple[RunSpec, Path, Path]], workers: int) -> Iterator[dict[str, Any]]:
    """Records as their runs finish; the first error stops the sweep once the runs in progress are done."""
    if workers == 1:
        yield from (run_one(*job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=training_context())
    try:
        futures = [pool.submit(run_one, *job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def prepare_corpus(directory: Path, name: str, size: CorpusSize) -> Path:
    """Write text, tokenizer and token files unless they are there; returns the folder."""
    ready = directory / "corpus.json"
    if not ready.exists():
        folder = None
        if name == "stdlib":
            folder = directory / "text"
            write_stdlib(folder, max_bytes=size.max_bytes)
        options = CorpusOptions(VOCAB_SIZE, folder, num_train=size.num_train, num_valid=size.num_valid)
        stage = corpus_stage(options)
        stage.run(directory, options)
        text = (folder or directory / "corpus" / "text") / "train.txt"
        write_json(ready, {"corpus": name, "train_sha256": file_sha256(text)})
    return directory


def train_config(spec: RunSpec, corpus: Path) -> TrainConfig:
    """The training run of a spec; validated on everything, once, at the end."""
    return TrainConfig(
        model=spec.model(), train_tokens=(corpus / TRAIN_TOKENS).resolve(),
        valid_tokens=(corpus / VALID_TOKENS).resolve(),
        optimizer=spec.optimizer(), num_steps=spec.num_steps, batch_size=spec.batch_size, seed=spec.seed, device="cpu",
        precision="float32", log_every=max(1, -(-spec.num_steps // CURVE_POINTS)), eval_every=spec.num_steps,
        checkpoint_every=max(2000, spec.num_steps // 5), keep_checkpoints=1,
    )  # fmt: skip


def run_one(spec: RunSpec, corpus: Path, directory: Path, *, progress: bool = False) -> dict[str, Any]:
    """Train one run on one thread, or go on with it; returns its record."""
    import torch

    torch.set_num_threads(1)
    config, diverged_at = train_config(spec, corpus), None
    try:
        summary = train(config, directory, progress=progress)
    except Diverged as end:
        summary, diverged_at = {}, end.step
    log = RunDirectory(directory).read_log()
    valid, training = read_manifest(config.valid_tokens), read_manifest(config.train_tokens)
    return {
        "id": spec.id, "corpus": spec.corpus, "role": spec.role, "held_out": is_held_out(spec.id),
        "budget": spec.budget, "parameters": count_parameters(config.model), "tokens": spec.tokens,
        "flops": count_flops(config.model, spec.tokens), "epochs": spec.tokens / training["num_tokens"],
        "loss": summary.get("validation_loss"), "diverged_at": diverged_at,
        "entropy_floor": valid["nats"] / valid["num_tokens"] if "nats" in valid else None,
        "seconds": summary.get("seconds", log[-1]["seconds"] if log else 0.0),
        "estimated_seconds": round(spec.estimated_seconds(), 1),
        "model": _changed_model(spec), "training": _training_facts(spec, config),
        "curve": [[record["tokens"], round(record["train_loss"], 4)] for record in log],
        "data": _corpus_facts(corpus), "machine": describe_environment(),
    }  # fmt: skip


def _changed_model(spec: RunSpec) -> dict[str, Any]:
    """The sizes of the model; everything else has the library's defaults."""
    whole = config_to_dict(spec.model())
    return {k: whole[k] for k in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff")}


def _training_facts(spec: RunSpec, config: TrainConfig) -> dict[str, Any]:
    optimizer = config.optimizer
    return {
        "batch_size": spec.batch_size, "num_steps": spec.num_steps, "learning_rate": spec.learning_rate,
        "warmup_steps": optimizer.warmup_steps, "weight_decay": optimizer.weight_decay, "seed": spec.seed,
        "schedule": optimizer.schedule, "optimizer": optimizer.name, "precision": config.precision,
    }  # fmt: skip


def _corpus_facts(corpus: Path) -> str:
    return json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))["train_sha256"]
