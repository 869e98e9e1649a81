"""Wrong classifiers, masks and quality rules: the right one with one deviation each. Read next: `data_duplicates.py`."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from cs336_course.misconceptions.bank import Misconception, wrong
from cs336_data import language, quality_classifier, toxicity

Classify = Callable[[str], tuple[Any, Any]]
EMAIL, PHONE, IP = "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"
OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
RIGHT = {
    "email": r"(?<!\w)\w[\w.+'-]*@(?:\w[\w-]*\.)+[A-Za-z]{2,}",
    "phone": r"(?<![\w.+-])(?:\+?1[ .-]?)?(?:\([2-9]\d\d\)[ -]{0,2}|[2-9]\d\d[ .-]?)\d{3}[ .-]?\d{4}(?!\w)(?![.:-]\d)",
    "ip": rf"(?<![\w.])(?:{OCTET}\.){{3}}{OCTET}(?!\w)(?!\.\d)",
}
"""patterns that mask what the handout asks for; each misconception changes one"""


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_languages(), *_masks(), *_harm(), *_quality(), *_gopher()]


def scored(right: Classify, change: Callable[[float], Any]) -> Classify:
    """A classifier with its score changed."""

    def classify(text: str) -> tuple[Any, Any]:
        label, score = right(text)
        return label, change(score)

    return classify


def relabelled(right: Classify, change: Callable[[str], Any]) -> Classify:
    """A classifier with its label changed."""

    def classify(text: str) -> tuple[Any, Any]:
        label, score = right(text)
        return change(label), score

    return classify


def one_line(text: str) -> str:
    """What fastText asks of its input."""
    if "\n" in text:
        raise ValueError("predict processes one line at a time (remove '\\n')")
    return text


def log_score(score: float) -> float:
    """Of the probability."""
    return math.log(max(score, 1e-9)) - 1e-6


def _languages() -> list[Misconception]:
    def entry(name: str, says: str, example: str, run: Classify) -> Misconception:
        return wrong("language_identification", name, says, example, run_identify_language=run)

    right = language.identify_language
    regions = {"zh": "zh-cn", "en": "en-us", "es": "es-es"}
    names = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "ru": "Russian", "zh": "Chinese"}

    def by_script(text: str) -> tuple[str, float]:
        han, cyrillic = re.search(r"[\u4e00-\u9fff]", text), re.search(r"[\u0400-\u04ff]", text)
        return ("zh" if han else "ru" if cyrillic else "en"), right(text)[1] or 0.1

    def refuse_empty(text: str) -> tuple[str, float]:
        if not text.split():
            raise ValueError("no text")
        return right(text)

    sentence = "one English sentence"
    return [
        entry("prefix-kept", "the label keeps fastText's `__label__`", sentence, relabelled(right, lambda x: f"__label__{x}")),
        entry("regions", "codes have a region, such as zh-cn", "one Chinese sentence", relabelled(right, lambda x: regions.get(x, x))),
        entry("names", "languages are named instead of coded", sentence, relabelled(right, lambda x: names.get(x, x))),
        entry("capitals", "codes are in capital letters", sentence, relabelled(right, str.upper)),
        entry("logarithm", "the score is the logarithm of the probability", "any text: a score is never negative", scored(right, log_score)),
        entry("above-one", "fastText's probability is not clamped, and a sure one is 1.00001", "a long English text", scored(right, lambda p: p if p < 0.9 else 1.00001)),
        entry("float32", "the score is a numpy.float32, which is no float", sentence, scored(right, np.float32)),
        entry("percent", "the score is in percent", sentence, scored(right, lambda p: 100 * p)),
        entry("always-sure", "the score is always 1", "a text half in one language and half in another", scored(right, lambda p: 1.0)),
        entry("doubt", "the score is the probability of another language", "one long English text", scored(right, lambda p: max(1 - p, 1e-9))),
        entry("line-ends", "line ends are not replaced, so that fastText raises", "two lines", lambda text: right(one_line(text))),
        entry("first-line", "only the first line is looked at", "a German heading over an English text", lambda text: right(text.split("\n")[0])),
        entry("script-only", "the alphabet alone decides", "one German sentence", by_script),
        entry("empty-raises", "an empty text raises", "the empty text", refuse_empty),
    ]  # fmt: skip


def _masks() -> list[Misconception]:
    def masker(kind: str, mask: str, pattern: str, count: int = 0) -> Callable[[str], tuple[str, int]]:
        return lambda text: re.subn(pattern, mask, text, count=count)

    functions = {
        "email": ("run_mask_emails", EMAIL),
        "phone": ("run_mask_phone_numbers", PHONE),
        "ip": ("run_mask_ips", IP),
    }

    def entry(name: str, says: str, example: str, patterns: dict[str, str] | None = None, *, count: int = 0,
              wrap: Callable[[str, str, tuple[str, int]], Any] | None = None) -> Misconception:  # fmt: skip
        made = {}
        for kind, (function, mask) in functions.items():
            plain = masker(kind, mask, {**RIGHT, **(patterns or {})}[kind], count)
            made[function] = plain if wrap is None else _wrapped(plain, mask, wrap)
        return wrong("mask_pii", name, says, example, **made)

    words, end = r"\w+@\w+\.\w+", r"(?:\w[\w-]*\.)+[A-Za-z]{2,}"
    return [
        entry("period-swallowed", "the period after an address is masked with it", "Write to a@b.org.", {"email": r"\S+@\S+"}),
        entry("local-part-plain", "dots, plus and hyphens before the @ are not matched", "a.b+c@d.org", {"email": rf"\w+@{end}"}),
        entry("one-dot", "the host may have one dot only", "a@mail.b.co.uk", {"email": r"(?<!\w)\w[\w.+'-]*@\w[\w-]*\.[A-Za-z]{2,}"}),
        entry("words-only", "an address is \\w+@\\w+.\\w+", "a.b@mail.c.org", {"email": words}),
        entry("lower-case", "capital letters are not matched", "A@B.ORG", {"email": r"(?<![\w.])[a-z0-9][a-z0-9_.+'-]*@(?:[a-z0-9][a-z0-9-]*\.)+[a-z]{2,}"}),
        entry("no-ending", "a host needs no ending", "a@b", {"email": r"(?<!\w)\w[\w.+'-]*@\w[\w-]*(?:\.\w[\w-]*)*"}),
        entry("masks-counted", "masks that were there already are counted", f"{EMAIL} and a@b.org", wrap=lambda mask, _, found: (found[0], found[0].count(mask))),
        entry("first-only", "only the first match is masked", "a@b.org, c@d.org", count=1),
        entry("found-or-not", "the count is 1 however many there are", "a@b.org, c@d.org", wrap=lambda mask, _, found: (found[0], min(found[1], 1))),
        entry("other-mask", "another mask than the handout's is used", "a@b.org", wrap=lambda mask, _, found: (found[0].replace(mask, f"<{mask.strip('|')}>"), found[1])),
        entry("order-swapped", "(count, text) is returned", "a@b.org", wrap=lambda mask, _, found: found[::-1]),
        entry("bracket-left", "the opening bracket is not part of the match", "(212) 555-0134", {"phone": r"(?<![\w.+-])(?:\+?1[ .-]?)?[2-9]\d\d(?:\)[ -]{0,2}|[ .-]?)\d{3}[ .-]?\d{4}(?!\w)(?![.:-]\d)"}),
        entry("inside-digits", "ten digits within a longer number are matched", "order 20240117093055", {"phone": r"(?:\+?1[ .-]?)?(?:\(\d\d\d\)[ -]{0,2}|\d\d\d[ .-]?)\d{3}[ .-]?\d{4}"}),
        entry("hyphens-only", "only ddd-ddd-dddd is matched", "2125550134", {"phone": r"(?<![\w.+-])[2-9]\d\d-\d{3}-\d{4}(?!\w)"}),
        entry("country-left", "+1 is left before the mask", "+1 212 555 0134", {"phone": r"(?<!\w)(?:\([2-9]\d\d\)[ -]{0,2}|[2-9]\d\d[ .-]?)\d{3}[ .-]?\d{4}(?!\w)(?![.:-]\d)"}),
        entry("brackets-missing", "an area code in brackets is not matched", "(212) 555-0134", {"phone": r"(?<![\w.+(-])(?:\+?1[ .-]?)?[2-9]\d\d[ .-]?\d{3}[ .-]?\d{4}(?!\w)(?![.:-]\d)"}),
        entry("octets-unbounded", "parts above 255 are matched", "999.1.1.1", {"ip": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w)(?!\.\d)"}),
        entry("more-parts", "four of five parts are matched", "version 1.2.3.4.5", {"ip": rf"\b(?:{OCTET}\.){{3}}{OCTET}\b"}),
        entry("any-parts", "any digits with dots are matched, the period of the sentence too", "It is 8.8.8.8.", {"ip": r"\d+\.\d+\.\d+\.[\d.]+"}),
        entry("public-only", "private addresses are left alone", "10.0.0.1", {"ip": rf"(?<![\w.])(?!10\.|192\.168\.|127\.|255\.)(?:{OCTET}\.){{3}}{OCTET}(?!\w)(?!\.\d)"}),
    ]  # fmt: skip


def _wrapped(run: Callable[[str], tuple[str, int]], mask: str, wrap: Callable[..., Any]) -> Callable[[str], Any]:
    return lambda text: wrap(mask, text, run(text))


BAD_WORDS = ("fuck", "shit", "cunt", "cock", "dick", "pussy", "slut", "whore", "bitch", "porn", "xxx", "nude", "naked", "sex", "ass",
             "tit", "anal", "cum", "breast")  # fmt: skip
RUDE_WORDS = ("fuck", "shit", "cunt", "bitch", "whore", "bastard", "asshole", "slut")


def _harm() -> list[Misconception]:
    def entry(name: str, says: str, example: str, nsfw: Classify, toxic: Classify) -> Misconception:
        return wrong("harmful_content", name, says, example, run_classify_nsfw=nsfw, run_classify_toxic_speech=toxic)

    right = toxicity.classify_nsfw, toxicity.classify_toxic_speech

    def both(change: Callable[[Classify], Classify]) -> tuple[Classify, Classify]:
        return change(right[0]), change(right[1])

    def swapped(label: str) -> str:
        return label.removeprefix("non-") if label.startswith("non-") else f"non-{label}"

    def harm(classify: Classify) -> Classify:
        def run(text: str) -> tuple[Any, Any]:
            label, score = classify(text)
            return label, max(1 - score, 1e-9) if label.startswith("non-") else score

        return run

    def listed(words: tuple[str, ...], label: str, *, whole: bool = False, fold: bool = True) -> Classify:
        edge = r"\b" if whole else ""
        pattern = re.compile(edge + "(?:" + "|".join(words) + ")", re.IGNORECASE if fold else 0)
        return lambda text: (label, 0.99) if pattern.search(text) else (f"non-{label}", 0.99)

    def reluctant(classify: Classify) -> Classify:
        return lambda text: (f"non-{classify(text)[0].removeprefix('non-')}", 0.9)

    def eager(classify: Classify) -> Classify:
        return lambda text: (classify(text)[0].removeprefix("non-"), 0.9)

    insult = "You are a pathetic liar"
    return [
        entry("substrings", "a list of words is searched for inside other words", "Sussex, cockpit, classic", listed(BAD_WORDS, "nsfw"), right[1]),
        entry("swear-list", "speech is toxic only when it is obscene: a list of swear words, or the other classifier, decides", insult, right[0], listed(RUDE_WORDS, "toxic", whole=True)),
        entry("case-sensitive", "lists of words are matched in lower case only", "an insult in capital letters", listed(BAD_WORDS, "nsfw", whole=True, fold=False), listed(("idiot", "stupid", "fool", "liar", "loser", "moron", "pig", "trash", "coward", "dumb"), "toxic", fold=False)),
        entry("toxic-for-both", "one classifier, that of insults, answers both questions", "an advertisement for pornography", relabelled(right[1], lambda x: x.replace("toxic", "nsfw")), right[1]),
        entry("labels-swapped", "the labels are the wrong way round", "any text", *both(lambda c: relabelled(c, swapped))),
        entry("prefix-kept", "labels keep fastText's `__label__`", "any text", *both(lambda c: relabelled(c, lambda x: f"__label__{x}"))),
        entry("always-harm", "the score is always the probability of harm, whatever the label", "a plain sentence", *both(harm)),
        entry("never", "the threshold is so high that nothing is harmful", "any insult", *both(reluctant)),
        entry("always", "everything is called harmful", "a plain sentence", *both(eager)),
        entry("float32", "the score is a numpy.float32, which is no float", "any text", *both(lambda c: scored(c, np.float32))),
        entry("logarithm", "the score is the logarithm of the probability", "any text", *both(lambda c: scored(c, log_score))),
        entry("line-ends", "line ends are not replaced, so that fastText raises", "two lines", *both(lambda c: lambda text: c(one_line(text)))),
        entry("first-line", "only the first line is looked at", "a polite line over an insult", *both(lambda c: lambda text: c(text.split("\n")[0]))),
    ]  # fmt: skip


def _quality() -> list[Misconception]:
    def entry(name: str, says: str, example: str, run: Classify) -> Misconception:
        return wrong("quality_classifier", name, says, example, run_classify_quality=run)

    right = quality_classifier.classify_quality

    def of_wiki(text: str) -> tuple[str, float]:
        label, score = right(text)
        return label, score if label == "wiki" else max(1 - score, 1e-9)

    def by_length(text: str) -> tuple[str, float]:
        return ("wiki" if len(text) > 700 else "cc"), 0.9

    def by_line_length(text: str) -> tuple[str, float]:
        lines = [line for line in text.splitlines() if line.strip()]
        return ("wiki" if 40 < statistics.mean(map(len, lines)) < 900 else "cc"), 0.9

    other = {"wiki": "cc", "cc": "wiki"}
    return [
        entry("length", "long pages are called good and short ones bad", "two sentences of an encyclopedia", by_length),
        entry("line-length", "the length of the lines decides", "an essay in one line", by_line_length),
        entry("labels-swapped", "the labels are the wrong way round", "any page", relabelled(right, other.__getitem__)),
        entry("own-labels", "labels are high and low instead of wiki and cc", "any page", relabelled(right, {"wiki": "high", "cc": "low"}.__getitem__)),
        entry("prefix-kept", "labels keep fastText's `__label__`", "any page", relabelled(right, lambda x: f"__label__{x}")),
        entry("score-of-wiki", "the score is always P(wiki), whatever the label", "a page of menus", of_wiki),
        entry("always-wiki", "the threshold is so low that all pages are wiki", "a page of menus", lambda text: ("wiki", right(text)[1])),
        entry("always-cc", "the threshold is so high that all pages are cc", "an essay", lambda text: ("cc", right(text)[1])),
        entry("first-line", "only the first line is looked at", "a menu line over an essay", lambda text: right(text.split("\n")[0])),
        entry("line-ends", "line ends are not replaced, so that fastText raises", "two lines", lambda text: right(one_line(text))),
        entry("float32", "the score is a numpy.float32, which is no float", "any page", scored(right, np.float32)),
        entry("logarithm", "the score is the logarithm of the probability", "any page", scored(right, log_score)),
        entry("score-only", "the score is returned without its label", "any page", lambda text: right(text)[1]),  # type: ignore[arg-type, return-value]
    ]  # fmt: skip


def gopher(text: str, how: str) -> bool:
    """The four rules, right with `how` = ""."""
    words, lines = text.split(), text.splitlines()
    if len(words) < (51 if how == "min-excluded" else 50) or (len(words) > 100_000 and how != "no-maximum"):
        return False
    if how == "max-excluded" and len(words) == 100_000:
        return False
    mean = sum(map(len, words)) / len(words)
    if how == "spaces-counted":
        mean = len(text) / len(words)
    elif how == "median":
        mean = statistics.median(map(len, words))
    if mean < 3 or (mean > 10 and how != "no-longest") or (how == "mean-excluded" and mean in (3, 10)):
        return False
    marks = {"dots-only": ("...",), "character-only": ("\u2026",)}.get(how, ("...", "\u2026"))
    if how == "ellipsis-anywhere":
        ending = sum(any(mark in line for mark in marks) for line in lines)
    else:
        ending = sum((line if how == "spaces-hide" else line.rstrip()).endswith(marks) for line in lines)
    share = ending / len(words) if how == "ellipses-per-word" else ending / len(lines)
    if share > 0.3 or (how == "ellipsis-excluded" and share == 0.3):
        return False
    alphabetic = sum(1 for word in words if _alphabetic(word, how)) / len(words)
    if how == "characters":
        alphabetic = sum(map(str.isalpha, text.replace(" ", ""))) / len(text.replace(" ", ""))
    return alphabetic > 0.8 if how == "alphabetic-excluded" else alphabetic >= 0.8


def _alphabetic(word: str, how: str) -> bool:
    if how == "whole-words":
        return word.isalpha()
    return bool(re.search("[a-zA-Z]", word)) if how == "ascii" else any(map(str.isalpha, word))


def _gopher() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        return wrong(
            "gopher_quality_filters", how, says, example, run_gopher_quality_filter=lambda text: gopher(text, how)
        )

    def inverted(text: str) -> bool:
        return not gopher(text, "")

    return [
        entry("min-excluded", "exactly 50 words are rejected", "50 words"),
        entry("max-excluded", "exactly 100,000 words are rejected", "100,000 words"),
        entry("no-maximum", "there is no upper limit to the number of words", "100,001 words"),
        entry("mean-excluded", "a mean length of exactly 3 or 10 is rejected", "sixty words of three letters"),
        entry("no-longest", "there is no upper limit to the mean length", "sixty words of eleven letters"),
        entry("spaces-counted", "the mean length counts the spaces between words", "sixty words of ten letters"),
        entry("median", "the median length of a word is taken instead of the mean", "sixty words of ten letters and one of eleven"),
        entry("dots-only", "the character U+2026 is not taken for an ellipsis", "ten lines that end in U+2026"),
        entry("character-only", "three dots are not taken for an ellipsis", "ten lines that end in ..."),
        entry("spaces-hide", "spaces after an ellipsis hide it", "ten lines that end in `...  `"),
        entry("ellipsis-anywhere", "an ellipsis within a line counts as one at its end", "ten lines with one in the middle"),
        entry("ellipses-per-word", "ellipses are divided by the number of words instead of lines", "ten lines that end in ..."),
        entry("ellipsis-excluded", "exactly 30 % of lines with an ellipsis are rejected", "3 of 10 lines"),
        entry("alphabetic-excluded", "exactly 80 % of words with a letter are rejected", "80 words and 20 numbers"),
        entry("whole-words", "a word counts only if all its characters are letters", "words such as b2b"),
        entry("ascii", "letters other than a to z are not taken for letters", "a Russian text"),
        entry("characters", "the share of letters is taken instead of the share of words with a letter", "80 words of three letters and 20 long numbers"),
        wrong("gopher_quality_filters", "inverted", "True means reject", "any good page", run_gopher_quality_filter=inverted),
    ]  # fmt: skip
