"""Flame graphs: where the time of a program goes, as one SVG without scripts.

Input are collapsed stacks (Gregg's format), outermost first, with the time each spent in its last entry alone:

    step;forward_pass;aten::mm 1200

A box is as wide as the time of its entry and all above it; the root lies at the bottom. Hovering shows name, time and
share. Boxes narrower than half a pixel are left out.

Source: Gregg 2016, "The Flame Graph", CACM 59(6). Handout: flame_graph. Left out: zooming, which needs scripts. Read
next: `profiling.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, ROW_HEIGHT, MARGIN = 1200, 17, 10
LETTER_WIDTH, NARROWEST = 6.6, 0.5
HEADER = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    'font-family="monospace" font-size="11">'
)


@dataclass
class _Node:
    """A box: its own time and the boxes on it."""

    own: float = 0.0
    children: dict[str, _Node] = field(default_factory=dict)

    def total(self) -> float:
        return self.own + sum(child.total() for child in self.children.values())

    def depth(self) -> int:
        return 1 + max((child.depth() for child in self.children.values()), default=0)


def read_collapsed(text: str) -> dict[str, float]:
    """Stacks and their values from lines such as "a;b;c 12"; equal stacks are added up.

    Raises:
        ValueError: a line without a number at its end, which is named.
    """
    stacks: dict[str, float] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        stack, _, value = line.rpartition(" ")
        try:
            stacks[stack] = stacks.get(stack, 0.0) + float(value)
        except ValueError:
            raise ValueError(f'line {number} is not "frame;frame;... number": {line!r}') from None
    return stacks


def write_collapsed(stacks: Mapping[str, float]) -> str:
    """The inverse of `read_collapsed`, in integers, the order kept."""
    return "".join(f"{stack} {value:.0f}\n" for stack, value in stacks.items())


def flame_graph_svg(stacks: Mapping[str, float], *, title: str, unit: str = "us") -> str:
    """Draw collapsed stacks.

    Args:
        stacks: "outermost;...;innermost" to the time spent in the innermost alone, at least 0.
        title: stands on top.
        unit: of the values, for the labels.

    Raises:
        ValueError: a negative value, or nothing above 0.
    """
    negative = [stack for stack, value in stacks.items() if value < 0]
    if negative:
        raise ValueError(f"stack values must not be negative; got {stacks[negative[0]]} for {negative[0]!r}")
    root = _tree(stacks)
    total, depth = root.total(), root.depth()
    if total <= 0:
        raise ValueError("a flame graph needs at least one stack with a value above 0; got none")
    height = (depth + 2) * ROW_HEIGHT + 2 * MARGIN
    scale = (WIDTH - 2 * MARGIN) / total
    boxes = "\n".join(_boxes("all", root, MARGIN, height - MARGIN - ROW_HEIGHT, scale=scale, whole=total, unit=unit))
    return (
        f"{HEADER.format(width=WIDTH, height=height)}\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n'
        f'<text x="{WIDTH / 2}" y="{MARGIN + 10}" text-anchor="middle" font-size="14">{escape(title)}</text>\n'
        f"{boxes}\n</svg>\n"
    )


def _tree(stacks: Mapping[str, float]) -> _Node:
    root = _Node()
    for stack, value in stacks.items():
        node = root
        for name in stack.split(";"):
            node = node.children.setdefault(name, _Node())
        node.own += value
    return root


def _boxes(name: str, node: _Node, x: float, y: float, *, scale: float, whole: float, unit: str) -> Iterator[str]:
    """The box and those above it, in order of their names, so that equal profiles give equal pictures."""
    time = node.total()
    width = time * scale
    if width < NARROWEST:
        return
    room = int((width - 4) / LETTER_WIDTH)
    shown = name if len(name) <= room else f"{name[: room - 2]}.." if room > 4 else ""
    yield (
        f"<g><title>{escape(name)}: {time:,.0f} {unit}, {time / whole:.1%}</title>"
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{ROW_HEIGHT - 1}" rx="1" fill="{_colour(name)}"/>'
        f'<text x="{x + 2:.2f}" y="{y + 12}">{escape(shown)}</text></g>'
    )
    for child_name in sorted(node.children):
        child = node.children[child_name]
        yield from _boxes(child_name, child, x, y - ROW_HEIGHT, scale=scale, whole=whole, unit=unit)
        x += child.total() * scale


def _colour(name: str) -> str:
    """A warm colour that depends on the name alone."""
    code = zlib.crc32(name.encode())
    return f"rgb({205 + code % 50},{110 + code // 50 % 110},{50 + code // 5500 % 50})"
