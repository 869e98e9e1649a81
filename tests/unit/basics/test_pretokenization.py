"""Pre-tokenization, streaming cuts, file chunks and counting, against whole-text brute force."""

from __future__ import annotations

import io
import random
from collections import Counter

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_basics.pretokenization_example import find_chunk_boundaries
from cs336_basics.tokenization.file_chunks import find_cut_points, read_text
from cs336_basics.tokenization.pretoken_counts import count_pretokens
from cs336_basics.tokenization.pretokenization import (
    GPT2_PATTERN,
    SAFE_CUTS,
    compile_pattern,
    pretokenize,
    split_on_special_tokens,
    stream_segments,
)
from tests import naive_bpe

EOT = "<|endoftext|>"
# Letters, marks, digits, punctuation, apostrophes with contractions, and every kind of white space.
# U+001C is white space for str.isspace but not for the pattern.
ATOMS = [*"aBl7'.<|> \n\t\u00e9\u0301\u0663\u4e2d\U0001f643\u00a0\u2003\u2028\x85\x1c\u3000"]
ATOMS += ["'s", "'ll", "'v", "'S", "12345", ".\n", "  ", "\r\n", EOT, "<|endof", "text|>"]
tricky_text = st.lists(st.sampled_from(ATOMS), max_size=14).map("".join)


def whole(text: str, specials: list[str], pattern: str = GPT2_PATTERN) -> list[str]:
    """Pre-tokens and special tokens of the whole text, by the oracle."""
    out = []
    for part, is_special in naive_bpe.split_specials(text, specials):
        out += [part] if is_special else regex.findall(pattern, part)
    return out


def streamed(pieces: list[str], specials: list[str], pattern: str = GPT2_PATTERN) -> list[str]:
    out = []
    for segment, is_special in stream_segments(pieces, specials, pattern=pattern):
        out += [segment] if is_special else list(pretokenize(segment, pattern=pattern))
    return out


def test_pretokenize_examples():
    assert list(pretokenize("some text that i'll pre-tokenize")) == [
        *("some", " text", " that", " i", "'ll", " pre", "-", "tokenize")
    ]
    assert list(pretokenize("a\n\n\nb  c")) == ["a", "\n\n", "\n", "b", " ", " c"]
    assert list(pretokenize("")) == []


@given(tricky_text)
def test_gpt2_pattern_loses_nothing(text):
    assert "".join(pretokenize(text)) == text


def test_split_on_special_tokens():
    assert split_on_special_tokens("a" + EOT + EOT + "b", [EOT]) == ["a", "", "b"]
    assert split_on_special_tokens("a" + EOT + EOT + "b", [EOT, EOT + EOT]) == ["a", "b"]
    assert split_on_special_tokens("a|b.*", ["|", ".*"]) == ["a", "b", ""]
    assert split_on_special_tokens("a|b", []) == ["a|b"]
    assert split_on_special_tokens("", [EOT]) == [""]


@settings(max_examples=800)
@given(tricky_text, tricky_text, st.sampled_from(list(SAFE_CUTS)))
def test_safe_cuts_are_boundaries_whatever_follows(before, after, pattern):
    text = before + after
    ends = {match.end() for match in regex.finditer(pattern, text)}
    for cut in regex.finditer(SAFE_CUTS[pattern], text):
        assert cut.start() in ends
        pieces = text[: cut.start()], text[cut.start() :]
        assert [word for piece in pieces for word in pretokenize(piece, pattern=pattern)] == whole(text, [], pattern)


@settings(max_examples=600)
@given(
    st.lists(tricky_text, max_size=5),
    st.sampled_from([[], [EOT], [EOT, EOT + EOT], ["a b", " "], ["<|", "|>\n", "|"]]),
    st.sampled_from(list(SAFE_CUTS)),
)
def test_streaming_equals_whole(pieces, specials, pattern):
    assert streamed(pieces, specials, pattern) == whole("".join(pieces), specials, pattern)
    assert streamed(list("".join(pieces)), specials, pattern) == whole("".join(pieces), specials, pattern)


@settings(max_examples=200)
@given(st.lists(tricky_text, max_size=4))
def test_streaming_a_foreign_pattern_is_still_exact(pieces):
    pattern = r"[^\r\n]{1,3}\s?|[\r\n]+"
    assert streamed(pieces, [EOT], pattern) == whole("".join(pieces), [EOT], pattern)


@pytest.mark.parametrize(
    "specials, text",
    [
        (["abcde", "c"], "abcabcde"),
        (["xab", "bcd"], "xabcd"),
        (["aa", "aaa"], "aaaaaaaa"),
        (["ab", "abab"], "xabababab"),
    ],
)
def test_streaming_special_tokens_that_overlap(specials, text):
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            pieces = [text[:first], text[first:second], text[second:]]
            assert streamed(pieces, specials) == whole(text, specials)


def test_streaming_holds_only_a_window():
    read = 0

    def pieces():
        nonlocal read
        for _ in range(1000):
            read += 1
            yield "word " * 10

    segments = stream_segments(pieces(), [EOT])
    next(segments)
    assert read == 1


def test_find_chunk_boundaries():
    data = b"".join(b"document %d\n<|endoftext|>" % number for number in range(500))
    tokens = [match.start() for match in regex.finditer(rb"<\|endoftext\|>", data)]
    for chunks in (1, 2, 3, 7, 100):
        guesses = [index * (len(data) // chunks) for index in range(1, chunks)]
        moved = [min((start for start in tokens if start >= guess), default=len(data)) for guess in guesses]
        expected = sorted({0, *moved, len(data)})
        assert find_chunk_boundaries(io.BytesIO(data), chunks, b"<|endoftext|>") == expected


def test_find_chunk_boundaries_edges():
    assert find_chunk_boundaries(io.BytesIO(b""), 4, b"x") == [0]
    assert find_chunk_boundaries(io.BytesIO(b"no special token"), 4, b"|") == [0, 16]
    for shift in range(16):  # the token straddles the first two blocks in every way
        data = b"a" * (5000 + 4096 - shift) + b"<|endoftext|>" + b"b" * 900 + b"<|endoftext|>"
        guess = len(data) // 2
        assert find_chunk_boundaries(io.BytesIO(data), 2, b"<|endoftext|>")[1] == data.find(b"<|endoftext|>", guess)


def test_find_chunk_boundaries_errors():
    with pytest.raises(TypeError, match="bytes"):
        find_chunk_boundaries(io.BytesIO(b"a"), 2, "a")
    with pytest.raises(ValueError, match="empty"):
        find_chunk_boundaries(io.BytesIO(b"a"), 2, b"")
    with pytest.raises(ValueError, match="desired_num_chunks"):
        find_chunk_boundaries(io.BytesIO(b"a"), 0, b"a")


@pytest.mark.parametrize(
    "specials", [[EOT], [], ["<pad>", EOT], ["a", "ba"], ["aa"], ["<pad>"], ["b c"], [EOT, EOT + EOT], ["xt|>a", EOT]]
)
@pytest.mark.parametrize("pattern", [*SAFE_CUTS, r"\S+|\s"], ids=["gpt2", "gpt4", "nanochat", "foreign"])
def test_counting_chunks_equals_counting_the_whole(tmp_path, specials, pattern):
    rng = random.Random(repr(specials))
    text = "".join(rng.choices([*"aaabbc \n.'7", "\u4e2d\u6587", "\r\n", "aaa", EOT], k=1500))
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode("utf-8"))
    expected = Counter(word.encode("utf-8") for word in naive_bpe.pretokens(text, specials, pattern))
    assert count_pretokens(path, specials, pattern=pattern) == expected
    with open(path, "rb") as file:
        cuts = find_cut_points(file, 13, specials, pattern=pattern)
    counts: Counter[bytes] = Counter()
    for start, end in zip(cuts, cuts[1:], strict=False):
        part = "".join(read_text(path, start=start, end=end))
        counts.update(word.encode("utf-8") for word in naive_bpe.pretokens(part, specials, pattern))
    assert counts == expected
    if pattern in SAFE_CUTS and specials != ["b c"]:
        assert len(cuts) > 8


def test_processes_count_the_same(tmp_path):
    text = "".join(f"Document {n} says '{n * n}'.\n{EOT}" for n in range(300))
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode("utf-8"))
    reports = []
    counts = count_pretokens(
        path,
        [EOT],
        num_processes=2,
        min_parallel_bytes=100,
        on_progress=lambda done, total: reports.append((done, total)),
    )
    assert counts == Counter(word.encode("utf-8") for word in naive_bpe.pretokens(text, [EOT]))
    assert len(reports) > 2 and reports[-1] == (len(text), len(text))
    assert reports == sorted(reports)


def test_line_ends_are_kept(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"a\r\nb\rc\n")
    assert "".join(read_text(path)) == "a\r\nb\rc\n"
    assert count_pretokens(path, [])[b"\r\n"] == 0  # "\r" then "\n" + nothing: cut by the look-ahead before a letter
    assert count_pretokens(path, []) == Counter(w.encode() for w in naive_bpe.pretokens("a\r\nb\rc\n", []))


def test_read_text_decodes_across_blocks(tmp_path):
    text = "x" + "\U0001f643" * 300_000
    path = tmp_path / "emoji.txt"
    path.write_bytes(text.encode("utf-8"))
    assert "".join(read_text(path)) == text


@pytest.mark.parametrize("offset", [0, 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 7])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xe4\xb8 "])
def test_invalid_utf8_names_file_and_offset(tmp_path, offset, wrong):
    path = tmp_path / "broken.txt"
    path.write_bytes(b"a" * offset + wrong + b"b" * 10)
    with pytest.raises(ValueError, match=rf"broken.txt is not valid UTF-8.* byte offset {offset};.*errors='replace'"):
        count_pretokens(path, [])


def test_a_file_that_ends_inside_a_character(tmp_path):
    path = tmp_path / "broken.txt"
    path.write_bytes(b"abc\xe4\xb8")
    with pytest.raises(ValueError, match="byte offset 3;"):
        count_pretokens(path, [])


def test_pattern_errors():
    with pytest.raises(ValueError, match=r"capturing groups.*\(\?:"):
        compile_pattern(r"(a)|b")
    with pytest.raises(ValueError, match="not a valid regular expression"):
        compile_pattern(r"[a")
    with pytest.raises(TypeError, match="pieces of str"):
        list(stream_segments([b"bytes"], []))
    with pytest.raises(ValueError, match="num_processes must be at least 1"):
        count_pretokens(__file__, [], num_processes=0)
