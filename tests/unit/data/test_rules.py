"""Rule sets: words, repetition, and each rule beyond its bound alone."""

from __future__ import annotations

import pickle
import random
import re
import time
from collections import Counter

import numpy as np
import pytest

from cs336_data.document import Document
from cs336_data.rules.c4 import C4, count_sentences
from cs336_data.rules.dclm import DclmLines
from cs336_data.rules.fineweb import FineWebQuality
from cs336_data.rules.gopher import GopherQuality, GopherRepetition, lines, paragraphs
from cs336_data.rules.page import LETTER, PUNCTUATION, STOP_WORDS, SYMBOL, Page, WordTable, kind_of
from cs336_data.rules.repetition import first_excess, first_excess_reference
from cs336_data.rules.rule_sets import RULE_SETS, rule_filter
from cs336_data.rules.word_splitting import _exceptions, split_chunk

# From spaCy 3.8: [token.text for token in spacy.blank("en")(chunk)]
SPACY = {
    "Don't": ["Do", "n't"], "don\u2019t": ["do", "n\u2019t"], "I'll've": ["I", "'ll", "'ve"], "cannot": ["can", "not"],
    "(again).": ["(", "again", ")", "."], "end.)": ["end", ".", ")"], "\u201cHello,\u201d": ["\u201c", "Hello", ",", "\u201d"],
    "well-known": ["well", "-", "known"], "U.S.": ["U.S."], "e.g.,": ["e.g.", ","], "Mr.": ["Mr."], "5.00": ["5.00"],
    "$5": ["$", "5"], "10km": ["10", "km"], "7pm": ["7", "pm"], "its": ["its"], "wait...what": ["wait", "...", "what"],
    "http://a.example/x?y=1": ["http://a.example/x?y=1"], "foo.Bar": ["foo", ".", "Bar"], "f(x):": ["f(x", "):"],
    "...": ["..."], "C++": ["C++"], ":-)": [":-)"], "and/or": ["and/or"], "either/neither": ["either", "/", "neither"],
    "--": ["--"], "ward's": ["ward", "'s"], "#tag": ["#", "tag"], "3-4": ["3", "-", "4"], "1+1": ["1", "+", "1"],
    "\u4f60\u597d\u3002": ["\u4f60\u597d", "\u3002"], "c.": ["c."], "A.B.": ["A.B."], "x.": ["x."], "zip,code": ["zip", ",", "code"],
    "a@b.example": ["a@b.example"], "\u00a75": ["\u00a7", "5"], "100%": ["100", "%"], "''": ["''"], "['x']": ["[", "'", "x", "'", "]"],
}  # fmt: skip


@pytest.mark.parametrize("chunk", SPACY)
def test_words_are_those_of_spacy(chunk):
    assert list(split_chunk(chunk)) == SPACY[chunk]


def test_words_of_any_text_put_together_are_the_text():
    rng = random.Random(0)
    letters = "aB3.,'\u2019-()$%#:/!?\u2026\u20ac\u4f60 \n"
    for _ in range(300):
        text = "".join(rng.choice(letters) for _ in range(60))
        for chunk in text.split():
            assert "".join(split_chunk(chunk)) == chunk


def test_splitting_agrees_with_spacy_where_it_is_installed():
    spacy = pytest.importorskip("spacy")
    from cs336_basics.corpora.stdlib_source import stdlib_files

    tokenizer = spacy.blank("en").tokenizer
    chunks = Counter(" ".join(path.read_text() for path in stdlib_files()[::40]).split())
    different = {
        chunk for chunk in list(chunks)[:4000] if list(split_chunk(chunk)) != [token.text for token in tokenizer(chunk)]
    }
    assert sum(chunks[chunk] for chunk in different) <= 1e-4 * chunks.total(), sorted(different)[:10]


def test_kinds_of_words():
    assert kind_of("the") & LETTER and not kind_of("the") & SYMBOL
    assert kind_of("...") & SYMBOL and kind_of("--") & PUNCTUATION
    assert kind_of("3.5") & (SYMBOL | LETTER) == 0
    assert all(kind_of(word) & LETTER for word in STOP_WORDS)
    assert len({kind_of(word) for word in STOP_WORDS}) == len(STOP_WORDS)


def page(text: str) -> Page:
    return Page(text, WordTable())


def test_page_facts_agree_with_a_plain_count():
    text = "The cat, 3 dogs and (perhaps) 12.5 % of  the\nmice -- don't know..."
    words = [word for chunk in text.split() for word in split_chunk(chunk)]
    one = page(text)
    assert [one.table.words[i] for i in one.words] == words
    assert one.lengths.tolist() == [len(word) for word in words]
    assert [bool(kind & LETTER) for kind in one.kinds.tolist()] == [any(c.isalpha() for c in word) for word in words]


def test_facts_agree_with_a_plain_count():
    text = "The cat, 3 dogs and (perhaps) 12.5 % of  the\nmice -- don't know... \u4f60\u597d\u3002 x"
    one = page(text)
    words = [word for chunk in text.split() for word in split_chunk(chunk)]
    kinds = [kind_of(word) for word in words]
    proper = [word for word, kind in zip(words, kinds, strict=True) if not kind & SYMBOL]
    present = 0
    for kind in kinds:
        present |= kind
    letters = sum(any(map(str.isalpha, word)) for word in words)
    assert one.facts() == (len(words), len(proper), len("".join(proper)), letters, present)


def test_compiled_splitting_agrees_with_the_readable_form():
    """Exceptions, marks, units, dots and hyphens in all orders: nearly every rule meets every other."""
    rng, table = random.Random(2), WordTable()
    exceptions = sorted(_exceptions())
    pieces = [
        *"abzABZ019.,:;!?()[]{}<>_#*&'\"`%=+$-~/@^|\\\0\x7f",
        *".. ... US$ C$ A$ km kg mbar km/h hPa http:// www. com x.example 10.0.0.1 :80 /x?y user@ foo.Bar".split(),
        *"-- --- 's 'S I 'm can not \u2019 \u4f60 \u2026 \u00b0C \u20ac \ud800".split(),
    ]
    chunks = ["." * 70 + "x", "." * 70, "a" * 1000 + ".", "a" * 1001 + ".", "(" * 300, *exceptions]
    chunks += ["".join(rng.choices(pieces, k=rng.randrange(1, 9))) for _ in range(6000)]
    chunks += ["".join(rng.choices([*exceptions, *pieces], k=rng.randrange(2, 5))) for _ in range(3000)]
    rng.shuffle(chunks)
    texts = [" ".join(chunks[start : start + 100]) for start in range(0, len(chunks), 100)]
    numbers = [table.numbers(text) for text in texts]
    words = table.words
    for text, found in zip(texts, numbers, strict=True):
        assert [words[i] for i in found] == [word for chunk in text.split() for word in split_chunk(chunk)]


def test_table_survives_a_lack_of_memory(monkeypatch):
    """A document that is too much for a worker leaves no word half learnt."""
    table, split = WordTable(), WordTable._split
    table.numbers("a b")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(WordTable, "_split", fail)
    with pytest.raises(MemoryError):
        table.numbers("c b, d")
    monkeypatch.setattr(WordTable, "_split", split)
    assert [table.words[i] for i in table.numbers("d b, a")] == ["d", "b", ",", "a"]


def test_paragraphs_and_lines_are_those_of_the_pattern():
    rng = random.Random(3)
    for _ in range(2000):
        text = "".join(rng.choices(["\n", "\n\n", "a", "b c", " ", "\t"], k=rng.randrange(1, 9)))
        assert paragraphs(text) == re.split(r"\n\n+", text.strip())
        assert sorted(lines(text)) == sorted(re.split(r"\n+", text))


def test_table_starts_afresh_when_full(monkeypatch):
    import cs336_data.rules.page as module

    monkeypatch.setattr(module, "MEMORY", 5)
    table = WordTable()
    for text in ("a b c d e f g", "h i a", "a a"):
        words = text.split()
        assert [table.words[i] for i in table.numbers(text)] == words
    assert len(table.words) == 3


def test_compiled_repetition_agrees_with_the_readable_form():
    rng = random.Random(1)
    top, duplicated = GopherRepetition().top, GopherRepetition().duplicated
    seen = set()
    for _ in range(400):
        words = [rng.choice("abcdefgh") * rng.randrange(1, 4) if rng.random() < 0.5 else str(rng.randrange(10 ** rng.randrange(1, 6)))
                 for _ in range(rng.randrange(300))]  # fmt: skip
        if rng.random() < 0.7:
            words += words[: rng.randrange(30)] * rng.randrange(4)
        number = {word: i for i, word in enumerate(dict.fromkeys(words))}
        size = max(1, len(" ".join(words)))
        expected = first_excess_reference(words, size, top=top, duplicated=duplicated)
        ids = np.array([number[word] for word in words], np.int64)
        lengths = np.array([len(word) for word in words], np.int64)
        assert first_excess(ids, lengths, size, top=top, duplicated=duplicated) == expected
        seen.add(expected)
    assert {-1, 0, 1, 2, 3, 4} <= seen, "the cases should hit most limits"


PROSE = "The old mill of the village stands by the river and has not been used for grain since the flood of that year."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" ".join([PROSE] * 4), None),
        (" ".join(PROSE.split()[:20]), "gopher_too_few_words"),
        (" ".join(["word"] * 49 + ["."] * 30), "gopher_too_few_words"),  # punctuation does not count
        (" ".join(["the", "be"] * 50_001), "gopher_too_many_words"),
        (" ".join(["of to"] * 40), "gopher_short_words"),
        (" ".join(["the characteristically incomprehensible"] * 40), "gopher_long_words"),
        (PROSE * 3 + " #" * 10, "gopher_many_hashes"),
        (" ".join([PROSE] * 3 + ["..."] * 10), "gopher_many_ellipses"),
        ("\n".join("- " + PROSE for _ in range(10)), "gopher_bullet_lines"),
        ("\n".join("- " + PROSE for _ in range(9)) + "\n" + PROSE, None),  # nine of ten is the bound
        ("\n".join([PROSE] * 6 + [PROSE + "\u2026"] * 3), "gopher_ellipsis_lines"),
        (" ".join([PROSE] * 3 + ["123"] * 30), "gopher_few_alphabetic_words"),
        (" ".join(["mills grind corn near rivers"] * 12), "gopher_few_stop_words"),
    ],
)
def test_gopher_quality(text, reason):
    assert GopherQuality()(page(text)) == reason


def sentences(count: int, *, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "btmnks" for b in "aeiou" for c in ("ra", "lin", "so", "dek")]
    return ["The " + " ".join(rng.choices(words, k=14)) + " and to it." for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(sentences(20)), None),
        ("", "gopher_empty"),
        ("\n\n".join(sentences(6) + sentences(4)), "gopher_duplicate_paragraphs"),
        ("\n\n".join([*sentences(8), " ".join(sentences(4, seed=1)), " ".join(sentences(4, seed=1))]),
         "gopher_duplicate_paragraph_characters"),
        ("\n".join(sentences(6) + sentences(4)), "gopher_duplicate_lines"),
        ("\n".join([*sentences(8), " ".join(sentences(4, seed=1)), " ".join(sentences(4, seed=1))]),
         "gopher_duplicate_line_characters"),
        (" ".join(sentences(4) + ["very often"] * 30), "gopher_top_2_gram"),
        (" ".join(sentences(6) + sentences(3)), "gopher_duplicated_5_grams"),
    ],
)  # fmt: skip
def test_gopher_repetition(text, reason):
    assert GopherRepetition()(page(text)) == reason


LINES = sentences(6)


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ([*LINES, "no mark at the end"], LINES),
        ([*LINES, "trailing off ..."], LINES),
        ([*LINES, "Two words."], LINES),
        ([*LINES, "Please enable JavaScript in it."], LINES),
        ([*LINES, "Read our Privacy Policy here."], LINES),
        ([*LINES, "Pages that use [1]cookies are many."], LINES),  # found once the citation is out
        ([*LINES, "a " * 3 + "x" * 1001 + "."], LINES),
        ([*LINES[:5], "It was built[12] in 1900.[citation needed]"], [*LINES[:5], "It was built in 1900."]),
        (["  " + line for line in LINES], LINES),
    ],
)
def test_c4_lines(lines, left):
    one = page("\n".join(lines))
    assert C4()(one) is None
    assert one.text == "\n".join(left)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([*LINES, "Lorem Ipsum dolor sit amet."], "c4_lorem_ipsum"),
        ([*LINES, "if (x) { return to it."], "c4_curly_bracket"),
        (LINES[:4], "c4_too_few_sentences"),
        ([" ".join(LINES[:5])], None),  # five sentences in one line
        ([" ".join(LINES[:4])], "c4_too_few_sentences"),
        ([], "c4_too_few_sentences"),
    ],
)
def test_c4_pages(lines, reason):
    assert C4()(page("\n".join(lines))) == reason


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("One... still one", 1),
        ("He said (yes.) twice", 2),
        ('"Go." she said', 2),
        ("No end", 1),
        ("", 0),
    ],
)
def test_sentences(text, count):
    """spaCy's sentencizer: a sentence begins with the first word after a mark that ends one."""
    one = page(text)
    assert count_sentences(one.kinds) == count


def test_c4_without_the_rule_on_line_ends():
    one = page("\n".join([*LINES, "no mark at the end"]))
    assert C4(terminal_punctuation=False)(one) is None
    assert one.text.endswith("no mark at the end")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\n".join(LINES), None),
        (" \n\n ", "fineweb_empty"),
        ("\n".join([LINES[0], *(line.rstrip(".") for line in sentences(8, seed=2))]), "fineweb_few_punctuated_lines"),
        ("\n".join([*LINES[:3], *(f"Line {n}." for n in range(9))]), "fineweb_short_lines"),
        ("\n".join([*LINES, LINES[0]]), "fineweb_duplicate_lines"),
        (("\n" * 9).join(LINES), "fineweb_many_newlines"),
    ],
)
def test_fineweb(text, reason):
    assert FineWebQuality()(page(text)) == reason


@pytest.mark.parametrize("line", ["12,345", "3.4k likes", "Menu", "READ THIS NOW OR NEVER", "Sign in to continue", "... Read more",
                                  "2 items in your cart", "45 comments"])  # fmt: skip
def test_dclm_lines(line):
    text = "\n".join(sentences(12))
    one = page(f"{text}\n{line}")
    assert DclmLines()(one) is None
    assert one.text == text


def test_dclm_pages():
    assert DclmLines()(page("\n".join([LINES[0], "Sign in", "Menu", "12 likes"]))) == "dclm_removed_words"
    assert DclmLines()(page("\n \n")) == "dclm_empty"
    kept = page("\n\n".join(LINES))
    assert DclmLines()(kept) is None and kept.text == "\n\n".join(LINES), "blank lines stay"


@pytest.mark.parametrize("name", RULE_SETS)
def test_rule_sets(name):
    """Each keeps prose and rejects a menu; verdicts do not depend on what was judged before; they can be sent to processes."""
    prose, menu = "\n".join(sentences(12)), "\n".join(["Home", "Log in", "Search", "FAQ"] * 9)
    judge = rule_filter(name)
    fresh = pickle.loads(pickle.dumps(judge))
    assert [judge(Document("1", "", text)) for text in (prose, menu, prose)] == [
        None,
        fresh(Document("2", "", menu)),
        None,
    ]
    assert fresh(Document("3", "", menu)) is not None


@pytest.mark.parametrize(
    "text", ["", "\n", "\0\0\0", " ", ".", "\ud800", "{" * 1000, "a" * 100_000, "\u2028".join("abc")]
)
def test_strange_texts_get_a_verdict(text):
    for name in RULE_SETS:
        document = Document("1", "", text)
        reason = rule_filter(name)(document)
        assert reason is not None or "_" in name, "only parts of a set can find nothing wrong with this"
        assert document.text == text or reason is None, "a rejected document stays as it was"


def test_unknown_rule_set():
    with pytest.raises(ValueError, match="did you mean 'gopher_quality'"):
        rule_filter("gopher_qualty")


@pytest.mark.parametrize("chunk", ["{" * 2_000_000, "a." * 400, "(" * 999, "a:a@" * 240, "." * 900, "a-" * 490])
def test_hostile_chunks_take_no_time(chunk):
    started = time.process_time()
    assert "".join(split_chunk(chunk)) == chunk
    assert time.process_time() - started < 1
