"""The report of a run: funnel, where the time went, scores, duplicates, extraction, samples, and the truth if known.

Everything is read from the run's files, so the report can be made again at any time. Read next: `funnel.py`,
`report_extraction.py`, `report_truth.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_basics.runs.plots import COLOURS
from cs336_basics.runs.report import (
    Block,
    KeyFigure,
    KeyFigures,
    Paragraph,
    Picture,
    Preformatted,
    Report,
    Section,
    Table,
    write_report,
)  # fmt: skip
from cs336_data.dataset_card import read_manifests
from cs336_data.document_files import read_lines
from cs336_data.funnel import FunnelRow, added, summed_histograms, threshold_sweep
from cs336_data.report_extraction import extraction_section

if TYPE_CHECKING:
    import matplotlib.figure

_SHOWN_CHARACTERS = 700
_CLUSTERS = 5
_EXAMPLES = 2  # documents shown per verdict


def write_pipeline_report(directory: Path, summary: Mapping[str, Any], *, truth: Section | None = None) -> Path:
    """Write report.html and report.md of a run whose funnel is done; returns the path of the page.

    Args:
        directory: of the run.
        summary: what `run_pipeline` returns.
        truth: a section about how right the run was (`report_truth.py`).
    """
    manifests = read_manifests(directory)
    rows = [FunnelRow(**row) for row in json.loads((directory / "funnel.json").read_text(encoding="utf-8"))]
    inputs = [Path(manifest["input"]["path"]) for manifest in manifests]
    report = Report("Data pipeline", [KeyFigures(key_figures(rows, summary)), funnel_section(rows)])
    sections = [
        truth, _time_section(manifests), _score_section(manifests), _duplicates_section(directory),
        extraction_section([path for path in inputs if path.exists()]), _samples_section(directory),
        _trouble_section(directory, manifests),
    ]  # fmt: skip
    report.add(*(section for section in sections if section is not None))
    return write_report(report, directory)[0]


def key_figures(rows: Sequence[FunnelRow], summary: Mapping[str, Any]) -> list[KeyFigure]:
    """The headline numbers."""
    kept, came = rows[-1].left, rows[0].came
    figures = [
        KeyFigure("records in the input", f"{came:,}"),
        KeyFigure("documents kept", f"{kept:,} ({kept / came:.1%})" if came else "0"),
        KeyFigure("characters after filters", f"{summary['characters']:,}"),
    ]
    if summary.get("tokens") is not None:
        figures.append(KeyFigure("tokens", f"{summary['tokens']:,}"))
    if summary.get("pages_per_cpu_second"):
        figures.append(KeyFigure("pages per second and core", f"{summary['pages_per_cpu_second']:,.0f}"))
    return figures


def funnel_section(rows: Sequence[FunnelRow]) -> Section:
    """The funnel as bars and as a table with all reasons."""
    table = Table(
        ["step", "in", "dropped", "left", "of the input", "reasons"],
        [[row.step, row.came, row.dropped, row.left, f"{row.left / max(1, rows[0].came):.1%}", _reasons(row.reasons)]
         for row in rows],
        align="lrrrrl",
    )  # fmt: skip
    alt = "; ".join(f"after {row.step} {row.left:,} documents are left" for row in rows)
    picture = Picture(
        _funnel_figure(rows), "funnel", alt, "What is left after each step; light: what the step dropped."
    )
    text = "Each record stands once in this table: kept to the end, or dropped by the first step that objected."
    return Section("Funnel", [Paragraph(text), picture, table])


def _reasons(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)


def _funnel_figure(rows: Sequence[FunnelRow]) -> matplotlib.figure.Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = list(range(len(rows)))
    axes.barh(places, [row.came for row in rows], color=COLOURS[4], alpha=0.28, height=0.72)
    axes.barh(places, [row.left for row in rows], color=COLOURS[0], height=0.72)
    widest = max(row.came for row in rows)
    for place, row in zip(places, rows, strict=True):
        note = f"{row.left:,}" + (f"  (-{row.dropped:,})" if row.dropped else "")
        axes.text(row.came + widest * 0.012, place, note, va="center", fontsize=8.5)
    axes.set_yticks(places, [row.step for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, widest * 1.16)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    return figure


def _time_section(manifests: Sequence[Mapping[str, Any]]) -> Section:
    """CPU time per step."""
    seconds = added(manifest["measured"]["steps_s"] for manifest in manifests)
    cpu = sum(manifest["measured"]["cpu_s"] for manifest in manifests)
    pages = max(1, sum(manifest["funnel"]["extract"].get("in", 0) for manifest in manifests))
    rows: list[list[Any]] = [
        [step, spent, f"{spent / cpu:.0%}" if cpu else "", spent / pages * 1e6] for step, spent in seconds.items()
    ]
    rest = max(0.0, cpu - sum(seconds.values()))
    rows.append(["writing and the rest", rest, f"{rest / cpu:.0%}" if cpu else "", rest / pages * 1e6])
    table = Table(["step", "seconds", "share", "microseconds per page of the input"], rows)
    return Section("Where the time goes", [table])


def _score_section(manifests: Sequence[Mapping[str, Any]]) -> Section | None:
    """What other thresholds would keep."""
    histograms = summed_histograms(manifests)
    if not histograms:
        return None
    text = (
        "For each score the share of the documents that reached its filter and have at least that score. A steep place "
        "is where a threshold matters; nsfw and toxic drop what lies *above* theirs."
    )
    figure = _sweep_figure({name: threshold_sweep(bins) for name, bins in histograms.items()})
    quantiles = Table(
        ["score", "documents", *(f"at least {t:.1f}" for t in (0.1, 0.3, 0.5, 0.7, 0.9))],
        [[name, sum(bins), *(f"{threshold_sweep(bins)[t][1]:.1%}" for t in (10, 30, 50, 70, 90))]
         for name, bins in histograms.items()],
        align="lrrrrrr",
    )  # fmt: skip
    alt = "share of documents at or above each threshold, one curve per score"
    return Section("Threshold sweeps", [Paragraph(text), Picture(figure, "threshold-sweeps", alt), quantiles])


def _sweep_figure(curves: Mapping[str, Sequence[tuple[float, float]]]) -> matplotlib.figure.Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        axes.step(*zip(*points, strict=True), where="post", color=COLOURS[i % len(COLOURS)], linewidth=2, label=name)
    axes.set_xlabel("threshold")
    axes.set_ylabel("share of documents")
    axes.set_ylim(0, 1.03)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#8a8f98", alpha=0.3, linewidth=0.8)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    return figure


def _duplicates_section(directory: Path) -> Section | None:
    """The largest clusters of near duplicates."""
    paths = sorted((directory / "corpus").glob("*-dedup_near.clusters.jsonl"))
    if not paths:
        return None
    clusters = sorted(map(json.loads, read_lines(paths[0])), key=lambda cluster: -len(cluster["removed"]))
    section = Section("Near duplicates", [
        Paragraph(f"{len(clusters):,} clusters of pages that are alike; the first of each was kept."),
    ])  # fmt: skip
    sizes = Counter(1 + len(cluster["removed"]) for cluster in clusters)
    if sizes:
        section.add(Table(["pages in a cluster", "clusters"], [[size, count] for size, count in sorted(sizes.items())]))
    shown = [[cluster["kept"], *cluster["removed"][:2]] for cluster in clusters[:_CLUSTERS]]
    texts = _texts_of_places(paths[0], [place for places in shown for place in places])
    for cluster, places in zip(clusters, shown, strict=False):
        lines = "\n\n".join(f"{place}\n{texts.get(place, '')[:240]}" for place in places)
        section.add(Preformatted(lines, f"{1 + len(cluster['removed'])} pages; the first is kept"))
    return section


def _texts_of_places(clusters: Path, places: Sequence[str]) -> dict[str, str]:
    """Texts of documents by their place "NAME.jsonl.gz:LINE" in the folder that was deduplicated."""
    number = int(clusters.name[:2])
    former = sorted(path for path in clusters.parent.glob(f"{number - 1:02d}-*") if path.is_dir())
    folder = former[0] if former else clusters.parents[1] / "filtered"
    wanted: dict[str, dict[int, str]] = {}
    for place in places:
        name, _, line = place.rpartition(":")
        wanted.setdefault(name, {})[int(line)] = place
    texts = {}
    for name, lines in wanted.items():
        path = folder / name
        for number, record in enumerate(read_lines(path) if path.exists() else [], 1):
            if number in lines:
                texts[lines[number]] = " ".join(json.loads(record)["text"].split())
    return texts


def _samples_section(directory: Path) -> Section:
    """Some documents of every verdict, for people to judge."""
    by_verdict: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((directory / "samples").glob("*.jsonl")):
        for line in read_lines(path):
            sample = json.loads(line)
            by_verdict.setdefault(sample["verdict"], []).append(sample)
    section = Section("Kept and rejected documents", [
        Paragraph("Drawn by hash; nobody has chosen them. More are in `samples/`, every verdict in `verdicts/`."),
    ])  # fmt: skip
    for verdict in sorted(by_verdict, key=lambda name: (name != "kept", name)):
        shown = by_verdict[verdict][:_EXAMPLES]
        section.add(Paragraph(f"**{verdict}**"), *_sample_blocks(shown))
    return section


def _sample_blocks(samples: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    for sample in samples:
        scores = [
            f"{k} {v:.2f}" for k, v in sample["metadata"].items() if k.endswith("_score") and isinstance(v, float)
        ]
        text = sample["text"][:_SHOWN_CHARACTERS]
        yield Preformatted(
            text + (" ..." if len(sample["text"]) > len(text) else ""), ", ".join([sample["url"], *scores])
        )


def _trouble_section(directory: Path, manifests: Sequence[Mapping[str, Any]]) -> Section:
    """Damaged records and files: counted, never passed over in silence."""
    reader = added(manifest["reader"] for manifest in manifests)
    rows: list[list[Any]] = [
        [reason, count] for reason, count in sorted(reader.items()) if reason not in ("records", "other_kind")
    ]
    files = directory / "quarantine" / "files.json"
    unreadable = json.loads(files.read_text(encoding="utf-8")) if files.exists() else {}
    given_up = [m["input"]["path"] for m in manifests if m["given_up_at"] is not None]
    section = Section("Damage", [Paragraph(
        f"{sum(row[1] for row in rows):,} records could not be read, {len(unreadable)} files not at all, "
        f"{len(given_up)} not to their end. Details are in `quarantine/`."
    )])  # fmt: skip
    if rows:
        section.add(Table(["reason", "records"], rows))
    if unreadable:
        section.add(Table(["file", "why"], [[name, why] for name, why in unreadable.items()]))
    return section
