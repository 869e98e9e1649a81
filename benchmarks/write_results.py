"""Write the README's table of measured results from the JSON files in benchmarks/results/.

    python benchmarks/write_results.py [--tour runs/tour]

With --tour the headline numbers of a finished tour are first copied into results/tour.json, with the machine they were
measured on. Nothing in the table is typed by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.directory import RunDirectory

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: begin.", "<!-- results: end -->"


def record_tour(directory: Path) -> None:
    """Copy what a finished tour measured."""
    run = RunDirectory(directory / "pretraining")
    results = json.loads((directory / "pretraining" / "results.json").read_text(encoding="utf-8"))
    after = results["cloze"]["after"]
    right, total = (sum(pair[i] for pair in after.values()) for i in (0, 1))
    kept = ("steps", "validation_loss", "entropy_floor", "above_floor", "tokens", "seconds", "parameters", "device")
    facts: dict[str, Any] = {key: run.summary()[key] for key in kept}
    manifest = run.manifest()
    environment = {key: manifest[key] for key in manifest if key not in ("kind", "status", "resumed")}
    write_json(
        RESULTS / "tour.json",
        facts | {"cloze_right": right, "cloze_questions": total, "measured": _today(), "environment": environment},
    )


def _today() -> str:
    return datetime.date.today().isoformat()


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def rows() -> list[tuple[str, str, str, str]]:
    """(what, measured, how, when) for each result file that is there."""
    table = []
    if tour := _load("tour.json"):
        share = tour["cloze_right"] / tour["cloze_questions"]
        text = (
            f"validation loss {tour['validation_loss']:.3f} nats per token, {100 * tour['above_floor']:.1f} % above "
            f"the entropy floor {tour['entropy_floor']:.3f}; cloze accuracy {100 * share:.0f} % (chance 25 %); "
            f"{tour['parameters']:,} parameters, {tour['seconds']:.0f} s of training"
        )
        table.append(("the default tour", text, "`make tour`", tour["measured"]))
    if step := _load("training_step.json"):
        ours = step["rows"]["ours, blocked attention"]
        rival = step["rows"]["transformers Llama, SDPA, torch AdamW"]
        text = (
            f"{ours['speed_ratio_to_rival']:.2f}x the speed of transformers' Llama with SDPA and torch AdamW; "
            f"{100 * ours['share_of_matrix_product_rate']:.0f} % of the matrix product rate (the rival "
            f"{100 * rival['share_of_matrix_product_rate']:.0f} %), medians of {step['repeats']} alternating steps"
        )
        when = step.get("measured", "")
        table.append(("training step, TinyStories shape, 2 threads", text, "`benchmarks/bench_training_step.py`", when))
    if kills := _load("resume_after_kill.json"):
        same = f"{kills['identical_runs']} of {kills['runs']} runs end bit for bit as undisturbed"
        text = f"{kills['kills']} SIGKILLs at random moments: {same}"
        table.append(("resume", text, "`benchmarks/bench_resume_after_kill.py`", kills.get("measured", "")))
    return table


def main() -> None:
    """Replace the section between the marks in README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tour", type=Path, help="directory of a finished tour to take up")
    arguments = parser.parse_args()
    if arguments.tour:
        record_tour(arguments.tour)
    lines = ["", "| what | measured | by | on |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    text = README.read_text(encoding="utf-8")
    start, end = text.index("\n", text.index(BEGIN)), text.index(END)
    with atomic_write(README, "w") as file:
        file.write(text[:start] + "\n".join(lines) + "\n" + text[end:])


if __name__ == "__main__":
    main()
