"""Compile every kernel for a GPU that need not be here, and record registers, spills, shared memory, tensor-core use.

    python benchmarks/check_kernels_compile.py [--capability 90]

Fails where a kernel for compute capability 9.0 spills, needs more shared memory than there is, or misses the tensor
cores. The tiles are chosen for 9.0; on 8.0 and 10.0 spills are only reported.
"""

from __future__ import annotations

import argparse
import datetime
import os
from dataclasses import asdict
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.tokenization.progress import progress_bar
from cs336_systems.kernels.compile_ahead import SHARED_LIMIT, compile_launch, launches

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, choices=sorted(SHARED_LIMIT))
    options = parser.parse_args()
    found, every = [], list(launches())
    with progress_bar("compiling kernels", enabled=True) as report:
        for launch in every:
            resources = compile_launch(launch, options.capability)
            found.append(asdict(resources) | {"problems": resources.problems(launch)})
            report(len(found), len(every))
    write_json(RESULTS / f"kernels_sm{options.capability}.json", {
        "capability": options.capability, "kernels": found, "measured": datetime.date.today().isoformat(),
        "environment": describe_environment(),
    })  # fmt: skip
    bad = [entry["name"] for entry in found if entry["problems"]]
    print(
        f"{len(found)} kernels, {len(found) - len(bad)} without problems"
        + (f"; look at {', '.join(bad)}" if bad else "")
    )
    raise SystemExit(bool(bad) and options.capability == 90)


if __name__ == "__main__":
    main()
