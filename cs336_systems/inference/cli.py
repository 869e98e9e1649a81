"""`cs336 systems inference`: the engine's times for a trained model, or for one of a given shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cs336_basics.runs.command_line import parse

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Inference:
    """Measure time to first token, time per token, throughput and bandwidth utilisation, batch by batch."""

    model: Path | None = None
    """run directory of `cs336 train`; without it, random weights of the TinyStories shape"""
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    """rows that decode together"""
    prompt_tokens: int = 64
    """tokens of each prompt"""
    new_tokens: int = 32
    """tokens to add"""
    weights: Literal["float32", "int8"] = "float32"
    """int8 rounds all matrices but the embedding table"""
    path: Literal["auto", "fused", "modules"] = "auto"
    """the compiled decoder, or the model's own modules"""
    threads: int | None = None
    """CPU threads; torch's number by default"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """write report.html, report.md and inference.json here besides"""
    json: Switch = False
    """print JSON instead of Markdown"""


def inference(argv: list[str]) -> None:
    """`cs336 systems inference`."""
    o = parse(Inference, argv, "systems inference", example="systems inference --batch-sizes 1 8 --weights int8")
    import torch

    from cs336_basics.runs.atomic import write_json
    from cs336_basics.runs.machine import choose_device
    from cs336_basics.runs.provenance import describe_environment
    from cs336_basics.runs.report import write_report
    from cs336_basics.runs.report_markdown import render_markdown
    from cs336_systems.inference import inference_benchmark as benchmark
    from cs336_systems.inference.engine import Engine

    if o.threads is not None:
        torch.set_num_threads(o.threads)
    device = choose_device(o.device)
    model = _model(o.model, device)
    engine = Engine(model, max_batch=max(o.batch_sizes), weights=o.weights, path=o.path)
    bandwidth = benchmark.read_bandwidth(device)
    shape = {"prompt_tokens": o.prompt_tokens, "new_tokens": o.new_tokens}
    times = [benchmark.time_engine(engine, batch, bandwidth=bandwidth, **shape) for batch in o.batch_sizes]
    facts = {
        "parameters": model.get_num_params(), "path": engine.path, "weights": o.weights, "device": str(device),
        "threads": torch.get_num_threads(), "bandwidth_gb_per_s": round(bandwidth / 1e9, 1), **shape,
    }  # fmt: skip
    report, values = benchmark.report_times(times, facts), benchmark.as_json(times, facts)
    print(json.dumps(values, indent=2) if o.json else render_markdown(report))
    if o.out is not None:
        write_report(report, o.out)
        write_json(o.out / "inference.json", {**values, "environment": describe_environment()})


def _model(folder: Path | None, device):
    """A trained model, or random weights of the TinyStories shape."""
    from cs336_basics.cli import load_model
    from cs336_basics.model import TransformerLM
    from cs336_basics.model_config import ModelConfig

    if folder is not None:
        return load_model(folder, str(device))
    return TransformerLM(ModelConfig(10_000, 256, 512, 4, 16, 1344)).to(device).eval()
