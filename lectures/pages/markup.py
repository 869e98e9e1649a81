"""Markdown with `$mathematics$` to HTML, code to coloured HTML: all at build time, so that the page fetches nothing.

Markdown is read by markdown-it-py, mathematics becomes MathML by latex2mathml (which every current browser sets by
itself), code is coloured by Pygments with classes. HTML in Markdown shows as it is typed, but for the few harmless tags
that lectures use. What cannot be set (an unknown LaTeX command, a brace too many) shows as its source, and is reported.

Read next: `math_font.py` for the face of the mathematics, `flow.py`.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cache, partial
from html import escape
from typing import Any

_TAGS = re.compile(
    r"</?(?:br|b|i|em|strong|sub|sup|u|s|kbd|mark)\s*/?>|<font color=[\"']?[#\w]+[\"']?>|</font>", re.IGNORECASE
)
_FONT = re.compile(r"<font color=[\"']?([#\w]+)[\"']?>", re.IGNORECASE)


class Markup:
    """Turns texts into HTML and collects what went wrong.

    Attributes:
        problems: texts that could not be set.
        letters: all letters used in mathematics, for the font.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.letters: set[str] = set()

    def block(self, text: str) -> str:
        """Paragraphs, lists, tables ..."""
        return str(_parser().render(text, {"markup": self}))

    def inline(self, text: str) -> str:
        """One line, without a paragraph around it."""
        return str(_parser().renderInline(text, {"markup": self}))

    def math(self, source: str, *, display: bool) -> str:
        """LaTeX as MathML, with its source for those who copy or read aloud."""
        try:
            body = to_mathml(source, display=display)
        except ValueError as error:
            self.problems.append(f"mathematics {source!r}: {error}")
            return f'<code class="bad-math" title="{escape(str(error))}">{escape(source)}</code>'
        self.letters.update(re.sub(r"<[^>]*>", "", body))
        return body


def to_mathml(source: str, *, display: bool) -> str:
    """LaTeX as MathML.

    Raises:
        ValueError: braces that do not match, an unknown command, or anything else latex2mathml cannot read.
    """
    from latex2mathml.converter import convert

    _check_braces(source)
    known = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{split}", source)
    known = re.sub(r"\\\$", r"\\text{$}", known)
    try:
        found = convert(known, display="block" if display else "inline")
        root = ElementTree.fromstring(found)
    except Exception as error:  # the converter has many ways to fail on wrong input
        raise ValueError(str(error) or type(error).__name__) from error
    for element in root.iter():
        if element.text and element.text.startswith("\\") and len(element.text) > 1:
            raise ValueError(f"unknown command {element.text}")
        element.tag = element.tag.rpartition("}")[2]
    root.set("alttext", source)
    return ElementTree.tostring(root, encoding="unicode")


def _check_braces(source: str) -> None:
    """Every brace has its partner."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", source, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            raise ValueError("a closing brace without its opening one")
    if depth:
        raise ValueError("an opening brace without its closing one")


@cache
def _parser() -> Any:
    """The Markdown parser, with mathematics."""
    try:
        from markdown_it import MarkdownIt
        from mdit_py_plugins.dollarmath import dollarmath_plugin
    except ImportError as error:
        raise ImportError(f"{error}; lecture pages need: pip install 'cs336[lectures]'") from error
    parser = MarkdownIt("commonmark", {"html": True, "highlight": _fenced}).enable(["table", "strikethrough"])
    parser.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True)
    parser.add_render_rule("math_inline", _inline_math)
    parser.add_render_rule("math_inline_double", _display_math)
    parser.add_render_rule("math_block", _display_math)
    parser.add_render_rule("html_inline", _html)
    parser.add_render_rule("html_block", _html)
    parser.add_render_rule("link_open", _link)
    parser.add_render_rule("image", _no_image)
    parser.add_render_rule("table_open", lambda *_: '<div class="table"><table>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>")
    return parser


def _inline_math(_: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A formula in a line."""
    return str(env["markup"].math(tokens[index].content.strip(), display=False))


def _display_math(_: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A formula on a line of its own."""
    return str(env["markup"].math(tokens[index].content.strip(), display=True))


def _html(_: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """HTML in the text: the harmless tags pass, all else shows as typed."""
    parts = re.split(f"({_TAGS.pattern})", tokens[index].content, flags=re.IGNORECASE)
    return "".join(_tag(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def _tag(tag: str) -> str:
    """A harmless tag; `font` becomes `span`."""
    return re.sub("(?i)</font>", "</span>", _FONT.sub(r'<span style="color: \1">', tag))


def _link(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A link leads out of the page in a tab of its own; only web and mail addresses and places in this page do."""
    address = str(tokens[index].attrs.get("href", ""))
    if not re.match(r"(https?:|mailto:|#)", address):
        return "<a>"
    outside = ' target="_blank" rel="noopener noreferrer"' if address[0] != "#" else ""
    return f'<a href="{escape(address)}"{outside}>'


def _no_image(_: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    """A picture in Markdown would be fetched: its address is shown instead."""
    token = tokens[index]
    address = escape(str(token.attrs.get("src", "")))
    return f'<a href="{address}" target="_blank" rel="noopener noreferrer">{escape(token.content) or address}</a>'


def _fenced(code: str, language: str, _: str) -> str:
    """A fenced block in colours."""
    return "\n".join(coloured_lines(code, language or "text"))


def coloured_lines(source: str, language: str = "python") -> list[str]:
    """The lines of a source as HTML with the classes of Pygments; no tag goes over a line's end."""
    try:
        from pygments import lex
        from pygments.lexers import get_lexer_by_name
        from pygments.token import STANDARD_TYPES, Token
        from pygments.util import ClassNotFound
    except ImportError as error:
        raise ImportError(f"{error}; lecture pages need: pip install 'cs336[lectures]'") from error
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        lexer = get_lexer_by_name("text", stripnl=False, ensurenl=False)
    lines = [""]
    for kind, value in lex(source, lexer):
        while kind not in STANDARD_TYPES:
            kind = kind.parent
        wrap: Callable[[str], str] = _comment if kind in Token.Comment else partial(_span, STANDARD_TYPES[kind])
        for i, part in enumerate(value.split("\n")):
            if i:
                lines.append("")
            lines[-1] += wrap(part) if part else ""
    return lines


def _span(kind: str, text: str) -> str:
    """Text in a class; text of no kind and names plain."""
    return (
        f'<span class="{kind}">{escape(text, quote=False)}</span>'
        if kind not in ("", "n", "w")
        else escape(text, quote=False)
    )


def _comment(text: str) -> str:
    """A comment, in which the directives to the recorder can be hidden."""
    parts = re.split(
        r"(\s*(?:^#\s*)?@(?:inspect|clear|stepover|hide|animate|every)\b[^@]*|\s*#\s*(?:fmt|noqa|type)\s*:.*)", text
    )
    inner = "".join(f'<span class="directive">{escape(p, quote=False)}</span>' if i % 2 else escape(p, quote=False)
                    for i, p in enumerate(parts))  # fmt: skip
    return f'<span class="c1">{inner}</span>'


def colour_styles() -> str:
    """Style rules for the colours of code, light and dark, within the contrast that WCAG AA asks for."""
    light = {
        "k": "#9a2393",
        "s": "#1a6b3a",
        "m": "#8a4600",
        "c": "#5f6b7a",
        "f": "#1f56b5",
        "b": "#0b6a7a",
        "d": "#7a4d00",
    }
    dark = {
        "k": "#e08ce0",
        "s": "#86d39a",
        "m": "#f0b070",
        "c": "#9aa6b6",
        "f": "#8fb8ff",
        "b": "#74cfe0",
        "d": "#e6c06a",
    }
    groups = {
        "k": ".k,.kn,.kd,.kc,.kr,.ow", "s": ".s1,.s2,.sd,.sa,.s,.sb,.sr,.si,.se,.sx", "m": ".mi,.mf,.mh,.mb,.mo,.il",
        "c": ".c1,.c,.ch,.cm", "f": ".nf,.fm,.nc", "b": ".nb,.bp,.vm,.kt", "d": ".nd,.ne",
    }  # fmt: skip

    def rules(colours: dict[str, str], prefix: str) -> str:
        return "".join(
            f"{','.join(f'{prefix}{name}' for name in groups[key].split(','))}{{color:{colour}}}"
            for key, colour in colours.items()
        )

    night = rules(dark, ":root[data-theme=dark] ")
    system = rules(dark, ":root:not([data-theme=light]) ")
    return f"{rules(light, '')}{night}@media screen and (prefers-color-scheme: dark){{{system}}}"
