"""The tokenizer report: every measure of `comparison.py` and `token_quality.py`, as tables, plots and JSON.

`measure` takes the tokenizers and gives plain numbers; the rest shows them: on the terminal, or as report.html and
report.md with results.json. The first tokenizer, "Ours", is the one reported on; the others are baselines.

The sample whose tokens are counted is the training text where it is given, else all the shipped texts.

Left out: speed of other programs; every tokenizer here runs in this library. Read next: `report_pages.py`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.intervals import bootstrap_ratio_interval
from cs336_basics.runs.report import cell_text, write_report
from cs336_basics.tokenization.comparison import (
    TextCount,
    count_text,
    count_units,
    format_comparison,
    relative_difference,
    without_special_tokens,
)
from cs336_basics.tokenization.report_pages import build_report, measure_tables
from cs336_basics.tokenization.sample_texts import read_sample, sample_kinds, sample_languages
from cs336_basics.tokenization.token_quality import (
    encode_throughput,
    length_histogram,
    token_counts,
    undertrained_tokens,
    vocabulary_share,
)
from cs336_basics.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class ReportOptions:
    """What to measure on.

    Raises:
        ValueError: a size or threshold below 1.
    """

    model: ModelConfig
    """shape of the model whose parameter share is counted"""
    train: Path | None = None
    """text the tokenizer was trained on"""
    valid: Path | None = None
    """text of the same kind that it was not trained on"""
    sample_bytes: int = 1_000_000
    """how much of both to read"""
    threshold: int = 10
    """occurrences in the sample below which a token counts as undertrained"""
    num_resamples: int = 1000
    """of the bootstrap intervals"""
    seed: int = 0
    """of the bootstrap intervals"""

    def __post_init__(self) -> None:
        for name in ("sample_bytes", "threshold", "num_resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")


def measure(tokenizers: Mapping[str, Tokenizer], options: ReportOptions) -> dict[str, Any]:
    """Measure the first tokenizer, and the others beside it.

    Args:
        tokenizers: name -> tokenizer, at least one.
        options: texts and sizes.

    Returns:
        Numbers and texts that JSON can hold.

    Raises:
        ValueError: an empty text, or a tokenizer that drops text.
    """
    plain = {name: without_special_tokens(tokenizer) for name, tokenizer in tokenizers.items()}
    ours = next(iter(plain.values()))
    splits = {
        name: read_sample(os.fspath(path), max_bytes=options.sample_bytes)
        for name, path in (("train", options.train), ("valid", options.valid))
        if path is not None
    }
    kinds, languages = sample_kinds() | splits, sample_languages()
    sample = splits.get("train") or "\n".join([*kinds.values(), *languages.values()])
    counts = token_counts(ours, sample)
    rare = undertrained_tokens(ours, counts, threshold=options.threshold)
    return {
        "vocab_size": {name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()},
        "texts": _measure_texts(plain, kinds, options),
        "languages": _measure_texts(plain, languages, options),
        "gap": _gap(plain, splits),
        "sample": {
            "source": "train" if "train" in splits else "shipped texts",
            "bytes": len(sample.encode("utf-8")),
            "tokens": int(counts.sum()),
        },
        "undertrained": {
            "threshold": options.threshold,
            "ordinary_tokens": len(ours.vocab),
            "tokens": [[t.token_id, _legible(t.token), t.count] for t in rare],
        },
        "counts": sorted((int(count) for count in counts if count), reverse=True),
        "lengths": {str(length): list(pair) for length, pair in length_histogram(ours, counts).items()},
        "model": dataclasses.asdict(options.model),
        "parameters": _parameters(tokenizers, options.model),
        "bytes_per_second": encode_throughput(ours, sample),
    }


def print_report(results: Mapping[str, Any]) -> None:
    """Print the results: the comparisons in colour where the output is a terminal, then the other tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    print("Vocab sizes:", *(f"{name}: {size}" for name, size in results["vocab_size"].items()), sep="\n")
    for text in comparisons(results, color=sys.stdout.isatty()):
        print(f"\n{text}")
    console = Console()
    if not console.is_terminal:
        console.width = 200
    for table in measure_tables(results):
        shown = Table(box=None, pad_edge=False)
        for header, letter in zip(table.headers, table.column_alignment(), strict=True):
            shown.add_column(header, justify="right" if letter == "r" else "left")
        for row in table.rows:
            shown.add_row(*(Text(cell_text(cell)) for cell in row))
        console.print(Text(f"\n{table.caption}", style="bold"))
        console.print(shown)


def write_tokenizer_report(results: Mapping[str, Any], directory: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write report.html, report.md and results.json; returns the paths of the first two.

    Raises:
        ImportError: matplotlib or markdown-it-py is missing.
    """
    write_json(Path(directory) / "results.json", dict(results))
    return write_report(build_report(results, comparisons(results, color=False)), directory)


def comparisons(results: Mapping[str, Any], *, color: bool) -> list[str]:
    """One comparison table per baseline, as text."""
    names = list(results["vocab_size"])

    def counts(name: str) -> list[TextCount]:
        return [TextCount(text, row["bytes"], row["tokens"][name]) for text, row in results["texts"].items()]

    return [format_comparison(name, counts(name), counts(names[0]), color=color) for name in names[1:]]


def _measure_texts(
    tokenizers: Mapping[str, Tokenizer], texts: Mapping[str, str], options: ReportOptions
) -> dict[str, dict[str, Any]]:
    """Text -> its size, the tokens of each tokenizer, and intervals of ratios and of differences to the first."""
    resampling: dict[str, Any] = {"seed": options.seed, "num_resamples": options.num_resamples}
    rows = {}
    for text_name, text in texts.items():
        totals = {name: count_text(tokenizer, text_name, text) for name, tokenizer in tokenizers.items()}
        units = {name: count_units(tokenizer, text) for name, tokenizer in tokenizers.items()}
        first, *baselines = totals
        ours = totals[first]
        shares = {name: bootstrap_ratio_interval(units[first][1], units[name][1], **resampling) for name in baselines}
        rows[text_name] = {
            "bytes": ours.num_bytes,
            "characters": len(text),
            "tokens": {name: count.num_tokens for name, count in totals.items()},
            "ratio": {name: count.ratio for name, count in totals.items()},
            "ratio_interval": {name: list(bootstrap_ratio_interval(*units[name], **resampling)) for name in totals},
            "difference": {name: relative_difference(totals[name], ours) for name in baselines},
            "difference_interval": {name: [100 * (1 - high), 100 * (1 - low)] for name, (low, high) in shares.items()},
        }
    return rows


def _gap(tokenizers: Mapping[str, Tokenizer], splits: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """How far the ratio falls from training to validation text; a tokenizer fits the text it was trained on."""
    if set(splits) != {"train", "valid"}:
        return {}
    gap = {}
    for name, tokenizer in tokenizers.items():
        train, valid = (count_text(tokenizer, split, splits[split]).ratio for split in ("train", "valid"))
        gap[name] = {"train": train, "valid": valid, "change_percent": 100 * (valid / train - 1)}
    return gap


def _parameters(tokenizers: Mapping[str, Tokenizer], model: ModelConfig) -> dict[str, dict[str, float]]:
    """Parameters of each tokenizer's vocabulary in the same model."""
    shares = {name: vocabulary_share(model, tokenizer.vocab_size) for name, tokenizer in tokenizers.items()}
    return {name: {**dataclasses.asdict(share), "share": share.share} for name, share in shares.items()}


def _legible(token: bytes) -> str:
    """The token as a Python literal: of text where it is text, else of bytes."""
    try:
        return repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(token)
