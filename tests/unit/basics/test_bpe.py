"""BPE training against the brute-force trainer, the handout's example and the course's limits."""

from __future__ import annotations

import doctest
import heapq
import importlib
import itertools
import pydoc_data.topics
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_basics.tokenization.bpe import descending_key, train_bpe, train_bpe_from_counts
from cs336_basics.tokenization.merging import merge_by_heap, merge_by_passes, merge_pair
from tests import naive_bpe

EOT = "<|endoftext|>"
WORKED_EXAMPLE = {b"low": 5, b"lower": 2, b"widest": 3, b"newest": 6}
WORKED_MERGES = "s t, e st, o w, l ow, w est, n e, ne west, w i, wi d, wid est, low e, lowe r"
ALPHABETS = {
    "ties": "ab ",
    "repeats": "aaaab ",
    "words": "abcde   \n.",
    "contractions": "stl' 0.\n",
    "cjk": "\u4e2d\u6587\u5b57 a",
    "emoji": "\U0001f643\U0001f600\u00e9 a\n",
}


def as_pairs(text: str) -> list[tuple[bytes, bytes]]:
    return [tuple(part.encode() for part in merge.split()) for merge in text.split(", ")]


def write(path, text: str):
    path.write_bytes(text.encode("utf-8"))
    return path


def test_worked_example():
    assert train_bpe_from_counts(WORKED_EXAMPLE, 12) == as_pairs(WORKED_MERGES)
    assert train_bpe_from_counts(WORKED_EXAMPLE, 10**6) == as_pairs(WORKED_MERGES)  # stops when no pair is left


def test_worked_example_from_a_file(tmp_path):
    text = " ".join(word.decode() for word, count in WORKED_EXAMPLE.items() for _ in range(count))
    vocab, merges = train_bpe(write(tmp_path / "corpus.txt", text), 257 + 6, [EOT], pattern=r"\S+")
    assert merges == as_pairs(WORKED_MERGES)[:6]
    expected = [EOT.encode(), *(bytes([b]) for b in range(256)), *(left + right for left, right in merges)]
    assert vocab == dict(enumerate(expected))


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS.keys())
@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force(tmp_path, alphabet, seed):
    rng = random.Random(f"{alphabet} {seed}")
    text = "".join(rng.choices([*alphabet, EOT], [10] * len(alphabet) + [1], k=rng.randint(20, 250)))
    specials = [[], [EOT], [EOT, EOT + EOT, "a"]][seed % 3]
    vocab, merges = train_bpe(write(tmp_path / "corpus.txt", text), 256 + len(specials) + 40, specials)
    assert merges == naive_bpe.train(text, 40, specials)
    assert list(vocab) == list(range(256 + len(specials) + len(merges)))
    assert list(vocab.values())[256 + len(specials) :] == [left + right for left, right in merges]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("aab", min_size=1, max_size=12), max_size=8), st.integers(0, 30))
def test_repeats_equal_brute_force(words, num_merges):
    counts = Counter(word.encode() for word in words)
    assert train_bpe_from_counts(counts, num_merges) == naive_bpe.train(" ".join(words), num_merges, [], r"\S+")


@given(st.lists(st.tuples(st.binary(max_size=3), st.binary(max_size=3)), unique=True))
def test_heap_keys_sort_like_reversed_bytes(pairs):
    assert sorted(pairs, key=lambda pair: descending_key(*pair)) == sorted(pairs, reverse=True)


def test_heap_order_with_prefixes():
    tokens = [b"", b"a", b"aa", b"ab", b"b", b"\x00", b"a\x00", b"\xff", b"a\xff"]
    pairs = list(itertools.product(tokens, repeat=2))
    heap = [(descending_key(*pair), pair) for pair in pairs]
    heapq.heapify(heap)
    assert [heapq.heappop(heap)[1] for _ in pairs] == sorted(pairs, reverse=True)


def test_ties_compare_bytes_not_ids_or_printable_characters():
    # Byte 0x20 prints as U+0120 in GPT-2's alphabet, above every ASCII letter; as a raw byte it is below.
    assert train_bpe_from_counts({b" a": 1, b"ba": 1}, 1) == [(b"b", b"a")]
    # After "ab" exists (id 256), (ab, x) has a higher id than (b, x), but fewer bytes order: b"ab" < b"b".
    assert train_bpe_from_counts({b"ab": 9, b"abx": 2, b"bx": 2}, 2) == [(b"a", b"b"), (b"b", b"x")]


def test_special_tokens_are_hard_boundaries(tmp_path):
    text = f"low{EOT}low low|low" * 20
    vocab, merges = train_bpe(write(tmp_path / "corpus.txt", text), 300, [EOT, "|"])
    assert merges == naive_bpe.train(text, 300 - 258, [EOT, "|"])
    assert vocab[0] == EOT.encode() and vocab[1] == b"|" and vocab[2] == b"\x00"
    assert not any(b"<|" in token or b"|>" in token for token in list(vocab.values())[258:])


def test_a_corpus_without_pairs(tmp_path):
    vocab, merges = train_bpe(write(tmp_path / "corpus.txt", f"a{EOT}b"), 1000, [EOT])
    assert merges == [] and len(vocab) == 257


def test_zero_counts_are_never_merged():
    assert train_bpe_from_counts({b"ab": 0, b"cd": 1}, 5) == [(b"c", b"d")]
    assert train_bpe_from_counts({}, 5) == []
    with pytest.raises(ValueError, match="counts must not be negative; got -1"):
        train_bpe_from_counts({b"ab": -1}, 5)


def test_progress_goes_to_stderr(tmp_path, capsys):
    path = write(tmp_path / "corpus.txt", "some text some text")
    quiet = train_bpe(path, 270, [])
    assert capsys.readouterr() == ("", "")
    assert train_bpe(path, 270, [], progress=True) == quiet
    out, err = capsys.readouterr()
    assert out == "" and "merging pairs" in err


def test_the_course_limit(tmp_path):
    """133 KB of English, vocabulary 500: under 1.5 s, the limit of the handout."""
    text = "\n".join(pydoc_data.topics.topics.values())[:133_027]
    path = write(tmp_path / "corpus.txt", text)
    start = time.perf_counter()
    vocab, merges = train_bpe(path, 500, [EOT])
    assert time.perf_counter() - start < 1.5
    assert len(vocab) == 500 and len(merges) == 243


def test_errors(tmp_path):
    path = write(tmp_path / "corpus.txt", "text")
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt does not exist"):
        train_bpe(tmp_path / "nowhere.txt", 300, [])
    with pytest.raises(ValueError, match="is empty"):
        train_bpe(write(tmp_path / "empty.txt", ""), 300, [])
    with pytest.raises(ValueError, match="at least .* = 257; got 256"):
        train_bpe(path, 256, [EOT])
    with pytest.raises(TypeError, match="vocab_size must be an int; got 300.0"):
        train_bpe(path, 300.0, [])
    with pytest.raises(ValueError, match="duplicate"):
        train_bpe(path, 300, [EOT, EOT])
    with pytest.raises(ValueError, match="empty string"):
        train_bpe(path, 300, [""])
    for wrong in (EOT, None, [b"bytes"], 3):
        with pytest.raises(TypeError, match="list of str"):
            train_bpe(path, 300, wrong)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True))
def test_heap_merging_equals_passes(ids, pairs):
    # The merges may come in any order, even one before the merge that makes its parts.
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    merged_ids = [4 + rank for rank in range(len(pairs))]
    assert merge_by_heap(ids, ranks, merged_ids) == merge_by_passes(ids, ranks, merged_ids)


@given(st.lists(st.sampled_from([b"a", b"b"]), max_size=20))
def test_merge_pair_equals_the_oracle(word):
    for pair in [(b"a", b"a"), (b"a", b"b")]:
        ids = {b"a": 0, b"b": 1, pair[0] + pair[1]: 2}
        merged = merge_pair([ids[token] for token in word], (ids[pair[0]], ids[pair[1]]), 2)
        assert merged == [ids[token] for token in naive_bpe.merge(tuple(word), pair)]


@pytest.mark.parametrize("module", ["bpe", "byte_alphabet", "merging", "pretokenization"])
def test_documented_examples(module):
    result = doctest.testmod(importlib.import_module(f"cs336_basics.tokenization.{module}"))
    assert result.attempted > 0 and result.failed == 0
