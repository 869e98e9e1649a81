"""All runs of the chosen ablations as one resumable job: a stage for the text, one for the baseline, one per ablation.

    DIR/baseline/baseline/seed_0/           a training run as `cs336 train` makes it, log and weights included
    DIR/norm/no_norm/seed_0/ ...
    DIR/norm/results.json                   outcomes of the stage; what the report says comes from these files alone
    DIR/overview/results.json               one line per variant
    DIR/report.html, DIR/report.md          after each stage, of all stages so far

Killed at any moment, the job goes on inside the training run where it was. Ablations may be added or left out when it
is called again; finished ones are kept. Read next: `report.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cs336_basics.ablations import report
from cs336_basics.ablations.catalogue import BASELINE, BY_NAME, Variant, choose
from cs336_basics.ablations.corpus import TRAIN_TOKENS, VALID_TOKENS, CorpusOptions, corpus_stage
from cs336_basics.ablations.experiment import Summary, run_experiment, summarize, with_seed
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.config import config_differences, config_to_dict
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.stage import Stage, run_stages
from cs336_basics.training_config import TrainConfig

OVERVIEW = "overview"


@dataclass(frozen=True)
class AblationConfig:
    """What to compare, and on what."""

    train: TrainConfig
    """the baseline; its tokens are replaced where `corpus` makes some"""
    corpus: CorpusOptions | None = None
    """text to make tokens of; None trains on the token files that `train` names"""
    ablations: tuple[str, ...] = ()
    """names of ablations; all by default"""
    seeds: int = 1
    """runs per variant, with seeds train.seed, train.seed + 1 ..."""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""

    def __post_init__(self) -> None:
        for ablation in choose(self.ablations):
            ablation.variants(self.train)  # what the model cannot be is refused before anything is trained
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1; got {self.seeds}")


@dataclass(frozen=True)
class RunsOptions:
    """What one stage trains."""

    train: TrainConfig
    name: str
    seeds: int
    device: str


def run_ablations(
    config: AblationConfig, directory: Path, *, progress: bool = True
) -> tuple[Path, list[Summary], list[str]]:
    """Run or go on with the ablations in `directory`.

    Args:
        config: what to run; on resuming, all but `ablations` and `device` must be as before.
        directory: receives the runs and report.html, report.md.
        progress: show bars and lines on standard error.

    Returns:
        The HTML report, one summary per variant (the baseline first), and the names of the stages that ran.

    Raises:
        ValueError: the directory holds a job with another configuration, or a variant that the model cannot have.
        AlreadyLockedError: a job is running there. Interrupted: Ctrl-C, after saving.
    """
    changeable = ("ablations", "device")
    with RunDirectory.create_or_resume(directory, config, kind="ablations", changeable=changeable) as run:
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
        _, ran = run_stages(
            ablation_stages(config, progress), directory, title="Ablations", introduction=report.introduction(config),
            say=say if progress else lambda line: None,
        )  # fmt: skip
        rows = json.loads((directory / OVERVIEW / "results.json").read_text(encoding="utf-8"))["variants"]
        summaries = [Summary(**row) for row in rows]
        run.finish({"variants": len(rows), "report": "report.html"})
    return directory / "report.html", summaries, ran


def ablation_stages(config: AblationConfig, progress: bool = True) -> list[Stage]:
    """All stages, in order."""
    train = replace(config.train, device="auto")  # the device is no part of what a stage computes
    stages = []
    if config.corpus is not None:
        stages.append(corpus_stage(config.corpus))
        train = replace(
            train, train_tokens=Path(TRAIN_TOKENS), valid_tokens=Path(VALID_TOKENS), tokenizer=Path("corpus/tokenizer")
        )
    names = [BASELINE, *(ablation.name for ablation in choose(config.ablations))]
    stages += [_runs_stage(RunsOptions(train, name, config.seeds, config.device), progress) for name in names]
    return [*stages, _overview_stage(names)]


def _runs_stage(options: RunsOptions, progress: bool) -> Stage:
    """The training runs of the baseline or of one ablation."""
    name, train = options.name, options.train
    manifests = (f"{train.train_tokens}.json", f"{train.valid_tokens}.json")
    return Stage(
        name=name, title="baseline" if name == BASELINE else BY_NAME[name].title.lower(), options=options,
        inputs=manifests if name == BASELINE else (*manifests, results_path(BASELINE)), outputs=(results_path(name),),
        run=lambda directory, options: _run(directory, options, progress),
        section=lambda directory: report.section(name, *_read(directory, name)),
    )  # fmt: skip


def variants(name: str, base: TrainConfig) -> list[Variant]:
    """The runs of a stage."""
    return [Variant(BASELINE, BASELINE, base)] if name == BASELINE else BY_NAME[name].variants(base)


def _run(directory: Path, options: RunsOptions, progress: bool) -> None:
    """Train every variant with every seed."""
    root, base = directory.resolve(), options.train
    results = []
    for variant in variants(options.name, base):
        outcomes = []
        for index in range(options.seeds):
            config = replace(
                with_seed(variant.config, index), device=options.device, train_tokens=root / base.train_tokens,
                valid_tokens=root / base.valid_tokens, tokenizer=base.tokenizer and root / base.tokenizer,
            )  # fmt: skip
            if progress:
                print(f"  {variant.label}, seed {config.seed}", file=sys.stderr, flush=True)
            outcome = run_experiment(
                config, directory / options.name / variant.name / f"seed_{index}", progress=progress
            )
            if progress and outcome["diverged_at"] is not None:
                print(f"  diverged at step {outcome['diverged_at']}: a result", file=sys.stderr, flush=True)
            outcomes.append(outcome)
        results.append({"name": variant.name, "label": variant.label, "changes": _changes(base, variant.config),
                        "outcomes": outcomes})  # fmt: skip
    write_json(directory / results_path(options.name), {"variants": results})


def _changes(base: TrainConfig, config: TrainConfig) -> dict[str, Any]:
    """Dotted name to value of what sets a variant apart."""
    differences = config_differences(config_to_dict(base), config_to_dict(config))
    return {name: new for name, (_, new) in differences.items()}


def results_path(name: str) -> str:
    """Where a stage keeps its outcomes."""
    return f"{name}/results.json"


def _read(directory: Path, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results of the baseline and of the stage `name`."""
    paths = [directory / results_path(stage) for stage in (BASELINE, name)]
    baseline, own = (json.loads(path.read_text(encoding="utf-8"))["variants"] for path in paths)
    return baseline, own


def _overview_stage(names: list[str]) -> Stage:
    """One line per variant."""
    out = results_path(OVERVIEW)

    def run(directory: Path, options: None) -> None:
        results = [result for name in names for result in _read(directory, name)[1]]
        rows = [asdict(summarize(r["label"], r["outcomes"], results[0]["outcomes"])) for r in results]
        write_json(directory / out, {"entropy_floor": results[0]["outcomes"][0]["entropy_floor"], "variants": rows})

    return Stage(
        name=OVERVIEW, title="overview", options=_NoOptions(), inputs=tuple(map(results_path, names)), outputs=(out,),
        run=run, section=lambda directory: report.overview(json.loads((directory / out).read_text(encoding="utf-8"))),
    )  # fmt: skip


@dataclass(frozen=True)
class _NoOptions:
    """The overview has none."""
