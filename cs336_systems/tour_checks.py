"""Parts of the tour's stage of systems that compare: kernels with float64, two processes with one, many requests with one.

    kernels    output and gradients of each kernel, in Triton's interpreter where there is no GPU (`kernels/self_check.py`)
    parallel   the same short training on one process, and on two by DDP and by FSDP: the losses must be the same
    engine     tokens per second of a batch of requests, and of the same requests one by one

Read next: `tour_systems.py`, which makes a report of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cs336_basics.data import get_batch, open_tokens
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import clip_gradient, cross_entropy
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.report import Block, KeyFigure, Paragraph, Picture, Section, Table
from cs336_basics.tour_tokenizers import TRAIN_TOKENS, VALID_TOKENS
from cs336_basics.training import train
from cs336_basics.training_config import OptimizerConfig, TrainConfig
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams
from cs336_systems.kernels.self_check import TOLERANCE
from cs336_systems.parallel.parallel_config import ParallelConfig
from cs336_systems.parallel.process_group import joined_group, launch
from cs336_systems.parallel.strategies import make_strategy

_SAME_LOSS = 1e-4
"""nats; sums in another order differ in float32's last digits, and a few updates make them larger"""
_LIMIT_S = 240.0
_STRATEGIES = ("ddp", "fsdp")


def check_kernels_apart() -> dict[str, Any]:
    """`self_check` in a process of its own, since the interpreter is chosen before Triton is imported."""
    environment = os.environ if torch.cuda.is_available() else os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "cs336_systems.kernels.self_check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the kernels could not be checked; {' '.join(command)} said:\n{done.stderr[-2000:]}")
    return {"differences": json.loads(done.stdout), "interpreter": not torch.cuda.is_available()}


def check_parallel(directory: Path, folder: Path, model: TransformerLM, *, num_steps: int, seed: int) -> dict[str, Any]:
    """Losses of a short training of a small model, on one process and on two.

    Args:
        directory: the tour's, with the tokens of the first stage.
        folder: where the runs go.
        model: gives the vocabulary.
        num_steps: updates.
        seed: of weights and batches.
    """
    shape = replace(
        model.config, d_model=32, num_layers=2, num_heads=2, num_kv_heads=None, d_ff=None, context_length=64
    )
    config = TrainConfig(
        model=shape, train_tokens=directory.resolve() / TRAIN_TOKENS, valid_tokens=directory.resolve() / VALID_TOKENS,
        optimizer=OptimizerConfig(max_learning_rate=3e-3, warmup_steps=1), num_steps=num_steps, batch_size=2, log_every=1,
        eval_every=num_steps, eval_tokens=2_000, checkpoint_every=num_steps, seed=seed, device="cpu", precision="float32",
    )  # fmt: skip
    curves = {"one": _train_alone(config, num_ranks=2)}
    launch(_train_in_group, 2, _STRATEGIES, config, str(folder))
    for name in _STRATEGIES:
        log = RunDirectory(folder / name).read_log()
        curves[name] = [record["train_loss"] for record in log if "train_loss" in record]
    return {"curves": curves}


def _train_alone(config: TrainConfig, *, num_ranks: int) -> list[float]:
    """The loop written out: the batches of all ranks, as `Training` draws them, in one process."""
    torch.manual_seed(config.seed)
    model, tokens, losses = TransformerLM(config.model), open_tokens(config.train_tokens), []
    optimizer = build_optimizer(config.optimizer, model.named_parameters())
    samplers = [torch.Generator().manual_seed(config.seed * 1_000_003 + rank + 1) for rank in range(num_ranks)]
    for step in range(config.num_steps):
        pairs = [
            get_batch(tokens, config.batch_size, config.model.context_length, "cpu", generator=sampler)
            for sampler in samplers
        ]
        inputs, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        loss = cross_entropy(model(inputs), targets)
        loss.backward()
        clip_gradient(model.parameters(), config.optimizer.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.learning_rate(step, config.num_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def _train_in_group(names: Sequence[Any], config: TrainConfig, folder: str) -> None:
    """Train by each strategy in turn, in one group: the start of two processes costs more than these trainings."""
    torch.set_num_threads(1)
    with joined_group(device=torch.device("cpu"), timeout_s=_LIMIT_S):
        for name in names:
            train(config, Path(folder) / name, strategy=make_strategy(ParallelConfig(name)), progress=False)


def measure_engine(model: TransformerLM, *, requests: int, new_tokens: int, seed: int) -> dict[str, Any]:
    """Tokens per second of greedy requests that arrive together, and of each by itself."""
    new_tokens = min(new_tokens, model.config.context_length - 2)
    engine, generator = Engine(model), torch.Generator().manual_seed(seed)
    prompts = torch.randint(model.config.vocab_size, (requests, 2), generator=generator).tolist()
    params = SamplingParams(max_tokens=new_tokens, temperature=0.0)
    engine.generate(prompts[:1], replace(params, max_tokens=2))  # loads or compiles what decoding needs
    started = time.perf_counter()
    together = [completion.ids for completion in engine.generate(prompts, params)]
    middle = time.perf_counter()
    alone = [engine.generate([prompt], params)[0].ids for prompt in prompts]
    seconds = {"together": middle - started, "one by one": time.perf_counter() - middle}
    total = sum(map(len, together))
    return {
        "requests": requests, "new_tokens": new_tokens, "same": together == alone,
        "tokens_per_second": {name: total / s for name, s in seconds.items()},
    }  # fmt: skip


def kernels_figures(values: dict[str, Any]) -> list[KeyFigure]:
    """The largest difference of all."""
    worst = max(value for forms in values["differences"].values() for value in forms.values())
    target = f"at most {TOLERANCE:.0e}"
    return [KeyFigure("kernels: largest difference from float64", f"{worst:.0e}", target, worst <= TOLERANCE)]


def kernels_blocks(values: dict[str, Any]) -> list[Block]:
    """Kernel by form."""
    forms = sorted({form for of_kernel in values["differences"].values() for form in of_kernel})
    rows = [[name, *(f"{found[form]:.1e}" for form in forms)] for name, found in values["differences"].items()]
    where = "Triton's interpreter ran its kernels, as there is no GPU" if values["interpreter"] else "on the GPU"
    if "Triton" not in forms:
        where = "Triton is not installed here, so its kernels were not run"
    text = f"Largest difference of output and gradients from float64, as a share of the largest value; {where}."
    return [Section("Kernels", [Paragraph(text), Table(["kernel", *forms], rows)])]


def parallel_figures(values: dict[str, Any]) -> list[KeyFigure]:
    """How far the curves are apart."""
    gap = max_gap(values["curves"])
    return [
        KeyFigure(
            "two processes: largest difference of loss", f"{gap:.0e}", f"at most {_SAME_LOSS:.0e}", gap <= _SAME_LOSS
        )
    ]


def max_gap(curves: dict[str, list[float]]) -> float:
    """Nats between one process and any other way, at the step where they differ most."""
    others = [curve for name, curve in curves.items() if name != "one"]
    return max(abs(a - b) for curve in others for a, b in zip(curves["one"], curve, strict=True))


def parallel_blocks(values: dict[str, Any]) -> list[Block]:
    """The curves, one over another."""
    from cs336_basics.runs.plots import plot_overlaid_curves

    titles = {"one": "one process", "ddp": "DDP on two", "fsdp": "FSDP on two"}
    curves = {
        titles[name]: [(float(i + 1), y) for i, y in enumerate(curve)] for name, curve in values["curves"].items()
    }
    figure = plot_overlaid_curves(curves, xlabel="step", ylabel="training loss, nats per token")
    count, gap = len(values["curves"]["one"]), max_gap(values["curves"])
    text = (
        f"The same {count} updates by one process, written out as a plain loop, and by two that share each batch: DDP keeps "
        "the model on both and averages gradients, FSDP cuts the model in two. Their losses are "
        f"{gap:.0e} nats apart at most, so the curves lie upon each other."
    )
    return [Section("Two processes", [Paragraph(text), Picture(figure, "systems-parallel", text)])]


def engine_figures(values: dict[str, Any]) -> list[KeyFigure]:
    """Rates, and whether batching changed a token."""
    rates = values["tokens_per_second"]
    return [
        KeyFigure(f"engine, {values['requests']} requests together", f"{rates['together']:,.0f} tokens/s"),
        KeyFigure("engine, one by one", f"{rates['one by one']:,.0f} tokens/s"),
    ]


def engine_blocks(values: dict[str, Any]) -> list[Block]:
    """What batching saves."""
    rates = values["tokens_per_second"]
    text = (
        f"{values['requests']} requests of {values['new_tokens']} tokens go through the engine "
        f"{rates['together'] / rates['one by one']:.1f} times as fast together as one by one: a step reads the weights once, "
        "however many rows it serves. "
        + (
            "The tokens are the same."
            if values["same"]
            else "Some tokens differ, where two were nearly equally likely."
        )
    )
    return [Section("The inference engine", [Paragraph(text)])]
