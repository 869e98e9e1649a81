"""Personal data: find e-mail addresses, telephone numbers and IPv4 addresses, and mask them.

    someone@example.org           |||EMAIL_ADDRESS|||
    (212) 555-0100, +44 20 ...    |||PHONE_NUMBER|||
    192.0.2.1                     |||IP_ADDRESS|||

What a pattern cannot know is left to the reader: `find_spans` is the audit mode, which lists every hit with its place
so that false alarms can be counted before anything is changed. Edges are guarded by digits: no part of a longer number,
of a version with five parts or of a decimal fraction is taken. A telephone number of ten bare digits begins with 2 to
9, as American area codes do; this also leaves seconds since 1970 alone until 2033.

All patterns are bounded, so the time is linear in the text. Handout: `mask_pii`. Left out: names, postal addresses,
IPv6, addresses spelled "someone at example dot org". Read next: `toxicity.py`.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cs336_data.document import Document

MASKS = {"email": "|||EMAIL_ADDRESS|||", "ip": "|||IP_ADDRESS|||", "phone": "|||PHONE_NUMBER|||"}
"""Kinds in the order in which overlapping hits are decided."""

_EMAIL = re.compile(
    r"(?<!\w)\w[\w.%+'-]{0,63}@"  # starts where a word starts: one attempt per word
    r"(?:\w(?:[\w-]{0,61}\w)?\.){1,8}[^\W\d_]{2,24}(?!\w)"
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IP = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\w)(?!\.\d)", re.ASCII)
_GAP = r"[ .\u00a0\u2011-]"
_PHONE = re.compile(
    r"(?<![\w+])(?<!\d[.,:/-])(?<!\d\()"
    rf"(?:\+?1{_GAP}?)?"
    rf"(?:\([2-9]\d\d\){_GAP}{{0,2}}|[2-9]\d\d{_GAP}?)\d{{3}}{_GAP}?\d{{4}}"
    r"(?!\w)(?![.,:/-]\d)"
    # other countries: a plus sign, then 8 to 15 digits in groups
    r"|(?<![\w+])\+(?!1\D)[1-9](?=(?:[ .()\u00a0-]{0,2}\d){7,14}(?!\d))(?:[ .()\u00a0-]{0,2}\d){7,14}(?!\w)"
)
_PATTERNS = {"email": _EMAIL, "ip": _IP, "phone": _PHONE}
_STARTS = {
    "ip": re.compile(r"\d(?=\d{0,2}\.\d{1,3}\.\d)", re.ASCII),
    "phone": re.compile(r"[+(1-9](?=(?:[ .()\u00a0\u2011-]{0,3}\d){7})"),  # eight digits or more, close to each other
}
"""Where a hit may begin, found faster than by the pattern itself, since these begin with a plain set of characters."""


@dataclass(frozen=True, slots=True)
class PiiSpan:
    """One hit: `text` stands at `start` to `end` (characters) of the document; `kind` is a key of `MASKS`."""

    kind: str
    start: int
    end: int
    text: str


def find_spans(text: str) -> list[PiiSpan]:
    """All hits in order, none overlapping another; nothing is changed. Audit mode."""
    spans: list[PiiSpan] = []
    for kind in MASKS:
        starts, found = [span.start for span in spans], []
        for match in _hits(kind, text):
            before = bisect.bisect_left(starts, match.end())  # of all that begin earlier the last one ends last
            if not before or spans[before - 1].end <= match.start():
                found.append(PiiSpan(kind, match.start(), match.end(), match.group()))
        spans = sorted([*spans, *found], key=lambda span: span.start)
    return spans


def _hits(kind: str, text: str) -> Iterator[re.Match[str]]:
    """What `finditer` gives, without trying the pattern where no hit can begin: most of a page has none near."""
    pattern = _PATTERNS[kind]
    if kind == "email":
        if (first := text.find("@")) >= 0:
            yield from pattern.finditer(text, max(0, first - 64), text.rfind("@") + 1000)
        return
    end = 0
    for start in _STARTS[kind].finditer(text):
        if start.start() >= end and (match := pattern.match(text, start.start())):
            end = match.end()
            yield match


def mask_pii(text: str) -> tuple[str, Counter[str]]:
    """(text with every hit of `find_spans` masked, number per kind)."""
    pieces, position, counts = [], 0, Counter[str]()
    for span in find_spans(text):
        pieces += [text[position : span.start], MASKS[span.kind]]
        position = span.end
        counts[span.kind] += 1
    return "".join([*pieces, text[position:]]), counts


def mask_emails(text: str) -> tuple[str, int]:
    """(text with e-mail addresses masked, how many). Source: handout, `mask_pii`."""
    return _EMAIL.subn(MASKS["email"], text)


def mask_phone_numbers(text: str) -> tuple[str, int]:
    """(text with telephone numbers masked, how many). Source: handout, `mask_pii`."""
    return _PHONE.subn(MASKS["phone"], text)


def mask_ips(text: str) -> tuple[str, int]:
    """(text with IPv4 addresses masked, how many). Source: handout, `mask_pii`."""
    return _IP.subn(MASKS["ip"], text)


def mask_document(document: Document) -> Document:
    """Mask everything and note the numbers as `pii` in the metadata. A transform."""
    document.text, counts = mask_pii(document.text)
    document.metadata["pii"] = dict(counts)
    return document


@dataclass(frozen=True)
class PiiFilter:
    """Rejects documents with many hits, which are lists of contacts rather than texts (Dolma: 6 and more)."""

    max_spans: int = 5

    def __call__(self, document: Document) -> str | None:
        """`too_much_pii` or None. Counts what `mask_document` noted, or looks for itself if that has not run."""
        noted = document.metadata.get("pii")
        total = sum(noted.values()) if isinstance(noted, dict) else len(find_spans(document.text))
        return "too_much_pii" if total > self.max_spans else None
