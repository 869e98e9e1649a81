"""How right a run was, page by page, where the truth is known: a synthetic crawl's `truth.jsonl` against the verdicts.

    recall of a step      of the pages it is there to drop and that reached it, the share it dropped
    precision of a step   of all pages it dropped, the share that should not be in the result; reference pages, of
                          which nobody can say, are left out

Several steps may be right to drop a page (spam breaks rules and is of low quality): the first to object gets it. Beside
the steps: letters of odd encodings that came through, planted personal data that is gone, look-alikes that are still
there, copies found by how alike they are (Jaccard similarity computed here by brute force, on 5-word shingles).

Read next: `synthetic_crawl/pages.py`, where the truth is made.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_data.document import Document
from cs336_data.document_files import from_line, read_lines
from cs336_data.synthetic_crawl.pages import ARTICLE, REFERENCE, UNREADABLE

AIMS: dict[str, frozenset[str]] = {
    "read": UNREADABLE,
    "extract": frozenset(("image", "empty")),
    "language": frozenset(("foreign",)),
    "nsfw": frozenset(("adult",)),
    "toxic": frozenset(("hostile",)),
}
"""step -> the kinds it is there to drop; any other step that judges content aims at `CONTENT`"""
CONTENT = frozenset(("boilerplate", "spam", "null_bytes", "deep_nesting"))
CORPUS_STEPS = frozenset(("dedup_documents", "dedup_near", "dedup_lines", "decontaminate", "min_words"))
_SHINGLE = 5


@dataclass(frozen=True)
class Fate:
    """Where a page ended: the step and reason that dropped it, or "kept"."""

    step: str
    reason: str


def fates(run: Path) -> dict[str, Fate]:
    """Record id -> its end, over all steps of a run; records that the reader did not hand out are missing."""
    ends: dict[str, Fate] = {}
    for path in sorted((run / "verdicts").glob("*.jsonl.gz")):
        ends |= {line["id"]: Fate(line["step"], line["reason"]) for line in _lines(path)}
    for path in sorted((run / "corpus").glob("*.dropped.jsonl.gz")):
        step = path.name.split("-", 1)[1].removesuffix(".dropped.jsonl.gz")
        ends |= {line["id"]: Fate(step, step) for line in _lines(path)}
    return ends


def measure_run(run: Path, crawl: Path, *, threshold: float = 0.8) -> dict[str, Any]:
    """Set a run against the truth about its input; JSON-ready.

    Args:
        run: directory of a finished `run_pipeline`.
        crawl: directory of `write_crawl` whose WARC or WET files were the run's inputs.
        threshold: Jaccard similarity from which two pages count as duplicates.
    """
    pages = {page["record_id"]: page for page in _lines(crawl / "truth.jsonl")}
    ends = {key.removesuffix("-text"): fate for key, fate in fates(run).items()}  # WET records name the page's id so
    steps = [row["step"] for row in json.loads((run / "funnel.json").read_text(encoding="utf-8"))]
    filtered = {doc.id.removesuffix("-text"): doc for doc in _documents(run / "filtered")}
    where = {key: ends.get(key, Fate("read", "not handed out")).step for key in pages}
    pairs = _copies(pages, filtered, where, threshold)
    return {
        "fates": _fates_by_kind(pages, where),
        "steps": _score_steps(pages, where, steps),
        "wanted": _wanted(pages, where, filtered),
        "kept_by_kind": dict(sorted(Counter(pages[k]["kind"] for k, step in where.items() if step == "kept").items())),
        "markers": _markers(pages, filtered),
        "personal": _personal(pages, filtered),
        "copies": pairs,
        "contaminated": _contaminated(pages, where) if "decontaminate" in steps else None,
    }  # fmt: skip


def _fates_by_kind(pages: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Kind -> step -> pages that ended there."""
    table: dict[str, Counter[str]] = {}
    for key, page in pages.items():
        table.setdefault(page["kind"], Counter())[where[key]] += 1
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(table.items())}


def _score_steps(pages: Mapping[str, Any], where: Mapping[str, str], steps: Sequence[str]) -> list[dict[str, Any]]:
    """Recall and precision of the steps that judge single pages; those that judge content by rules together."""
    content = [step for step in steps if step not in AIMS and step not in CORPUS_STEPS and step != "pii"]
    groups = [(step, [step], AIMS[step]) for step in steps if step in AIMS]
    if content:
        groups.append((" + ".join(content), content, CONTENT))
    rows = []
    for label, members, aims in groups:
        first = steps.index(members[0])
        reached = [key for key, step in where.items() if step == "kept" or steps.index(step) >= first]
        dropped = [key for key in reached if where[key] in members and pages[key]["kind"] not in REFERENCE]
        aimed = [key for key in reached if pages[key]["kind"] in aims]
        rows.append({
            "step": label, "aimed": len(aimed), "aimed_dropped": sum(where[key] in members for key in aimed),
            "dropped": len(dropped), "rightly_dropped": sum(pages[key]["kind"] != ARTICLE for key in dropped),
        })  # fmt: skip
    return rows


def _wanted(
    pages: Mapping[str, Any], where: Mapping[str, str], filtered: Mapping[str, Document]
) -> dict[str, list[int]]:
    """Kind of real page -> [pages, those that passed all filters], copies left out."""
    counts: dict[str, list[int]] = {kind: [0, 0] for kind in (ARTICLE, *sorted(REFERENCE))}
    for key, page in pages.items():
        if page["kind"] in counts and not page["copy_of"]:
            counts[page["kind"]][0] += 1
            counts[page["kind"]][1] += key in filtered
    return counts


def _markers(pages: Mapping[str, Any], filtered: Mapping[str, Document]) -> list[dict[str, Any]]:
    """Per encoding, true and declared: pages with a marker, and those whose marker came through."""
    counts: dict[tuple[str, str], list[int]] = {}
    for key, document in filtered.items():
        page = pages[key]
        if page["marker"]:
            pair = counts.setdefault((page["charset"], page["declared"] or "nothing"), [0, 0])
            pair[0] += 1
            pair[1] += page["marker"] in document.text
    return [
        {"charset": true, "declared": said, "pages": n, "intact": ok}
        for (true, said), (n, ok) in sorted(counts.items())
    ]


def _personal(pages: Mapping[str, Any], filtered: Mapping[str, Document]) -> dict[str, list[int]]:
    """Kind of personal data -> [planted, masked]; "look-alikes" -> [planted, left alone]."""
    counts: dict[str, list[int]] = {}
    for key, document in filtered.items():
        for kind, text in pages[key]["personal"]:
            pair = counts.setdefault(kind, [0, 0])
            pair[0] += 1
            pair[1] += text not in document.text
        for trap in pages[key]["traps"]:
            pair = counts.setdefault("look-alikes", [0, 0])
            pair[0] += 1
            pair[1] += trap in document.text
    return dict(sorted(counts.items()))


def _copies(
    pages: Mapping[str, Any], filtered: Mapping[str, Document], where: Mapping[str, str], threshold: float
) -> list[dict[str, Any]]:
    """Planted pairs of which both passed the filters, by how many words were replaced."""
    duplicates = ("dedup_documents", "dedup_near")
    rows: dict[float, dict[str, Any]] = {}
    for key, page in pages.items():
        original = page["copy_of"]
        if key not in filtered or original not in filtered:
            continue
        row = rows.setdefault(page["replaced"], {"replaced": page["replaced"], "pairs": 0, "alike": 0, "alike_found": 0,
                                                 "unlike_dropped": 0, "jaccard": 0.0})  # fmt: skip
        similarity = jaccard(filtered[key].text, filtered[original].text)
        found = where[key] in duplicates or where[original] in duplicates
        row["pairs"] += 1
        row["jaccard"] += similarity
        row["alike"] += similarity >= threshold
        row["alike_found"] += similarity >= threshold and found
        row["unlike_dropped"] += similarity < threshold and where[key] in duplicates
    for row in rows.values():
        row["jaccard"] = round(row["jaccard"] / row["pairs"], 4)
    return [rows[share] for share in sorted(rows)]


def jaccard(first: str, second: str) -> float:
    """Share of 5-word shingles in common, in lower case without punctuation; by brute force."""
    a, b = (_shingles(text) for text in (first, second))
    return len(a & b) / len(a | b) if a | b else 1.0


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[i:] for i in range(_SHINGLE)), strict=False))


def _contaminated(pages: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, int]:
    """Pages with a passage of the evaluation set that reached the decontamination, and those it dropped."""
    reached = {key for key, step in where.items() if step in ("decontaminate", "dedup_lines", "min_words", "kept")}
    planted = {key for key in reached if pages[key]["contaminated"]}
    dropped = {key for key in reached if where[key] == "decontaminate"}
    return {"planted": len(planted), "planted_dropped": len(planted & dropped), "dropped": len(dropped)}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, read_lines(path))


def _documents(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.glob("*.jsonl.gz")):
        for number, line in enumerate(read_lines(path), 1):
            yield from_line(line, path=path, number=number)
