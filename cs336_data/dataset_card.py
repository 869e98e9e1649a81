"""The dataset card: what a run's documents are, where they come from, what was done to them, what is not known.

Written from the run's files alone and the same for the same run, whatever machine and however often interrupted; only
the commit differs between checkouts. Format: Markdown with the headings of Hugging Face's dataset cards. Read next:
`report.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write
from cs336_basics.runs.provenance import git_commit
from cs336_data.funnel import added
from cs336_data.pipeline_config import PipelineConfig


def write_dataset_card(config: PipelineConfig, directory: Path) -> Path:
    """Write dataset_card.md of a run whose files and funnel are done."""
    rows = json.loads((directory / "funnel.json").read_text(encoding="utf-8"))
    manifests = read_manifests(directory)
    path = directory / "dataset_card.md"
    with atomic_write(path, "w") as file:
        file.write("\n".join(_lines(config, rows, manifests)) + "\n")
    return path


def read_manifests(directory: Path) -> list[dict[str, Any]]:
    """The manifests of all files that are done, by name."""
    paths = sorted((directory / "manifests").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _lines(config: PipelineConfig, rows: Sequence[dict[str, Any]], manifests: Sequence[dict[str, Any]]) -> list[str]:
    first, last, inputs = rows[0], rows[-1], [manifest["input"] for manifest in manifests]
    size = sum(one["bytes"] for one in inputs)
    lines = [
        "# Dataset card", "",
        f"{last['left']:,} documents out of {first['came']:,} records in {len(manifests)} files ({size:,} bytes).", "",
        "## Source", "",
        "| file | bytes | SHA-256 |", "|---|---:|---|",
        *(f"| {Path(m['path']).name} | {m['bytes']:,} | `{m['sha256']}` |" for m in inputs), "",
        "## Processing", "",
        f"Text by the extractor `{config.reading.extractor}`, then, in this order:", "",
        "| step | options | documents in | out | dropped |", "|---|---|---:|---:|---:|",
    ]  # fmt: skip
    options: dict[str, Any] = {"extract": {}, "read": {}}
    options |= {step.options.get("set", step.name): step.options for step in config.steps}
    options |= {step.name: step.options for step in config.corpus_steps}
    for row in rows:
        said = json.dumps(options.get(row["step"], {}), ensure_ascii=False) if options.get(row["step"]) else ""
        lines.append(
            f"| {row['step']} | {f'`{said}`' if said else 'default'} | {row['came']:,} | {row['left']:,} | "
            f"{row['came'] - row['left']:,} |"
        )
    models: dict[str, Any] = {}
    masked = added(manifest["masked"] for manifest in manifests)
    for manifest in manifests:
        models |= manifest["models"]
    lines += [
        "",
        "Models that judged: " + (", ".join(f"{k} by `{v}`" for k, v in sorted(models.items())) or "none") + ".",
        "",
    ]
    lines += ["## Personal data", "", _personal(masked, config), ""]
    commit = git_commit(__file__)
    lines += [
        "## Reproduction", "",
        f"Seed {config.seed}; configuration hash `{config.fingerprint()}`; code {commit or 'not in a checkout'}.", "",
        "## What is not known", "",
        "Rights in the texts remain with their authors; no licence was checked. Masks cover e-mail addresses, phone "
        "numbers of common forms and IPv4 addresses, not names or postal addresses. Classifiers err, more so on texts "
        "unlike those they were trained on; the verdict on every record is in `verdicts/`.",
    ]  # fmt: skip
    return lines


def _personal(masked: dict[str, int], config: PipelineConfig) -> str:
    if not any(step.name == "pii" for step in config.steps):
        return "Nothing was masked."
    counts = ", ".join(f"{count:,} of kind {kind}" for kind, count in sorted(masked.items()))
    return f"Masked before writing: {counts or 'nothing was found'}."
