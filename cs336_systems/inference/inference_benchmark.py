"""How fast the engine answers, and how near that is to what memory allows.

    time to first token   submit a prompt -> its first token                     (prefill: bound by arithmetic)
    time per token        one step of a running batch                            (decoding: bound by bytes)
    MBU                   (bytes of weights + keys and values read per step) / time per token / measured bandwidth

A step reads every weight once whatever the batch, so tokens per second grow with the batch until arithmetic or the
cache binds. The bandwidth is that of summing an array larger than the caches, with the same number of threads; a model
that fits into the last cache can therefore show more than 100 %.

Read next: `cli.py`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence as Ordered
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cs336_basics.runs.report import Paragraph, Report, Table
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.fused_model import FusedRunner
from cs336_systems.inference.model_runner import ModuleRunner
from cs336_systems.inference.sampling import SamplingParams

BANDWIDTH_BYTES = 256 << 20
"""size of the array whose sum measures bandwidth: above every cache of the machines we know"""


@dataclass(frozen=True)
class InferenceTimes:
    """Medians of one batch size."""

    batch: int
    first_token_ms: float
    token_ms: float
    tokens_per_s: float
    bytes_per_step: int
    bandwidth_utilisation: float


def read_bandwidth(device: torch.device, *, repeats: int = 5) -> float:
    """Bytes per second at which a large array is summed."""
    array = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        float(array.sum())  # reading the result waits for the device
        seconds.append(time.perf_counter() - started)
    return BANDWIDTH_BYTES / statistics.median(seconds[1:])


def step_bytes(engine: Engine, batch: int, length: int) -> int:
    """Bytes that a decoding step reads: matrices once, and the paged keys and values of `batch` rows."""
    runner, pools = engine.runner, [*engine.runner.cache.keys, *engine.runner.cache.values]
    per_token = sum(pool[0, :, 0].nbytes for pool in pools if pool is not None)
    if isinstance(runner, FusedRunner):
        weights = runner.bytes_per_step
    else:
        assert isinstance(runner, ModuleRunner)
        state = {t.data_ptr(): t.nbytes for t in runner.model.state_dict().values()}
        if not runner.model.config.tie_embeddings:
            state.pop(runner.model.token_embeddings.weight.data_ptr())
        weights = sum(state.values())
    return weights + batch * length * per_token


def time_engine(
    engine: Engine, batch: int, *, prompt_tokens: int, new_tokens: int, bandwidth: float, seed: int = 0
) -> InferenceTimes:
    """Run `batch` greedy requests together; the first of them is timed from submission to first token, alone.

    Args:
        engine: idle, with max_batch >= batch.
        batch: rows that decode together.
        prompt_tokens, new_tokens: at least 1 and 2; together at most the model's context.
        bandwidth: bytes per second, from `read_bandwidth`.
    """
    context = engine.runner.context_length
    if prompt_tokens < 1 or new_tokens < 2 or prompt_tokens + new_tokens > context:
        raise ValueError(f"prompt_tokens >= 1 and new_tokens >= 2 must fit into the context of {context} tokens; got "
                         f"{prompt_tokens} and {new_tokens}")  # fmt: skip
    if not 1 <= batch <= engine.max_batch:
        raise ValueError(f"batch must lie in [1, max_batch={engine.max_batch}]; got {batch}")
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(engine.runner.vocab_size, (batch, prompt_tokens), generator=draw).tolist()
    firsts = []
    for _ in range(3):
        started = time.perf_counter()
        next(engine.stream(prompts[:1], SamplingParams(max_tokens=1, temperature=0.0)))
        firsts.append(time.perf_counter() - started)
    numbers = [engine.submit(prompt, SamplingParams(max_tokens=new_tokens, temperature=0.0)) for prompt in prompts]
    engine.step()  # prefill of all rows
    steps = []
    while engine.has_work:
        started = time.perf_counter()
        engine.step()
        steps.append(time.perf_counter() - started)
    for number in numbers:
        engine.take_results(number)
    seconds = statistics.median(steps[:-1] or steps)  # the last step only draws
    read = step_bytes(engine, batch, prompt_tokens + new_tokens // 2)
    return InferenceTimes(
        batch, 1e3 * statistics.median(firsts), 1e3 * seconds, batch / seconds, read, read / seconds / bandwidth
    )


def report_times(times: Ordered[InferenceTimes], facts: dict[str, Any]) -> Report:
    """The table of a benchmark, and the facts that it holds for."""
    rows: list[list[Any]] = [
        [t.batch, round(t.first_token_ms, 2), round(t.token_ms, 2), round(t.tokens_per_s),
         round(t.bytes_per_step / 1e6, 1), f"{100 * t.bandwidth_utilisation:.0f} %"]
        for t in times
    ]  # fmt: skip
    headers = ["batch", "first token, ms", "per token, ms", "tokens/s", "MB read per step", "bandwidth used"]
    text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    report = Report("Inference")
    report.add(Paragraph(text), Table(headers, rows))
    return report


def as_json(times: Ordered[InferenceTimes], facts: dict[str, Any]) -> dict[str, Any]:
    """The same numbers for machines."""
    return {**facts, "times": [asdict(t) for t in times]}
