"""The stages of `cs336 basics objectives` and what each tells in the report. `DEFAULT` and `QUICK` are its sizes.

Read next: `comparison.py`, which does the work; `../runs/stage.py`, which resumes it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cs336_basics.objectives.catalogue import OBJECTIVES, Objective
from cs336_basics.objectives.comparison import (
    CORPUS,
    CORPUS_FACTS,
    TOKENIZER,
    TOKENS,
    CorpusOptions,
    TrainingOptions,
    read_results,
    train_objective,
    write_corpus,
)
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_basics.runs.report import Paragraph, Picture, Section, Table
from cs336_basics.runs.stage import Stage, run_stages

VERDICT = "verdict/verdict.json"
_TOKEN_FILES = tuple(f"{path}{suffix}" for path in TOKENS.values() for suffix in ("", ".json"))
_TOKENIZER_FILES = tuple(f"{TOKENIZER}/{file}" for file in ("vocab.json", "merges.txt", "special_tokens.json"))
_SMOOTHING = 10


@dataclass(frozen=True)
class ComparisonConfig:
    """Corpus and training."""

    corpus: CorpusOptions
    training: TrainingOptions


DEFAULT = ComparisonConfig(  # a few minutes on two CPU cores
    CorpusOptions(num_train_stories=6_000, num_valid_stories=300, vocab_size=1_024, seed=0),
    TrainingOptions(
        d_model=96, num_layers=3, num_heads=4, context_length=128, batch_size=16, num_steps=500,
        max_learning_rate=4e-3, warmup_steps=30, num_valid_rows=256, checkpoint_every=50, seed=0, device="auto",
    ),
)  # fmt: skip

QUICK = ComparisonConfig(  # under a minute; the order of the objectives says little yet
    CorpusOptions(num_train_stories=600, num_valid_stories=60, vocab_size=512, seed=0),
    TrainingOptions(
        d_model=64, num_layers=2, num_heads=4, context_length=64, batch_size=16, num_steps=80,
        max_learning_rate=6e-3, warmup_steps=8, num_valid_rows=64, checkpoint_every=40, seed=0, device="auto",
    ),
)  # fmt: skip


def comparison_config(*, quick: bool = False, seed: int = 0, device: str = "auto") -> ComparisonConfig:
    """One of the two sizes with a seed and a device."""
    config = QUICK if quick else DEFAULT
    return ComparisonConfig(
        replace(config.corpus, seed=seed),
        replace(config.training, seed=seed, device=device),
    )


def run_comparison(config: ComparisonConfig, directory: Path) -> dict[str, Any]:
    """Run or go on with the comparison in `directory` and write report.html and report.md there.

    Returns:
        The verdict: per objective bits per byte, what they are worth, tokens and seconds.

    Raises:
        ValueError: the directory holds something else, or another configuration.
        AlreadyLockedError: a comparison is running there.
    """
    with RunDirectory.create_or_resume(directory, config, kind="objectives", changeable=("training.device",)) as run:
        run_stages(comparison_stages(config), directory, title="Objectives of language modelling compared")
        verdict = json.loads((directory / VERDICT).read_text(encoding="utf-8"))
        run.finish(verdict)
    return verdict


def comparison_stages(config: ComparisonConfig) -> list[Stage]:
    """Corpus, a stage per objective, verdict."""
    corpus = Stage(
        name=CORPUS, title="stories and tokenizer", options=config.corpus, inputs=(),
        outputs=(*_TOKEN_FILES, *_TOKENIZER_FILES, CORPUS_FACTS), run=write_corpus, section=_corpus_section,
    )  # fmt: skip
    results = tuple(f"{objective.name}/results.json" for objective in OBJECTIVES)
    verdict = Stage(
        name="verdict", title="comparison", options=config.training, inputs=(CORPUS_FACTS, *results),
        outputs=(VERDICT,), run=_write_verdict, section=_verdict_section,
    )  # fmt: skip
    return [corpus, *(_training_stage(objective, config.training) for objective in OBJECTIVES), verdict]


def _training_stage(objective: Objective, options: TrainingOptions) -> Stage:
    return Stage(
        name=objective.name, title=objective.title, options=options, inputs=(*_TOKEN_FILES, *_TOKENIZER_FILES),
        outputs=(f"{objective.name}/results.json",),
        run=lambda directory, o: _train(directory, o, objective), section=partial(_training_section, objective),
    )  # fmt: skip


def _train(directory: Path, options: TrainingOptions, objective: Objective) -> None:
    train_objective(directory, objective, options)


def _write_verdict(directory: Path, options: TrainingOptions) -> None:
    """Gather what the stages measured."""
    facts = json.loads((directory / CORPUS_FACTS).read_text(encoding="utf-8"))
    rows = {}
    for objective in OBJECTIVES:
        results = read_results(directory, objective)
        final = results["final"]
        rows[objective.name] = {
            "title": objective.title, "bits_per_byte": final["bits_per_byte"], "kind": final["kind"],
            "error": final.get("bits_per_byte_error", 0.0), "note": final["note"], "tokens": results["tokens"],
            "parameters": results["parameters"], "seconds": results["seconds"],
        }  # fmt: skip
    write_json(directory / VERDICT, {"floor_bits_per_byte": facts["floor_bits_per_byte"], "objectives": rows})


def _corpus_section(directory: Path) -> Section:
    facts = json.loads((directory / CORPUS_FACTS).read_text(encoding="utf-8"))
    text = (
        f"Stories from a grammar of known entropy: {facts['tokens']['train']:,} training tokens, vocabulary "
        f"{facts['vocab_size']}. Documents stand end to end and are cut into rows anywhere. The grammar itself needs "
        f"{facts['floor_bits_per_byte']:.3f} bits per byte of a reader who sees every story from its beginning."
    )
    return Section("Corpus", [Paragraph(text)])


def _training_section(objective: Objective, directory: Path) -> Section:
    results = read_results(directory, objective)
    final = results["final"]
    rate = "no bits per byte" if final["bits_per_byte"] is None else f"{final['bits_per_byte']:.3f} bits per byte"
    text = (
        f"{results['tokens']:,} tokens, {results['parameters']:,} parameters, {results['seconds']:.0f} s: {rate} "
        f"({final['kind']}). {_sentence(final['note'])}"
    )
    return Section(objective.title[0].upper() + objective.title[1:], [Paragraph(text)])


def _sentence(note: str) -> str:
    """A note as a sentence of its own."""
    return f"{note[0].upper()}{note[1:]}." if note else ""


_EXPLANATION = """ All models have the same layers, start from the same seed, and read the same rows in the same
order. **Bits per byte** is the length of a code for unseen text: exact where the chain rule gives the probability of
a row, an upper bound for diffusion, and not defined for BERT's objective. At equal tokens next-token prediction gets
a target from every position; a prefix LM only from those after the prefix, and diffusion must learn to predict in any
order, of which left to right is one. Training losses of different objectives measure different things: compare the
shapes, not the heights.
"""


def _verdict_section(directory: Path) -> Section:
    verdict = json.loads((directory / VERDICT).read_text(encoding="utf-8"))
    table = Table(
        ["objective", "bits per byte", "worth", "tokens", "seconds", "remark"],
        [
            [row["title"], _shown(row), row["kind"], row["tokens"], row["seconds"], row["note"]]
            for row in verdict["objectives"].values()
        ],
        align="lllrrl",
    )  # fmt: skip
    results = [read_results(directory, objective) for objective in OBJECTIVES]
    rates = {r["title"]: [(p["step"], p["bits_per_byte"]) for p in r["curve"] if p["bits_per_byte"]] for r in results}
    rates = {title: points for title, points in rates.items() if points}
    losses = {r["title"]: _smoothed([(step, loss) for step, loss in r["log"]]) for r in results}
    floor = verdict["floor_bits_per_byte"]
    alt = "; ".join(f"{r['title']} {_shown(verdict['objectives'][r['name']])}" for r in results)
    rate_plot = plot_overlaid_curves(rates, xlabel="step", ylabel="bits per byte, unseen text", floor=floor)
    loss_plot = plot_overlaid_curves(losses, xlabel="step", ylabel="training loss, nats per target")
    return Section("Comparison", [
        Paragraph(_EXPLANATION), table,
        Picture(rate_plot, "objectives-bits-per-byte", f"Bits per byte over steps; at the end {alt}"),
        Picture(loss_plot, "objectives-losses", "Training loss of each objective over steps"),
    ])  # fmt: skip


def _shown(row: dict[str, Any]) -> str:
    """Bits per byte with what they are worth, or why there are none."""
    if row["bits_per_byte"] is None:
        return "not defined"
    if row["kind"] == "exact":
        return f"{row['bits_per_byte']:.3f}"
    return f"at most {row['bits_per_byte']:.3f} +- {row['error']:.3f}"


def _smoothed(log: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means of every few losses, at the last step of each."""
    groups = [log[i : i + _SMOOTHING] for i in range(0, len(log), _SMOOTHING)]
    return [(group[-1][0], statistics.fmean(loss for _, loss in group)) for group in groups]
