"""Problem train_bpe: merges in exact order against what brute force learned, special tokens, ties, speed."""

from __future__ import annotations

import time

import pytest

from .fixtures.bpe_cases import CASES, expected_merges
from .fixtures.texts import END_OF_TEXT, english_text, tokenizer_corpus
from .fixtures.tokenizer_files import load_vocab_and_merges

ORDER_HINT = (
    "Merges must come in the order of training: the most frequent pair first; among equally frequent pairs the "
    "lexicographically greater pair of raw bytes, max((count, pair)); counts never cross a pre-token"
)


def train(adapters, folder, text: str, vocab_size: int, special_tokens: list[str]):
    path = folder / "corpus.txt"
    path.write_bytes(text.encode())
    return adapters.run_train_bpe(input_path=str(path), vocab_size=vocab_size, special_tokens=special_tokens)


def check_case(adapters, folder, name: str) -> None:
    """Train on a case of `bpe_cases` and compare with what brute force learned."""
    text, vocab_size, special_tokens = CASES[name]
    vocab, merges = train(adapters, folder, text, vocab_size, special_tokens)
    right = expected_merges(name)
    for rank, (merge, expected) in enumerate(zip(merges, right, strict=False)):
        assert merge == expected, f"merge {rank} is {merge}, expected {expected}. {ORDER_HINT}"
    assert len(merges) == len(right), (
        f"{len(merges)} merges, expected {len(right)}: vocab_size - 256 - number of special tokens, or fewer "
        "when no pair is left"
    )
    items = {bytes([byte]) for byte in range(256)} | {a + b for a, b in right} | {s.encode() for s in special_tokens}
    assert set(vocab.values()) == items, "the vocabulary is the special tokens, all 256 bytes and the merges"
    assert set(vocab) == set(range(len(items))), "ids must be 0 .. len(vocab) - 1 without gaps"


def test_train_bpe(adapters, tmp_path):
    check_case(adapters, tmp_path, "english")


def test_train_bpe_returns_int_to_bytes_and_pairs_of_bytes(adapters, tmp_path):
    vocab, merges = train(adapters, tmp_path, "low lower lowest", 260, [])
    assert all(type(index) is int and type(token) is bytes for index, token in vocab.items())
    assert all(type(a) is bytes and type(b) is bytes for a, b in merges)


def test_train_bpe_handout_example(adapters, tmp_path):
    """The worked example of the handout; one word per line, so that every word is a pre-token without a space."""
    text = "\n".join(["low"] * 5 + ["lower"] * 2 + ["widest"] * 3 + ["newest"] * 6)
    expected = "s t, e st, o w, l ow, w est, n e, ne west, w i, wi d, wid est, low e, lowe r"
    _, merges = train(adapters, tmp_path, text, 256 + 12, [])
    assert [f"{a.decode()} {b.decode()}" for a, b in merges] == expected.split(", "), ORDER_HINT


def test_train_bpe_breaks_ties_on_raw_bytes(adapters, tmp_path):
    """(z, q) beats ( , t): the byte of a space is 0x20, though GPT-2 prints it as the greater character U+0120."""
    _, merges = train(adapters, tmp_path, "zq\n t\n", 257, [])
    assert merges == [(b"z", b"q")], f"compare raw bytes, not printable characters or ids. {ORDER_HINT}"


def test_train_bpe_breaks_ties_between_prefixes(adapters, tmp_path):
    """After (a, b) the pairs (ab, c) and (a, d) tie: a longer token is greater than its prefix."""
    _, merges = train(adapters, tmp_path, "abc\nabc\nab\nad\nad\n", 258, [])
    assert merges == [(b"a", b"b"), (b"ab", b"c")], f"b'a' < b'ab'; a negated byte order gets this wrong. {ORDER_HINT}"


def test_train_bpe_ties_do_not_depend_on_ids(adapters, tmp_path):
    """(z, z) is older than (a, a), so tokens made later do not always win."""
    check_case(adapters, tmp_path, "ties of old and new tokens")


def test_train_bpe_merges_repeats_from_the_left(adapters, tmp_path):
    """In aaaaa the pair (a, a) becomes aa aa a, never a aa aa."""
    check_case(adapters, tmp_path, "repeats")


@pytest.mark.parametrize("seed", range(12))
def test_train_bpe_random_strings(adapters, tmp_path, seed):
    """Few letters give many ties, overlaps and repeats; training ends early when no pair is left."""
    check_case(adapters, tmp_path, f"random {seed}")


def test_train_bpe_other_scripts(adapters, tmp_path):
    check_case(adapters, tmp_path, "other scripts")


def test_train_bpe_special_tokens(adapters, tmp_path):
    """The committed merges come from the brute-force trainer (see tests/fixtures/README.md)."""
    vocab, merges = train(adapters, tmp_path, tokenizer_corpus(), 1000, [END_OF_TEXT])
    others = [token for token in vocab.values() if token != END_OF_TEXT.encode()]
    assert len(others) == len(vocab) - 1, "the special token must be one item of the vocabulary"
    assert not [token for token in others if b"<|" in token], (
        "special tokens are hard boundaries: split the corpus on them and drop them before pre-tokenisation"
    )
    expected = load_vocab_and_merges()[1][: 1000 - 257]
    assert merges == expected, ORDER_HINT


def test_train_bpe_special_tokens_are_boundaries(adapters, tmp_path):
    """No merge crosses the gap that a removed special leaves; | in a special is no pattern and must be escaped."""
    check_case(adapters, tmp_path, "boundaries")


def test_train_bpe_overlapping_special_tokens(adapters, tmp_path):
    """With <s> and <s><s> the longer one is cut out first."""
    check_case(adapters, tmp_path, "overlapping special tokens")


def test_train_bpe_without_special_tokens(adapters, tmp_path):
    """An empty list of specials: the end-of-text token in the corpus is ordinary text."""
    check_case(adapters, tmp_path, "no special tokens")


def test_train_bpe_corpus_of_special_tokens(adapters, tmp_path):
    vocab, merges = train(adapters, tmp_path, END_OF_TEXT * 3, 300, [END_OF_TEXT])
    assert (len(vocab), merges) == (257, []), "no pairs, no merges: the special token and the 256 bytes remain"


def test_train_bpe_speed(adapters, tmp_path):
    """The course's limit for 130 kB and 243 merges; the reference needs a fraction of it."""
    text = english_text(130_000, seed=12)
    start = time.perf_counter()
    train(adapters, tmp_path, text, 500, [END_OF_TEXT])
    seconds = time.perf_counter() - start
    assert seconds < 1.5, (
        f"training took {seconds:.2f} s, limit 1.5 s: count each distinct pre-token once, update only the pairs around "
        "a merge, and start no process pool for a small file"
    )
