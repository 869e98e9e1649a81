"""The text of a page: HTML in any encoding, PDF, plain text.

HTML goes through resiliparse. Its default keeps everything a reader sees, menus included; `main_content` guesses the
article; trafilatura guesses better and takes twenty times as long. FineWeb chose trafilatura, DCLM resiliparse (both
report that the choice moves benchmark scores as much as a filter does).

Encoding: strict UTF-8 if the bytes are that, else a byte order mark, else what the bytes look like (uchardet). What the
server or the page declares is not believed: a page declared Latin-1 decodes without error whatever it is.

Handout: `extract_text`. Left out: running the parser in a process of its own (`pipeline.py` does). Read next:
`language.py`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from cs336_data.document import Document
from cs336_data.optional_packages import require
from cs336_data.warc import WarcRecord

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", ""})
MAX_DEPTH = 1000
"""Deeper pages are not searched for their article, which would take time cubic in the depth (20,000: half a minute)."""
_BLOCK_TAG = re.compile(r"<(/?)(?:div|section|article|main|ul|ol|dl|li|table|blockquote)[\s>]", re.IGNORECASE)
PDF_TYPES = frozenset({"application/pdf", "application/x-pdf"})


def extract_text_from_html_bytes(html_bytes: bytes) -> str | None:
    """Everything a reader of the page sees, as plain text; None if the parser gives up.

    Args:
        html_bytes: the page in any encoding.

    Raises:
        ImportError: resiliparse is missing; says how to install it.

    Source: handout, `extract_text`.
    """
    return extract_html(html_bytes)


def extract_html(html: bytes, *, method: str = "plain") -> str | None:
    """The text of a page by one of `METHODS`; None if there is no page to be found in it.

    Args:
        html: the page in any encoding.
        method: "plain", "main_content" or "trafilatura".

    Raises:
        ValueError: unknown method.
        ImportError: resiliparse or trafilatura is missing.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    return METHODS[method](decode_html(html)[0])


def decode_html(data: bytes) -> tuple[str, str]:
    """Decode a page; returns (text without NULs, name of the encoding). Never fails: what cannot be read is U+FFFD."""
    for mark, name in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return data.decode(name, errors="replace").replace("\0", ""), name
    try:
        return data.decode("utf-8-sig").replace("\0", ""), "utf-8"
    except UnicodeDecodeError:
        pass
    encoding = require("resiliparse.parse.encoding", install="resiliparse").detect_encoding(data)
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError):  # a name that browsers know and Python does not
        encoding = "utf-8"
    return data.decode(encoding, errors="replace").replace("\0", ""), encoding


def _plain(html: str) -> str | None:
    return _resiliparse(html, main_content=False)


def _main_content(html: str) -> str | None:
    return None if _depth(html) > MAX_DEPTH else _resiliparse(html, main_content=True)


def _depth(html: str) -> int:
    """How deep block elements are nested, or 0 where there are too few for it to matter."""
    if html.count("<") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for tag in _BLOCK_TAG.finditer(html):
        depth = max(0, depth - 1) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _resiliparse(html: str, *, main_content: bool) -> str | None:
    """Text by resiliparse with its defaults."""
    extract = require("resiliparse.extract.html2text", install="resiliparse").extract_plain_text
    try:
        return extract(html, main_content=main_content)
    except Exception as error:  # HTMLParserException, no class of which is public
        if "Parser" in type(error).__name__:
            return None
        raise


def _trafilatura(html: str) -> str | None:
    """Text by trafilatura, tuned for precision as FineWeb has it."""
    trafilatura = require("trafilatura", install="trafilatura")
    try:
        return trafilatura.extract(html, favor_precision=True, include_comments=False, deduplicate=False)
    except (ValueError, RecursionError):  # what lxml does with pages that are no pages
        return None


METHODS: dict[str, Callable[[str], str | None]] = {
    "plain": _plain, "main_content": _main_content, "trafilatura": _trafilatura
}  # fmt: skip


def extract_pdf(pdf: bytes, *, max_pages: int = 500) -> str | None:
    """The text layer of a PDF, pages separated by blank lines; None if it cannot be opened (damaged, encrypted).

    Args:
        pdf: the file.
        max_pages: later pages are left out.

    Raises:
        ImportError: pypdfium2 is missing.
    """
    pdfium = require("pypdfium2", install="pypdfium2")
    try:
        document = pdfium.PdfDocument(pdf)
    except pdfium.PdfiumError:
        return None
    texts = []
    try:
        for number in range(min(len(document), max_pages)):
            try:
                page = document[number]
                text_page = page.get_textpage()
                texts.append(text_page.get_text_bounded().replace("\r\n", "\n").replace("\0", ""))
                text_page.close()
                page.close()
            except pdfium.PdfiumError:
                continue  # a damaged page in a file whose other pages can be read
    finally:
        document.close()
    return "\n\n".join(text.strip() for text in texts)


def record_to_document(record: WarcRecord, *, method: str = "plain", max_page_bytes: int = 5_000_000) -> Document | str:
    """Turn a crawl record into a document, or say why it is none.

    Args:
        record: from `read_records`.
        method: how HTML is read, see `extract_html`.
        max_page_bytes: longer pages are rejected unread.

    Returns:
        The document, with `date`, `content_type`, `extractor`, `encoding`, `num_bytes` and `offset` in its metadata; or
        the reason: page_too_large, not_text, not_extractable, empty_text.
    """
    if len(record.payload) > max_page_bytes:
        return "page_too_large"
    encoding, extractor = "utf-8", "none"
    text: str | None
    if record.kind == "conversion" or record.content_type == "text/plain":
        text, encoding = decode_html(record.payload)
    elif record.content_type in PDF_TYPES or record.payload.startswith(b"%PDF-"):
        text, extractor, encoding = extract_pdf(record.payload), "pdf", "pdf"
    elif record.content_type in HTML_TYPES:
        html, encoding = decode_html(record.payload)
        text, extractor = METHODS[method](html), method
    else:
        return "not_text"
    if text is None:
        return "not_extractable"
    if not text.strip():
        return "empty_text"
    facts = {
        "date": record.date, "content_type": record.content_type, "extractor": extractor, "encoding": encoding,
        "num_bytes": len(record.payload), "offset": record.offset,
    }  # fmt: skip
    return Document(record.record_id, record.url, text, facts)
