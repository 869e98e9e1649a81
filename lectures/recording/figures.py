"""Figures of lectures as SVG files: matplotlib's, and Vega-Lite specifications where vl-convert is installed.

Read next: `cs336_basics/runs/report_svg.py`, which draws them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def picture_of(spec: Any) -> str:
    """The drawing as an SVG file; "" for a specification that cannot be drawn here (the page then shows its data).

    Raises:
        TypeError: neither a matplotlib figure nor a dict.
    """
    if isinstance(spec, dict):
        return _from_vega_lite(spec)
    figure = getattr(spec, "figure", spec)  # axes know their figure
    if not hasattr(figure, "savefig"):
        raise TypeError(f"plot takes a matplotlib figure or a Vega-Lite dict; got {type(spec).__name__}")
    from cs336_basics.runs.report_svg import figure_to_svg

    return figure_to_svg(figure, name="figure")


def _from_vega_lite(spec: dict[str, Any]) -> str:
    """Drawn by vl-convert, without a network."""
    try:
        import vl_convert
    except ImportError:
        return ""
    return vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])


def name_of(svg: str) -> str:
    """A short name that differs between drawings, the prefix of the ids in them."""
    return "p" + hashlib.sha256(svg.encode()).hexdigest()[:8]


def specification_table(spec: dict[str, Any], *, rows: int = 20) -> str:
    """The inline data of a Vega-Lite specification, as text for a page without a drawing."""
    data = spec.get("data") or {}
    values = data.get("values") if isinstance(data, dict) else None
    shown = values[:rows] if isinstance(values, list) else [data]
    more = f"\n... {len(values) - rows} more" if isinstance(values, list) and len(values) > rows else ""
    return "\n".join(json.dumps(row, ensure_ascii=False, default=str) for row in shown) + more
