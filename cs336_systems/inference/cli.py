"""The verbs of the inference engine: `systems generate` writes with it, `systems inference` measures it.

Read next: `engine.py`, `inference_benchmark.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cs336_basics.cli import ModelFolder, load_model, load_tokenizer
from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.runs.command_line import parse
from cs336_basics.tokenization.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from cs336_basics.model import TransformerLM
    from cs336_systems.inference.engine import Engine
    from cs336_systems.inference.sampling import SamplingParams

Switch = tyro.conf.FlagCreatePairsOff[bool]


Weights = Literal["float32", "int8"]
EnginePath = Literal["auto", "fused", "modules"]


@dataclass(frozen=True)
class Generate:
    """Let a trained model continue many prompts at once; each sample is one it would have written alone."""

    model: ModelFolder
    """run directory of `cs336 train`, or a folder with model.pt and model_config.json"""
    prompts: tuple[str, ...] = ()
    """texts to continue; "" begins a new document (the default without --prompt-file)"""
    prompt_file: Path | None = None
    """further prompts, one per line of a UTF-8 file"""
    samples: int = 1
    """samples of each prompt"""
    max_new_tokens: int = 128
    """stop after so many tokens, at the end of the document, or where the model's context ends"""
    temperature: float = 1.0
    """0 always takes the likeliest token"""
    top_k: int | None = None
    """choose among the k likeliest tokens"""
    top_p: float | None = None
    """choose among the likeliest tokens that together have this probability"""
    stop: tuple[str, ...] = ()
    """texts that end a sample"""
    seed: int = 0
    """same seed, same texts"""
    batch_size: int = 64
    """samples that are written at once"""
    weights: Weights = "float32"
    """int8 rounds all matrices but the embedding table"""
    path: EnginePath = "auto"
    """the compiled decoder, or the model's own modules"""
    tokenizer: Path | None = None
    """folder of the tokenizer; by default the one the run was trained with"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write the samples here (JSON lines: prompt, text, ids, logprobs, finish_reason) instead of printing them"""


def generate(argv: list[str]) -> None:
    """`cs336 systems generate`."""
    o = parse(Generate, argv, "systems generate",
              example='systems generate runs/tour/pretraining --prompts "Once, " --samples 4')  # fmt: skip
    from cs336_basics.runs.atomic import atomic_write
    from cs336_systems.inference.engine import Engine
    from cs336_systems.inference.sampling import SamplingParams

    prompts = [*o.prompts, *(o.prompt_file.read_text(encoding="utf-8").splitlines() if o.prompt_file else ())] or [""]
    model, tokenizer = load_model(o.model, o.device), load_tokenizer(o.model, o.tokenizer)
    end = tokenizer.special_id(END_OF_TEXT)
    params = SamplingParams(
        max_tokens=o.max_new_tokens, temperature=o.temperature, top_k=o.top_k, top_p=o.top_p, n=o.samples, seed=o.seed,
        stop_ids=(end,), stop=o.stop,
    )  # fmt: skip
    engine = Engine(model, tokenizer, max_batch=o.batch_size, weights=o.weights, path=o.path)
    ids = [tokenizer.encode(prompt) or [end] for prompt in prompts]
    samples = _written(engine, ids, params)
    if o.out is None:
        for number, (request, _, values) in enumerate(samples):
            print("\n" * (number > 0) + prompts[request] + values["text"])
    else:
        with atomic_write(o.out, "w") as file:
            for request, sample, values in samples:
                line = {"prompt": prompts[request], "sample": sample} | values
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _written(engine: Engine, prompts: list[list[int]], params: SamplingParams) -> list[tuple[int, int, dict[str, Any]]]:
    """(prompt, sample, values) of all samples in order; progress goes to stderr if that is a terminal."""
    made: dict[tuple[int, int], dict[str, Any]] = {}
    done, total = 0, len(prompts) * params.n
    with progress_bar("samples", enabled=sys.stderr.isatty()) as report:
        report(0, total)
        for event in engine.stream(prompts, params):
            values = made.setdefault((event.request, event.sample), {"text": "", "ids": [], "logprobs": []})
            values["text"] += event.text
            if event.token is not None:
                values["ids"].append(event.token)
                values["logprobs"].append(event.logprob)
            if event.finish_reason is not None:
                values["finish_reason"] = event.finish_reason
                done += 1
                report(done, total)
    return [(*key, made[key]) for key in sorted(made)]


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
    weights: Weights = "float32"
    """int8 rounds all matrices but the embedding table"""
    path: EnginePath = "auto"
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

    if not o.batch_sizes or min(o.batch_sizes) < 1 or (o.threads is not None and o.threads < 1):
        raise ValueError(f"batch sizes and threads must be at least 1; got {o.batch_sizes} and {o.threads}")
    if o.threads is not None:
        torch.set_num_threads(o.threads)
    device = choose_device(o.device)
    model = _model(o.model, device)
    engine = Engine(model, max_batch=max(o.batch_sizes), weights=o.weights, path=o.path)
    bandwidth = benchmark.read_bandwidth(device)
    shape = {"prompt_tokens": o.prompt_tokens, "new_tokens": o.new_tokens}
    times = []
    with progress_bar("batch sizes", enabled=sys.stderr.isatty()) as show:
        for done, batch in enumerate(o.batch_sizes):
            show(done, len(o.batch_sizes))
            times.append(benchmark.time_engine(engine, batch, bandwidth=bandwidth, **shape))
    facts = {
        "parameters": model.get_num_params(), "path": engine.path, "weights": o.weights, "device": str(device),
        "threads": torch.get_num_threads(), "bandwidth_gb_per_s": round(bandwidth / 1e9, 1), **shape,
    }  # fmt: skip
    report, values = benchmark.report_times(times, facts), benchmark.as_json(times, facts)
    print(json.dumps(values, indent=2) if o.json else render_markdown(report))
    if o.out is not None:
        write_report(report, o.out)
        write_json(o.out / "inference.json", {**values, "environment": describe_environment()})


def _model(folder: Path | None, device: torch.device) -> TransformerLM:
    """A trained model, or random weights of the TinyStories shape."""
    from cs336_basics.model import TransformerLM
    from cs336_basics.model_config import ModelConfig

    if folder is not None:
        return load_model(folder, str(device))
    return TransformerLM(ModelConfig(10_000, 256, 512, 4, 16, 1344)).to(device).eval()
