"""One page of the synthetic crawl with the truth about it, and the maker of all pages.

Articles should be kept unless one is a copy or holds a passage of the evaluation set; of reference pages nobody can
say; all else should be dropped.
Read next: `crawl.py`.
"""

from __future__ import annotations

import gzip
import html
import random
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cs336_data.synthetic_crawl import generated_pages
from cs336_data.synthetic_crawl.generated_pages import fill, read_texts, site_page
from cs336_data.synthetic_crawl.pydoc_pages import PydocPage, article_pages, reference_pages

LARGE_BYTES = 5_200_000  # above the pipeline's limit for a page
_BOMB_BYTES = 60_000_000
_NESTING = 20_000
_REPLACED_SHARES = (0.005, 0.01, 0.02, 0.05, 0.2)  # of words, in near copies; the last two are no duplicates any more

BROKEN = (
    "length_too_long", "length_too_short", "damaged_member", "cut_off", "too_large", "zip_bomb", "not_found",
    "image", "empty", "null_bytes", "deep_nesting",
)  # fmt: skip
UNREADABLE = frozenset(
    ("length_too_long", "length_too_short", "damaged_member", "cut_off", "too_large", "zip_bomb", "not_found")
)
"""kinds whose record the reader cannot or must not hand out"""
ARTICLE = "article"
REFERENCE = frozenset(("topic", "module", "class"))


@dataclass(frozen=True)
class Page:
    """A page as served, and what is known about it."""

    record_id: str
    url: str
    kind: str
    html: bytes
    name: str = ""
    """of what pydoc rendered"""
    language: str = "en"
    charset: str = "utf-8"
    """the true one"""
    declared: str | None = "utf-8"
    """what the page says"""
    content_type: str = "text/html"
    marker: str = ""
    """a text that must come out of decoding and extraction letter by letter"""
    personal: tuple[tuple[str, str], ...] = ()
    """planted personal data: (kind, text)"""
    traps: tuple[str, ...] = ()
    """texts that look like personal data and are none"""
    copy_of: str = ""
    """record id of the page it is a copy of"""
    replaced: float = 0.0
    """share of words that were replaced in the copy"""
    contaminated: bool = False
    """holds a passage of the evaluation set"""

    @property
    def is_sound(self) -> bool:
        """Whether a reader gets this page."""
        return self.kind not in UNREADABLE

    def truth(self) -> dict[str, Any]:
        """Everything but the bytes, JSON-ready."""
        facts = asdict(self)
        del facts["html"]
        return facts | {"bytes": len(self.html)}


class PageMaker:
    """Makes pages of every kind; one random stream, so that the order of calls matters."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng, self.texts = seed, random.Random(seed), read_texts()

    def articles(self, count: int) -> list[Page]:
        """Prose of the Python library, in assorted encodings, each with a marker of non-ASCII letters."""
        return [self._marked(page) for page in article_pages(count, seed=self.seed)]

    def reference(self, count: int, progress: Callable[[int, int], None]) -> list[Page]:
        """Topics, modules and classes as pydoc shows them."""
        pages = []
        for page in reference_pages(count, seed=self.seed):
            pages.append(self._marked(page))
            progress(len(pages), count)
        return pages

    def _marked(self, page: PydocPage) -> Page:
        body, marker = self._with_marker(page.body)
        return self._page(page.kind, page.name, body, charset=self._charset(), marker=marker)

    def treat(self, pages: Sequence[Page], passages: Sequence[str]) -> list[Page]:
        """The pages with personal data in every seventh and an evaluation passage in every twenty-fifth."""
        treated = []
        for i, page in enumerate(pages):
            if i % 7 == 3:
                page = self._with_personal_data(page)
            elif i % 25 == 5 and passages:
                passage = html.escape(self.rng.choice(passages))
                page = replace(self._inserted(page, f"<p>{passage}</p>"), contaminated=True)
            treated.append(page)
        return treated

    def generated(self, kind: str) -> Page:
        """A page of one of the kinds of `generated_pages.py`."""
        if kind != "foreign":
            body = getattr(generated_pages, f"{kind}_body")(self.texts, self.rng)
            return self._page(kind, kind, body, charset=("utf-8", "utf-8"))
        language = self.rng.choice(sorted(self.texts["languages"]))
        charset = self.rng.choice(self.texts["languages"][language]["encodings"])
        body = generated_pages.foreign_body(self.texts, self.rng, language)
        return self._page(kind, language, body, charset=(charset, self.rng.choice([charset, None])), language=language)

    def copies(self, pages: Sequence[Page], count: int) -> list[Page]:
        """Some pages again, byte for byte, at other addresses."""
        return [replace(self._renamed(page), copy_of=page.record_id) for page in self.rng.sample(list(pages), count)]

    def near_copies(self, pages: Sequence[Page], count: int) -> list[Page]:
        """Some pages again with a share of their words replaced."""
        copies = []
        for i, page in enumerate(self.rng.sample(list(pages), count)):
            share = _REPLACED_SHARES[i % len(_REPLACED_SHARES)]
            text = self._words_replaced(page.html.decode(page.charset), share).encode(page.charset)
            copies.append(replace(self._renamed(page), html=text, copy_of=page.record_id, replaced=share, marker=""))
        return copies

    def broken(self, count: int) -> list[Page]:
        """Records of all kinds of damage in turn; what is damaged is boilerplate, so that no document is lost."""
        return [self._broken(BROKEN[i % len(BROKEN)]) for i in range(count)]

    def _broken(self, kind: str) -> Page:
        page = replace(self.generated("boilerplate"), kind=kind)
        if kind == "too_large":
            return replace(page, html=page.html * (LARGE_BYTES // len(page.html) + 1))
        if kind == "zip_bomb":
            return replace(page, html=gzip.compress(bytes(_BOMB_BYTES), 9, mtime=0))
        if kind == "image":
            return replace(page, html=b"\x89PNG\r\n\x1a\n" + self.rng.randbytes(800), content_type="image/png")
        if kind == "empty":
            return replace(page, html=b"")
        if kind == "null_bytes":
            return replace(page, html=page.html.replace(b" ", b"\x00"))
        if kind == "deep_nesting":
            return replace(page, html=b"<div><b>" * _NESTING + b"deep" + b"</b></div>" * _NESTING)
        return page

    def _page(self, kind: str, name: str, body: str, *, charset: tuple[str, str | None], **facts: Any) -> Page:
        true, declared = charset
        text = site_page(name, body, self.texts, self.rng, language=facts.get("language", "en"), charset=declared)
        record_id, url = self._address(kind)
        return Page(
            record_id, url, kind, text.encode(true, "xmlcharrefreplace"), name, charset=true, declared=declared, **facts
        )

    def _address(self, kind: str) -> tuple[str, str]:
        """A new record id and URL."""
        number = uuid.UUID(int=self.rng.getrandbits(128), version=4)
        return (
            f"urn:uuid:{number}",
            f"https://{self.rng.choice(self.texts['names']).lower()}.example/{kind}/{number.hex[:8]}",
        )

    def _renamed(self, page: Page) -> Page:
        record_id, url = self._address(page.kind)
        return replace(page, record_id=record_id, url=url)

    def _charset(self) -> tuple[str, str | None]:
        """(true, declared): mostly honest."""
        choices = [("utf-8", "utf-8"), ("utf-8", None), ("cp1252", "cp1252"), ("cp1252", "utf-8"), ("cp1252", None)]
        return self.rng.choices(choices, weights=[70, 10, 8, 8, 4])[0]

    def _with_marker(self, body: str) -> tuple[str, str]:
        """The body with two sentences of ours, the second of which is the marker."""
        parts = self.texts["articles"]
        marker = fill(self.rng.choice(parts["marks"]), self.texts, self.rng)
        return f"<p>{self.rng.choice(parts['lead'])} {html.escape(marker)}</p>\n{body}", marker

    def _with_personal_data(self, page: Page) -> Page:
        """Addresses and numbers planted into a page, beside things that only look like them."""
        name = self.rng.choice(self.texts["names"]).lower()
        values = {
            "email": f"{name}.{self.rng.randint(10, 99)}@mail{self.rng.randint(2, 99)}.example.org",
            "phone": self._phone(),
            "ip": ".".join(str(self.rng.randint(1, 254)) for _ in range(4)),
        }
        template = self.rng.choice(self.texts["personal"]["sentences"])
        trap = self.rng.choice(self.texts["personal"]["traps"])
        sentence = f"{fill(template, self.texts, self.rng, **values)} This was written for {trap} only."
        planted = tuple((kind, value) for kind, value in values.items() if f"{{{kind}}}" in template)
        return replace(self._inserted(page, f"<p>{sentence}</p>"), personal=planted, traps=(trap,))

    def _phone(self) -> str:
        """A number of North America in one of the usual forms."""
        area, office, line = self.rng.randint(201, 989), self.rng.randint(200, 999), self.rng.randint(1000, 9999)
        forms = [
            f"({area}) {office}-{line}",
            f"{area}-{office}-{line}",
            f"({area})-{office}-{line}",
            f"+1 {area} {office} {line}",
        ]
        return self.rng.choice(forms)

    @staticmethod
    def _inserted(page: Page, paragraph: str) -> Page:
        """The page with a paragraph at the beginning of its content."""
        added = paragraph.encode(page.charset, "xmlcharrefreplace")
        return replace(page, html=page.html.replace(b"<main>\n", b"<main>\n" + added + b"\n", 1))

    def _words_replaced(self, text: str, share: float) -> str:
        """Some words of the text between tags replaced by made-up ones."""

        def other(match: re.Match[str]) -> str:
            return "".join(self.rng.choices("abcdefghiklmnoprstu", k=7)) if self.rng.random() < share else match[0]

        pieces = re.split(r"(<[^>]*>)", text)
        words = re.compile(r"(?<![&\w])\w{2,}(?![\w;])")
        return "".join(piece if piece.startswith("<") else words.sub(other, piece) for piece in pieces)
