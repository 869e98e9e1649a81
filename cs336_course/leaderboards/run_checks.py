"""Does a training run's story hold together? Its files against each other, against the checkpoint and the budget.

    chain     the log's lines are those that were written, in this order, under this configuration
    weights   the checkpoint handed in is the one this run ended with
    clock     steps, tokens and seconds grow together; started before finished before the entry was made
    budget    CPU seconds and seconds within the division's limits

All of it comes from the participant's own machine: a forger who rewrites every file passes. What is true about the
result is measured (`judges/`), what is true about the budget only a repeated run shows (`verify --rerun`). Read next:
`verify.py`.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from cs336_basics.runs.evidence import weights_sha256
from cs336_basics.runs.log_chain import broken_line
from cs336_course.leaderboards.board import Budget
from cs336_course.leaderboards.entry import Entry
from cs336_course.leaderboards.evidence_folder import read_json
from cs336_course.leaderboards.verification import PASSED


def check_run(entry: Entry, evidence: Path, budget: Budget) -> dict[str, str]:
    """Probe to "passed" or what is wrong, for the run behind an entry.

    Args:
        entry: the claim.
        evidence: folder with run/ and artifacts/model.safetensors.
        budget: of the division.
    """
    folder = evidence / "run"
    if not folder.is_dir():
        return {"run": "the evidence has no training run (run/)"}
    try:
        facts, log = read_json(folder / "evidence.json"), (folder / "log.jsonl").read_bytes()
        records = [json.loads(line) for line in log.splitlines()]
        found = {
            "chain": _chain(folder, facts, log),
            "weights": _weights(evidence, facts, entry),
            "clock": _clock(entry, facts, records),
            "budget": budget.exceeded(cpu_s=facts["cpu_s"], wall_s=_wall(facts)),
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return {"run": f"the run's files are malformed: {type(error).__name__}: {error}"}
    return {name: PASSED if text is None else text for name, text in found.items()}


def _chain(folder: Path, facts: dict[str, Any], log: bytes) -> str | None:
    config = (folder / "config.json").read_bytes()
    if hashlib.sha256(config).hexdigest() != facts["config_sha256"]:
        return "config.json is not the one the run had"
    chain = (folder / "log.chain").read_text(encoding="ascii")
    if (line := broken_line(log, chain, config)) is not None:
        return f"log.jsonl was changed at line {line}"
    if chain.split()[-1:] != [facts["log"]["head"]]:
        return "log.chain does not end where evidence.json says"
    return None


def _weights(evidence: Path, facts: dict[str, Any], entry: Entry) -> str | None:
    from safetensors.torch import load_file

    found = weights_sha256(load_file(evidence / "artifacts" / "model.safetensors"))
    if found != facts["weights_sha256"]:
        return "a foreign checkpoint: its weights are not those the run ended with"
    if entry.runs and entry.runs[0].weights_sha256 != found:
        return "a foreign checkpoint: its weights are not those the entry names"
    return None


def _clock(entry: Entry, facts: dict[str, Any], records: list[dict[str, Any]]) -> str | None:
    steps = [record for record in records if "step" in record]
    for before, after in zip(steps, steps[1:], strict=False):
        for name in ("step", "tokens", "seconds"):
            if not after[name] >= before[name]:
                return f"{name} falls from {before[name]} to {after[name]} in the log"
    started, finished = (datetime.fromisoformat(facts[name]) for name in ("started", "finished"))
    made = datetime.fromisoformat(entry.created)
    if not started <= finished:
        return f"finished {facts['finished']} before it started {facts['started']}"
    if made < finished:
        return f"backdated: the entry was made {entry.created}, its run finished {facts['finished']}"
    if steps[-1]["seconds"] > (finished - started).total_seconds() + 2:
        return f"{steps[-1]['seconds']:.0f} s of steps between a start and an end {(finished - started).total_seconds():.0f} s apart"
    if steps[-1]["tokens"] != facts["tokens"]:
        return f"evidence.json says {facts['tokens']} tokens, the log {steps[-1]['tokens']}"
    return None


def _wall(facts: dict[str, Any]) -> float:
    """From start to end, pauses included."""
    started, finished = (datetime.fromisoformat(facts[name]) for name in ("started", "finished"))
    return (finished - started).total_seconds()
