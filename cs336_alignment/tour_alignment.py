"""The tour's stage of alignment: the model that tells stories learns to solve word problems about their people.

    pretrained -> SFT -> DPO -> GRPO        held-out accuracy with intervals after each, and a control with a coin for a reward

Handout: sft_experiment, dpo_training, grpo_train_loop. Read next: `pipeline.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cs336_alignment.grpo_config import GrpoConfig, method_config
from cs336_alignment.pipeline import PipelineOptions, run_pipeline
from cs336_alignment.preference_training import DpoConfig
from cs336_alignment.sft import SftConfig
from cs336_alignment.tasks.splits import SplitSizes
from cs336_alignment.tasks.word_problems import WordProblems
from cs336_basics.model import TransformerLM
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.machine import choose_device
from cs336_basics.runs.plots import plot_bars, plot_overlaid_curves
from cs336_basics.runs.report import (
    Block,
    KeyFigure,
    KeyFigures,
    Paragraph,
    Picture,
    Preformatted,
    Section,
    Table,
)
from cs336_basics.runs.stage import Stage
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.tour_pretraining import FOLDER as PRETRAINING
from cs336_basics.tour_tokenizers import STORIES_TOKENIZER
from cs336_basics.training_config import OptimizerConfig

FOLDER = "alignment"
RESULTS = f"{FOLDER}/results.json"
TITLES = {"base": "pretrained", "sft": "SFT", "dpo": "DPO", "grpo": "GRPO", "control": "control"}
SMOOTHING = 5  # steps whose mean a point of a curve is


@dataclass(frozen=True)
class AlignmentStageOptions:
    """The phases, and what is expected of them."""

    pipeline: PipelineOptions
    """task and length of each phase"""
    expect_gain: bool = True
    """target: GRPO's interval lies above SFT's"""
    seed: int = 0
    """of problems, data order and samples"""
    device: str = "auto"
    """cpu, cuda, mps, or auto"""


def _adamw(rate: float, warmup: int) -> OptimizerConfig:
    return OptimizerConfig(
        max_learning_rate=rate, schedule="constant", warmup_steps=warmup, betas=(0.9, 0.95), weight_decay=0.0
    )


def _muon(rate: float, num_steps: int) -> OptimizerConfig:
    return OptimizerConfig(
        name="muon", schedule="wsd", max_learning_rate=rate, min_learning_rate=0.0, warmup_steps=20,
        decay_steps=num_steps // 2, betas=(0.9, 0.98),
    )  # fmt: skip


def _grpo(num_steps: int) -> GrpoConfig:
    return method_config(
        "dr_grpo", num_steps=num_steps, prompts_per_step=16, group_size=8, max_tokens=48, minibatches=2,
        importance="grpo", cliprange=0.2, eval_every=20, eval_examples=100, sample_every=20, checkpoint_every=10,
        optimizer=_adamw(3e-4, 5),
    )  # fmt: skip


DEFAULT = AlignmentStageOptions(  # meant for 3 minutes on two CPU cores with nothing else to do
    PipelineOptions(
        task=WordProblems(
            max_steps=3, largest=10, terse=0.5, sizes=SplitSizes(sft=6000, preference=300, rl=2000, test=500)
        ),
        sft=SftConfig(
            num_steps=400, batch_size=16, optimizer=_muon(4e-3, 400), eval_every=100, eval_examples=100, checkpoint_every=100
        ),
        dpo=DpoConfig(num_steps=20, batch_size=16, nll_coefficient=0.2, optimizer=_adamw(3e-5, 5)),
        grpo=_grpo(20), pair_problems=150, validation_pairs=30, side_by_side=True,
    )
)  # fmt: skip
QUICK = AlignmentStageOptions(  # a twentieth of it; too short for the target
    replace(
        DEFAULT.pipeline, grpo=replace(_grpo(2), prompts_per_step=8), pair_problems=30, validation_pairs=2,
        sft=replace(DEFAULT.pipeline.sft, num_steps=20), dpo=replace(DEFAULT.pipeline.dpo, num_steps=3),
        task=replace(DEFAULT.pipeline.task, sizes=SplitSizes(sft=400, preference=60, rl=100, test=40)),
    ),
    expect_gain=False,
)  # fmt: skip


SCRATCH = replace(  # for a model of 160,000 weights that has read nothing yet; see benchmarks/bench_alignment.py
    DEFAULT.pipeline,
    task=WordProblems(
        max_steps=3, largest=10, terse=0.5, sizes=SplitSizes(sft=6000, preference=400, rl=2500, test=600)
    ),
    sft=SftConfig(num_steps=400, batch_size=32, optimizer=_muon(5e-3, 400), checkpoint_every=100),
    grpo=_grpo(40),
    grpo_after_dpo=False,
)


def alignment_stage(options: AlignmentStageOptions) -> Stage:
    """Align the model of the pretraining stage."""
    tokenizer = tuple(f"{STORIES_TOKENIZER}/{file}" for file in ("vocab.json", "merges.txt", "special_tokens.json"))
    files = ("results.json", "sft/log.jsonl", "grpo/log.jsonl", "control/log.jsonl", "grpo/model.pt",
             "grpo/model_config.json", "grpo/samples.jsonl")  # fmt: skip
    return Stage(
        name=FOLDER, title="alignment", options=options,
        inputs=(f"{PRETRAINING}/model.pt", f"{PRETRAINING}/model_config.json", *tokenizer),
        outputs=tuple(f"{FOLDER}/{file}" for file in files), run=_run, section=_section,
    )  # fmt: skip


def _run(directory: Path, options: AlignmentStageOptions) -> None:
    device = choose_device(options.device)
    model = TransformerLM.from_pretrained(directory / PRETRAINING).to(device)
    tokenizer = Tokenizer.load(directory / STORIES_TOKENIZER)
    results = run_pipeline(model, tokenizer, replace(options.pipeline, seed=options.seed), directory / FOLDER)
    write_json(directory / RESULTS, results | {"targets": options.expect_gain})


_INTRODUCTION = """
The model that tells stories now gets word problems about the same people, and four lessons. **SFT** shows it solutions;
half of them are worked out, half are terse and say the answer alone, so that it does not know which to write. **DPO**
shows it pairs of its own answers, a right and a wrong one. **GRPO** shows it nothing: it samples several answers to a
problem, and those with a right result become likelier than the others. The **control** does the same with a coin in the
place of the result. No problem of the test is like a problem of the lessons, not even with other names.
"""


def _section(directory: Path) -> Section:
    results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    logs = {name: RunDirectory(directory / FOLDER / name).read_log() for name in results["phases"] if name != "base"}
    return Section("Alignment", [
        Paragraph(_INTRODUCTION),
        KeyFigures(_key_figures(results, logs)),
        _accuracy_picture(results),
        _phase_table(results, logs),
        Paragraph(_dpo_text(results, logs)),
        Section("Reinforcement learning, step by step", _curves(logs)),
        Section("The same problems before and after", _transcripts(results)),
    ])  # fmt: skip


def _share(results: dict[str, Any], phase: str) -> float:
    return results["phases"][phase]["right"] / results["phases"][phase]["questions"]


def _key_figures(results: dict[str, Any], logs: dict[str, list[dict[str, Any]]]) -> list[KeyFigure]:
    phases = results["phases"]
    start = results["start"]
    low, high = phases["grpo"]["interval"][0], phases["sft"]["interval"][1]
    coin = phases["control"]["interval"][0] <= phases[start]["interval"][1]
    target = (f"95 % interval above {high:.1%}", low > high) if results["targets"] else ()
    figures = [
        KeyFigure(
            f"word problems after {TITLES[name]}", f"{_share(results, name):.1%}", *(target if name == "grpo" else ())
        )
        for name in phases
        if name not in ("base", "control")
    ]
    control = KeyFigure("word problems after GRPO for a coin", f"{_share(results, 'control'):.1%}", "no gain", coin)
    if "dpo" not in logs:
        return [*figures, control]
    accuracy = f"{_last(logs['dpo'], 'validation_preference_accuracy'):.1%}"
    return [*figures, control, KeyFigure("preference accuracy of DPO", accuracy)]


def _last(log: list[dict[str, Any]], key: str) -> float:
    return next(record[key] for record in reversed(log) if key in record)


def _accuracy_picture(results: dict[str, Any]) -> Picture:
    names = list(results["phases"])
    counts = [(results["phases"][name]["right"], results["phases"][name]["questions"]) for name in names]
    alt = "Held-out accuracy: " + ", ".join(f"{TITLES[name]} {_share(results, name):.0%}" for name in names)
    bars = plot_bars([TITLES[name] for name in names], {"held-out accuracy, greedy": counts})
    return Picture(bars, "alignment-accuracy", alt, "With 95 % intervals; the control begins where GRPO begins.")


def _phase_table(results: dict[str, Any], logs: dict[str, list[dict[str, Any]]]) -> Table:
    rows = []
    for name in results["phases"]:
        phase, log = results["phases"][name], logs.get(name, [])
        low, high = phase["interval"]
        steps = log[-1]["step"] if log else None
        rows.append([TITLES[name], steps, f"{phase['right']} of {phase['questions']}", f"{low:.1%} to {high:.1%}",
                     f"{phase['format']:.1%}"])  # fmt: skip
    paired = results["paired"]["grpo against sft"]
    caption = (
        f"Of the same questions GRPO has {paired['gained']} right that SFT had wrong, and {paired['lost']} the other way "
        f"round (McNemar's exact test: p = {paired['p_value']:.2g})."
    )
    return Table(["phase", "steps", "right", "95 % interval", "in the right form"], rows, caption=caption)


def _dpo_text(results: dict[str, Any], logs: dict[str, list[dict[str, Any]]]) -> str:
    if "dpo" not in logs:
        return f"DPO was left out: {results['dpo']}. GRPO begins where SFT ended."
    first, last = logs["dpo"][1], logs["dpo"][-1]
    return (
        f"{results['dpo']}. DPO ranks {last['validation_preference_accuracy']:.0%} of pairs it has not seen as it should. That is not the "
        f"same as solving problems: accuracy goes from {_share(results, 'sft'):.1%} to {_share(results, 'dpo'):.1%}. "
        f"The log-probability of the chosen answers went from {first['log_prob_chosen']:.2f} to "
        f"{last['log_prob_chosen']:.2f}, that of the rejected ones from {first['log_prob_rejected']:.2f} to "
        f"{last['log_prob_rejected']:.2f}; a term for the likelihood of the chosen answer keeps the former from falling."
    )


def _curves(logs: dict[str, list[dict[str, Any]]]) -> list[Block]:
    blocks: list[Block] = []
    for key, ylabel, text in (
        ("mean_reward", "mean reward", "Share of sampled answers that are right"),
        ("entropy", "entropy, nats per token", "How undecided the model is about its next token"),
        ("length", "tokens", "Length of the sampled answers"),
        ("clip_fraction", "share of tokens", "Tokens whose ratio to the old policy the clip holds back"),
        ("zero_variance_groups", "share of groups", "Groups whose answers all have the same reward and teach nothing"),
    ):
        curves = {TITLES[name]: smoothed(logs[name], key) for name in ("grpo", "control")}
        if not all(curves.values()):
            continue
        ends = "; ".join(f"{name} from {points[0][1]:.2f} to {points[-1][1]:.2f}" for name, points in curves.items())
        figure = plot_overlaid_curves(curves, xlabel="step", ylabel=ylabel)
        blocks.append(Picture(figure, f"alignment-{key.replace('_', '-')}", f"{text}: {ends}", f"{text}."))
    return blocks


def smoothed(log: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, mean of the last few values) of the records that have the key."""
    points = [(record["step"], record[key]) for record in log if key in record]
    means = []
    for place, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, place + 1 - SMOOTHING) : place + 1]]
        means.append((float(step), sum(window) / len(window)))
    return means


def _transcripts(results: dict[str, Any]) -> list[Block]:
    return [
        Preformatted(
            f"{item['prompt'].strip()}\n\nSFT:\n{item['sft'].strip()}\n\nGRPO:\n{item['grpo'].strip()}",
            f"The answer is {item['answer']}.",
        )
        for item in results["example"]
    ]
