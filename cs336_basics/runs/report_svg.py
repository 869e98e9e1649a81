"""Figures as SVG: a file that stands alone, and a form for inlining that takes the page's colours.

Inlined, black becomes `currentColor` and white the page's `--paper`, so that a figure with matplotlib's default look
is legible in light and dark; other colours stay. Ids get the figure's name as prefix, since one page holds many
figures.

Left out: raster images. Read next: `plots.py`.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.figure


def figure_to_svg(figure: matplotlib.figure.Figure, *, name: str) -> str:
    """Draw a matplotlib figure as an SVG file; the same figure and name give the same text.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("figures need matplotlib; install it with: pip install matplotlib") from error
    drawing = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):  # none: letters stay letters
        layout = figure.get_layout_engine()
        if layout is not None:  # once, as ids in the file depend on it; drawing would do it again
            layout.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"[ \t]+$", "", drawing.getvalue(), flags=re.MULTILINE)


def inline_svg(svg: str, *, name: str, alt: str) -> str:
    """The SVG element for an HTML page: no XML header, no metadata, no namespaces, the page's colours, ids of its own.

    Args:
        svg: a whole SVG file, as from `figure_to_svg`.
        name: prefix of all ids; unique in the page.
        alt: text in place of the picture.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):  # a style element would reach the whole page
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _adapt(_local(key), value, name) for key, value in element.attrib.items()}
    width = float(root.attrib.pop("width").removesuffix("pt"))
    root.attrib.pop("height")
    root.attrib |= {"role": "img", "aria-label": alt, "style": f"max-width: {width * 1.6:.0f}px"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _local(name: str) -> str:
    """A tag or attribute name without its namespace."""
    return name.rpartition("}")[2]


def _adapt(key: str, value: str, name: str) -> str:
    """An attribute's value with prefixed ids and the page's colours."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return re.sub("^#", f"#{name}-", value)
    value = value.replace("url(#", f"url(#{name}-")
    value = re.sub(r"#000000\b|#000\b", "currentColor", value)
    return re.sub(r"#ffffff\b|#fff\b", "var(--paper)", value)
