"""Generated pages: what a crawl holds besides documents, in known amounts.

    boilerplate   menus, baskets, forum chrome: lines that no one wrote for reading
    spam          one product's name over and over
    adult         pages that advertise pornography
    hostile       a thread of insults
    foreign       short reports in eight other languages, in encodings of their own

The texts are in `page_texts.toml`; a page is a shuffled selection of them. They are easier to tell apart than what is
in a real crawl, so a stage that fails here is broken, and one that passes is not yet proven. Read next: `crawl.py`.
"""

from __future__ import annotations

import html
import random
import re
import tomllib
from collections.abc import Callable
from importlib import resources
from typing import Any

Texts = dict[str, Any]
_SLOT = re.compile(r"\{(place|name|number|word|product|email|phone|ip)\}")
_WORDS = ("alpha", "delta", "nova", "orbit", "pixel", "turbo", "vista", "zen", "lumen", "cobalt", "ember", "fjord")


def read_texts() -> Texts:
    """The texts the pages are made of."""
    return tomllib.loads(resources.files(__package__).joinpath("page_texts.toml").read_text(encoding="utf-8"))


def fill(template: str, texts: Texts, rng: random.Random, **given: str) -> str:
    """Fill the slots of a sentence, each one anew."""
    draw: dict[str, Callable[[], str]] = {
        "place": lambda: rng.choice(texts["places"]),
        "name": lambda: rng.choice(texts["names"]),
        "number": lambda: str(rng.randint(2, 950)),
        "word": lambda: rng.choice(_WORDS),
    }
    return _SLOT.sub(lambda match: given.get(match[1]) or draw[match[1]](), template)


def boilerplate_body(texts: Texts, rng: random.Random) -> str:
    """A page of menus and short lines."""
    parts = texts["boilerplate"]
    menu = rng.sample(parts["menu"], rng.randint(8, len(parts["menu"])))
    lines = [fill(rng.choice(parts["lines"]), texts, rng) for _ in range(rng.randint(15, 60))]
    items = "".join(f'<li><a href="/{item.lower()}">{item}</a></li>' for item in menu)
    return f"<ul>{items}</ul>" + "".join(f"<div>{html.escape(line)}</div>" for line in lines)


def spam_body(texts: Texts, rng: random.Random) -> str:
    """One product, praised without end."""
    product = rng.choice(texts["spam"]["products"])
    phrases = [fill(rng.choice(texts["spam"]["phrases"]), texts, rng, product=product) for _ in range(150)]
    blocks = [", ".join(phrases[i : i + 15]) for i in range(0, len(phrases), 15)]
    return f"<h1>{product}</h1>" + "".join(f"<p>{html.escape(block)}</p>" for block in blocks)


def adult_body(texts: Texts, rng: random.Random) -> str:
    """Advertisement of pornography: sentences between lists of clips."""
    sentences = [fill(rng.choice(texts["adult"]["sentences"]), texts, rng) for _ in range(8)]
    clips = [fill(rng.choice(texts["adult"]["phrases"]), texts, rng) for _ in range(25)]
    return f"<p>{html.escape(' '.join(sentences))}</p>" + "".join(f"<p>{html.escape(clip)}</p>" for clip in clips)


def hostile_body(texts: Texts, rng: random.Random) -> str:
    """A thread in which people insult each other."""
    posts = [
        " ".join(fill(line, texts, rng) for line in rng.sample(texts["hostile"]["sentences"], 3)) for _ in range(6)
    ]
    return "".join(f"<h4>{rng.choice(texts['names'])} wrote</h4><p>{html.escape(post)}</p>" for post in posts)


def foreign_body(texts: Texts, rng: random.Random, language: str) -> str:
    """A report in another language."""
    sentences = texts["languages"][language]["sentences"]
    paragraphs = [
        " ".join(fill(line, texts, rng) for line in rng.sample(sentences, len(sentences) - 2)) for _ in range(2)
    ]
    return "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)


def site_page(title: str, body: str, texts: Texts, rng: random.Random, *, language: str, charset: str | None) -> str:
    """A page around a body: head, menu, footer, as every site repeats them.

    Args:
        charset: what the page says of its encoding; None for nothing.
    """
    menu = " | ".join(f'<a href="/{item}">{item}</a>' for item in rng.sample(texts["boilerplate"]["menu"], 7))
    declared = f'<meta charset="{charset}">' if charset else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{language}">\n<head>{declared}<title>{html.escape(title)}</title>'
        "<style>body { margin: 0 }</style><script>var tracker = {page: 1};</script></head>\n"
        f"<body>\n<nav>{menu}</nav>\n<main>\n{body}\n</main>\n"
        f"<footer>Copyright {rng.randint(2001, 2024)} {rng.choice(texts['places'])} Press. All rights reserved. "
        "Terms of use | Privacy policy</footer>\n</body>\n</html>\n"
    )
