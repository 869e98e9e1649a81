"""Wrong ways to get the text of a page. Read next: `data_texts.py`."""

from __future__ import annotations

import codecs
import html as entities
import re
from collections.abc import Callable
from typing import Any

from cs336_course.misconceptions.bank import Misconception, wrong
from cs336_data.optional_packages import require

Decode = Callable[[bytes], str]


def bank() -> list[Misconception]:
    """All entries of this file."""

    def entry(name: str, says: str, example: str, run: Callable[[bytes], Any]) -> Misconception:
        return wrong("extract_text", name, says, example, run_extract_text_from_html_bytes=run)

    def decoding(decode: Decode) -> Callable[[bytes], Any]:
        return lambda html: text_of(decode(html))

    def options(**settings: bool) -> Callable[[bytes], Any]:
        return lambda html: text_of(decoded(html), **settings)

    latin = "the byte E9 alone, which is no UTF-8"
    return [
        entry("errors-ignored", "bytes that are no UTF-8 are skipped", latin, decoding(lambda h: h.decode("utf-8", "ignore"))),
        entry("errors-replaced", "bytes that are no UTF-8 become U+FFFD before a detector is asked", latin, decoding(lambda h: h.decode("utf-8", "replace"))),
        entry("utf-8-only", "bytes that are no UTF-8 raise", latin, decoding(lambda h: h.decode())),
        entry("latin-1", "every page is decoded as Latin-1", "a page with an accent in UTF-8", decoding(lambda h: h.decode("latin-1"))),
        entry("detector-first", "the detector is asked before UTF-8 is tried; it errs on pages with few accents", "a page whose only accent is in one word", decoding(lambda h: h.decode(detected(h), "replace"))),
        entry("declaration-believed", "the encoding that the page declares is believed", 'UTF-8 bytes under <meta charset="iso-8859-1">', decoding(declared)),
        entry("detector-strict", "bytes that do not fit the detected encoding raise", "one bad byte in a page of ASCII", decoding(strict)),
        entry("main-content", "main_content=True drops menus, footers and lists", "a list after a paragraph", options(main_content=True)),
        entry("no-bullets", "list_bullets=False drops the bullets of lists", "<ul><li>a</li></ul>", options(list_bullets=False)),
        entry("links", "links=True adds the targets of links", "<a href=/x>a</a>", options(links=True)),
        entry("no-formatting", "preserve_formatting=False puts all blocks on one line", "two paragraphs", options(preserve_formatting=False)),
        entry("tags-cut", "tags are cut out by a regular expression, so that scripts and styles stay", "<script>x</script>", lambda h: re.sub(r"<[^>]*>", "", decoded(h)).strip()),
        entry("tags-cut-unescaped", "tags are cut out by a regular expression and entities decoded, so that scripts and styles stay", "<script>x</script>", lambda h: entities.unescape(re.sub(r"<[^>]*>", "", decoded(h))).strip()),
        entry("spaces-collapsed", "all white space is collapsed, line ends too", "two paragraphs", lambda h: " ".join(text_of(decoded(h)).split())),
        entry("markup-returned", "the decoded page is returned with its markup", "<p>a</p>", decoded),
    ]  # fmt: skip


def text_of(html: str, **settings: bool) -> str:
    """The text by resiliparse."""
    return require("resiliparse.extract.html2text", install="resiliparse").extract_plain_text(html, **settings)


def detected(data: bytes) -> str:
    """The encoding that the bytes look like, or UTF-8 where Python does not know its name."""
    name = require("resiliparse.parse.encoding", install="resiliparse").detect_encoding(data)
    try:
        return codecs.lookup(name).name
    except (LookupError, TypeError):
        return "utf-8"


def decoded(data: bytes) -> str:
    """The right way: UTF-8 if the bytes are that, else what they look like."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(detected(data), "replace")


def declared(data: bytes) -> str:
    """By the page's own word, if it has one."""
    match = re.search(rb'charset="?([\w-]+)', data)
    return data.decode(match[1].decode(), "replace") if match else decoded(data)


def strict(data: bytes) -> str:
    """As `decoded`, but raises."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(detected(data))
