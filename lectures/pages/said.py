"""What a lecture says, as HTML: one fragment for all that one statement said at once, in each language.

Several texts and links said by one statement are one text, so that `text("see "), link(paper), text(" for more")` reads
as a sentence. Read next: `flow.py`.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lectures.content import fill
from lectures.pages.markup import Markup, coloured_lines
from lectures.recording.figures import name_of, specification_table

Said = Mapping[str, Any]
Translate = Callable[[str], str]
_SAFE_CSS = re.compile(r"[-\w#%.,() +]*$")


class SaidHtml:
    """Renders what is said.

    Attributes:
        sources: what links to functions open, by their key: (title, coloured lines).
    """

    def __init__(self, markup: Markup):
        self.markup = markup
        self.sources: dict[str, tuple[str, str]] = {}
        self.problems: list[str] = []

    def fragment(self, said: Sequence[Said], translate: Translate) -> str:
        """All that one statement said at once."""
        parts, line = [], []
        for rendering in said:
            if rendering["type"] in ("markdown", "link") and not rendering.get("verbatim") and len(said) > 1:
                line.append(rendering)
                continue
            parts += [self._line(line, translate)] if line else []
            line = []
            parts.append(self._one(rendering, translate))
        return "".join(parts + ([self._line(line, translate)] if line else []))

    def _line(self, said: Sequence[Said], translate: Translate) -> str:
        """Texts and links in a row, read as one text."""
        links: dict[str, str] = {}
        source = "".join(
            self._mark(r, links) if r["type"] == "link" else self._source(r, translate, links) for r in said
        )
        style = next((r["style"] for r in said if r["type"] == "markdown" and r.get("style")), None)
        return _styled(self._linked(source, links), style)

    def _source(self, said: Said, translate: Translate, links: dict[str, str]) -> str:
        """A text's Markdown, with marks for the links in it."""
        marks = {name: self._mark(rendering, links) for name, rendering in said.get("links", {}).items()}
        return _translated(said, translate, marks)

    def _mark(self, said: Said, links: dict[str, str]) -> str:
        """What stands for a link until the text around it is HTML."""
        mark = f"\ue000{len(links)}\ue001"
        links[mark] = self._link(said)
        return mark

    def _linked(self, source: str, links: Mapping[str, str]) -> str:
        """Markdown to HTML, with the links in place of their marks."""
        html = self.markup.block(source)
        for mark, link in links.items():
            html = html.replace(mark, link)
        return html

    def _one(self, said: Said, translate: Translate) -> str:
        """One rendering."""
        method = getattr(self, f"_{said['type']}")
        return str(method(said, translate)) if said["type"] != "link" else f"<p>{self._link(said)}</p>"

    def _markdown(self, said: Said, translate: Translate) -> str:
        """Text."""
        if said.get("verbatim"):
            text = escape(_translated(said, translate))
            return _styled(f'<pre class="verbatim" tabindex="0">{text}</pre>', said.get("style"))
        return self._line([said], translate)

    def _note(self, said: Said, translate: Translate) -> str:
        """A presenter's note."""
        return f'<aside class="note">{self.markup.block(_translated(said, translate))}</aside>'

    def _quiz(self, said: Said, translate: Translate) -> str:
        """A question with a hidden answer."""
        answer = fill(translate(said["answer_message"]), said.get("values", {}))
        return (
            f'<details class="card quiz"><summary><span class="tag" data-t="Question">Question</span>'
            f'<div class="ask">{self.markup.block(_translated(said, translate))}</div>'
            '<span class="reveal" data-t="Show the answer">Show the answer</span></summary>'
            f"{self.markup.block(answer)}</details>"
        )

    def _exercise(self, said: Said, translate: Translate) -> str:
        """Something to do, with its function and test."""
        target, test = said.get("target"), said.get("test")
        items = []
        if target:
            items.append(f'<dt data-t="Function">Function</dt><dd>{self._source_button(target, target["name"])}</dd>')
        if test:
            items.append(f'<dt data-t="Test">Test</dt><dd><code>{escape(test)}</code></dd>')
        facts = f"<dl>{''.join(items)}</dl>" if items else ""
        head = '<span class="tag" data-t="Exercise">Exercise</span>'
        return f'<div class="card exercise">{head}{self.markup.block(_translated(said, translate))}{facts}</div>'

    def _plot(self, said: Said, translate: Translate) -> str:
        """A drawing, inline so that it takes the page's colours."""
        from cs336_basics.runs.report_svg import inline_svg

        alt = translate(said["alt"]) if said.get("alt") else "plot"
        if not said["data"]:
            self.problems.append("a Vega-Lite plot needs vl-convert-python to be drawn; the page shows its data")
            return f'<pre class="verbatim" tabindex="0">{escape(specification_table(said.get("spec", {})))}</pre>'
        try:
            drawing = inline_svg(said["data"], name=name_of(said["data"]), alt=alt)
        except (KeyError, ValueError):  # not drawn by matplotlib
            drawing = _picture("data:image/svg+xml;base64," + base64.b64encode(said["data"].encode()).decode(), alt, {})
        return f'<figure class="plot">{_styled(drawing, said.get("style"))}</figure>'

    def _graph(self, said: Said, translate: Translate) -> str:
        """Boxes and lines."""
        from lectures.pages.graph_drawing import draw_graph

        return f'<figure class="plot graph">{draw_graph(said["data"], alt=said.get("alt") or "graph")}</figure>'

    def _image(self, said: Said, translate: Translate) -> str:
        """A picture: embedded, or a link to where it is."""
        path, url = said.get("path"), said["data"]
        if not path:
            return f'<p class="outside">{_outside(url, "picture on the web")}</p>'
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        data = base64.b64encode(Path(path).read_bytes()).decode()
        alt = translate(said["alt"]) if said.get("alt") else Path(url).stem.replace("_", " ")
        return f'<figure class="picture">{_picture(f"data:{kind};base64,{data}", alt, said.get("style"))}</figure>'

    def _video(self, said: Said, translate: Translate) -> str:
        """A film, as a link."""
        return f'<p class="outside">{_outside(said["data"], "film")}</p>'

    def _link(self, said: Said) -> str:
        """A link to a work, an address or a function."""
        if said.get("target"):
            return self._source_button(said["target"], said["data"])
        reference, label = said.get("reference", {}), escape(said["data"])
        facts = [reference.get("title"), ", ".join(reference.get("authors", [])), reference.get("organization"),
                 reference.get("date"), reference.get("description"), reference.get("notes")]  # fmt: skip
        card = ". ".join(str(fact).rstrip(".") for fact in facts if fact and fact != said["data"])
        hint = f' title="{escape(card)}"' if card else ""
        url = reference.get("url")
        if not url or not re.match(r"https?://", url):
            return f'<cite tabindex="0"{hint}>{label}</cite>'
        return f'<a class="work" href="{escape(url)}" target="_blank" rel="noopener noreferrer"{hint}>{label}</a>'

    def _source_button(self, target: Mapping[str, Any], label: str) -> str:
        """A button that opens a function's source."""
        key = "src" + hashlib.sha256(f"{target['path']}:{target['line']}".encode()).hexdigest()[:8]
        lines = coloured_lines(target["source"].rstrip("\n"))
        rows = "".join(
            f'<div class="ln"><span class="no">{target["line"] + i}</span><code>{html or " "}</code></div>'
            for i, html in enumerate(lines)
        )
        self.sources[key] = (f"{_short(target['path'])}:{target['line']}", rows)
        return f'<button type="button" class="source-link" data-source="{key}"><code>{escape(label)}</code></button>'


def _translated(said: Said, translate: Translate, marks: Mapping[str, str] | None = None) -> str:
    """A text in the language of `translate`, with its values put in; `marks` replace values."""
    message = said.get("message")
    values = {**said.get("values", {}), **(marks or {})}
    return fill(translate(message), values) if message else str(said["data"])


def _outside(url: str, what: str) -> str:
    """A link to something that the page does not fetch."""
    return f'<a href="{escape(url)}" target="_blank" rel="noopener noreferrer">{escape(what)}: {escape(url)}</a>'


def _picture(source: str, alt: str, style: Mapping[str, Any] | None) -> str:
    """An img element."""
    return _styled(f'<img src="{source}" alt="{escape(alt)}">', style)


def _styled(html: str, style: Mapping[str, Any] | None) -> str:
    """HTML inside a div with CSS properties, which are checked to be plain."""
    if not style:
        return html
    rules = []
    for name, value in style.items():
        css_name = re.sub(r"[A-Z]", lambda m: "-" + m.group().lower(), str(name))
        css = (
            f"{value}px"
            if isinstance(value, (int, float)) and css_name in ("width", "height", "max-width")
            else str(value)
        )
        if re.fullmatch(r"[a-z-]+", css_name) and _SAFE_CSS.match(css) and "url" not in css:
            rules.append(f"{css_name}:{css}")
    return f'<div style="{escape(";".join(rules))}">{html}</div>' if rules else html


def _short(path: str) -> str:
    """A path from the last folder named after a package on."""
    parts = Path(path).parts
    starts = [i for i, part in enumerate(parts) if part.startswith("cs336_") or part in ("lectures", "site-packages")]
    return "/".join(parts[starts[-1] :]) if starts else Path(path).name
