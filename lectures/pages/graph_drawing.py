"""A graph in Cytoscape's description as SVG: boxes with labels, and arrows. Read first: `said.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

HALF_HEIGHT = 14


def draw_graph(spec: Mapping[str, Any], *, alt: str) -> str:
    """The drawing; nodes without a position stand on a circle.

    Args:
        spec: as from `content.make_graph`.
        alt: what it shows, in words.
    """
    elements = spec.get("elements", spec)
    nodes, edges = elements.get("nodes", []), elements.get("edges", [])
    places = {n["data"]["id"]: _place(n, i, len(nodes)) for i, n in enumerate(nodes)}
    widths = {n["data"]["id"]: 10 + 4.2 * len(_label(n)) for n in nodes}
    lines = "".join(
        _edge(e["data"], places, widths) for e in edges if {e["data"]["source"], e["data"]["target"]} <= set(places)
    )
    boxes = "".join(_box(_label(n), places[n["data"]["id"]], widths[n["data"]["id"]]) for n in nodes)
    left = min((x - widths[k] for k, (x, _) in places.items()), default=0) - 4
    right = max((x + widths[k] for k, (x, _) in places.items()), default=100) + 4
    top = min((y for _, y in places.values()), default=0) - HALF_HEIGHT - 4
    bottom = max((y for _, y in places.values()), default=50) + HALF_HEIGHT + 4
    return (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="{left:g} {top:g} {right - left:g} {bottom - top:g}" '
        f'style="max-width:{(right - left) * 1.4:g}px">{lines}{boxes}</svg>'
    )


def _label(node: Mapping[str, Any]) -> str:
    """What stands in a box."""
    return str(node["data"].get("label", node["data"]["id"]))


def _place(node: Mapping[str, Any], index: int, count: int) -> tuple[float, float]:
    """Where a node stands."""
    position = node.get("position")
    if position:
        return float(position["x"]), float(position["y"])
    angle = 2 * math.pi * index / max(count, 1) - math.pi / 2
    return 40.0 * count * math.cos(angle), 25.0 * count * math.sin(angle)


def _box(label: str, place: tuple[float, float], width: float) -> str:
    """A node."""
    x, y = place
    return (
        f'<rect x="{x - width:g}" y="{y - HALF_HEIGHT}" width="{2 * width:g}" height="{2 * HALF_HEIGHT}" rx="6"/>'
        f'<text x="{x:g}" y="{y + 4:g}">{escape(label)}</text>'
    )


def _edge(data: Mapping[str, Any], places: Mapping[Any, tuple[float, float]], widths: Mapping[Any, float]) -> str:
    """An arrow from box to box, with a label at its middle."""
    (x1, y1), (x2, y2) = places[data["source"]], places[data["target"]]
    length = math.hypot(x2 - x1, y2 - y1) or 1.0
    dx, dy = (x2 - x1) / length, (y2 - y1) / length

    def out(width: float) -> float:
        """How far the border of a box is from its middle, in the direction of the arrow."""
        return min(width / abs(dx) if dx else math.inf, HALF_HEIGHT / abs(dy) if dy else math.inf) + 2

    start, end = out(widths[data["source"]]), length - out(widths[data["target"]])
    tip, base = (x1 + dx * end, y1 + dy * end), (x1 + dx * (end - 8), y1 + dy * (end - 8))
    head = f"{tip[0]:g},{tip[1]:g} {base[0] - 4 * dy:g},{base[1] + 4 * dx:g} {base[0] + 4 * dy:g},{base[1] - 4 * dx:g}"
    line = f'<line x1="{x1 + dx * start:g}" y1="{y1 + dy * start:g}" x2="{base[0]:g}" y2="{base[1]:g}"/>'
    label = data.get("label")
    words = f'<text x="{(x1 + x2) / 2:g}" y="{(y1 + y2) / 2 - 5:g}">{escape(str(label))}</text>' if label else ""
    return f'{line}<polygon points="{head}"/>{words}'
