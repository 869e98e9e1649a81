"""Filtering for a model: is text that passed the filters better to train on than the crawl as it is?

    crawl -> filters, deduplication -> tokens \\
                                               the same trainer, steps and tokenizer -> loss on the same validation text
    crawl -> extraction alone       -> tokens /

This is assignment 4's leaderboard: the trainer and the validation data are fixed, only the training data may change.
Both arms train on equally many tokens; one with less text sees it in more epochs, which is reported. The miniature takes
a synthetic crawl and a small model; `configs/leaderboard-2025.toml` and `-2026.toml` hold the sizes of the course.

Differences below a few hundredths of a nat are noise unless `seeds` says otherwise: the interval is over seeds. Handout:
`filter_data`, `tokenize_data`, `train_model`. Read next: `pipeline.py`, `cs336_basics/training.py`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cs336_basics.corpora.corpus_files import END_OF_TEXT, write_documents
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.report import KeyFigure, KeyFigures, Paragraph, Picture, Report, Section, Table, write_report
from cs336_data.document_files import from_line, is_document_file, read_lines
from cs336_data.pipeline import run_pipeline
from cs336_data.pipeline_config import PipelineConfig
from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl

if TYPE_CHECKING:
    from cs336_basics.tokenization.tokenizer import Tokenizer
    from cs336_basics.training_config import TrainConfig

ARMS = ("filtered", "unfiltered")


@dataclass(frozen=True)
class TrainerConfig:
    """The fixed trainer: what both arms share."""

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    d_ff: int | None = None
    """width of the feed-forward layer; 8/3 d_model by default"""
    context_length: int = 64
    batch_size: int = 16
    gradient_accumulation: int = 1
    num_steps: int = 400
    max_learning_rate: float = 3e-3
    warmup_steps: int = 20
    weight_decay: float = 0.1
    eval_every: int = 100
    eval_tokens: int = 50_000
    device: str = "auto"
    compile: bool = False


@dataclass(frozen=True)
class FilterForModelConfig:
    """The whole flow."""

    pipeline: PipelineConfig
    """filters of the filtered arm; its `inputs` are both arms' inputs"""
    crawl: CrawlOptions | None = None
    """write this synthetic crawl first and take it as the input and as validation text"""
    validation: Path | None = None
    """text to measure on: documents (.jsonl, .jsonl.gz) or the course's raw uint16 token file (.bin)"""
    tokenizer: Path | None = None
    """folder of a tokenizer; by default one is trained on the unfiltered text"""
    vocab_size: int = 1024
    """of the tokenizer that is trained here"""
    train: TrainerConfig = field(default_factory=TrainerConfig)
    unfiltered: bool = True
    """also train on the crawl as it is"""
    seeds: int = 1
    """trainings per arm"""

    def __post_init__(self) -> None:
        if (self.crawl is None) == (self.validation is None):
            raise ValueError("set either crawl (a synthetic crawl brings its validation text) or validation")
        if self.validation is not None and self.validation.suffix == ".bin" and self.tokenizer is None:
            raise ValueError(f"{self.validation} holds tokens; set the tokenizer they were made with")
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1; got {self.seeds}")


def run_filter_for_model(
    config: FilterForModelConfig, directory: Path, *, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Run the flow, or go on with it; returns what report.html shows.

    Args:
        config: inputs, filters, trainer.
        directory: of the run: data/ and unfiltered_data/ (pipeline runs), tokens/, training/ARM-SEED/, report.html.
        say: takes a line of progress; prints to standard error by default.

    Raises:
        ValueError: an arm has too few tokens for one window, and what the parts raise.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    with RunDirectory.create_or_resume(directory, config, kind="filter-for-model", changeable=("train.device",)) as run:
        pipeline, validation = config.pipeline, config.validation
        if config.crawl is not None:
            say("writing the crawl ...")
            write_crawl(directory / "crawl", config.crawl)
            pipeline = replace(pipeline, inputs=(str(directory / "crawl" / "warc" / "*.gz"),))
            validation = directory / "crawl" / "validation.jsonl"
        assert validation is not None
        folders = _run_arms(pipeline, directory, unfiltered=config.unfiltered, say=say)
        tokenizer = _tokenizer(config, folders, directory, say)
        valid = _validation_tokens(validation, tokenizer, directory)
        results: dict[str, Any] = {"arms": {}, "trainer": config.train.num_steps, "vocab_size": tokenizer.vocab_size}
        for arm, folder in folders.items():
            tokens = directory / "tokens" / f"{arm}.bin"
            facts = _encode(folder, tokens, tokenizer)
            losses = [
                _train(config, tokenizer, arm, seed, tokens, valid, directory, say) for seed in range(config.seeds)
            ]
            seen = config.train.num_steps * config.train.batch_size * config.train.gradient_accumulation
            seen *= config.train.context_length
            results["arms"][arm] = facts | {
                "losses": losses, "trained_tokens": seen, "epochs": round(seen / facts["num_tokens"], 2)
            }  # fmt: skip
        write_json(directory / "results.json", results)
        write_report(Report("Filtering for a model", [model_section(directory)]), directory)
        run.finish(summary_of(results))
    return results


def summary_of(results: dict[str, Any]) -> dict[str, Any]:
    """Mean loss per arm and their difference, for a table."""
    means = {arm: sum(facts["losses"]) / len(facts["losses"]) for arm, facts in results["arms"].items()}
    summary: dict[str, Any] = {f"{arm}_loss": round(loss, 4) for arm, loss in means.items()}
    if len(means) == 2:
        summary["gain"] = round(means["unfiltered"] - means["filtered"], 4)
    return summary | {f"{arm}_tokens": facts["num_tokens"] for arm, facts in results["arms"].items()}


def _run_arms(
    pipeline: PipelineConfig, directory: Path, *, unfiltered: bool, say: Callable[[str], None]
) -> dict[str, Path]:
    """The pipeline with and without its filters; arm -> folder of documents."""
    say("filtering ...")
    run_pipeline(pipeline, directory / "data")
    folders = {"filtered": directory / "data" / "documents"}
    if unfiltered:
        say("extracting without filters ...")
        run_pipeline(replace(pipeline, steps=(), corpus_steps=(), truth=None), directory / "unfiltered_data")
        folders["unfiltered"] = directory / "unfiltered_data" / "documents"
    return folders


def _texts(folder: Path) -> Iterator[str]:
    """The documents of a folder or file, each ending in a line feed, none with the end-of-text token in it."""
    paths = sorted(path for path in folder.iterdir() if is_document_file(path)) if folder.is_dir() else [folder]
    for path in paths:
        for number, line in enumerate(read_lines(path), 1):
            text = from_line(line, path=path, number=number).text.replace(END_OF_TEXT, " ").strip()
            if text:
                yield f"{text}\n"


def _tokenizer(
    config: FilterForModelConfig, folders: dict[str, Path], directory: Path, say: Callable[[str], None]
) -> Tokenizer:
    """The given tokenizer, or one trained on the unfiltered text (which favours that arm, if any)."""
    from cs336_basics.tokenization.bpe import train_bpe
    from cs336_basics.tokenization.tokenizer import Tokenizer

    if config.tokenizer is not None:
        return Tokenizer.load(config.tokenizer)
    folder = directory / "tokenizer"
    if not (folder / "vocab.json").exists():
        say("training the tokenizer ...")
        text = directory / "tokens" / "tokenizer.txt"
        write_documents(text, _texts(folders.get("unfiltered", folders["filtered"])))
        vocab, merges = train_bpe(text, config.vocab_size, [END_OF_TEXT])
        Tokenizer(vocab, merges, [END_OF_TEXT]).save(folder)
        text.unlink()
    return Tokenizer.load(folder)


def _encode(source: Path, target: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Write the token file of a folder of documents, unless it is there; returns its manifest."""
    from cs336_basics.data import encode_file, read_manifest

    if target.exists():
        return read_manifest(target)
    text = target.with_suffix(".txt")
    write_documents(text, _texts(source))
    manifest = encode_file(tokenizer, text, target)
    text.unlink()
    return manifest


def _validation_tokens(validation: Path, tokenizer: Tokenizer, directory: Path) -> Path:
    """The validation text as a token file with a manifest."""
    from cs336_basics.data import open_tokens, write_tokens

    target = directory / "tokens" / "validation.bin"
    if validation.suffix == ".bin":
        if not target.exists():
            ids = open_tokens(validation, dtype="uint16")
            write_tokens(target, map(int, ids), vocab_size=tokenizer.vocab_size)
        return target
    _encode(validation, target, tokenizer)
    return target


def train_config(config: FilterForModelConfig, vocab_size: int, seed: int, tokens: Path, valid: Path) -> TrainConfig:
    """What `cs336 train` gets for one training."""
    from cs336_basics.model_config import ModelConfig
    from cs336_basics.training_config import OptimizerConfig, TrainConfig

    t = config.train
    return TrainConfig(
        model=ModelConfig(
            vocab_size=vocab_size, context_length=t.context_length, d_model=t.d_model, num_layers=t.num_layers,
            num_heads=t.num_heads, d_ff=t.d_ff,
        ),
        optimizer=OptimizerConfig(
            max_learning_rate=t.max_learning_rate, warmup_steps=t.warmup_steps, weight_decay=t.weight_decay,
            weight_decay_on="matrices", betas=(0.9, 0.98), eps=1e-9,
        ),
        train_tokens=tokens.resolve(), valid_tokens=valid.resolve(), num_steps=t.num_steps, batch_size=t.batch_size,
        gradient_accumulation=t.gradient_accumulation, seed=seed, device=t.device, compile=t.compile,
        eval_every=t.eval_every, eval_tokens=t.eval_tokens, checkpoint_every=max(1, t.num_steps // 10),
    )  # fmt: skip


def _train(
    config: FilterForModelConfig, tokenizer: Tokenizer, arm: str, seed: int, tokens: Path, valid: Path,
    directory: Path, say: Callable[[str], None],
) -> float:  # fmt: skip
    """Train once; returns the final validation loss in nats per token."""
    from cs336_basics.training import train

    say(f"training on {arm} data, seed {seed} ...")
    run = directory / "training" / f"{arm}-{seed}"
    summary = train(train_config(config, tokenizer.vocab_size, seed, tokens, valid), run)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return summary["validation_loss"]


def model_section(directory: Path) -> Section:
    """Losses and curves of both arms, from the run's files."""
    from cs336_basics.runs.plots import plot_overlaid_curves

    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    rows = [
        [arm, facts["documents"], facts["num_tokens"], facts["epochs"], float(np.mean(facts["losses"])),
         _spread(facts["losses"])]
        for arm, facts in results["arms"].items()
    ]  # fmt: skip
    headers = ["trained on", "documents", "tokens", "epochs", "validation loss", "standard deviation over seeds"]
    curves = {arm: _curve(directory / "training" / f"{arm}-0") for arm in results["arms"]}
    figure = plot_overlaid_curves(curves, xlabel="step")
    alt = "validation loss over training steps, filtered and unfiltered data"
    summary = summary_of(results)
    section = Section("Filtered against unfiltered", [Paragraph(_EXPLANATION)])
    if "gain" in summary:
        gain = summary["gain"]
        section.add(KeyFigures([
            KeyFigure("loss on filtered data", f"{summary['filtered_loss']:.3f}"),
            KeyFigure("loss on unfiltered data", f"{summary['unfiltered_loss']:.3f}"),
            KeyFigure("gain by filtering", f"{gain:.3f} nats per token", target="above 0", passed=gain > 0),
        ]))  # fmt: skip
    return section.add(Table(headers, rows), Picture(figure, "filter-for-model", alt))


_EXPLANATION = """
The same model, tokenizer, number of tokens and steps; only the training data differ. The loss is measured on prose that
is in neither. Filtering throws text away, so that the filtered arm sees what is left more often; that it still wins is the
point of it.
"""


def _curve(run: Path) -> list[tuple[float, float]]:
    records = RunDirectory(run).read_log()
    return [(r["step"], r["validation_loss"]) for r in records if r.get("validation_loss") is not None]


def _spread(losses: Sequence[float]) -> float | None:
    return float(np.std(losses, ddof=1)) if len(losses) > 1 else None
