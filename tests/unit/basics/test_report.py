"""Reports, read back by other parsers (html.parser, ElementTree, markdown-it); plots, read back from their artists."""

from __future__ import annotations

import html.parser
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from cs336_basics.runs.intervals import wilson_interval
from cs336_basics.runs.plots import plot_bars, plot_loss_curves
from cs336_basics.runs.report import (
    KeyFigure,
    KeyFigures,
    Paragraph,
    Picture,
    Preformatted,
    Report,
    Section,
    Table,
    write_report,
)

matplotlib = pytest.importorskip("matplotlib")
markdown_it = pytest.importorskip("markdown_it")

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></code></table></main><b>",
    "</title><script>1</script>",
    "&lt; &amp; &#60;",
    "a | b || c \\| d",
    "*not bold* _not_ `not code` [no](http://x.example) ~~no~~",
    "# no heading #",
    "```\nfence\n````",
    "<!-- comment -->",
    "javascript:alert(1)",
    "${jndi} $x^2$",
    "' onload='x",
]


class Reader(html.parser.HTMLParser):
    """Checks that every element is closed in order; collects elements and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"attribute twice in {tag}: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes the wrong element"

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def full_report(text: str = "plain") -> Report:
    records = [{"step": s, "train_loss": 5 / s + 1} for s in range(1, 20)] + [{"step": 10, "validation_loss": 1.6}]
    report = Report(f"Title {text}")
    report.add(
        Paragraph("Some **bold**, *soft*, `code` and a [link](https://example.org/a)."),
        KeyFigures([KeyFigure(text, text, text, True), KeyFigure("speed", "12", passed=False), KeyFigure("n", "3")]),
        Section(f"One {text}").add(
            Table([text, "n"], [[text, 1], [None, 20000]], caption=text),
            Section("Deep").add(Preformatted(text, caption=text)),
        ),
        Section("Two").add(
            Picture(
                plot_loss_curves(records, floor=1.0, floor_label=text.replace("$", "").replace("\n", " ")),
                "loss",
                f"alt {text}",
                text,
            ),
            Picture(
                plot_bars(["a", "b"], {"before": [(1, 10), (0, 10)], "after": [(9, 10), (10, 10)]}), "bars", "bars"
            ),
        ),
        Section("Two"),
    )
    return report


def write(report: Report, folder: Path) -> tuple[str, str]:
    page, text = write_report(report, folder)
    return page.read_text("utf-8"), text.read_text("utf-8")


def markdown_texts(source: str) -> list[str]:
    """The plain texts of a Markdown document, block by block, as an independent parser reads them."""
    blocks = []
    for token in markdown_it.MarkdownIt("commonmark").enable("table").parse(source):
        if token.type == "inline":
            blocks.append("".join(child.content for child in token.children or []))
            images = [child for child in token.children or [] if child.type == "image"]
            blocks.extend("".join(part.content for part in image.children or []) for image in images)
        elif token.type == "fence":
            blocks.append(token.content)
    return blocks


# The HTML page


def test_page_is_well_formed_and_self_contained(tmp_path: Path) -> None:
    page, _ = write(full_report(), tmp_path)
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>") and reader.all("html") == [{"lang": "en"}]
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in reader.elements}
    assert re.findall(r"https?://[^\s\"'<]+", page) == ["https://example.org/a"]
    assert "@import" not in page and not re.search(r"url\((?!#)", page)
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert "default-src 'none'" in next(a["content"] for a in reader.all("meta") if "http-equiv" in a)
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_ids_are_unique_and_all_references_resolve(tmp_path: Path) -> None:
    reader = Reader(write(full_report(), tmp_path)[0])
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    values = [value for _, attributes in reader.elements for value in attributes.values() if value]
    pointed = {match for value in values for match in re.findall(r"url\(#([^)]+)\)", value)}
    pointed |= {value[1:] for value in values if re.fullmatch(r"#[^ ]*[g-z_-][^ ]*", value)}
    labels = {value for _, attributes in reader.elements if (value := attributes.get("aria-labelledby"))}
    assert len(pointed) > 5 and (pointed | labels) <= set(ids)


def test_headings_and_contents_follow_the_sections(tmp_path: Path) -> None:
    reader = Reader(write(full_report(), tmp_path)[0])
    levels = [(tag, text) for tag in ("h1", "h2", "h3") for text in reader.texts[tag]]
    assert levels == [("h1", "Title plain"), ("h2", "One plain"), ("h2", "Two"), ("h2", "Two"), ("h3", "Deep")]
    contents = [a["href"] for a in reader.all("a") if (a["href"] or "").startswith("#")]
    assert contents == ["#section-one-plain", "#section-deep", "#section-two", "#section-two-2"]


def test_short_report_has_no_contents(tmp_path: Path) -> None:
    assert "<nav" not in write(Report("x").add(Section("only")), tmp_path)[0]


def test_inline_markdown_becomes_elements(tmp_path: Path) -> None:
    reader = Reader(write(full_report(), tmp_path)[0])
    assert reader.texts["strong"] == ["bold"] and reader.texts["em"] == ["soft"]
    assert {"href": "https://example.org/a"} in reader.all("a")


def test_verdicts_are_words(tmp_path: Path) -> None:
    page, text = write(full_report(), tmp_path)
    verdicts = re.findall(r'class="verdict">(\w+)<', page)
    assert verdicts == ["pass", "miss"]
    assert "| speed | 12 |  | miss |" in text


def test_numbers_in_tables(tmp_path: Path) -> None:
    table = Table(
        ["name", "n", "x", "mixed"], [["a", 123456, 0.123456, 1], ["b", None, 2.0, "c"], ["d", 9999, 1e-7, True]]
    )
    assert table.column_alignment() == "lrrl"
    page, text = write(Report("t").add(table), tmp_path)
    cells = Reader(page).texts["td"]
    assert cells == ["a", "123,456", "0.1235", "1", "b", "-", "2", "c", "d", "9999", "1e-07", "yes"]
    assert "| :--- | ---: | ---: | :--- |" in text


# Hostile text


@pytest.fixture(scope="module")
def harmless_tags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    page, _ = write(full_report(), tmp_path_factory.mktemp("plain"))
    return [tag for tag, _ in Reader(page).elements]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(tmp_path: Path, harmless_tags: list[str], text: str) -> None:
    """The page of a hostile text has the very elements of the harmless page, and shows the text."""
    page, source = write(full_report(text), tmp_path / "hostile")
    reader = Reader(page)
    assert [tag for tag, _ in reader.elements] == harmless_tags
    assert reader.texts["title"] == [f"Title {text}"] and text in reader.texts["pre"][0]
    assert reader.texts["th"][0] == text and reader.texts["td"][0] == text
    assert {attributes.get("aria-label") for attributes in reader.all("svg")} == {f"alt {text}", "bars"}
    blocks = markdown_texts(source)
    shown = re.sub(r"\s*\n\s*", " ", text)
    assert blocks[0] == f"Title {shown}" and blocks.count(shown) >= 6 and f"{text}\n" in blocks
    assert f"alt {shown}" in blocks


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<b>x</b>", "![x](http://evil.example/x.png)"])
def test_html_and_images_in_paragraphs_are_shown_as_typed(tmp_path: Path, text: str) -> None:
    page, source = write(Report("t").add(Paragraph(f"see {text} and `{text}`")), tmp_path)
    reader = Reader(page)
    assert not {"script", "b", "img"} & {tag for tag, _ in reader.elements}
    assert not re.search("<script|<b>", re.sub("`[^`]*`", "", source))
    rendered = Reader(markdown_it.MarkdownIt("commonmark").render(source))
    assert not {"script", "b", "img"} & {tag for tag, _ in rendered.elements}


def test_unsafe_link_is_not_a_link(tmp_path: Path) -> None:
    page, _ = write(Report("t").add(Paragraph("[x](javascript:alert(1)) [y](data:text/html,z)")), tmp_path)
    assert Reader(page).all("a") == []


def test_control_characters_and_lone_surrogates_are_made_visible(tmp_path: Path) -> None:
    page, source = write(Report("t").add(Preformatted("a\x00b\x1bc\x7fd\x85e\ud800f\r\ng\th")), tmp_path)
    expected = "a\u2400b\u241bc\u2421d\ufffde?f\ng\th"
    assert expected in Reader(page).texts["pre"][0] and expected in source


# Pictures


def test_pictures_are_drawn_in_the_colours_of_the_page(tmp_path: Path) -> None:
    page, source = write(full_report(), tmp_path)
    drawings = re.findall("<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 2 and all('role="img"' in drawing for drawing in drawings)
    assert not re.search("#000000|#ffffff|<style", "".join(drawings))
    assert "currentColor" in drawings[0] and "var(--paper)" in drawings[0]
    assert "nats per token" in drawings[0]  # letters stay letters
    assert "![alt plain](figures/loss.svg)" in source
    alone = ElementTree.parse(tmp_path / "figures" / "loss.svg").getroot()
    assert alone.tag == "{http://www.w3.org/2000/svg}svg"


def test_same_report_gives_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(full_report(), tmp_path / name)
    files = [sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).rglob("*.*")) for name in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) == 4
    for file in files[0]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    report = full_report()
    assert write(report, tmp_path / "c") == write(report, tmp_path / "c")


def test_wrong_blocks_are_named(tmp_path: Path) -> None:
    figure = plot_loss_curves([{"step": 1, "train_loss": 1.0}])
    with pytest.raises(ValueError, match="2 headers but a row of 1"):
        Table(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="align must be 2"):
        Table(["a", "b"], [["x", "y"]], align="lx")
    with pytest.raises(ValueError, match="needs alt text"):
        Picture(figure, "loss", " ")
    with pytest.raises(ValueError, match="name must be"):
        Picture(figure, "../loss", "x")
    with pytest.raises(ValueError, match="two pictures"):
        write_report(Report("t").add(Picture(figure, "a", "x"), Picture(figure, "a", "y")), tmp_path)
    with pytest.raises(TypeError, match="report block must be"):
        write_report(Report("t").add("text"), tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "report.md").exists()


# Plots


def test_loss_curves_show_the_records() -> None:
    records = [{"event": "x"}, {"step": 1, "train_loss": 3.0}, {"step": 2, "train_loss": 2.0, "validation_loss": 2.5}]
    axes = plot_loss_curves(records, floor=1.5).axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert set(lines) == {"training", "validation", "entropy floor 1.500"}
    assert lines["training"].get_xydata().tolist() == [[1, 3], [2, 2]]
    assert lines["validation"].get_xydata().tolist() == [[2, 2.5]]
    assert set(lines["entropy floor 1.500"].get_ydata()) == {1.5}
    with pytest.raises(ValueError, match="keys seen: loss, step"):
        plot_loss_curves([{"step": 1, "loss": 2.0}])


def test_bars_show_the_shares_and_chance() -> None:
    axes = plot_bars(["a", "b"], {"before": [(1, 4), (0, 5)], "after": [(3, 4), (5, 5)]}, chance=0.1).axes[0]
    heights = [[bar.get_height() for bar in bars.patches] for bars in axes.containers if hasattr(bars, "patches")]
    assert heights == [[0.25, 0.0], [0.75, 1.0]]
    with pytest.raises(ValueError, match="'before' has 1 entries for 2 groups"):
        plot_bars(["a", "b"], {"before": [(1, 4)]})


def test_wilson_limits_solve_the_score_equation() -> None:
    """Oracle: bisection for the q at which |p - q| = z sqrt(q (1 - q) / n)."""

    def solve(p: float, trials: int, inside: float, outside: float) -> float:
        for _ in range(200):
            middle = (inside + outside) / 2
            if (p - middle) ** 2 <= 1.96**2 * middle * (1 - middle) / trials:
                inside = middle
            else:
                outside = middle
        return inside

    for trials in (1, 7, 100, 5000):
        for successes in {0, 1, trials // 3, trials - 1, trials}:
            p = successes / trials
            low, high = wilson_interval(successes, trials)
            assert low == pytest.approx(solve(p, trials, p, 0.0), abs=1e-9)
            assert high == pytest.approx(solve(p, trials, p, 1.0), abs=1e-9)
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson_interval(3, 2)
