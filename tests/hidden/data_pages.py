"""Assignment 4, extract_text: pages built from text that is known, so the text is the oracle."""

from __future__ import annotations

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case

from . import texts

Rng = np.random.Generator
FOREIGN = {
    "cp1252": [
        "Die Gr\u00f6\u00dfe der T\u00fcren \u00fcberraschte K\u00f6nig und B\u00e4uerin gleicherma\u00dfen.",
        "F\u00fcr die sch\u00f6ne M\u00fcllerin w\u00e4re das \u00fcble Wetter kein Hindernis gewesen.",
        "Sp\u00e4ter fl\u00fcchteten sieben V\u00f6gel \u00fcber die h\u00f6chsten B\u00e4ume des Tales.",
        "Die Br\u00fccke f\u00fchrt w\u00e4hrend des gr\u00f6\u00dften Teils des Jahres \u00fcber trockenes Land.",
    ],
    "koi8-r": [
        "\u0421\u0442\u0430\u0440\u044b\u0439 \u043c\u043e\u0441\u0442 \u0447\u0435\u0440\u0435\u0437 \u0440\u0435\u043a\u0443 \u043f\u043e\u0441\u0442\u0440\u043e\u0438\u043b\u0438 \u0441\u0442\u043e \u043b\u0435\u0442 \u043d\u0430\u0437\u0430\u0434.",
        "\u0412\u0435\u0447\u0435\u0440\u043e\u043c \u0434\u0435\u0442\u0438 \u0438\u0433\u0440\u0430\u043b\u0438 \u0432\u043e \u0434\u0432\u043e\u0440\u0435 \u0438 \u0433\u0440\u043e\u043c\u043a\u043e \u0441\u043c\u0435\u044f\u043b\u0438\u0441\u044c.",
        "\u0417\u0438\u043c\u043e\u0439 \u043e\u0437\u0435\u0440\u043e \u0437\u0430\u043c\u0435\u0440\u0437\u0430\u0435\u0442, \u0438 \u043b\u044e\u0434\u0438 \u0445\u043e\u0434\u044f\u0442 \u043f\u043e \u043b\u044c\u0434\u0443 \u043d\u0430 \u0434\u0440\u0443\u0433\u043e\u0439 \u0431\u0435\u0440\u0435\u0433.",
        "\u041e\u043d\u0430 \u043d\u0430\u043f\u0438\u0441\u0430\u043b\u0430 \u043f\u0438\u0441\u044c\u043c\u043e \u0431\u0440\u0430\u0442\u0443, \u043d\u043e \u043e\u0442\u0432\u0435\u0442\u0430 \u0442\u0430\u043a \u0438 \u043d\u0435 \u043f\u043e\u043b\u0443\u0447\u0438\u043b\u0430.",
    ],
    "shift_jis": [
        "\u6628\u65e5\u306f\u96e8\u304c\u964d\u3063\u305f\u306e\u3067\u3001\u5bb6\u3067\u672c\u3092\u8aad\u3093\u3067\u3044\u307e\u3057\u305f\u3002",
        "\u99c5\u306e\u8fd1\u304f\u306b\u3042\u308b\u5c0f\u3055\u306a\u5e97\u3067\u30d1\u30f3\u3092\u8cb7\u3044\u307e\u3057\u305f\u3002",
        "\u6765\u9031\u306e\u571f\u66dc\u65e5\u306b\u53cb\u9054\u3068\u5c71\u306b\u767b\u308b\u3064\u3082\u308a\u3067\u3059\u3002",
        "\u3053\u306e\u5ddd\u306e\u6c34\u306f\u3068\u3066\u3082\u51b7\u305f\u304f\u3066\u304d\u308c\u3044\u3067\u3059\u3002",
    ],
    "gb18030": [
        "\u6628\u5929\u4e0b\u4e86\u4e00\u6574\u5929\u7684\u96e8\uff0c\u6211\u4eec\u90fd\u5728\u5bb6\u91cc\u770b\u4e66\u3002",
        "\u8f66\u7ad9\u9644\u8fd1\u6709\u4e00\u5bb6\u5f88\u5c0f\u7684\u9762\u5305\u5e97\uff0c\u751f\u610f\u4e00\u76f4\u5f88\u597d\u3002",
        "\u4e0b\u4e2a\u661f\u671f\u516d\u6211\u6253\u7b97\u548c\u670b\u53cb\u4e00\u8d77\u53bb\u722c\u5c71\u3002",
        "\u8fd9\u6761\u6cb3\u7684\u6c34\u53c8\u51c9\u53c8\u6e05\uff0c\u5b69\u5b50\u4eec\u590f\u5929\u5e38\u6765\u6e38\u6cf3\u3002",
    ],
}
CAFE = ["caf\u00e9", "na\u00efve", "d\u00e9j\u00e0", "r\u00e9sum\u00e9", "fianc\u00e9"]
"""words with so few accents that the detector of encodings takes UTF-8 for something else"""
LONG = [word for word in texts.vocabulary() if len(word) > 6]
"""words that are no part of one another's markup"""


def sentence(rng: Rng, count: int = 9) -> str:
    """Words with a capital and a period."""
    words = [str(word) for word in rng.choice(texts.vocabulary(), size=count)]
    return " ".join(words).capitalize() + "."


def page(body: str, head: str = "") -> str:
    """A whole page."""
    return f"<!DOCTYPE html>\n<html><head><title>Zzyzx</title>{head}</head>\n<body>\n{body}\n</body></html>\n"


def values(answer: Answer, count: int) -> list[str | None]:
    """The texts of an answer."""
    found = answer.get("values")
    if type(found) is not list or len(found) != count:
        raise BadAnswer("another number of answers")
    if any(text is not None and type(text) is not str for text in found):
        raise BadAnswer("the text of a page must be str or None")
    return found


def extract_text(rng: Rng) -> list[Case]:
    return [
        _exact("page", "heading, paragraphs in one line each, list with bullets, no link target", *_layout(rng)),
        _exact("entities", "entities are characters", *_entities(rng)),
        _invisible(rng),
        _menus(rng),
        *(_encoded(rng, encoding) for encoding in FOREIGN),
        _utf8(rng, "utf-8", "bytes that are UTF-8 are read as UTF-8, without asking a detector", ""),
        _utf8(rng, "declared", "what the page declares is not believed when the bytes are UTF-8",
              '<meta charset="iso-8859-1">'),
        _broken(rng),
    ]  # fmt: skip


def _case(id: str, property: str, pages: list[bytes], judge) -> Case:
    inputs = {"function": "run_extract_text_from_html_bytes", "items": [[html] for html in pages]}
    return Case(id, property, "each", inputs, judge)


def _exact(id: str, property: str, html: str, expected: str) -> Case:
    def judge(answer: Answer) -> str | None:
        (text,) = values(answer, 1)
        if text == expected:
            return None
        if text is not None and text.split() == expected.split():
            return "the words are right, their lines or spaces are not"
        return "the text is not what a reader sees"

    return _case(id, property, [html.encode()], judge)


def _layout(rng: Rng) -> tuple[str, str]:
    """A page and its text."""
    title, items = sentence(rng, 3)[:-1], [sentence(rng, 2)[:-1] for _ in range(int(rng.integers(2, 5)))]
    paragraphs = [sentence(rng, int(rng.integers(8, 14))) for _ in range(int(rng.integers(2, 4)))]
    broken = [text.replace(" ", "\n   ", 3).replace(" ", " <b>", 1).replace(".", "</b>.") for text in paragraphs]
    link = sentence(rng, 5)
    body = f"<h1>{title}</h1>\n" + "".join(f"  <p>{text}</p>\n" for text in broken)
    body += f"<p>{link[:-1].replace(' ', ' <a href=https://zzyzx.example/deep>', 1)}</a>.</p>\n"
    body += "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"
    expected = "\n\n".join([title, *paragraphs, link]) + "\n\n" + "\n".join(f"  \u2022 {item}" for item in items)
    return page(body), expected


def _entities(rng: Rng) -> tuple[str, str]:
    a, b, c = (sentence(rng, 4)[:-1] for _ in range(3))
    return page(f"<p>{a} &lt; {b} &amp; caf&eacute; &#8212; {c}</p>"), f"{a} < {b} & caf\u00e9 \u2014 {c}"


def _invisible(rng: Rng) -> Case:
    """Script, style, comments and attributes are not text."""
    picked = [str(word) for word in rng.choice(LONG, size=9, replace=False)]
    seen, hidden = picked[:4], [f"{word}q" for word in picked[4:]]
    head = f"<style>.{hidden[0]} {{ color: red }}</style><script>var {hidden[1]} = 1 < 2;</script>"
    body = (
        f'<p id="{hidden[2]}">{seen[0]} {seen[1]}</p><!-- {hidden[3]} -->'
        f"<p>{seen[2]}</p><script>document.write('{hidden[4]}');</script><p>{seen[3]}</p>"
    )

    def judge(answer: Answer) -> str | None:
        (text,) = values(answer, 1)
        if text is None or any(word in text for word in hidden):
            return "scripts, styles, comments or attributes are in the text"
        return None if text.split() == seen else "visible words are missing or out of order"

    return _case("invisible", "no script, style, comment or attribute", [page(body, head).encode()], judge)


def _menus(rng: Rng) -> Case:
    """Everything that a reader sees: menus and footers too. To leave them out is a later filter's business."""
    menu = [sentence(rng, 2)[:-1] for _ in range(4)]
    article = [sentence(rng, 12) for _ in range(4)]
    foot = sentence(rng, 5)
    body = (
        "<nav class=menu><ul>" + "".join(f"<li><a href=/{i}>{m}</a></li>" for i, m in enumerate(menu)) + "</ul></nav>"
    )
    body += (
        "<main><article>" + "".join(f"<p>{text}</p>" for text in article) + f"</article></main><footer>{foot}</footer>"
    )
    words = " ".join([*menu, *article, foot]).split()

    def judge(answer: Answer) -> str | None:
        (text,) = values(answer, 1)
        found = [] if text is None else [word for word in text.split() if word != "\u2022"]
        return None if found == words else "parts of the page that a reader sees are missing"

    return _case("menus", "menus and footers are text too", [page(body).encode()], judge)


def _encoded(rng: Rng, encoding: str) -> Case:
    sentences = [str(text) for text in rng.permutation(FOREIGN[encoding])[: int(rng.integers(2, 5))]]
    html = page("".join(f"<p>{text}</p>" for text in sentences)).encode(encoding)

    def judge(answer: Answer) -> str | None:
        (text,) = values(answer, 1)
        good = text is not None and all(part in text for part in sentences)
        return None if good else "bytes that are no UTF-8 are not decoded by what they look like"

    return _case(encoding, f"pages in {encoding}, which nothing declares", [html], judge)


def _utf8(rng: Rng, id: str, property: str, head: str) -> Case:
    words = [str(word) for word in rng.permutation(CAFE)]

    def judge(answer: Answer) -> str | None:
        found = values(answer, len(words))
        good = all(text is not None and word in text for text, word in zip(found, words, strict=True))
        return None if good else "a page in UTF-8 comes out garbled"

    return _case(id, property, [page(f"<p>{word}</p>", head).encode() for word in words], judge)


def _broken(rng: Rng) -> Case:
    """Nothing raises, and what can be read is read."""
    text = sentence(rng, 12)
    damaged = page(f"<p>{text}</p><p>X</p>").encode().replace(b"X", b"\x81\xfe\xff\x90")
    pages = [damaged, b"", b"\x00\x00", b"<", b"\xff\xfe\xfa<p>", b"<p>" * 2000, page(f"<p>{text}").encode()[:-20]]

    def judge(answer: Answer) -> str | None:
        found = values(answer, len(pages))
        return None if found[0] is not None and text in found[0] else "one bad byte loses the page"

    return _case("broken", "bad bytes, NULs, empty and cut pages raise nothing", pages, judge)
