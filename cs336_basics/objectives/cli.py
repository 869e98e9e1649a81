"""The verb `cs336 basics objectives`. Read next: `stages.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from cs336_basics.runs.command_line import parse, print_result


@dataclass(frozen=True)
class Objectives:
    """Train one small model with five objectives at equal tokens and compare them in bits per byte, in a report.

    Interrupted, it goes on where it was when it is started again.
    """

    out: Path | None = None
    """folder of the comparison; runs/objectives by default, runs/objectives-quick with --quick"""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """under a minute instead of a few, for worse models"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    seed: int = 0
    """seed of the stories, the weights and the masks"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print the result as JSON"""


def objectives(argv: list[str]) -> None:
    """`cs336 basics objectives`."""
    o = parse(Objectives, argv, "basics objectives", example="basics objectives --quick")
    from cs336_basics.objectives.stages import comparison_config, run_comparison

    out = o.out or Path("runs/objectives-quick" if o.quick else "runs/objectives")
    verdict = run_comparison(comparison_config(quick=o.quick, seed=o.seed, device=o.device), out)
    if o.json:
        print_result({**verdict, "report": str(out / "report.html")}, as_json=True)
        return
    rates = {
        row["title"]: "not defined" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.3f} ({row['kind']})"
        for row in verdict["objectives"].values()
    }
    floor = f"{verdict['floor_bits_per_byte']:.3f}"
    print_result({**rates, "grammar, whole stories": floor, "report": str(out / "report.html")}, as_json=False)
