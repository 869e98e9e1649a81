"""Several processes in one lecture: real ranks over gloo, each recorded by itself, merged into lanes of one record.

    spawn(function, world_size, *arguments)     runs function(rank, world_size, *arguments) in each process

The processes form a group over a file, so no port is needed; a `setup` of the lecture that finds the group initialised
has nothing to do. To merge the records, each rank counts its messages: Lamport's clock,

    clock after a collective  = 1 + the latest clock of all ranks
    clock after a receive     = 1 + max(own clock, the clock of the matching send)

and steps are ordered by (clock, rank): what one rank shows before a collective stands before what any shows after it.
The order is the same in every run.

Source: Lamport 1978, "Time, Clocks, and the Ordering of Events". Left out: collectives of subgroups, which do not order
steps. Read next: `session.py`.
"""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lectures.recording.speech import LISTENER
from lectures.recording.statements import read_statements

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "reduce_scatter", "broadcast",
    "reduce_scatter_tensor", "reduce", "scatter", "gather", "barrier", "all_to_all", "all_to_all_single",
    "broadcast_object_list", "all_gather_single", "reduce_scatter_single",
)  # fmt: skip
SECONDS = 60


def spawn(function: Callable[..., Any], world_size: int, *args: Any, **kwargs: Any) -> None:
    """Run `function(rank, world_size, *args)` in `world_size` processes of a gloo group, and wait for them.

    Args:
        function: at the top level of the lecture.
        world_size: how many processes, from 1 on.
        args, kwargs: further arguments; keywords are given by position, in their order.

    Raises:
        ValueError: a world size below 1, or a function that is not at the top level of a file.
        RuntimeError: a rank failed or took more than 60 seconds; with its traceback.
    """
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1; got {world_size}")
    path = getattr(function, "__code__", None) and function.__code__.co_filename
    if not path or "<" in function.__qualname__:
        raise ValueError(f"spawn needs a function at the top level of the lecture; got {function!r}")
    recorder: Any = LISTENER.get()
    with tempfile.TemporaryDirectory() as folder:
        task = (
            path,
            function.__qualname__,
            world_size,
            (*args, *kwargs.values()),
            folder,
            recorder and recorder.limits,
        )
        results = _run_ranks(task, world_size, Path(folder))
    failures = [f"rank {rank}:\n{result['error']}" for rank, result in enumerate(results) if result.get("error")]
    if recorder is not None:
        merge_lanes(recorder, [result for result in results if "steps" in result])
    if failures:
        raise RuntimeError("spawn: " + "\n".join(failures))


def _run_ranks(task: tuple[Any, ...], world_size: int, folder: Path) -> list[dict[str, Any]]:
    """Start the ranks, wait, and read what each left behind."""
    context: Any = multiprocessing.get_context("spawn")
    if sys.platform == "linux":  # a server imports torch once, where new interpreters would do it once per rank
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "lectures.recording.session"])
    ranks = [context.Process(target=rank_main, args=(rank, *task), daemon=True) for rank in range(world_size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(SECONDS)
    results: list[dict[str, Any]] = []
    for rank, process in enumerate(ranks):
        if process.is_alive():
            process.kill()
            process.join()
            results.append({"error": f"did not end within {SECONDS} seconds (waiting for another rank?)"})
            continue
        file = folder / f"rank{rank}.pickle"
        empty = {"error": f"ended with exit code {process.exitcode} and left nothing behind"}
        results.append(pickle.loads(file.read_bytes()) if file.is_file() else empty)
    return results


def rank_main(
    rank: int, path: str, name: str, world_size: int, args: tuple[Any, ...], folder: str, limits: Any
) -> None:  # fmt: skip
    """One rank's process."""
    import torch
    import torch.distributed as dist

    from lectures.recording.session import load_function, quiet_output, recording

    torch.set_num_threads(1)
    torch.manual_seed(0)
    init = f"file://{folder}/group"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=world_size)
    result: dict[str, Any] = {}
    try:
        if limits is None:
            load_function(Path(path), name, None)(rank, world_size, *args)
        else:
            with recording(Path(path), limits) as recorder:
                events = watch_messages(recorder)
                try:
                    with quiet_output(recorder):
                        load_function(Path(path), name, recorder)(rank, world_size, *args)
                finally:
                    result = lane_of(recorder, rank, events)
    except BaseException:
        result["error"] = traceback.format_exc(limit=-6)
    (Path(folder) / f"rank{rank}.pickle").write_bytes(pickle.dumps(result))
    if dist.is_initialized():
        dist.destroy_process_group()


def watch_messages(recorder: Any) -> list[tuple[str, int]]:
    """Let torch.distributed note each collective, send and receive in the returned list."""
    import torch.distributed as dist

    events: list[tuple[str, int]] = []

    def watched(function: Callable[..., Any], kind: str, peer: str | None) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if kwargs.get("group") is None:
                other = -1 if peer is None else kwargs.get(peer, args[1] if len(args) > 1 else -1)
                events.append((kind, -1 if other is None else other))
                recorder.messages = len(events)
            return result

        return call

    for name in filter(functools.partial(hasattr, dist), COLLECTIVES):  # the last two are new in torch 2.13
        setattr(dist, name, watched(getattr(dist, name), "all", None))
    for name, kind, peer in (
        ("send", "send", "dst"),
        ("recv", "recv", "src"),
        ("isend", "send", "dst"),
        ("irecv", "recv", "src"),
    ):
        setattr(dist, name, watched(getattr(dist, name), kind, peer))
    return events


def lane_of(recorder: Any, rank: int, events: list[tuple[str, int]]) -> dict[str, Any]:
    """What a rank sends to the process that merges: statements and functions by file and place in it."""
    files = [(file.path, file.source) for file in recorder.files]
    copied = ("frames", "steps", "changes", "values", "said", "output", "clocks", "problems")
    places = {"offsets": recorder.offsets, "function_offsets": recorder.function_offsets}
    return {"rank": rank, "events": events, "files": files, **places} | {
        name: getattr(recorder, name) for name in copied
    }


def merge_lanes(recorder: Any, lanes: list[dict[str, Any]]) -> None:
    """Put the ranks' steps behind the present step, in the order of their clocks."""
    caller = recorder.announce_call()
    clocks = lamport_clocks([lane["events"] for lane in lanes])
    order = []
    for i, lane in enumerate(lanes):
        moved = _Moved(recorder, lane, caller)
        order += [(clocks[i][count], lane["rank"], step, moved) for step, count in enumerate(lane["clocks"])]
        recorder.problems += [p for p in lane["problems"] if p not in recorder.problems]
    for _, _, step, moved in sorted(order, key=lambda entry: entry[:3]):
        moved.append(step)


class _Moved:
    """A lane's numbers in terms of the record that it is merged into."""

    def __init__(self, recorder: Any, lane: dict[str, Any], caller: Any):
        self.recorder, self.lane = recorder, lane
        paths = [file.path for file in recorder.files]
        for path, source in lane["files"]:
            if path not in paths:
                paths.append(path)
                recorder.add_file(read_statements(source, path, file=len(recorder.files)), {})
        self.files = [paths.index(path) for path, _ in lane["files"]]
        self.first_frame = len(recorder.frames)
        for parent, statement, function, _ in lane["frames"]:
            above = parent + self.first_frame if parent >= 0 else caller.number
            line = self.statement(statement) if statement >= 0 else caller.current
            recorder.frames.append([above, line, self.function(function), lane["rank"] + 1])

    def statement(self, number: int) -> int:
        """A statement's number in the merged record."""
        return self._moved(number, "offsets", self.recorder.offsets)

    def function(self, number: int) -> int:
        """A function's number in the merged record."""
        return self._moved(number, "function_offsets", self.recorder.function_offsets)

    def _moved(self, number: int, name: str, offsets: list[int]) -> int:
        """A number counted from another offset."""
        mine = self.lane[name]
        file = max(i for i, offset in enumerate(mine) if offset <= number)
        return number - mine[file] + offsets[self.files[file]]

    def append(self, step: int) -> None:
        """Copy one step."""
        recorder, lane = self.recorder, self.lane
        frame, statement, kind = lane["steps"][step]
        if len(recorder.steps) >= recorder.limits.max_steps:
            recorder.stop(f"more than {recorder.limits.max_steps:,} steps in all ranks together")
        number = len(recorder.steps)
        if step in lane["changes"]:
            pairs = lane["changes"][step]
            values = [recorder.intern(lane["values"][value]) if value >= 0 else value for _, value in pairs]
            recorder.changes[number] = [(name, value) for (name, _), value in zip(pairs, values, strict=True)]
        for column in ("said", "output"):
            if step in lane[column]:
                getattr(recorder, column)[number] = lane[column][step]
        recorder.steps.append((frame + self.first_frame, self.statement(statement), kind))
        recorder.clocks.append(recorder.messages)


def lamport_clocks(events: list[list[tuple[str, int]]]) -> list[list[int]]:
    """For each rank the clock after each of its messages, with 0 before the first.

    Args:
        events: per rank (kind, peer) with kind "all", "send" or "recv", in the order of the rank.
    """
    clocks = [[0] * (len(own) + 1) for own in events]
    order = [[i for i, (kind, _) in enumerate(own) if kind == "all"] for own in events]
    changed = True
    while changed:
        changed = False
        for rank, own in enumerate(events):
            for i, (kind, peer) in enumerate(own):
                before = [clocks[rank][i]]
                if kind == "all":
                    turn = order[rank].index(i)
                    before += [clocks[r][order[r][turn]] for r in range(len(events)) if turn < len(order[r])]
                elif kind == "recv" and 0 <= peer < len(events):
                    nth = sum(event == (kind, peer) for event in own[:i])
                    sends = [j for j, event in enumerate(events[peer]) if event == ("send", rank)]
                    before += [clocks[peer][sends[nth] + 1]] if nth < len(sends) else []
                if clocks[rank][i + 1] < 1 + max(before):
                    clocks[rank][i + 1] = 1 + max(before)
                    changed = True
    return clocks
