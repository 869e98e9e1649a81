"""Problem extract_text: what a reader sees of a page, in any encoding."""

from __future__ import annotations

import pytest

PAGE = """<!DOCTYPE html>
<html><head><title>Tides</title><style>p { color: red }</style><script>var hidden = "no";</script></head>
<body>
  <h1>The tides</h1>
  <p>Twice a day the sea
     comes in and goes out.
     The moon is <b>mostly</b> to blame.</p>
  <p>See <a href="https://example.org/moon">the moon</a>.</p>
  <ul><li>spring tide</li><li>neap tide</li></ul>
</body></html>
"""
TEXT = (
    "The tides\n\nTwice a day the sea comes in and goes out. The moon is mostly to blame.\n\nSee the moon.\n\n"
    "  \u2022 spring tide\n  \u2022 neap tide"
)
FOREIGN = {
    "cp1252": "Die Gr\u00f6\u00dfe der T\u00fcren war f\u00fcr K\u00f6nig \u00d6zil zu \u00fcppig, sagte die sch\u00f6ne B\u00e4uerin.",
    "shift_jis": (
        "\u5409\u7530\u3055\u3093\u306f\u4eca\u65e5\u3001\u6d77\u3078\u884c\u304d\u307e\u3057"
        "\u305f\u3002\u5929\u6c17\u304c\u3068\u3066\u3082\u826f\u304b\u3063\u305f\u3067\u3059\u3002"
    ),
    "koi8-r": (
        "\u0421\u0435\u0433\u043e\u0434\u043d\u044f \u0443\u0442\u0440\u043e\u043c "
        "\u043c\u044b \u043f\u043e\u0448\u043b\u0438 \u043d\u0430 \u0440\u0435"
        "\u043a\u0443 \u043b\u043e\u0432\u0438\u0442\u044c \u0440\u044b\u0431\u0443."
    ),
    "gb18030": "\u4eca\u5929\u65e9\u4e0a\u6211\u4eec\u53bb\u6cb3\u8fb9\u9493\u9c7c\uff0c\u5929\u6c14\u975e\u5e38\u597d\u3002",
}


def test_extract_text_from_html_bytes(adapters):
    """Heading, paragraphs in one line each, list with bullets; no script, style or link target."""
    assert adapters.run_extract_text_from_html_bytes(PAGE.encode()) == TEXT


@pytest.mark.parametrize("encoding", FOREIGN)
def test_extract_other_encodings(adapters, encoding):
    """Bytes that are no UTF-8 are decoded by what they look like."""
    html = f"<html><body><p>{FOREIGN[encoding]}</p><p>{FOREIGN[encoding]}</p></body></html>"
    text = adapters.run_extract_text_from_html_bytes(html.encode(encoding))
    assert FOREIGN[encoding] in text


@pytest.mark.parametrize("html", [b"", b"\x00\x00", b"<", b"\xff\xfe\xfa<p>", b"<p>" * 50_000, b"<html><body></html>"])
def test_extract_bad_input(adapters, html):
    """Nothing raises: text or None comes back."""
    text = adapters.run_extract_text_from_html_bytes(html)
    assert text is None or isinstance(text, str)
