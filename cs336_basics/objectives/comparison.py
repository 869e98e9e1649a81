"""The objectives side by side: same layers, same rows in the same order, same steps, judged on the same unseen tokens.

    corpus               stories, a tokenizer, token files
    <objective> ...      one stage each: train, measure now and then and at the end
    verdict              table in bits per byte where that is defined, curves

    bits per byte = nats of all scored tokens / (ln 2 * their bytes)

Every row is T + 1 consecutive tokens whose first is given; all T others are scored, those of <|endoftext|> too (it
has no bytes of its own, but a code must say where documents end). Rows are cut anywhere, so a model sees a story's
beginning only sometimes: the stories' entropy is a lower limit here, not a target. Each stage resumes from its last
checkpoint.

Left out: JEPA, which predicts vectors and has neither likelihood nor text. Read next:
`stages.py`.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cs336_basics.checkpoint import load_state, restore, save_state
from cs336_basics.corpora.stories import write_stories
from cs336_basics.data import END_OF_TEXT, encode_file, open_tokens
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import clip_gradient
from cs336_basics.objectives.catalogue import Objective
from cs336_basics.optimizer import AdamW, get_lr_wsd_schedule
from cs336_basics.packing import StreamPacker, next_batch
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.machine import choose_device
from cs336_basics.runs.training_progress import training_progress
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.progress import progress_bar
from cs336_basics.tokenization.tokenizer import Tokenizer

CORPUS = "corpus"
TOKENS = {split: f"{CORPUS}/{split}.bin" for split in ("train", "valid")}
TOKENIZER = f"{CORPUS}/tokenizer"
CORPUS_FACTS = f"{CORPUS}/facts.json"
NUM_MEASUREMENTS = 8


@dataclass(frozen=True)
class CorpusOptions:
    """Sizes of the text."""

    num_train_stories: int
    num_valid_stories: int
    vocab_size: int
    seed: int


@dataclass(frozen=True)
class TrainingOptions:
    """What all objectives share."""

    d_model: int
    num_layers: int
    num_heads: int
    context_length: int
    """scored tokens per row, T"""
    batch_size: int
    num_steps: int
    max_learning_rate: float
    warmup_steps: int
    num_valid_rows: int
    """unseen rows of the final measurement; an eighth of them while training"""
    checkpoint_every: int
    seed: int
    device: str

    @property
    def tokens_per_step(self) -> int:
        """Scored tokens that one update has seen."""
        return self.batch_size * self.context_length


def write_corpus(directory: Path, options: CorpusOptions) -> None:
    """Stories, tokenizer and token files in `directory`/corpus."""
    folder = directory / CORPUS
    with progress_bar("writing stories", enabled=True) as report:
        manifest = write_stories(
            folder / "stories", num_train=options.num_train_stories, num_valid=options.num_valid_stories,
            seed=options.seed, num_cloze=1, progress=report,
        )  # fmt: skip
    vocab, merges = train_bpe(folder / "stories" / "train.txt", options.vocab_size, [END_OF_TEXT], progress=True)
    tokenizer = Tokenizer(vocab, merges, [END_OF_TEXT])
    tokenizer.save(directory / TOKENIZER)
    tokens = {split: encode_file(tokenizer, folder / "stories" / f"{split}.txt", directory / path)["num_tokens"]
              for split, path in TOKENS.items()}  # fmt: skip
    valid = manifest["valid"]
    floor = valid["nats"] / (math.log(2) * valid["bytes"])
    write_json(
        directory / CORPUS_FACTS, {"tokens": tokens, "vocab_size": tokenizer.vocab_size, "floor_bits_per_byte": floor}
    )


def train_objective(directory: Path, objective: Objective, options: TrainingOptions) -> dict[str, Any]:
    """Train with one objective in `directory`/<name>, or go on; write and return results.json.

    Raises:
        ValueError: the loss became nan or infinite.
    """
    run = ObjectiveRun(directory, objective, options)
    with training_progress(run, shown=True) as show:
        while run.step < options.num_steps:
            show(run.update())
            if run.step % options.checkpoint_every == 0:
                run.save()
    results = {
        "name": objective.name, "title": objective.title, "log": run.log, "curve": run.curve,
        "final": run.measure(options.num_valid_rows), "tokens": run.step * options.tokens_per_step,
        "parameters": sum(p.numel() for p in run.module.parameters()), "seconds": round(run.seconds, 1),
    }  # fmt: skip
    write_json(run.folder / "results.json", results)
    return results


class ObjectiveRun:
    """One objective's training; `step` counts finished updates and `config` has what a progress bar asks for."""

    def __init__(self, directory: Path, objective: Objective, options: TrainingOptions) -> None:
        self.folder, self.objective, self.config = directory / objective.name, objective, options
        self.device = choose_device(options.device)
        tokenizer = Tokenizer.load(directory / TOKENIZER)
        self.token_bytes = torch.from_numpy(np.asarray(tokenizer.token_byte_lengths()))
        self.source = StreamPacker(open_tokens(directory / TOKENS["train"]), context_length=options.context_length)
        self.valid_tokens = open_tokens(directory / TOKENS["valid"])
        self.module = self._build(tokenizer.vocab_size)
        self.optimizer = AdamW(self.module.parameters(), betas=(0.9, 0.98), weight_decay=0.1)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.step, self.seconds = 0, 0.0
        self.log: list[tuple[int, float]] = []
        self.curve: list[dict[str, Any]] = []
        if self.checkpoint.exists():
            self._load()

    def _build(self, vocab_size: int) -> nn.Module:
        """The module; every objective starts from the same seed."""
        o = self.config
        config = ModelConfig(
            vocab_size=vocab_size, context_length=o.context_length, d_model=o.d_model, num_layers=o.num_layers,
            num_heads=o.num_heads,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(o.seed)
            return self.objective.build(config).to(self.device)

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write everything that later steps depend on."""
        state = {
            "model": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "iteration": self.step,
            "source": self.source.state_dict(), "generator": self.generator.get_state(), "seconds": self.seconds,
            "log": self.log, "curve": self.curve,
        }  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        save_state(state, self.checkpoint)

    def _load(self) -> None:
        state = load_state(self.checkpoint)
        self.step, self.seconds = restore(state, self.module, self.optimizer), state["seconds"]
        self.source.load_state_dict(state["source"])
        self.generator.set_state(state["generator"])
        self.log, self.curve = state["log"], state["curve"]

    def update(self) -> dict[str, Any]:
        """One optimizer update; returns the record for the progress bar."""
        o, started = self.config, time.perf_counter()
        inputs, targets = next_batch(self.source, o.batch_size, device=self.device)
        loss = self.objective.loss(self.module, torch.cat((inputs[:, :1], targets), dim=1), self.generator)
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(f"{self.objective.name}: the loss became {value} at step {self.step + 1}; lower the rate")
        loss.backward()
        clip_gradient(self.module.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = get_lr_wsd_schedule(
                self.step + 1, o.max_learning_rate, 0.0, o.warmup_steps, o.num_steps // 2, o.num_steps
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.seconds += time.perf_counter() - started
        self.log.append((self.step, value))
        if self.step % max(1, o.num_steps // NUM_MEASUREMENTS) == 0 and self.step < o.num_steps:
            self.curve.append({"step": self.step, **self.measure(max(1, o.num_valid_rows // 8))})
        return {"step": self.step, "train_loss": value}

    @torch.no_grad()
    def measure(self, num_rows: int) -> dict[str, Any]:
        """The Measurement of the first `num_rows` validation rows as a dictionary, with its bits per byte."""
        o = self.config
        source = StreamPacker(self.valid_tokens, context_length=o.context_length)
        inputs, targets = next_batch(source, min(num_rows, len(self.valid_tokens) // o.context_length))
        generator = torch.Generator().manual_seed(o.seed + 1)  # the same masks whenever it is asked
        rows = torch.cat((inputs[:, :1], targets), dim=1).to(self.device)
        result = self.objective.measure(self.module, rows, generator)
        record: dict[str, Any] = {**asdict(result), "bits_per_byte": None, "nats_per_token": None}
        if result.nats is not None:
            per_byte = 1 / (math.log(2) * int(self.token_bytes[targets].sum()))
            record |= {"bits_per_byte": result.nats * per_byte, "nats_per_token": result.nats / targets.numel()}
            record["bits_per_byte_error"] = result.standard_error * per_byte
        return record


def read_results(directory: Path, objective: Objective) -> dict[str, Any]:
    """What `train_objective` wrote."""
    return json.loads((directory / objective.name / "results.json").read_text(encoding="utf-8"))
