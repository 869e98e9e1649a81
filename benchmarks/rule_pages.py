"""Pages on which quality rules disagree if they can: real prose and code of this machine, mixed with what crawls contain.

    pages(2000, seed=0)

Each page takes paragraphs of the documentation and sources in `real_text.py` and blends in, at rates drawn anew for
each page, menus, bullet lists, repeated lines and paragraphs, lines that break off, notices, numbers, symbols and
foreign letters. The rates are spread so that many pages come to lie near the thresholds of the rules.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import real_text

MENU = ["Home", "About us", "Contact", "Log in", "Register", "Sign up", "Search", "My account", "FAQ", "News", "Top 10",
        "View all", "Next page", "Read more...", "Share", "12 comments", "Add to cart", "Privacy Policy"]  # fmt: skip
NOTICES = ["This site uses cookies to improve your experience.", "Please enable JavaScript in your browser.",
           "Copyright 2024. All rights reserved.", "See our terms of use.", "Lorem ipsum dolor sit amet.",
           "function() { return 1; }", "Call us at (212) 555-0100!", "Version 3.10.2 is out now [1]."]  # fmt: skip
FOREIGN = [
    "\u00c9t\u00e9 \u00e0 la maison.",
    "Gr\u00f6\u00dfe und \u00dcbung.",
    "\u4f60\u597d\u3002",
    "\u20ac5.00 \u2013 \u00a320",
    "\u2026 and so on\u2026",
    "\u00abOui\u00bb, dit-il.",
    "It\u2019s 7pm \u2014 don\u2019t wait.",
]


def pages(count: int, *, seed: int) -> Iterator[str]:
    """Yield `count` pages of 0.2 to 12 kB."""
    rng = random.Random(seed)
    paragraphs = _paragraphs(min_total=count * 3000)
    prose = [paragraph for paragraph in paragraphs if _is_prose(paragraph)]
    for _ in range(count):
        yield _page(rng, paragraphs if rng.random() < 0.2 else prose)


def _is_prose(paragraph: str) -> bool:
    """Nearly all letters and spaces, more than a line."""
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return letters > 0.9 * len(paragraph) and len(paragraph) > 100 and not any(mark in paragraph for mark in "{}_=")


def _paragraphs(min_total: int) -> list[str]:
    found: list[str] = []
    total = 0
    for text in real_text._texts():
        for paragraph in text.split("\n\n"):
            if 20 < len(paragraph) < 2000:
                found.append(paragraph)
                total += len(paragraph)
        if total > min_total:
            break
    return found


def _page(rng: random.Random, paragraphs: list[str]) -> str:
    rate = {
        name: rng.choice((0,) * 8 + (0.05, 0.2, 0.5)) for name in
        ("menu", "notice", "foreign", "bullet", "cut", "repeat", "numbers", "symbols", "stutter", "join")
    }  # fmt: skip
    blocks: list[str] = []
    for _ in range(int(2 ** rng.uniform(0, 5.5))):
        block = rng.choice(paragraphs)
        if rng.random() < rate["join"] + 0.4:
            block = " ".join(block.split())
        if rng.random() < rate["bullet"]:
            block = "\n".join(rng.choice("-\u2022") + " " + line for line in block.split("\n"))
        if rng.random() < rate["cut"]:
            block = "\n".join(line + rng.choice(("...", "\u2026", "")) for line in block.split("\n"))
        if rng.random() < rate["numbers"]:
            block += " " + " ".join(str(rng.randrange(10 ** rng.randrange(1, 8))) for _ in range(rng.randrange(1, 60)))
        if rng.random() < rate["symbols"]:
            block += " ".join(rng.choice(("#", "...", "|", "{", "--", "http://a.example/x?y=1", "*")) for _ in range(9))
        if rng.random() < rate["stutter"]:
            words = block.split()[: rng.randrange(2, 30)]
            block = " ".join(words * rng.randrange(1, 8))
        blocks.append(block)
        for name, choices in (("menu", MENU), ("notice", NOTICES), ("foreign", FOREIGN)):
            while rng.random() < rate[name]:
                blocks.append("\n".join(rng.sample(choices, rng.randrange(1, len(choices)))))
        if rng.random() < rate["repeat"] / 4:
            blocks.append(rng.choice(blocks))
    return rng.choice(("\n", "\n\n")).join(blocks)
