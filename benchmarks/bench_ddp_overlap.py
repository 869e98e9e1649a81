"""How much of the gradients' communication bucketed DDP hides behind backward, on two processes and a slow network.

    python benchmarks/bench_ddp_overlap.py [--quick] [--rounds 25]

The network is slowed on purpose: every all-reduce waits in a line, one after the other, for bytes / bandwidth seconds
(sleeping, so that it costs no processor time, as a network card would) and then really runs over gloo. The bandwidth is
chosen so that sending all gradients, what gloo itself takes included, takes `--share` of the measured time of one backward.

    compute        forward and backward, nothing sent
    serial         the same buckets, all launched when backward is done
    overlapped     the same buckets, launched during backward
    hidden share   1 - (overlapped - compute) / (serial - compute)

Medians over rounds in which the three take turns; the time of a step is that of the slower process. The last bucket is
full only when backward ends, so that a share of 1 / number of buckets can never be hidden.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from cs336_basics.layers import Linear  # noqa: E402
from cs336_basics.runs.atomic import write_json  # noqa: E402
from cs336_basics.runs.provenance import describe_environment  # noqa: E402
from cs336_systems.parallel.ddp import DataParallel, fill_buckets  # noqa: E402
from tests.processes import run_processes  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "ddp_overlap.json"
WIDTH, LAYERS, ROWS, BUCKET_MB = 512, 12, 2048, 1.5


class SlowNetwork:
    """Takes the place of dist.all_reduce for large tensors: one message at a time, at `bytes_per_s`."""

    def __init__(self, bytes_per_s: float):
        self.bytes_per_s, self.line, self.plain = bytes_per_s, ThreadPoolExecutor(1), dist.all_reduce

    def __call__(self, tensor: Tensor, async_op: bool = False, **options: Any) -> Any:
        if tensor.nbytes < 10_000:
            return self.plain(tensor, async_op=async_op, **options)
        work = _Work(self.line.submit(self._send, tensor))
        return work if async_op else work.wait()

    def _send(self, tensor: Tensor) -> None:
        time.sleep(tensor.nbytes / self.bytes_per_s)
        self.plain(tensor)


class _Work:
    def __init__(self, future: Future[None]):
        self.future = future

    def wait(self) -> None:
        self.future.result()


def step_seconds(ddp: DataParallel, x: Tensor, *, send: bool) -> float:
    """One forward and backward, with everything sent or nothing; the slower process's time."""
    ddp.zero_grad()
    dist.barrier()
    start = time.perf_counter()
    if send:
        ddp(x).square().mean().backward()
        ddp.finish_gradient_synchronization()
    else:
        with ddp.no_sync():
            ddp(x).square().mean().backward()
    seconds = torch.tensor(time.perf_counter() - start)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def measure(rank: int, rounds: int, share: float) -> dict[str, Any]:
    """One process's part; the numbers are the same on both."""
    torch.manual_seed(0)
    module = nn.Sequential(*(Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    x = torch.randn(ROWS, WIDTH)

    def wrapped(overlap: bool) -> DataParallel:
        return DataParallel(module, lambda ps: fill_buckets(ps, bucket_bytes=BUCKET_MB * 1e6), overlap=overlap)

    serial = wrapped(overlap=False)
    overlapped = wrapped(overlap=True)
    with overlapped.no_sync():  # its hooks stand on the same parameters
        unslowed = [step_seconds(serial, x, send=True) for _ in range(7)]
    compute = statistics.median(step_seconds(overlapped, x, send=False) for _ in range(5))
    num_bytes = sum(p.nbytes for p in module.parameters())
    gloo_s = max(0.0, statistics.median(unslowed[2:]) - compute)
    slept_s = share * compute * 2 / 3 - gloo_s  # backward is about two thirds of forward and backward
    if slept_s <= 0:
        raise RuntimeError(
            f"gloo alone takes {gloo_s:.3f} s of a backward of {compute * 2 / 3:.3f} s; try a quiet machine"
        )
    bandwidth = num_bytes / slept_s
    dist.all_reduce = SlowNetwork(bandwidth)
    times: dict[str, list[float]] = {"compute": [], "serial": [], "overlapped": []}
    for _ in range(rounds):
        times["compute"].append(step_seconds(overlapped, x, send=False))
        with overlapped.no_sync():
            times["serial"].append(step_seconds(serial, x, send=True))
        times["overlapped"].append(step_seconds(overlapped, x, send=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    communication, exposed = medians["serial"] - medians["compute"], medians["overlapped"] - medians["compute"]
    return {
        "hidden_share": 1 - exposed / communication, "seconds": medians, "communication_s": communication,
        "exposed_s": exposed, "bandwidth_bytes_per_s": bandwidth, "gradient_bytes": num_bytes,
        "gloo_s": gloo_s, "buckets": len(overlapped._buckets), "rounds": rounds,
        "hidden_share_by_round": [
            1 - (o - c) / (s - c)
            for c, s, o in zip(times["compute"], times["serial"], times["overlapped"], strict=True)
        ],
    }  # fmt: skip


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing written")
    parser.add_argument("--rounds", type=int, default=25, help="repetitions of each of the three")
    parser.add_argument("--share", type=float, default=0.8, help="communication time as a share of backward's")
    arguments = parser.parse_args()
    result = run_processes(measure, 2, 5 if arguments.quick else arguments.rounds, arguments.share, limit_s=600)[0]
    result |= {"communication_share_of_backward": arguments.share, "measured": datetime.date.today().isoformat()}
    for name in ("hidden_share", "seconds", "communication_s", "exposed_s"):
        print(name, result[name])
    if not arguments.quick:
        write_json(RESULT, {**result, "environment": describe_environment()})


if __name__ == "__main__":
    main()
