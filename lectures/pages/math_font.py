"""The face of the mathematics: STIX Two Math, cut down to the letters of one page.

MathML needs a font with a MATH table to stretch brackets and roots, and many systems have none. The font comes with
the package ziamath (SIL Open Font License 1.1) and is cut by fontTools. Read next: `page.py`.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import string
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

ALWAYS = "0123456789()[]{}|+-=<>,./!%'\u2212\u00d7\u00b7\u221a\u2211\u220f\u222b\u23de\u23df\u203e\u02c6\u02dc\u2192"


def math_font(letters: Iterable[str]) -> str:
    """The font with these letters as a `data:` address.

    Raises:
        ImportError: ziamath is not installed.
    """
    return _cut(frozenset(letters) | frozenset(ALWAYS))


@lru_cache(maxsize=4)
def _cut(letters: frozenset[str]) -> str:
    """Cut the font."""
    import logging

    from fontTools import subset

    logging.getLogger("fontTools.subset").setLevel(logging.ERROR)  # it lists the tables it drops
    options = subset.Options(
        flavor="woff", layout_features=["ssty", "mark", "ccmp"], hinting=False, notdef_outline=True,
        drop_tables=["DSIG", "GPOS"], name_IDs=[0, 1, 2, 13],
    )  # fmt: skip
    stream = io.BytesIO()
    with subset.load_font(str(_file()), options) as font:
        cutter = subset.Subsetter(options)
        cutter.populate(text="".join(sorted(letters)) + "".join(map(_italic, string.ascii_letters)))
        cutter.subset(font)
        subset.save_font(font, stream, options)
    return "data:font/woff;base64," + base64.b64encode(stream.getvalue()).decode()


def _italic(letter: str) -> str:
    """The mathematical italic form, which browsers take for a lone variable."""
    if letter == "h":
        return "\u210e"  # Planck's constant is the italic h
    base = 0x1D44E + ord(letter) - ord("a") if letter.islower() else 0x1D434 + ord(letter) - ord("A")
    return chr(base)


def _file() -> Path:
    """Where ziamath keeps the font."""
    spec = importlib.util.find_spec("ziamath")
    if spec is None or spec.origin is None:
        raise ImportError("the face of the mathematics comes with ziamath: pip install 'cs336[lectures]'")
    return Path(spec.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
