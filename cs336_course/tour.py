"""The tour: the whole course in miniature, trained for real on this machine, ending in one report.

`DEFAULT` and `QUICK` are the only places where its sizes stand. Each package defines its stages beside its code; here
they are put in order. Interrupted at any moment, the tour goes on where it was when it is started again. Read next:
`cs336_basics/runs/stage.py`, then the stages: `tour_tokenizers.py` and `tour_pretraining.py` of `cs336_basics`,
`tour_systems.py`, `tour_scaling.py`, `tour_data.py`, `tour_alignment.py` of the other packages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cs336_alignment import tour_alignment
from cs336_alignment.tour_alignment import AlignmentStageOptions, alignment_stage
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.report import KeyFigure, KeyFigures, Section
from cs336_basics.runs.stage import Stage, run_stages
from cs336_basics.tour_pretraining import PretrainingStageOptions, pretraining_stage
from cs336_basics.tour_tokenizers import TokenizerStageOptions, tokenizers_stage
from cs336_data import tour_data
from cs336_data.tour_data import DataStageOptions, data_stage
from cs336_scaling import tour_scaling
from cs336_scaling.tour_scaling import ScalingStageOptions, scaling_stage
from cs336_systems import tour_systems
from cs336_systems.tour_systems import SystemsStageOptions, systems_stage


@dataclass(frozen=True)
class TourConfig:
    """The options of all stages."""

    tokenizers: TokenizerStageOptions
    pretraining: PretrainingStageOptions
    systems: SystemsStageOptions
    scaling: ScalingStageOptions
    data: DataStageOptions
    alignment: AlignmentStageOptions


DEFAULT = TourConfig(  # meant for 10 minutes on two fast CPU cores
    TokenizerStageOptions(
        num_train_stories=30_000, num_valid_stories=1_000, num_cloze=500, stories_vocab_size=1_024,
        stdlib_bytes=6_000_000, stdlib_vocab_size=4_096, seed=0,
    ),
    PretrainingStageOptions(
        d_model=96, num_layers=3, num_heads=8, context_length=224, batch_size=7, num_steps=2_150,
        max_learning_rate=5e-3, warmup_steps=30, num_samples=50, max_above_floor=0.10, min_cloze_accuracy=0.80,
        seed=0, device="auto",
    ),
    tour_systems.DEFAULT,
    tour_scaling.DEFAULT,
    tour_data.DEFAULT,
    tour_alignment.DEFAULT,
)  # fmt: skip

QUICK = TourConfig(  # a fraction of it; too short for the targets
    TokenizerStageOptions(
        num_train_stories=4_000, num_valid_stories=100, num_cloze=60, stories_vocab_size=1_024,
        stdlib_bytes=800_000, stdlib_vocab_size=1_024, seed=0,
    ),
    PretrainingStageOptions(
        d_model=96, num_layers=3, num_heads=8, context_length=224, batch_size=7, num_steps=60,
        max_learning_rate=5e-3, warmup_steps=10, num_samples=10, max_above_floor=None, min_cloze_accuracy=None,
        seed=0, device="auto",
    ),
    tour_systems.QUICK,
    tour_scaling.QUICK,
    tour_data.QUICK,
    tour_alignment.QUICK,
)  # fmt: skip


_CHANGEABLE = tuple(f"{stage}.device" for stage in ("pretraining", "systems", "data", "alignment"))


@dataclass(frozen=True)
class TourResult:
    """Where the report is, its headline numbers, and the names of the stages that this call ran."""

    report: Path
    key_figures: tuple[KeyFigure, ...]
    ran: tuple[str, ...]


def tour_config(*, quick: bool = False, seed: int = 0, device: str = "auto") -> TourConfig:
    """One of the two sizes with a seed and a device."""
    config = QUICK if quick else DEFAULT
    given = {"seed": seed, "device": device}
    return TourConfig(
        *(replace(stage, **{k: v for k, v in given.items() if hasattr(stage, k)}) for stage in _options(config))
    )


def _options(config: TourConfig) -> list[Any]:
    """The options of each stage, in order."""
    return [getattr(config, field.name) for field in fields(config)]


def tour_stages(config: TourConfig) -> list[Stage]:
    """All stages, in the order of the course."""
    return [
        tokenizers_stage(config.tokenizers), pretraining_stage(config.pretraining), systems_stage(config.systems),
        scaling_stage(config.scaling), data_stage(config.data), alignment_stage(config.alignment),
    ]  # fmt: skip


def run_tour(config: TourConfig, directory: Path) -> TourResult:
    """Run or go on with the tour in `directory` and write report.html and report.md there.

    Raises:
        ValueError: the directory holds a tour with another configuration.
        AlreadyLockedError: a tour is running there.
        Interrupted: Ctrl-C during training, after saving; other stages raise KeyboardInterrupt.
    """
    with RunDirectory.create_or_resume(directory, config, kind="tour", changeable=_CHANGEABLE) as run:

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)
            run.append_log({"message": line})

        report, ran = run_stages(
            tour_stages(config), directory, title="cs336: the course in miniature",
            introduction=_introduction(run.manifest()), say=say,
        )  # fmt: skip
        figures = tuple(_key_figures(report))
        run.finish({figure.label: figure.value for figure in figures})
    return TourResult(directory / "report.html", figures, tuple(ran))


def _introduction(environment: dict[str, object]) -> str:
    """What this is and on which machine it was made."""
    commit = environment["git_commit"]
    return (
        "Text becomes tokens, tokens train a model, and the model is measured: every number below was computed by "
        f"`cs336 tour` on this machine ({environment['platform']}, {environment['cpu_count']} CPUs, Python "
        f"{environment['python']}, torch {environment['torch']}{f', commit {str(commit)[:12]}' if commit else ''})."
    )


def _key_figures(section: Section) -> Iterator[KeyFigure]:
    """All headline numbers, in reading order."""
    for block in section.blocks:
        if isinstance(block, KeyFigures):
            yield from block.figures
        elif isinstance(block, Section):
            yield from _key_figures(block)
