"""The row that every board begins with: our own reference, made by a command that anybody can run again.

    cs336 leaderboard baseline BOARD        makes what the board needs, submits it as `baseline`, verifies it

Recipes are sized so that one CPU thread makes them within the division's budget. Read next: `baselines/`.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.config import config_from_dict
from cs336_course.leaderboards.board import Board, Division
from cs336_course.leaderboards.judges.filtered import FilteredSettings
from cs336_course.leaderboards.submission import Author, Material

HANDLE = "baseline"
DISCLOSURE = "the library's own reference code, written with AI assistance"


def _model(**sizes: Any) -> dict[str, Any]:
    return {"attention": "blocked", "positions": "alibi", "canon_width": 7, **sizes}


def _muon(rate: float, steps: int) -> dict[str, Any]:
    return {
        "name": "muon", "schedule": "wsd", "max_learning_rate": rate, "min_learning_rate": 0.0, "warmup_steps": 20,
        "decay_steps": steps // 2, "betas": [0.9, 0.98],
    }  # fmt: skip


def _training(steps: int, batch_size: int, rate: float, **fields: Any) -> dict[str, Any]:
    return {
        "num_steps": steps, "batch_size": batch_size, "optimizer": _muon(rate, steps), "eval_every": max(1, steps // 10),
        "eval_tokens": 4000, "checkpoint_every": steps, "log_every": 10, **fields,
    }  # fmt: skip


def _stories(documents: int, steps: int, layers: int, d_model: int) -> dict[str, Any]:
    model = _model(vocab_size=1024, context_length=224, d_model=d_model, num_layers=layers, num_heads=8)
    return {
        "source": "stories", "documents": documents, "seed": 7, "vocab_size": 1024, "tokenizer_chars": 400_000,
        "train": _training(steps, 7, 5e-3, windows="documents", eval_by="documents", model=model),
    }  # fmt: skip


RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("stories-loss", "one-minute"): _stories(4_000, 280, 2, 96),
    ("stories-loss", "ten-minutes"): _stories(20_000, 2_200, 3, 96),
    ("owt-loss", "python-library"): {
        "source": "stdlib", "max_bytes": 3_000_000, "vocab_size": 1024, "tokenizer_chars": 400_000,
        "train": _training(
            280, 8, 5e-3,
            model=_model(vocab_size=1024, context_length=192, d_model=96, num_layers=2, num_heads=8),
        ),
    },
    ("reasoning-accuracy", "arithmetic"): {
        "sft": 1_400, "rl": 4_000, "seed": 7,
        "train": _training(
            700, 16, 5e-3,
            model=_model(vocab_size=257, context_length=64, d_model=64, num_layers=2, num_heads=4),
        ),
    },
}  # fmt: skip
"""what `baselines/loss.py` and `baselines/accuracy.py` train"""
DESCRIPTIONS = {
    "loss": "Our Transformer with Muon, blocked ALiBi attention and short convolutions, trained by one command.",
    "attention-time": "Plain attention in PyTorch, the board's reference timed against itself.",
    "step-time": "Assignment 1's model and AdamW, the board's reference timed against itself.",
    "tokenizer-speed": "The readable encoder, the board's reference timed against itself.",
    "scaling-prediction": "Robust Huber fit of the Chinchilla law from a grid of starts.",
    "filtered-data": "Language, Gopher rules, quality classifier, PII masking, exact and near deduplication, decontamination.",
    "accuracy": "A byte-level Transformer on worked solutions, greedy decoding.",
}


def make_baseline(board: Board, division: Division, scratch: Path, say: Callable[[str], None]) -> Material:
    """What our reference hands in.

    Args:
        board, division: to enter.
        scratch: folder for runs and artifacts.
        say: takes lines of progress.

    Raises:
        ValueError: the division has no recipe, since it needs other hardware or data.
    """
    if board.kind in ("attention-time", "step-time", "tokenizer-speed", "scaling-prediction"):
        return Material()
    if board.kind == "filtered-data":
        say("filtering the crawl ...")
        return Material(artifacts=filtered_documents(division, scratch))
    recipe = RECIPES.get((board.id, division.id))
    if recipe is None:
        raise ValueError(f"{board.id}/{division.id} has no recipe for a baseline: {board.not_measured.strip()}")
    artifacts = scratch / "artifacts"
    write_json(artifacts / "recipe.json", recipe)
    say(f"training {recipe['train']['num_steps']} steps ...")
    name = "accuracy" if board.kind == "accuracy" else "loss"
    entrypoint = importlib.import_module(f"cs336_course.leaderboards.baselines.{name}")
    for file, content in entrypoint.train(artifacts, 0, scratch / "run").items():
        with atomic_write(artifacts / file) as target:
            target.write(content)
    return Material(run=scratch / "run", artifacts=artifacts)


def filtered_documents(division: Division, scratch: Path) -> Path:
    """The crawl through the data package's pipeline; a folder with documents.jsonl."""
    from cs336_basics.runs.config import load_config
    from cs336_data.document_files import from_line, is_document_file, read_lines
    from cs336_data.filter_for_model import FilterForModelConfig
    from cs336_data.pipeline import run_pipeline
    from cs336_data.pipeline_config import CorpusStepConfig
    from cs336_data.synthetic_crawl.crawl import write_crawl

    settings = config_from_dict(FilteredSettings, division.settings)
    write_crawl(scratch / "crawl", settings.crawl)
    import cs336_data

    shipped = load_config(FilterForModelConfig, Path(cs336_data.__file__).parent / "configs" / "model-small.toml")
    passages = [str(scratch / "crawl" / "evaluation.jsonl")]
    pipeline = replace(
        shipped.pipeline, inputs=(str(scratch / "crawl" / "warc" / "*.gz"),),
        corpus_steps=(*shipped.pipeline.corpus_steps, CorpusStepConfig("decontaminate", {"evaluation": passages})),
        execution=replace(shipped.pipeline.execution, workers=1),
    )  # fmt: skip
    run_pipeline(pipeline, scratch / "data", progress=False)
    paths = sorted(path for path in (scratch / "data" / "documents").iterdir() if is_document_file(path))
    texts = [
        from_line(line, path=path, number=number).text
        for path in paths
        for number, line in enumerate(read_lines(path), 1)
    ]
    with atomic_write(scratch / "artifacts" / "documents.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    return scratch / "artifacts"


def author(board: Board) -> Author:
    """The baseline's handle and description."""
    return Author(HANDLE, DESCRIPTIONS[board.kind], DISCLOSURE)


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """Where a baseline is made when no folder is given."""
    return tempfile.TemporaryDirectory(prefix="cs336-baseline-")
