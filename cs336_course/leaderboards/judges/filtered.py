"""Judge of filtered data: staff train a fixed small model on the participant's documents and measure it.

    entry = artifacts/documents.jsonl, one {"text": ...} per line, made from the board's crawl by whatever filters
    metric = bits per byte on held-out prose, mean over seeds; tokens are bytes, so that no tokenizer enters

No code of a participant runs and no claim about training is needed: the trainer, its steps and seeds are fixed here.
Probes: "budget" (not more text than allowed), "overlap" (`../overlap.py`: evaluation text may shape filters, never be
trained on; sentences that clean pages of the crawl share with it do not count). Read next:
`cs336_data/filter_for_model.py` (the same at the course's size).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.data import write_tokens
from cs336_basics.evaluation import evaluate_documents
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.training import train
from cs336_basics.training_config import OptimizerConfig, TrainConfig
from cs336_course.leaderboards.conversation import ProbeFailure
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.overlap import measure_overlap
from cs336_course.leaderboards.verification import PASSED, Measurement
from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl
from cs336_data.warc import read_records

END = 256
"""id of the end of a document, after the 256 bytes"""


@dataclass(frozen=True)
class FilteredSettings:
    """The crawl, the fixed trainer and the limits."""

    crawl: CrawlOptions = field(default_factory=CrawlOptions)
    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    context_length: int = 128
    batch_size: int = 16
    steps: int = 300
    max_learning_rate: float = 5e-3
    seeds: int = 2
    max_mb: float = 5.0
    """megabytes of text"""
    allowed_overlap: float = 0.01
    """share of the evaluation's own 13-grams or lines that may occur"""


def measure(judging: Judging) -> Measurement:
    """Check the documents, train, evaluate."""
    s = judging.settings(FilteredSettings)
    documents = list(read_documents(judging.artifacts / "documents.jsonl"))
    validation, crawled = crawl_texts(s)
    if (wrong := _size_problem(documents, s)) is not None:
        raise ProbeFailure("budget", wrong)
    overlap = measure_overlap(documents, validation, allowed=crawled)
    if (wrong := overlap.verdict(allowed=s.allowed_overlap)) is not None:
        raise ProbeFailure("overlap", wrong)
    half = judging.random("validation").permutation(len(validation))[: -(-len(validation) // 2)]
    chosen = [validation[i] for i in sorted(half)]
    values = [train_and_evaluate(documents, chosen, s, seed) for seed in range(s.seeds)]
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    beside = {"documents": float(len(documents)), "megabytes": sum(map(len, documents)) / 1e6,
              "epochs": s.steps * s.batch_size * s.context_length / sum(map(len, documents))}  # fmt: skip
    return Measurement(float(np.mean(values)), error, {"budget": PASSED, "overlap": PASSED}, beside)


def read_documents(path: Path) -> Iterator[str]:
    """The participant's documents.

    Raises:
        ProbeFailure: "evidence": no such file, or a line that is no {"text": str}.
    """
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                text = json.loads(line)["text"]
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(f"line {number} has no text")
                yield text.strip() + "\n"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProbeFailure("evidence", f"documents.jsonl: {type(error).__name__}: {error}") from error


def crawl_texts(s: FilteredSettings) -> tuple[list[str], list[str]]:
    """The crawl's held-out prose, and the texts of its pages into which none of that was copied."""
    with tempfile.TemporaryDirectory(prefix="cs336-crawl-") as name:
        folder = Path(name)
        write_crawl(folder, s.crawl)
        validation = [row["text"] for row in _rows(folder / "validation.jsonl")]
        copied = {row["record_id"] for row in _rows(folder / "truth.jsonl") if row["contaminated"]}
        records = [record for path in sorted((folder / "wet").iterdir()) for record in read_records(path)]
    pages = [r.payload.decode("utf-8") for r in records if r.record_id.removesuffix("-text") not in copied]
    return validation, pages


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _size_problem(documents: list[str], s: FilteredSettings) -> str | None:
    """Too much text, or too little for a window."""
    size = sum(len(text.encode()) for text in documents)
    if size > 1e6 * s.max_mb:
        return f"{size / 1e6:.1f} MB of text; {s.max_mb:g} are allowed"
    return None if size > 10 * s.context_length else f"only {size} bytes of text"


def train_and_evaluate(documents: list[str], validation: list[str], s: FilteredSettings, seed: int) -> float:
    """Bits per byte of the fixed trainer's model, the end of each text included."""
    config = ModelConfig(vocab_size=END + 1, context_length=s.context_length, d_model=s.d_model,
                         num_layers=s.num_layers, num_heads=s.num_heads)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="cs336-filtered-") as folder:
        paths = {name: Path(folder) / f"{name}.bin" for name in ("train", "valid")}
        for path, texts in ((paths["train"], documents), (paths["valid"], validation)):
            write_tokens(path, _ids(texts), vocab_size=END + 1)
        training = TrainConfig(
            model=config, train_tokens=paths["train"], valid_tokens=paths["valid"], num_steps=s.steps,
            batch_size=s.batch_size, seed=seed, device="cpu", eval_every=s.steps, eval_tokens=2 * s.context_length,
            checkpoint_every=s.steps,
            optimizer=OptimizerConfig(max_learning_rate=s.max_learning_rate, warmup_steps=min(20, s.steps - 1)),
        )  # fmt: skip
        train(training, Path(folder) / "run", progress=False)
        model = TransformerLM.from_pretrained(Path(folder) / "run")
    ids = np.fromiter(_ids(validation), dtype=np.int64)
    result = evaluate_documents(model, ids, s.context_length, END)
    return result.nats / (np.log(2) * sum(len(text.encode()) for text in validation))


def _ids(texts: list[str]) -> Iterator[int]:
    for text in texts:
        yield from text.encode()
        yield END
