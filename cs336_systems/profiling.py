"""A profile of training steps: a trace with named ranges, a table of functions, a flame graph.

    step:   forward_pass (attention/scores, attention/softmax, attention/values in it), backward_pass, optimizer

Warm-up steps run before the profiler starts. What comes out:

    trace.json             open it at https://ui.perfetto.dev or chrome://tracing
    functions              calls, own time, time with everything called, sorted by own time
    flame_graph.svg        the same as nested boxes; stacks.txt holds them collapsed
    report.html, report.md the table and the totals of the ranges

With Python stacks the flame graph also shows which lines of Python called what, at the price of a slower, larger
profile: its times are for comparing parts, not for quoting (`benchmarking.py` is for that).

Handout: function_call_table, flame_graph, nsys_profile. Left out: Nsight Systems itself, which needs its own program;
the NVTX ranges it shows are those of `named_ranges.py`. Read next: `roofline.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.atomic import atomic_write
from cs336_basics.runs.machine import choose_device
from cs336_basics.runs.report import Paragraph, Report, Section, Table, write_report
from cs336_systems.flame_graph import flame_graph_svg, write_collapsed
from cs336_systems.memory import check_step
from cs336_systems.memory_measurement import autocast
from cs336_systems.named_ranges import ATTENTION_RANGES, annotated_attention, named_range

STEP_RANGES = ("forward_pass", "backward_pass", "optimizer")
PLUMBING = ("torch/", "contextlib.py", "<built-in", "<frozen", "enum.py", "abc.py")
"""Python frames that a flame graph leaves out; their time goes to whoever called them"""


@dataclass(frozen=True)
class FunctionRow:
    """One operation or range of a profile; times in microseconds, summed over its calls."""

    name: str
    calls: int
    own_us: float
    """without what it called"""
    total_us: float
    device_us: float
    """on the accelerator, without what it called; 0 on a CPU"""


def profile_calls(
    work: Callable[[], Any], *, device: torch.device, warmups: int = 1, repeats: int = 1, stacks: bool = False
) -> profile:
    """Run `work` under torch.profiler after warming up.

    Args:
        work: what to profile, with named ranges inside.
        device: a CUDA device adds the GPU's activity.
        warmups: calls before the profiler starts; repeats: calls that it sees.
        stacks: also record Python's frames.

    Raises:
        ValueError: repeats below 1 or warmups below 0.
    """
    if repeats < 1 or warmups < 0:
        raise ValueError(f"repeats must be at least 1 and warmups at least 0; got {repeats} and {warmups}")
    for _ in range(warmups):
        work()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    # Without "verbose" torch >= 2.0 records the frames but does not hand them out.
    options = torch._C._profiler._ExperimentalConfig(verbose=True) if stacks else None
    with profile(activities=activities, with_stack=stacks, experimental_config=options) as profiler:
        for _ in range(repeats):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return profiler


def training_step(
    config: ModelConfig, *, batch_size: int, mode: str = "step", precision: str = "float32",
    device: torch.device, seed: int = 0,
) -> Callable[[], None]:  # fmt: skip
    """A model and one batch as a function that runs a step in named ranges.

    Raises:
        ValueError: a batch, mode or precision that `memory.check_step` refuses.
    """
    check_step(batch_size, mode, precision)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TransformerLM(config, device=device)
        ids = torch.randint(config.vocab_size, (batch_size, config.context_length + 1)).to(device)
    optimizer = AdamW(model.parameters())

    def forward() -> Tensor:
        with named_range("forward_pass"), autocast(device, precision):
            logits = model(ids[:, :-1])
            return logits if mode == "forward" else cross_entropy(logits, ids[:, 1:])

    def step() -> None:
        with torch.set_grad_enabled(mode != "forward"):
            loss = forward()
        if mode != "forward":
            with named_range("backward_pass"):
                loss.backward()
        if mode == "step":
            with named_range("optimizer"):
                optimizer.step()
        optimizer.zero_grad()

    return step


def profile_step(
    config: ModelConfig, *, batch_size: int, mode: str = "step", precision: str = "float32", device: str = "auto",
    warmups: int = 2, repeats: int = 1, stacks: bool = False,
) -> profile:  # fmt: skip
    """Profile steps of a model built from `config`, with attention's parts in ranges of their own.

    The attention must be the plain one: other entries of ATTENTION_FUNCTIONS have no such parts.
    """
    place = choose_device(device)
    step = training_step(config, batch_size=batch_size, mode=mode, precision=precision, device=place)
    with annotated_attention():
        return profile_calls(step, device=place, warmups=warmups, repeats=repeats, stacks=stacks)


def function_rows(profiler: profile) -> list[FunctionRow]:
    """Operations and ranges by name, the greatest own time first (the accelerator's where there is one)."""
    rows = [
        FunctionRow(
            event.key, event.count, event.self_cpu_time_total, event.cpu_time_total, event.self_device_time_total
        )
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU  # a kernel's own row repeats the time of the operation that launched it
        and ".py(" not in event.key
        and not event.key.startswith(("<", "nn.Module: "))
    ]
    return sorted(rows, key=lambda row: (-row.device_us, -row.own_us, row.name))


def function_table(rows: Sequence[FunctionRow], *, limit: int = 25) -> Table:
    """The first `limit` functions with their share of the profile's own time."""
    own, device = sum(row.own_us for row in rows), sum(row.device_us for row in rows)
    headers = ["function", "calls", "own, ms", "own, %", "with callees, ms"]
    cells: list[list[Any]] = [
        [row.name, row.calls, row.own_us / 1e3, 100 * row.own_us / own, row.total_us / 1e3] for row in rows[:limit]
    ]
    if device:
        headers += ["on device, ms", "on device, %"]
        for cell, row in zip(cells, rows, strict=False):
            cell += [row.device_us / 1e3, 100 * row.device_us / device]
    return Table(headers, cells, caption=f"The {len(cells)} functions with the greatest own time, of {len(rows)}.")


def range_table(rows: Sequence[FunctionRow]) -> Table:
    """The named ranges of a step, attention's parts among them, in the order of the step."""
    known = {row.name: row for row in rows}
    names = ["forward_pass", *ATTENTION_RANGES, "backward_pass", "optimizer"]
    cells: list[list[Any]] = [[name, known[name].calls, known[name].total_us / 1e3] for name in names if name in known]
    return Table(["range", "times", "total, ms"], cells)


def collapsed_stacks(
    profiler: profile, *, within: Sequence[str] = STEP_RANGES, on_device: bool = False
) -> dict[str, float]:
    """Own microseconds by stack, outermost first, from the nesting of the profile's events.

    Args:
        profiler: a finished profile; one with Python stacks gives their frames as well.
        on_device: count the accelerator's time, by the operation that launched it, instead of the CPU's.
        within: names of ranges at which stacks begin; what lies outside them is left out.
    """
    stacks: dict[str, float] = {}
    for event in profiler.events():
        time = event.self_device_time_total if on_device else event.self_cpu_time_total
        path = _path(event, within) if time > 0 and event.device_type == DeviceType.CPU else []
        if path:
            stacks[";".join(path)] = stacks.get(";".join(path), 0.0) + time
    return stacks


def _path(event: Any, within: Sequence[str]) -> list[str]:
    """Names from the outermost of the ranges `within` down to the event; empty when it lies in none."""
    path: list[str] = []
    begins = 0
    while event is not None:
        if not event.name.startswith(PLUMBING):
            path.append(event.name.replace(";", ":"))
            begins = len(path) if event.name in within else begins
        event = event.cpu_parent
    return path[:begins][::-1]


def write_profile(profiler: profile, directory: str | os.PathLike[str], *, about: str = "") -> Path:
    """Write trace.json, stacks.txt, flame_graph.svg and the report; returns the Markdown file."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with _replacing(folder / "trace.json") as partial:
        profiler.export_chrome_trace(str(partial))
    rows = function_rows(profiler)
    on_device = any(row.device_us for row in rows)
    stacks, unit = collapsed_stacks(profiler, on_device=on_device), "device" if on_device else "CPU"
    for name, text in {
        "stacks.txt": write_collapsed(stacks),
        "flame_graph.svg": flame_graph_svg(stacks, title=f"training step: {unit} time by operation"),
    }.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text)
    files = "`trace.json` (ui.perfetto.dev) and `flame_graph.svg` lie beside this report."
    report = Report("Profile of the training step", [Paragraph(f"{about} {files}".strip())])
    report.add(Section("Ranges", [range_table(rows)]), Section("Functions", [function_table(rows)]))
    return write_report(report, folder)[1]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`, moved over it when all went well."""
    partial = path.with_name(f".{path.name}.partial.json")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
