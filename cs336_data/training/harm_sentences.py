"""Sentences with known labels for training the harm classifiers, made from `harm_words.toml`.

    sentences(3, seed=0)  ->  [HarmSentence("This Fucking printer is broken again", nsfw=True, toxic=False), ...]

A label belongs to a frame, not to a word, so that the same words occur on both sides: swearing at a printer is obscene
and not toxic, "you stupid fool" is toxic and not obscene, a report of an insult, a clinical term or a place called
Scunthorpe is neither. Vulgar words are hidden at random as people hide them (f*ck, sh1t, a$$, f u c k). The list and
the frames were written for this project; see the data card beside the models. Every fifth frame is kept for validation,
so that thresholds and calibration are fitted on wordings that training has not seen.

Left out: slurs, other languages, irony. Read next: `cs336_data/classifiers/hashed_ngrams.py`.
"""

from __future__ import annotations

import random
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from cs336_basics.corpora.stdlib_source import stdlib_files

WORDS_FILE = Path(__file__).with_name("harm_words.toml")
KINDS = {  # list of frames: (share of the sentences, nsfw, toxic)
    "clean": (0.42, False, False),
    "toxic_clean": (0.22, False, True),
    "toxic_vulgar": (0.14, True, True),
    "obscene_untargeted": (0.12, True, False),
    "sexual": (0.10, True, False),
}
VULGAR = re.compile(
    r"\b\w*(?:fuck|shit|bitch|cunt|dick|cock|pussy|slut|whore|bastard|prick|wank|twat|porn|nude|sex)\w*\b"
    r"|\b(?:dumb|jack|fat)?ass(?:es|holes?|hat)?\b|\barse\w*",
    re.IGNORECASE,
)
_SLOT = re.compile(r"\{(\w+)\}")
_LEET = {"a": "@4", "e": "3", "i": "1!", "o": "0", "s": "$5", "u": "*v", "t": "7"}


@dataclass(frozen=True, slots=True)
class HarmSentence:
    """A text and what it is."""

    text: str
    nsfw: bool
    toxic: bool


def sentences(count: int, *, seed: int, validation: bool = False) -> list[HarmSentence]:
    """Make sentences.

    Args:
        count: how many.
        seed: same seed, same sentences.
        validation: use the frames kept back instead of the others.
    """
    table = tomllib.loads(WORDS_FILE.read_text(encoding="utf-8"))
    words, rng = table["words"], random.Random(f"harm {seed} {validation}")
    frames = {
        kind: [frame for number, frame in enumerate(table["frames"][kind]) if (number % 5 == 4) == validation]
        for kind in KINDS
    }
    kinds, shares = list(KINDS), [share for share, _, _ in KINDS.values()]
    made: list[HarmSentence] = []
    for kind in rng.choices(kinds, shares, k=count):
        text = _fill(rng.choice(frames[kind]), words, rng)
        if rng.random() < 0.3:  # harm hides among harmless sentences
            other = _fill(rng.choice(frames["clean"]), words, rng)
            text = f"{text}. {other}" if rng.random() < 0.5 else f"{other}. {text}"
        made.append(HarmSentence(_dress(text, rng), KINDS[kind][1], KINDS[kind][2]))
    return made


def library_texts(count: int, *, seed: int, validation: bool = False) -> list[HarmSentence]:
    """Pieces of 60 to 160 characters of the Python library's code, comments and documentation, taken to be harmless.

    Without them the models, which know only sentences, are sure that strange text is harmful. Every fifth file is kept for
    validation. The text depends on the Python version.

    Args:
        count: how many.
        seed: of the choice.
        validation: use the files kept back instead of the others.
    """
    rng = random.Random(f"library {seed} {validation}")
    files = [path for number, path in enumerate(stdlib_files()) if (number % 5 == 4) == validation]
    made: list[HarmSentence] = []
    while len(made) < count:
        text = rng.choice(files).read_text(encoding="utf-8")
        for _ in range(5):  # of each file
            start = text.rfind("\n", 0, rng.randrange(len(text))) + 1
            end = text.find("\n", start + rng.randrange(60, 160))
            piece = text[start : end if end > 0 else len(text)].strip()
            if piece and not VULGAR.search(piece):
                made.append(HarmSentence(piece[:300], nsfw=False, toxic=False))
    return made[:count]


def _fill(frame: str, words: dict[str, list[str]], rng: random.Random) -> str:
    """Put words into the slots of a frame."""

    def word(match: re.Match[str]) -> str:
        name = match[1]
        if name == "a_bad_insult":
            noun = rng.choice(words["insult"])
            adjective = rng.choice([*words["bad"], *words["strong"]]) if rng.random() < 0.5 else ""
            phrase = f"{adjective} {noun}".strip()
            return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
        if name == "person_are":
            subject = rng.choice(words["person"]) if rng.random() < 0.6 else "you"
            return f"{subject} {'are' if subject.startswith('you') or subject in ('they', 'your friends') else 'is'}"
        if name == "source_noun":
            return rng.choice(words["source"]).split()[-1]
        return rng.choice(words[name])

    while _SLOT.search(frame):
        frame = _SLOT.sub(word, frame)
    return frame


def _dress(text: str, rng: random.Random) -> str:
    """Hide vulgar words, choose capitals and the mark at the end."""
    if rng.random() < 0.4:
        text = VULGAR.sub(lambda match: _hide(match[0], rng), text)
    style = rng.random()
    if style < 0.12:
        text = text.upper()
    elif style < 0.65:
        text = text[:1].upper() + text[1:]
    return text + rng.choice(("", "", ".", ".", ".", "!", "!!!", "?", " ...", " :)", " lol"))


def _hide(word: str, rng: random.Random) -> str:
    """Write a word so that a list of words does not find it."""
    inner = [i for i in range(1, len(word) - 1) if word[i].isalpha()] or [0]
    vowels = [i for i in inner if word[i].lower() in "aeiou"] or inner
    way = rng.randrange(6)
    letters = list(word)
    if way <= 1:  # f*ck
        letters[rng.choice(vowels)] = "*"
    elif way == 2:  # f***
        for i in inner:
            letters[i] = "*"
    elif way == 3:  # sh1t
        swappable = [i for i, letter in enumerate(word) if letter.lower() in _LEET]
        for i in swappable[:2]:
            letters[i] = rng.choice(_LEET[word[i].lower()])
    elif way == 4:  # f u c k
        return rng.choice(" .-").join(letters)
    else:  # fuuuck
        letters[rng.choice(vowels)] *= rng.randrange(2, 6)
    return "".join(letters)
