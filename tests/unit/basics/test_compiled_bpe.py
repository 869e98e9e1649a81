"""Compiled splitting, counting and merging against `regex`, Python's decoder and the brute-force trainer."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_basics.tokenization import compiled_counts
from cs336_basics.tokenization.bpe import train_bpe, train_bpe_from_counts
from cs336_basics.tokenization.compilation import stored
from cs336_basics.tokenization.compiled_counts import WordCounts, count_words
from cs336_basics.tokenization.compiled_merging import learn_merges
from cs336_basics.tokenization.compiled_specials import SpecialBytes
from cs336_basics.tokenization.compiled_splitting import PATTERN_CODES, is_utf8, split_batch
from cs336_basics.tokenization.pretokenization import GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN
from cs336_basics.tokenization.unicode_classes import unicode_classes
from tests import naive_bpe

EOT = "<|endoftext|>"
PATTERNS = [GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN]
# Letters, marks, digits of several scripts, signs, apostrophes, contractions in both cases with the long s, every kind
# of white space and line end. U+001C is white space for str.isspace but not for the patterns.
ATOMS = [*"aBlsSv7'.,<|> \n\r\t\u00e9\u0301\u0663\u00b2\u4e2d\u017f\U0001f643\U00010400\u00a0\u2003\u2028\x85\x1c\x00"]
ATOMS += ["'s", "'LL", "'Ve", "'\u017f", "  ", "\r\n", "\n\n", "1234567", " \t ", "=" * 20, "x" * 30]
nasty_text = st.lists(st.sampled_from(ATOMS) | st.characters(exclude_categories=["Cs"]), max_size=20).map("".join)
ALPHABETS = {
    "ties": "ab ",
    "repeats": "aaaab ",
    "contractions": "stl' 0.\n",
    "white space": "a  \r\n\t",
    "cjk": "\u4e2d\u6587\u5b57 a",
    "emoji": "\U0001f643\U0001f600\u00e9 a\n",
}


def compiled_words(text: str, pattern: str, *, batch: int = 4) -> list[str]:
    raw = text.encode("utf-8") + b"\0"
    data = np.frombuffer(raw, dtype=np.uint8)
    starts = np.empty(batch, dtype=np.int64)
    words, position, end = [], 0, len(data) - 1
    while position < end:
        count = stored(split_batch)(data, position, end, unicode_classes(), PATTERN_CODES[pattern], starts)
        ends = starts[: count + 1].tolist()
        words += [raw[a:b].decode("utf-8") for a, b in pairwise(ends)]
        position = int(starts[count])
    return words


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4", "nanochat"])
def test_splitters_equal_regex(pattern):
    @settings(max_examples=500, deadline=None)
    @given(nasty_text)
    def check(text):
        assert compiled_words(text, pattern) == regex.findall(pattern, text)

    check()


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4", "nanochat"])
def test_splitters_know_every_character(pattern):
    for start in range(0, 0x110000, 0x8000):
        points = [point for point in range(start, start + 0x8000) if not 0xD800 <= point < 0xE000]
        unassigned = all(unicodedata.category(chr(point)) in ("Cn", "Co") for point in points)
        if unassigned and len(set(unicode_classes()[points].tolist())) == 1:
            points = points[::67]  # one class for the splitters too: most of all code points, and nothing to tell apart
        text = "".join(f" {chr(point)}a'{chr(point)}" for point in points)
        assert compiled_words(text, pattern, batch=100_000) == regex.findall(pattern, text)


@settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from(
            [
                b"a" * 70,
                b"\xc3\xa9",
                b"\xe4\xb8\xad",
                b"\xf0\x9f\x99\x83",
                b"\xc0\x80",
                b"\xe0\x9f\xbf",
                b"\xed\xa0\x80",
            ]
            + [b"\xed\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5", b"\xe4\xb8"]
        ),
        max_size=6,
    ).map(b"".join)
)
def test_utf8_validity_equals_pythons(data):
    try:
        data.decode("utf-8")
        valid = True
    except UnicodeDecodeError:
        valid = False
    assert stored(is_utf8)(np.frombuffer(data + b"\x80", dtype=np.uint8), 0, len(data)) == valid


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "\u00e9", EOT, EOT[:5], "|>"]), max_size=20).map("".join),
    st.sampled_from([[], [EOT], [EOT, EOT + EOT], ["a", "ab", "ba"], ["\u00e9", "\u00e9a"]]),
)
def test_special_tokens_are_found_as_by_brute_force(text, specials):
    data = np.frombuffer(text.encode("utf-8") + b"\0", dtype=np.uint8)
    found = SpecialBytes.of(specials).find(data, 0, len(data) - 1)
    parts, position = [], 0
    for part, is_special in naive_bpe.split_specials(text, specials):
        length = len(part.encode("utf-8"))
        parts += [[position, position + length, specials.index(part)]] if is_special else []
        position += length
    assert found.tolist() == parts


def as_counter(words: WordCounts) -> Counter[bytes]:
    joined = words.joined.tobytes()
    starts = words.offsets.tolist()
    return Counter({joined[a:b]: n for a, b, n in zip(starts, starts[1:], words.counts.tolist(), strict=False)})


@pytest.mark.parametrize("pattern", PATTERNS, ids=["gpt2", "gpt4", "nanochat"])
@pytest.mark.parametrize("specials", [[], [EOT], [EOT, EOT + EOT, "a"], ["b c"]])
def test_counts_equal_brute_force(tmp_path, pattern, specials, monkeypatch):
    rng = random.Random(repr(specials))
    text = "".join(rng.choices([*ATOMS, EOT, *map(str, range(2000))], k=6000))
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode("utf-8"))
    monkeypatch.setattr(compiled_counts, "_FIRST_SLOTS", 2048)  # grows
    reports = []
    words = count_words(
        path,
        specials,
        pattern=pattern,
        num_threads=3,
        chunk_bytes=2000,
        on_progress=lambda done, total: reports.append((done, total)),
    )
    expected = Counter(word.encode("utf-8") for word in naive_bpe.pretokens(text, specials, pattern))
    assert as_counter(words) == expected
    size = path.stat().st_size
    assert reports[-1] == (size, size) and reports == sorted(reports)
    assert len(reports) > 3 or specials == ["b c"]


def random_counts(rng: random.Random) -> Counter[bytes]:
    alphabet = rng.choice([b"ab", b"aaab", b"abc", bytes(range(256)), b"a"])
    longest = rng.choice([3, 12, 40])
    words = [bytes(rng.choices(alphabet, k=rng.randint(1, longest))) for _ in range(rng.randint(0, 40))]
    return Counter(dict.fromkeys(words, 0)) if rng.random() < 0.05 else Counter(words)


@pytest.mark.parametrize("tie_break", ["bytes", "ids"])
def test_merges_equal_the_readable_and_the_naive_trainer(tie_break):
    for seed in range(200):
        rng = random.Random(seed)
        counts, num_merges = random_counts(rng), rng.choice([0, 1, 10, 60])
        words = Counter({tuple(bytes([byte]) for byte in word): count for word, count in counts.items()})
        expected = naive_bpe.train_on_words(words, num_merges, tie_break)
        assert learn_merges(WordCounts.of(counts), num_merges, by_bytes=tie_break == "bytes") == expected
        assert train_bpe_from_counts(counts, num_merges, tie_break=tie_break) == expected


def test_more_merges_than_a_call_and_more_room_than_at_first():
    rng = random.Random(1)
    counts = Counter(bytes(rng.choices(b"abcdefgh", k=rng.randint(1, 30))) for _ in range(3000))
    for num_merges in (700, 10**9):
        assert learn_merges(WordCounts.of(counts), num_merges) == train_bpe_from_counts(counts, num_merges)


def test_counts_beyond_32_bits():
    counts = {b"abc": 2**40, b"bcd": 2**40 + 1, b"xyz": 3}
    assert learn_merges(WordCounts.of(counts), 9) == train_bpe_from_counts(counts, 9)


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS.keys())
@pytest.mark.parametrize("seed", range(10))
def test_training_equals_brute_force(tmp_path, alphabet, seed):
    rng = random.Random(f"{alphabet} {seed}")
    text = "".join(rng.choices([*alphabet, EOT], [10] * len(alphabet) + [1], k=rng.randint(20, 400)))
    specials = [[], [EOT], [EOT, EOT + EOT, "a"]][seed % 3]
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode("utf-8"))
    pattern = [*PATTERNS, r"\S+|\s"][seed % 4]
    tie_break = ["bytes", "ids"][seed % 2]
    size = 256 + len(specials) + 40
    trained = train_bpe(path, size, specials, pattern=pattern, tie_break=tie_break, engine="compiled")
    assert trained[1] == naive_bpe.train(text, 40, specials, pattern, tie_break)
    plain = train_bpe(path, size, specials, pattern=pattern, tie_break=tie_break, engine="plain")
    assert trained == plain and list(trained[0].items()) == list(plain[0].items())


@pytest.mark.parametrize("data", [b"a" * 5000 + b"\xff" + b"b" * 90, b"good \xe4\xb8", b"\xed\xa0\x80", b"a\xc0\x80"])
def test_invalid_utf8_gives_the_same_error(tmp_path, data):
    path = tmp_path / "broken.txt"
    path.write_bytes(data)
    messages = []
    for engine in ("plain", "compiled"):
        with pytest.raises(ValueError, match="not valid UTF-8") as caught:
            train_bpe(path, 300, [], engine=engine)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_errors(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("some text")
    for engine in ("plain", "compiled"):
        with pytest.raises(ValueError, match="num_processes must be at least 1; got 0"):
            train_bpe(path, 300, [], num_processes=0, engine=engine)
        with pytest.raises(ValueError, match="tie_break must be 'bytes' or 'ids'; got 'id'"):
            train_bpe(path, 300, [], tie_break="id", engine=engine)
        with pytest.raises(FileNotFoundError, match="does not exist"):
            train_bpe(tmp_path / "nowhere.txt", 300, [], engine=engine)
    with pytest.raises(ValueError, match="engine must be 'auto', 'plain' or 'compiled'; got 'fast'"):
        train_bpe(path, 300, [], engine="fast")
    with pytest.raises(ValueError, match="tie_break"):
        train_bpe_from_counts({}, 1, tie_break="id")
