"""Markdown, mathematics and code as HTML: nothing foreign gets through, nothing is lost."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from lectures.content import Reference, fill
from lectures.pages.graph_drawing import draw_graph
from lectures.pages.markup import Markup, coloured_lines, to_mathml
from lectures.pages.math_font import math_font
from lectures.pages.said import SaidHtml

ROOT = Path(__file__).parents[3]


def plain(text: str) -> str:
    """HTML without its tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", text))


@pytest.mark.parametrize(
    "path", ["lectures/lecture_01.py", "lectures/recording/recorder.py", "tests/fixtures/texts.py"]
)
def test_coloured_lines_are_the_source(path):
    source = (ROOT / path).read_text(encoding="utf-8")
    lines = coloured_lines(source)
    assert [plain(line) for line in lines] == source.split("\n")
    assert all(line.count("<span") == line.count("</span>") for line in lines)


def test_foreign_html_shows_as_typed():
    page = Markup().block(
        "<script>alert(1)</script> <img src=x onerror=alert(1)> <b onclick=x>\n\n<iframe src='http://x'></iframe>\n\n"
        "[bad](javascript:alert(1)) ![pixel](http://example.org/p.png) <font color=red>red</font> a<br>b"
    )
    assert not re.search(r"<(script|iframe|img|b )", page)
    assert "javascript:" not in re.findall(r'href="([^"]*)"', page)
    assert '<span style="color: red">red</span>' in page and "a<br>b" in page
    ElementTree.fromstring(f"<x>{page.replace('<br>', '<br/>')}</x>")


def test_mathematics():
    m = Markup()
    page = m.block("Of $x^2$ costs $5 and $6, and\n\n$$\\begin{aligned} a &= b \\\\ c &= \\frac{d}{e} \\end{aligned}$$")
    assert page.count("<math") == 2 and "costs $5 and $6" in page and page.count("<mtr>") == 2
    assert m.problems == [] and {"x", "a"} <= m.letters
    for wrong, why in [("\\frac{a", "brace"), ("a}", "brace"), ("\\nosuch{x}", "nosuch")]:
        with pytest.raises(ValueError, match=why):
            to_mathml(wrong, display=False)
    assert "bad-math" in m.block("$\\nosuch{x}$") and "nosuch" in m.problems[0]


def test_the_font_holds_the_letters_and_little_else(tmp_path):
    from base64 import b64decode

    from fontTools.ttLib import TTFont

    data = math_font({"x", "\u2211", "\u03b1"})
    file = tmp_path / "font.woff"
    file.write_bytes(b64decode(data.partition(",")[2]))
    font = TTFont(file)
    assert {ord("x"), 0x2211, 0x3B1, 0x1D465} <= set(font.getBestCmap()) and "MATH" in font
    assert len(data) < 120_000


def test_texts_and_links_of_one_statement_are_one_sentence():
    said = SaidHtml(Markup())
    link = {"type": "link", "data": "[Ox 2020]", "reference": {"url": "https://example.org/<x>", "title": 'A "title"'}}
    page = said.fragment(
        [{"type": "markdown", "data": "- see **it** "}, link, {"type": "markdown", "data": " for more"}], str
    )
    assert page.count("<li>") == 1 and plain(page).strip() == "see it [Ox 2020] for more"
    assert 'href="https://example.org/&lt;x&gt;"' in page


def test_values_and_links_in_a_text():
    assert fill("{a:.2f} of {b}, not {c} or $x_{d}$", {"a": 1 / 3, "b": "two"}) == "0.33 of two, not {c} or $x_{d}$"
    said = SaidHtml(Markup())
    inner = {"type": "link", "data": "paper", "reference": {}}
    text = {"type": "markdown", "data": "see paper", "message": "see {p} in {n:.1f}", "links": {"p": inner}}
    page = said.fragment([text | {"values": {"p": "paper", "n": 2}}], str)
    assert plain(page).strip() == "see paper in 2.0" and "<cite" in page


def test_reference_labels():
    assert Reference(authors=["Ann B. Ox", "Bo Li"], date="May 2021").label() == "[Ox+ 2021]"
    assert Reference(authors=["Ann Ox"]).label() == "[Ox]"
    assert Reference(title="T", url="u").label() == "T" and Reference(url="u").label() == "u"


def test_styles_are_plain():
    said = SaidHtml(Markup())
    style = {
        "color": "red",
        "backgroundImage": "url(http://x)",
        "width": 300,
        "x;y": "1",
        "margin": "1px;position:fixed",
    }
    page = said.fragment([{"type": "markdown", "data": "a", "style": style}], str)
    assert 'style="color:red;width:300px"' in page


def test_graphs():
    nodes = [{"data": {"id": "a", "label": "<A>"}, "position": {"x": 0, "y": 0}}, {"data": {"id": "b"}}]
    edges = [{"data": {"source": "a", "target": end}} for end in ("b", "gone")]
    drawing = draw_graph({"elements": {"nodes": nodes, "edges": edges}}, alt="x")
    root = ElementTree.fromstring(drawing)
    assert len(root.findall("rect")) == 2 and len(root.findall("line")) == 1 and root.findall("text")[0].text == "<A>"
