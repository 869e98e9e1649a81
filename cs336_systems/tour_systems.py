"""The tour's stage of systems: what a training step costs, how near it is to the machine's limits, what a cache saves.

    benchmark    forward, backward and update of the tour's model, its memory by count
    roofline     this machine's peaks, and the operations of a Transformer below them
    generation   tokens per second with and without the cache of keys and values; the tokens must be the same
    kernels, parallel, engine    in `tour_checks.py`

Each part is a function of `PARTS` from (the trained model, options, the tour's directory) to JSON values, and a function of
`BLOCKS` from these values to blocks of the report; a further part is a line in each. Handout: benchmarking_script. Read
next: `benchmarking.py`, `roofline.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cs336_basics.generation import generate
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.machine import choose_device
from cs336_basics.runs.report import Block, KeyFigure, KeyFigures, Paragraph, Picture, Section, Table
from cs336_basics.runs.stage import Stage
from cs336_basics.tour_pretraining import FOLDER as PRETRAINING
from cs336_basics.tour_tokenizers import TRAIN_TOKENS, VALID_TOKENS
from cs336_systems.benchmarking import BenchmarkOptions, measure_model
from cs336_systems.memory_measurement import trace_step
from cs336_systems.model_sizes import course_model
from cs336_systems.roofline import Peaks, Point, measure_roofline, roofline_alt, roofline_figure, roofline_table
from cs336_systems.timing import Timing, time_parts
from cs336_systems.tour_checks import (
    check_kernels_apart,
    check_parallel,
    engine_blocks,
    engine_figures,
    kernels_blocks,
    kernels_figures,
    measure_engine,
    parallel_blocks,
    parallel_figures,
)

FOLDER = "systems"
RESULTS = f"{FOLDER}/results.json"


@dataclass(frozen=True)
class SystemsStageOptions:
    """How much is measured."""

    batch_size: int
    """sequences of a training step"""
    repeats: int
    """measurements of each kind"""
    roofline_size: str
    """name of the course's table whose operations are set against the roof"""
    roofline_context: int
    """their tokens"""
    peak_size: int
    """rows of the matrices whose product is the peak"""
    copy_bytes: int
    """length of the copy that is the peak of memory"""
    new_tokens: int
    """tokens to generate with and without the cache, at most"""
    parallel_steps: int
    """updates on one process and on two"""
    requests: int
    """for the inference engine"""
    seed: int
    device: str


DEFAULT = SystemsStageOptions(
    batch_size=7, repeats=5, roofline_size="small", roofline_context=128, peak_size=1536, copy_bytes=1 << 27,
    new_tokens=120, parallel_steps=12, requests=8, seed=0, device="auto",
)  # fmt: skip
"""under a minute on two CPU cores"""
QUICK = replace(DEFAULT, repeats=2, peak_size=768, copy_bytes=1 << 26, new_tokens=40, parallel_steps=2, requests=2)


def systems_stage(options: SystemsStageOptions) -> Stage:
    """Measure with the model of the pretraining stage."""
    tokens = (TRAIN_TOKENS, f"{TRAIN_TOKENS}.json", VALID_TOKENS, f"{VALID_TOKENS}.json")
    return Stage(
        name=FOLDER, title="systems", options=options,
        inputs=(f"{PRETRAINING}/model.pt", f"{PRETRAINING}/model_config.json", *tokens), outputs=(RESULTS,), run=_run,
        section=_section,
    )  # fmt: skip


def _run(directory: Path, options: SystemsStageOptions) -> None:
    device = choose_device(options.device)
    model = TransformerLM.from_pretrained(directory / PRETRAINING).to(device).eval()
    write_json(directory / RESULTS, {name: part(model, options, directory) for name, part in PARTS.items()})


def measure_training_step(model: TransformerLM, options: SystemsStageOptions, _: Path) -> dict[str, Any]:
    """Times of a step of a fresh model of the same shape, and the memory it needs."""
    settings = BenchmarkOptions(
        batch_size=options.batch_size, warmups=2, repeats=options.repeats, seed=options.seed, device=options.device
    )
    row = measure_model("the tour's model", model.config, settings)
    return row.to_dict() | {"traced_bytes": trace_step(model.config, batch_size=options.batch_size)}


def measure_roof(model: TransformerLM, options: SystemsStageOptions, _: Path) -> dict[str, Any]:
    """The roofline of one block of a course size, large enough to show the machine's limits."""
    config: ModelConfig = course_model(options.roofline_size, context_length=options.roofline_context)
    peaks, points = measure_roofline(
        config, batch_size=1, device=options.device, repeats=options.repeats, peak_size=options.peak_size,
        copy_bytes=options.copy_bytes, seed=options.seed,
    )  # fmt: skip
    return {"size": options.roofline_size, "context_length": options.roofline_context, "peaks": asdict(peaks),
            "points": [asdict(point) for point in points]}  # fmt: skip


def measure_generation(model: TransformerLM, options: SystemsStageOptions, _: Path) -> dict[str, Any]:
    """Greedy tokens per second of one sequence, with and without the cache."""
    device = next(model.parameters()).device
    new = min(options.new_tokens, model.config.context_length - 1)
    prompt = torch.zeros(1, 1, dtype=torch.long, device=device)
    written: dict[str, list[list[int]]] = {}
    rates: dict[str, float] = {}
    for name, use_cache in {"with cache": True, "without cache": False}.items():

        def write(_: Any, name: str = name, use_cache: bool = use_cache) -> None:
            written[name] = generate(model, prompt, new, temperature=0.0, use_cache=use_cache)

        seconds = time_parts([(name, write)], lambda _: None, device=device, warmups=0, repeats=2)
        rates[name] = new / min(seconds[name])
    return {"new_tokens": new, "tokens_per_second": rates, "same": written["with cache"] == written["without cache"]}


PARTS: dict[str, Callable[[TransformerLM, SystemsStageOptions, Path], dict[str, Any]]] = {
    "kernels": lambda *_: check_kernels_apart(),
    "benchmark": measure_training_step,
    "roofline": measure_roof,
    "parallel": lambda model, options, directory: check_parallel(
        directory, directory / FOLDER / "parallel", model, num_steps=options.parallel_steps, seed=options.seed
    ),
    "generation": measure_generation,
    "engine": lambda model, options, _: measure_engine(
        model, requests=options.requests, new_tokens=options.new_tokens, seed=options.seed
    ),
}
"""name in results.json to what measures it"""


def _section(directory: Path) -> Section:
    results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    figures = [figure for name in PARTS for figure in FIGURES[name](results[name])]
    section = Section("Systems", [Paragraph(_INTRODUCTION), KeyFigures(figures)])
    for name in PARTS:
        section.add(*BLOCKS[name](results[name]))
    return section


_INTRODUCTION = """
The same mathematics can be fast or slow. These numbers say what a training step of the tour's model costs on this
machine, which of a Transformer's operations its arithmetic limits and which its memory, and what it saves to keep keys
and values instead of computing them again for each new token. What is made fast must stay right: kernels are compared with
float64, and training on two processes with training on one.
"""


def _benchmark_figures(values: dict[str, Any]) -> list[KeyFigure]:
    return [
        KeyFigure("training step, median", f"{values['timings']['total']['median_ms']:.1f} ms"),
        KeyFigure("memory of the step, counted", f"{values['traced_bytes'] / 1e6:,.0f} MB"),
    ]


def _roofline_figures(values: dict[str, Any]) -> list[KeyFigure]:
    peaks = Peaks(**values["peaks"])
    return [
        KeyFigure("matrix product", f"{peaks.flops / 1e9:,.0f} GFLOP/s"),
        KeyFigure("copy", f"{peaks.bandwidth / 1e9:,.1f} GB/s"),
    ]


def _generation_figures(values: dict[str, Any]) -> list[KeyFigure]:
    rates = values["tokens_per_second"]
    return [
        KeyFigure("tokens per second with cache", f"{rates['with cache']:,.0f}"),
        KeyFigure("tokens per second without", f"{rates['without cache']:,.0f}"),
        KeyFigure(
            "both write the same tokens", "yes" if values["same"] else "no", target="yes", passed=values["same"]
        ),
    ]  # fmt: skip


def _benchmark_blocks(values: dict[str, Any]) -> list[Block]:
    timings = {name: Timing(**numbers) for name, numbers in values["timings"].items()}
    rows = [[name, t.mean_ms, t.std_ms, t.median_ms, t.p10_ms, t.p90_ms] for name, t in timings.items()]
    table = Table(["part", "mean, ms", "std, ms", "median, ms", "p10, ms", "p90, ms"], rows)
    count = timings["total"].count
    text = f"{count} steps after 2 warm-ups, fresh batches of {values['tokens']:,} tokens each."
    return [Section("A training step", [Paragraph(text), table])]


def _roofline_blocks(values: dict[str, Any]) -> list[Block]:
    peaks, points = Peaks(**values["peaks"]), [Point(**point) for point in values["points"]]
    text = (
        f"Operations of the course's size {values['size']} on {values['context_length']} tokens. Left of the ridge, "
        f"{peaks.ridge:.1f} FLOPs per byte, memory is the limit. A point above the roof worked within the caches, or "
        "something else ran while the peaks were measured."
    )
    picture = Picture(roofline_figure(peaks, points), "systems-roofline", roofline_alt(peaks, points))
    return [Section("Roofline", [Paragraph(text), picture, roofline_table(points)])]


def _generation_blocks(values: dict[str, Any]) -> list[Block]:
    rates = values["tokens_per_second"]
    text = (
        f"For {values['new_tokens']} tokens of one sequence the cache makes generation "
        f"{rates['with cache'] / rates['without cache']:.1f} times as fast; without it each token costs a forward pass "
        "over all before it."
    )
    return [Section("The cache of keys and values", [Paragraph(text)])]


FIGURES: dict[str, Callable[[dict[str, Any]], list[KeyFigure]]] = {
    "kernels": kernels_figures,
    "benchmark": _benchmark_figures,
    "roofline": _roofline_figures,
    "parallel": parallel_figures,
    "generation": _generation_figures,
    "engine": engine_figures,
}
"""part to its headline numbers"""
BLOCKS: dict[str, Callable[[dict[str, Any]], list[Block]]] = {
    "kernels": kernels_blocks,
    "benchmark": _benchmark_blocks,
    "roofline": _roofline_blocks,
    "parallel": parallel_blocks,
    "generation": _generation_blocks,
    "engine": engine_blocks,
}
"""part to its section of the report"""
