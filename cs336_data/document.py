"""What flows through the data pipeline: one document, and the two kinds of step that act on it.

A filter looks at a document and gives the name of the rule that rejects it, or None to keep it. A transform gives a
document back, changed or not. Every stage of this package is one of the two, so that a pipeline is a plain list and a
report can say which rule removed what. Handout: `filter_data`. Left out: how steps are put in order (`pipeline.py`).
Read next: `warc.py`, where documents come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Document:
    """A page or any other text with what is known about it.

    Attributes:
        id: unique in its corpus; for a web page the WARC-Record-ID.
        url: where it came from, or "".
        text: the text as it is now; transforms replace it.
        metadata: facts added on the way (date, language, scores, masks); values are plain JSON values.
    """

    id: str
    url: str
    text: str
    metadata: dict[str, object] = field(default_factory=dict)


Filter = Callable[[Document], str | None]
"""Keep (None) or the name of the rule that rejects, in lower case with underscores: `gopher_too_few_words`."""

Transform = Callable[[Document], Document]
"""A document for a document; may change its argument in place and return it."""
