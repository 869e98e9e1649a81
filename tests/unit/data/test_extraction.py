"""Text of pages: encodings, methods, PDF, and input that means harm."""

from __future__ import annotations

import io
import time

import pytest

from cs336_data.extraction import METHODS, decode_html, extract_html, extract_pdf, record_to_document
from cs336_data.warc import WarcRecord

pytest.importorskip("resiliparse")

ARTICLE = "The harbour was dug in 1840 and has been deepened twice since. " * 6
PAGE = f"""<html><body><nav><a href="/">Home</a> <a href="/x">Prices</a></nav>
<article><h1>Harbour</h1><p>{ARTICLE}</p><p>{ARTICLE}</p></article><footer>Copyright</footer></body></html>"""


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    """All find the article; only the plain method keeps the menu."""
    if method == "trafilatura":
        pytest.importorskip("trafilatura")
    text = extract_html(PAGE.encode(), method=method)
    assert text is not None and ARTICLE.strip() in " ".join(text.split())
    assert ("Prices" in text) == (method == "plain")


def test_unknown_method():
    with pytest.raises(ValueError, match="plain, main_content, trafilatura"):
        extract_html(b"<p>", method="best")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("caf\u00e9".encode(), "caf\u00e9"),
        (b"\xef\xbb\xbfabc", "abc"),
        ("caf\u00e9".encode("utf-16"), "caf\u00e9"),
        ("caf\u00e9".encode("utf-32"), "caf\u00e9"),
        (b"a\0b", "ab"),
        (b"", ""),
    ],
)
def test_decode(data, text):
    assert decode_html(data)[0] == text


def test_declared_charset_is_not_believed():
    """A page in Windows-1251 that calls itself UTF-8."""
    words = (
        "\u0414\u043e\u0431\u0440\u043e\u0435 \u0443\u0442\u0440\u043e, \u043c"
        "\u044b \u0438\u0434\u0451\u043c \u043d\u0430 \u0440\u0435\u043a\u0443."
    )
    html = f'<html><head><meta charset="utf-8"></head><body><p>{words}</p><p>{words}</p></body></html>'
    text, encoding = decode_html(html.encode("cp1251"))
    assert words in text and "1251" in encoding


def test_bytes_of_every_kind_decode():
    text, _ = decode_html(bytes(range(256)) * 20)
    assert isinstance(text, str) and "\0" not in text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tag", ["<div>", "<b>", "<table><tr><td>", "<ul><li>", "<svg><foreignObject>"])
def test_hostile_nesting(method, tag):
    """Twenty thousand levels neither crash nor take more than seconds."""
    if method == "trafilatura":
        pytest.importorskip("trafilatura")
    started = time.process_time()
    text = extract_html((tag * (20_000 // tag.count("<")) + ARTICLE).encode(), method=method)
    assert text is None or ARTICLE.split()[0] in text
    assert time.process_time() - started < 10


def record(payload: bytes, content_type: str = "text/html", kind: str = "response") -> WarcRecord:
    return WarcRecord("id", kind, "http://a.example/", "2025-01-01", content_type, "", payload, 17)


def test_record_to_document():
    document = record_to_document(record(PAGE.encode()))
    assert not isinstance(document, str) and ARTICLE.strip() in document.text
    assert (document.id, document.url, document.metadata["offset"]) == ("id", "http://a.example/", 17)
    assert document.metadata["encoding"] == "utf-8" and document.metadata["extractor"] == "plain"


@pytest.mark.parametrize(
    ("payload", "content_type", "reason"),
    [
        (b"x" * 50_000_000, "text/html", "page_too_large"),
        (b"", "text/html", "empty_text"),
        (b"\0 \n", "text/html", "empty_text"),
        (b"GIF89a...", "image/gif", "not_text"),
        (b"%PDF-1.7 broken", "application/pdf", "not_extractable"),
    ],
)
def test_what_is_no_document_has_a_reason(payload, content_type, reason):
    assert record_to_document(record(payload, content_type)) == reason


def test_wet_text_is_taken_as_it_is():
    document = record_to_document(record(b"<p> is a tag\n", "text/plain", "conversion"))
    assert not isinstance(document, str) and document.text == "<p> is a tag\n"


def make_pdf(pages: list[str]) -> bytes:
    """A PDF with one line of text per page, drawn by matplotlib."""
    pytest.importorskip("pypdfium2")
    import matplotlib
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42}), PdfPages(buffer) as file:
        for line in pages:
            figure = Figure(figsize=(6, 1))
            figure.text(0.05, 0.5, line)
            file.savefig(figure)
    return buffer.getvalue()


def test_pdf():
    pdf = make_pdf(["The first page of the report", "The second page"])
    assert extract_pdf(pdf) == "The first page of the report\n\nThe second page"
    assert extract_pdf(pdf, max_pages=1) == "The first page of the report"
    document = record_to_document(record(pdf, "application/pdf"))
    assert not isinstance(document, str) and document.metadata["extractor"] == "pdf"


def test_damaged_pdf():
    pdf = make_pdf(["The only page"])
    for cut in (10, 100, len(pdf) // 2):
        text = extract_pdf(pdf[:cut])
        assert text is None or isinstance(text, str)
