"""Rules by name, one after another, as a filter.

    rule_filter("fineweb")(document)  ->  None, or the name of the first rule that rejects

Rules of one set share what they count, so a set costs little more than its dearest rule. Read next:
`cs336_data/quality_classifier.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from cs336_data.document import Document
from cs336_data.rules.c4 import C4
from cs336_data.rules.dclm import DclmLines
from cs336_data.rules.fineweb import FineWebQuality
from cs336_data.rules.gopher import COURSE_RULES, GopherQuality, GopherRepetition
from cs336_data.rules.page import Page, WordTable

Rule = Callable[[Page], str | None]

RULE_SETS: dict[str, tuple[Rule, ...]] = {
    "course": (COURSE_RULES,),
    "gopher_quality": (GopherQuality(),),
    "gopher_repetition": (GopherRepetition(),),
    "gopher": (GopherRepetition(), GopherQuality()),
    "c4": (C4(),),
    "c4_without_punctuation": (C4(terminal_punctuation=False),),
    "fineweb_quality": (FineWebQuality(),),
    "fineweb": (GopherRepetition(), GopherQuality(), C4(terminal_punctuation=False), FineWebQuality()),
    "dclm": (GopherRepetition(), GopherQuality(), DclmLines()),
}


class RuleFilter:
    """A filter that applies rules in order up to the first that rejects.

    Rules that clean (C4, DCLM) change the text of a document that is kept; a rejected one stays as it was, for the
    sample of rejects. Keeps the words it has met, some 250 MB after millions of pages.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        self._table = WordTable()

    def __getstate__(self) -> dict[str, object]:
        return {"rules": self.rules}

    def __setstate__(self, state: dict[str, tuple[Rule, ...]]) -> None:
        self.__init__(state["rules"])  # type: ignore[misc]

    def __call__(self, document: Document) -> str | None:
        """The name of the first rule that rejects the document, or None."""
        page = Page(document.text, self._table)
        for rule in self.rules:
            reason = rule(page)
            if reason is not None:
                return reason
        document.text = page.text
        return None


def rule_filter(name: str) -> RuleFilter:
    """The filter of a set in `RULE_SETS`.

    Raises:
        ValueError: no such set; names the nearest.
    """
    if name not in RULE_SETS:
        near = difflib.get_close_matches(name, RULE_SETS, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(RULE_SETS)}"
        raise ValueError(f"unknown rule set {name!r}; {advice}")
    return RuleFilter(RULE_SETS[name])
