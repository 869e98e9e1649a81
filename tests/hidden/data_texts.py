"""Assignment 4, what is decided about a text: language, personal data, harm, quality, Gopher's rules.

Classifiers differ between right solutions, so they are asked about clear cases only, a few of which they may miss, and a
diagnosis compares labels and kinds of scores, never scores.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case

from . import texts
from .data_sentences import CLEAN, INNOCENT, INSULTS, LANGUAGES, OBSCENE, PORN, chrome, pick, prose

Rng = np.random.Generator
EMAIL, PHONE, IP = "|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"


def values(answer: Answer, count: int) -> list[Any]:
    """One value per item."""
    found = answer.get("values")
    if type(found) is not list or len(found) != count:
        raise BadAnswer("another number of answers")
    return found


def pairs(answer: Answer, count: int) -> list[tuple[str, float]]:
    """(label, score) per item, of the right types and range."""
    found = values(answer, count)
    for row in found:
        if type(row) is not list or len(row) != 2 or type(row[0]) is not str:
            raise BadAnswer("an answer must be (label, score) with the label a str")
        if type(row[1]) is not float:
            kind = row[1].strip("<>") if type(row[1]) is str else type(row[1]).__name__
            raise BadAnswer(f"the score must be a float; got {kind[:20]}")
    return [(label, score) for label, score in found]


def kinds(answer: Answer) -> Any:
    """What diagnosis compares: labels, and where scores lie."""

    def kind(score: Any) -> str:
        if type(score) is not float:
            return str(score)
        return "negative" if score < 0 else "0" if score == 0 else "low" if score < 0.5 else "high" if score < 1 else "1" if score == 1 else "above 1"  # fmt: skip

    rows = answer.get("values")
    if type(rows) is not list or not all(type(row) is list and len(row) == 2 for row in rows):
        return rows
    return [[label, kind(score)] for label, score in rows]


def classifier(id: str, property: str, function: str, items: list[tuple[str, str]], *, labels: tuple[str, ...] = (),
               missable: int = 0, own: bool = True) -> Case:  # fmt: skip
    """A case of clear texts with their labels; `own`: the score is the probability of the label that is returned."""

    def judge(answer: Answer) -> str | None:
        found = pairs(answer, len(items))
        if labels and not {label for label, _ in found} <= set(labels):
            return f"labels must be {' or '.join(map(repr, labels))}"
        if not all(0 < score <= 1 for _, score in found):
            return "scores must lie between 0 and 1"
        right = [score for (label, score), (_, expected) in zip(found, items, strict=True) if label == expected]
        if len(right) < len(items) - missable:
            return f"{len(items) - len(right)} of {len(items)} clear texts have the wrong label"
        low = sum(score < 0.5 for score in right)
        return (
            "the score is not the probability of the label that is returned" if own and 2 * low > len(right) else None
        )

    return Case(id, property, "each", {"function": function, "items": [[text] for text, _ in items]}, judge, kinds)


def language_identification(rng: Rng) -> list[Case]:
    def say(language: str, count: int, between: str = " ") -> str:
        return between.join(pick(rng, LANGUAGES[language], count))

    def case(id: str, property: str, items: list[tuple[str, str]]) -> Case:
        return classifier(id, property, "run_identify_language", items, own=False)

    heads = [(say("de", 1) + "\n" + say("en", 6, "\n"), "en"), (say("en", 1) + "\n" + say("fr", 6, "\n"), "fr")]
    return [
        case("labels", "two-letter codes of clear texts", [(say(name, 3), name) for name in LANGUAGES]),
        case("short", "one sentence is enough", [(say(name, 1), name) for name in ("en", "de", "ru", "zh")]),
        case("lines", "line ends are spaces", [(say(name, 4, "\n"), name) for name in ("en", "es", "zh")]),
        case("heading", "the whole text counts, not its first line", heads),
        _confidence(rng),
        _no_letters(),
    ]


def _confidence(rng: Rng) -> Case:
    """A text of one language is surer than a text of three."""
    pure = " ".join(pick(rng, LANGUAGES["en"], 6))
    mixed = " ".join(part for name in ("en", "de", "fr") for part in pick(rng, LANGUAGES[name], 2))

    def judge(answer: Answer) -> str | None:
        (_, sure), (_, unsure) = pairs(answer, 2)
        if not (0 < sure <= 1 and 0 < unsure <= 1):
            return "scores must lie between 0 and 1"
        return None if unsure < sure else "a text in three languages gets no lower score than one in English"

    def compared(answer: Answer) -> Any:
        rows = kinds(answer)
        try:
            return [rows, answer["values"][1][1] < answer["values"][0][1]]
        except (TypeError, LookupError):
            return rows

    inputs = {"function": "run_identify_language", "items": [[pure], [mixed]]}
    return Case("confidence", "the score says how sure one can be", "each", inputs, judge, compared)


def _no_letters() -> Case:
    """Whatever is said of them, nothing raises."""
    items = ["", "\n\n", "3 + 4 = 7", "...", "\u2603\u2603"]

    def judge(answer: Answer) -> str | None:
        good = all(0 <= score <= 1 for _, score in pairs(answer, len(items)))
        return None if good else "scores must lie between 0 and 1"

    inputs = {"function": "run_identify_language", "items": [[text] for text in items]}
    return Case("no-letters", "empty and letterless texts raise nothing", "each", inputs, judge, kinds)


def mask_pii(rng: Rng) -> list[Case]:
    return [*_emails(rng), *_phones(rng), *_ips(rng)]


def _masking(id: str, property: str, function: str, items: list[tuple[str, str, int]]) -> Case:
    """A case of texts with what they become and how often something was masked."""

    def judge(answer: Answer) -> str | None:
        found = values(answer, len(items))
        if not all(
            type(row) is list and len(row) == 2 and type(row[0]) is str and type(row[1]) is int for row in found
        ):
            raise BadAnswer("an answer must be (text, count)")
        if any(row[0] != text for row, (_, text, _) in zip(found, items, strict=True)):
            return "a text is not masked as it should be"
        return "the number of masks is wrong" if [row[1] for row in found] != [count for *_, count in items] else None

    return Case(id, property, "each", {"function": function, "items": [[text] for text, *_ in items]}, judge)


def _word(rng: Rng) -> str:
    return str(rng.choice([word for word in texts.vocabulary(600) if word.isalpha() and len(word) > 3]))


def _emails(rng: Rng) -> list[Case]:
    def case(id: str, property: str, *items: tuple[str, str, int]) -> Case:
        return _masking(f"email-{id}", property, "run_mask_emails", list(items))

    def plain() -> str:
        return f"{_word(rng)}{rng.integers(10)}@{_word(rng)}.{rng.choice(['com', 'org', 'net', 'edu'])}"

    local = [
        f"{_word(rng)}.{_word(rng)}",
        f"{_word(rng)}+{_word(rng)}",
        f"{_word(rng)}_{rng.integers(99)}",
        f"{_word(rng)}-{_word(rng)}",
    ]
    hosts = [f"mail.{_word(rng)}.co.uk", f"{_word(rng)}-{_word(rng)}.org", f"cs.{_word(rng)}.edu"]
    return [
        case("sentence", "the period of the sentence stays", (f"Write to {plain()}.", f"Write to {EMAIL}.", 1),
             (f"Is it {plain()}? Yes.", f"Is it {EMAIL}? Yes.", 1)),
        case("several", "all of them, with what stands between", (f"{plain()}, {plain()}; {plain()}", f"{EMAIL}, {EMAIL}; {EMAIL}", 3),
             (plain(), EMAIL, 1)),
        case("local", "dots, plus, underscore and hyphen before the @", *((f"to {name}@{_word(rng)}.com now", f"to {EMAIL} now", 1) for name in local)),
        case("host", "subdomains, hyphens and long endings after it", *((f"to {_word(rng)}@{host} now", f"to {EMAIL} now", 1) for host in hosts)),
        case("capitals", "capital letters", (f"to {plain().upper()} now", f"to {EMAIL} now", 1)),
        case("masked", "masks that are there already stay and are not counted", (f"{EMAIL} and {plain()}", f"{EMAIL} and {EMAIL}", 1)),
        case("others", "no address, no mask", *((text, text, 0) for text in (f"@{_word(rng)} said so", "5 @ $3 each", f"{_word(rng)}@{_word(rng)} is no host"))),
    ]  # fmt: skip


def _digits(rng: Rng, count: int) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, size=count))


def _phones(rng: Rng) -> list[Case]:
    def case(id: str, property: str, *items: tuple[str, str, int]) -> Case:
        return _masking(f"phone-{id}", property, "run_mask_phone_numbers", list(items))

    def number(form: str) -> str:
        return form.format(
            f"{rng.integers(2, 10)}{_digits(rng, 2)}", f"{rng.integers(2, 10)}{_digits(rng, 2)}", _digits(rng, 4)
        )

    def shown(form: str) -> tuple[str, str, int]:
        before, after = _word(rng), _word(rng)
        return f"{before} {number(form)}, {after}", f"{before} {PHONE}, {after}", 1

    first, second = number("{}-{}-{}"), number("({}) {}-{}")
    kept = [f"order {rng.integers(1, 9)}{_digits(rng, 13)}", f"on 20{rng.integers(10, 25)}-0{rng.integers(1, 9)}-1{rng.integers(10)}",
            f"a ratio of 3.{_digits(rng, 10)}", f"at 1{rng.integers(10)}:2{rng.integers(10)}:3{rng.integers(10)}"]  # fmt: skip
    return [
        case("bare", "ten digits in a row", shown("{}{}{}")),
        case("hyphens", "ddd-ddd-dddd", shown("{}-{}-{}")),
        case("dots", "ddd.ddd.dddd and ddd ddd dddd", shown("{}.{}.{}"), shown("{} {} {}")),
        case("brackets", "the bracket is part of the number", shown("({}) {}-{}"), shown("({})-{}-{}"), shown("({}) {} {}")),
        case("country", "+1 before it is part of the number", shown("+1 {} {} {}"), shown("+1-{}-{}-{}")),
        case("several", "all of them, and the period stays", (f"{first} or {second}.", f"{PHONE} or {PHONE}.", 2)),
        case("others", "long numbers, dates, times and fractions are no telephone numbers", *((text, text, 0) for text in kept)),
    ]  # fmt: skip


def _ips(rng: Rng) -> list[Case]:
    def case(id: str, property: str, *items: tuple[str, str, int]) -> Case:
        return _masking(f"ip-{id}", property, "run_mask_ips", list(items))

    def address() -> str:
        return ".".join(str(octet) for octet in rng.integers(1, 256, size=4))

    private = [
        f"10.{rng.integers(256)}.0.{rng.integers(1, 256)}",
        f"192.168.{rng.integers(256)}.1",
        "127.0.0.1",
        "255.255.255.0",
    ]
    large = [f"{rng.integers(256, 1000)}.4.5.6", f"4.5.6.{rng.integers(256, 1000)}", f"4.{rng.integers(256, 1000)}.5.6"]
    return [
        case("sentence", "the period of the sentence stays", (f"It is {address()}.", f"It is {IP}.", 1)),
        case("several", "all of them", (f"{address()} to {address()}, {address()}", f"{IP} to {IP}, {IP}", 3)),
        case("private", "private and special addresses too", *((f"at {one} now", f"at {IP} now", 1) for one in private)),
        case("octets", "each part is at most 255", *((f"at {one} now", f"at {one} now", 0) for one in large)),
        case("parts", "exactly four parts", *((text, text, 0) for text in ("version 4.8.15", "version 4.8.15.16.23"))),
    ]  # fmt: skip


def harmful_content(rng: Rng) -> list[Case]:
    def nsfw(id: str, property: str, found: list[str], label: str, missable: int) -> Case:
        items = [(text, label) for text in found]
        return classifier(id, property, "run_classify_nsfw", items, labels=("nsfw", "non-nsfw"), missable=missable)

    def toxic(id: str, property: str, found: list[str], label: str, missable: int) -> Case:
        items = [(text, label) for text in found]
        return classifier(
            id, property, "run_classify_toxic_speech", items, labels=("toxic", "non-toxic"), missable=missable
        )

    clean, shouted = pick(rng, CLEAN, 8), [text.upper() for text in pick(rng, OBSCENE, 3)]
    return [
        nsfw("obscene", "obscene insults are nsfw", pick(rng, OBSCENE, 4), "nsfw", 1),
        nsfw("pornography", "advertisements for pornography are nsfw", PORN, "nsfw", 2),
        nsfw("obscene-capitals", "in capitals too", shouted, "nsfw", 1),
        nsfw("clean", "plain sentences are not", clean, "non-nsfw", 1),
        nsfw("innocent", "nor are words that hold others", pick(rng, INNOCENT, 7), "non-nsfw", 2),
        nsfw("lines", "the whole text counts, over line ends", ["\n".join([clean[0], *pick(rng, OBSCENE, 3)])], "nsfw", 0),
        toxic("insults", "insults without a swear word are toxic", pick(rng, INSULTS, 7), "toxic", 2),
        toxic("insults-capitals", "in capitals too", [t.upper() for t in pick(rng, INSULTS, 3)], "toxic", 1),
        toxic("polite", "plain sentences are not", pick(rng, CLEAN, 8), "non-toxic", 1),
        toxic("insult-lines", "the whole text counts, over line ends", ["\n".join([clean[1], *pick(rng, INSULTS, 3)])], "toxic", 0),
    ]  # fmt: skip


def quality_classifier(rng: Rng) -> list[Case]:
    def case(id: str, property: str, items: list[tuple[str, str]], missable: int = 1) -> Case:
        return classifier(id, property, "run_classify_quality", items, labels=("wiki", "cc"), missable=missable)

    essays = [prose(rng, int(rng.integers(2, 6))) for _ in range(5)]
    pages = [chrome(rng, int(rng.integers(12, 40))) for _ in range(5)]
    return [
        case("essays", "prose of an encyclopedia is wiki", [(text, "wiki") for text in essays]),
        case("pages", "menus, buttons and notices are cc", [(text, "cc") for text in pages]),
        case("short-essays", "also a short one", [(prose(rng, 1, 3), "wiki") for _ in range(3)]),
        case("long-pages", "also many of them", [(chrome(rng, 150), "cc") for _ in range(3)]),
        case("heading", "the whole page counts, not its first lines", [(chrome(rng, 2) + "\n\n" + prose(rng, 6), "wiki") for _ in range(3)]),
        case("one-line", "the words count, not only the line ends", [(prose(rng, 3).replace("\n\n", " "), "wiki") for _ in range(3)]),
    ]  # fmt: skip


def gopher_quality_filters(rng: Rng) -> list[Case]:
    def case(id: str, property: str, items: list[tuple[str, bool]]) -> Case:
        def judge(answer: Answer) -> str | None:
            found = values(answer, len(items))
            if any(type(keep) is not bool for keep in found):
                raise BadAnswer("the answer must be True (keep) or False")
            wrong = [keep for keep, (_, expected) in zip(found, items, strict=True) if keep != expected]
            return f"a text is {'kept' if wrong[0] else 'rejected'} wrongly" if wrong else None

        inputs = {"function": "run_gopher_quality_filter", "items": [[text] for text, _ in items]}
        return Case(id, property, "each", inputs, judge)

    def ellipses(count: int, mark: str, after: str = "") -> str:
        lines = [page(rng, 14, 70) for _ in range(10)]
        return "\n".join(line + (mark + after if i < count else ".") for i, line in enumerate(lines))

    def numbers(count: int) -> str:
        words = page(rng, 200 - count, 5 * (200 - count)).split() + [_digits(rng, 9) for _ in range(count)]
        return " ".join(str(word) for word in rng.permutation(words))

    mixed = " ".join(word if i % 3 else f"{word[:3]}{i % 10}ela" for i, word in enumerate(page(rng, 120, 600).split()))
    russian = " ".join([*pick(rng, LANGUAGES["ru"], 6), *pick(rng, LANGUAGES["ru"], 6), page(rng, 8, 40)])
    inside = "\n".join(f"{page(rng, 7, 35)}... {page(rng, 7, 35)}." for _ in range(10))
    return [
        case("few-words", "50 words are enough, 49 are not", [(page(rng, 50, 250), True), (page(rng, 49, 245), False)]),
        case("many-words", "100,000 words are not too many, 100,001 are", [(page(rng, 100_000, 300_000), True), (page(rng, 100_001, 300_003), False)]),
        case("short-words", "a mean length of 3 is kept, less is not", [(page(rng, 80, 240), True), (page(rng, 80, 239), False)]),
        case("long-words", "a mean length of 10 is kept, more is not", [(page(rng, 80, 800), True), (page(rng, 80, 801), False)]),
        case("ellipses", "3 lines of 10 may end in an ellipsis, 4 may not", [(ellipses(3, "..."), True), (ellipses(4, "..."), False)]),
        case("ellipsis-character", "the character U+2026 is one too", [(ellipses(3, "\u2026"), True), (ellipses(4, "\u2026"), False)]),
        case("ellipsis-spaces", "spaces after it do not hide it", [(ellipses(6, "...", "  "), False)]),
        case("ellipsis-inside", "within a line it does not count", [(inside, True)]),
        case("alphabetic", "80 % of words with a letter are enough, 79 % are not", [(numbers(36), True), (numbers(40), True), (numbers(42), False)]),
        case("mixed-words", "one letter is enough for a word", [(mixed, True)]),
        case("other-letters", "letters of all alphabets are letters", [(russian, True)]),
    ]  # fmt: skip


def page(rng: Rng, count: int, characters: int) -> str:
    """`count` words of `characters` letters in all, the mean being from 2.9 on; three are stop words.

    Letters are chosen so that no tokenizer cuts a word: none makes a contraction.
    """
    base, longer = divmod(characters, count)
    lengths = [base + 1] * longer + [base] * (count - longer)
    rng.shuffle(lengths)
    letters = "".join(_ALPHABET[rng.integers(0, len(_ALPHABET), size=characters)])
    ends = itertools.accumulate(lengths)
    words = [letters[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    for i, stop in enumerate(("the", "of", "and")):  # the other rules of Gopher want two of these
        pair = words[2 * i] + words[2 * i + 1]
        words[2 * i : 2 * i + 2] = [stop, pair[len(stop) :]]
    return " ".join(words)


_ALPHABET = np.array(list("bdfglpraeo"))
