"""Problem tokenizer: encode, decode and encode_iterable against tiktoken built from the committed vocabulary."""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Iterator

import pytest

from .fixtures.texts import END_OF_TEXT, FOREIGN, documents, english_text
from .fixtures.tokenizer_files import GPT2_PATTERN, load_vocab_and_merges

DOUBLE = END_OF_TEXT * 2
TEXTS = {
    "empty": "",
    "single_character": "s",
    "single_unicode_character": "\U0001f643",
    "ascii": "Hello, how are you?",
    "contractions": "I'm sure they've said we'll go; it's HE'S don't",
    "numbers": "In 1998, 12345 birds; 3.14159 and 1,000",
    "whitespace_runs": "a\n\n\nb  c   d\t\te \n \n  f   ",
    "leading_spaces": "    def f(x):\n        return x\n",
    "only_spaces": "     ",
    "carriage_returns": "one\r\ntwo\r\n\r\nthree",
    "foreign": "\n".join(FOREIGN),
    "english": english_text(5_000, seed=21),
    "control_characters": "\x00\x01\x7f\u0085\u2028",
}
SPECIAL_TEXTS = {
    "special_only": END_OF_TEXT,
    "specials": f"Hello, how {END_OF_TEXT}{END_OF_TEXT} are you?{END_OF_TEXT}",
    "special_double_newline": f"{END_OF_TEXT}\n\n",
    "special_double_newline_text": f"{END_OF_TEXT}\n\ntesting!",
    "spaces_before_special": f"x\n\n{END_OF_TEXT} y  {END_OF_TEXT}",
    "documents": documents(5_000, seed=22),
    "broken_specials": f"<|endoftext <|endoftext| |endoftext|> <{END_OF_TEXT}>",
}
ALL_TEXTS = TEXTS | SPECIAL_TEXTS


@pytest.fixture(scope="module")
def files():
    return load_vocab_and_merges()


@pytest.fixture(scope="module")
def tokenizer(adapters, files):
    return adapters.get_tokenizer(*files, special_tokens=[END_OF_TEXT])


@pytest.fixture(scope="module")
def oracle(files, require):
    """tiktoken with the same vocabulary, pattern and special token."""
    require("tiktoken")
    import tiktoken

    vocab, _ = files
    ranks = {token: index for index, token in vocab.items() if token != END_OF_TEXT.encode()}
    return tiktoken.Encoding(
        "tests", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )


@pytest.mark.parametrize("name", ALL_TEXTS)
def test_encode_matches_tiktoken(tokenizer, oracle, name):
    ids = tokenizer.encode(ALL_TEXTS[name])
    assert ids == oracle.encode(ALL_TEXTS[name], allowed_special="all"), (
        "split off the special tokens, split the rest with the GPT-2 pattern, then join the pair of lowest rank until "
        "none is left; look single bytes up in the vocabulary, their ids are not the byte values"
    )


@pytest.mark.parametrize("name", ALL_TEXTS)
def test_roundtrip(tokenizer, name):
    assert tokenizer.decode(tokenizer.encode(ALL_TEXTS[name])) == ALL_TEXTS[name]


@pytest.mark.parametrize("name", ALL_TEXTS)
def test_roundtrip_without_special_tokens(adapters, files, name):
    tokenizer = adapters.get_tokenizer(*files)
    assert tokenizer.decode(tokenizer.encode(ALL_TEXTS[name])) == ALL_TEXTS[name]


@pytest.mark.parametrize("name", SPECIAL_TEXTS)
def test_special_tokens_none_is_ordinary_text(adapters, files, oracle, name):
    """Without a list of special tokens the end-of-text marker is seven or so ordinary tokens."""
    tokenizer = adapters.get_tokenizer(*files, special_tokens=None)
    assert tokenizer.encode(SPECIAL_TEXTS[name]) == oracle.encode(SPECIAL_TEXTS[name], disallowed_special=())


def test_empty_list_of_special_tokens(adapters, files, oracle):
    """An empty list must not become an empty split pattern, which would cut between all characters."""
    tokenizer = adapters.get_tokenizer(*files, special_tokens=[])
    assert tokenizer.encode(TEXTS["english"]) == oracle.encode(TEXTS["english"])


def test_encode_ids_are_plain_ints(tokenizer):
    ids = tokenizer.encode("Hello")
    assert isinstance(ids, list) and all(type(index) is int for index in ids)


def test_encode_special_tokens_are_kept_whole(tokenizer):
    pieces = [tokenizer.decode([index]) for index in tokenizer.encode(SPECIAL_TEXTS["specials"])]
    assert pieces.count(END_OF_TEXT) == 3


@pytest.mark.parametrize("special_tokens", [[END_OF_TEXT, DOUBLE], [DOUBLE, END_OF_TEXT]], ids=["short", "long"])
def test_overlapping_special_tokens(adapters, files, special_tokens):
    tokenizer = adapters.get_tokenizer(*files, special_tokens=special_tokens)
    text = f"Hello, how {DOUBLE} are you?{END_OF_TEXT}"
    ids = tokenizer.encode(text)
    pieces = [tokenizer.decode([index]) for index in ids]
    assert (pieces.count(DOUBLE), pieces.count(END_OF_TEXT)) == (1, 1), (
        "the longest special wins, whatever the list order"
    )
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_escaped(adapters, files):
    """| . * ( are pattern characters; a special token means itself only."""
    specials = ["<|a|b|>", "a.c", "(x)*"]
    tokenizer = adapters.get_tokenizer(*files, special_tokens=specials)
    pieces = [tokenizer.decode([index]) for index in tokenizer.encode("abc a.c (x)* xx <|a|b|> a|b")]
    assert [piece for piece in pieces if piece in specials] == ["a.c", "(x)*", "<|a|b|>"]


def test_unknown_special_tokens_get_the_next_free_ids(adapters, files):
    vocab, merges = files
    tokenizer = adapters.get_tokenizer(vocab, merges, special_tokens=["<|user|>", END_OF_TEXT, "<|bot|>"])
    assert tokenizer.encode(f"<|user|><|bot|>{END_OF_TEXT}") == [len(vocab), len(vocab) + 1, len(vocab) - 1]


def test_the_callers_vocabulary_is_not_changed(adapters, files):
    vocab, merges = dict(files[0]), list(files[1])
    adapters.get_tokenizer(vocab, merges, special_tokens=["<|new|>"]).encode("text<|new|>")
    assert (vocab, merges) == files, "copy the vocabulary before adding special tokens to it"


def test_encode_handout_example(adapters):
    """The worked example of the handout: the vocabulary has no entry for most bytes."""
    vocab = dict(enumerate([b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]))
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    assert adapters.get_tokenizer(vocab, merges).encode("the cat ate") == [9, 7, 1, 5, 10, 3]


def test_encode_uses_merge_order_not_token_length(adapters):
    """(b, c) is learned before (a, b): abc is a bc, though ab stands further left."""
    vocab = {index: bytes([index]) for index in range(256)} | {256: b"bc", 257: b"ab"}
    tokenizer = adapters.get_tokenizer(vocab, [(b"b", b"c"), (b"a", b"b")])
    assert tokenizer.encode("abc") == [ord("a"), 256], "apply merges by rank, lowest first, not from left to right"


def test_decode_replaces_invalid_utf8(adapters):
    tokenizer = adapters.get_tokenizer({index: bytes([index]) for index in range(256)}, [])
    assert tokenizer.decode([0x68, 0xFF, 0x69]) == "h\ufffdi", 'decode with errors="replace"'
    assert tokenizer.decode([0xF0, 0x9F, 0x99, 0x83]) == "\U0001f643", "join all bytes first, then decode once"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", ALL_TEXTS)
def test_encode_iterable_matches_tiktoken(tokenizer, oracle, tmp_path, name):
    """Line by line from a file, as the handout uses it."""
    path = tmp_path / "text.txt"
    path.write_bytes(ALL_TEXTS[name].encode())
    with open(path, encoding="utf-8", newline="") as file:
        ids = list(tokenizer.encode_iterable(file))
    assert ids == oracle.encode(ALL_TEXTS[name], allowed_special="all"), CUT_HINT


CUT_HINT = (
    "a chunk may end inside a pre-token, a run of whitespace or a special token; hold text back until a safe cut. Safe "
    "is the place between a non-space character and a following whitespace character"
)


@pytest.mark.parametrize("seed", range(6))
def test_encode_iterable_does_not_depend_on_the_chunks(tokenizer, oracle, seed):
    rng = random.Random(seed)
    text = "".join(rng.choice([*ALL_TEXTS.values(), " ", "\n", "'", "s "]) for _ in range(8))
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(len(text) // (1 + seed)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert list(tokenizer.encode_iterable(chunks)) == oracle.encode(text, allowed_special="all"), CUT_HINT


@pytest.mark.parametrize("special_tokens", [[END_OF_TEXT], [END_OF_TEXT, DOUBLE]], ids=["one", "overlapping"])
def test_encode_iterable_cuts_inside_special_tokens(adapters, files, special_tokens):
    tokenizer = adapters.get_tokenizer(*files, special_tokens=special_tokens)
    text = f"one {DOUBLE}{END_OF_TEXT} <|end two{DOUBLE}"
    assert list(tokenizer.encode_iterable(text)) == tokenizer.encode(text), CUT_HINT


def test_encode_iterable_is_lazy(tokenizer):
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        while read < 1000:
            read += 1
            yield f"line {read} of many\n"

    ids = tokenizer.encode_iterable(lines())
    assert read == 0, "encode_iterable must read nothing before the first id is asked for: write it as a generator"
    next(iter(ids))
    assert read < 20, f"{read} of 1000 lines were read for the first id; yield ids as soon as they are certain"


def peak_bytes(run) -> int:
    """Peak memory that Python allocates while `run()` goes on."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured on Linux only, as in the course")
def test_encode_iterable_memory_usage(tokenizer, tmp_path):
    """2 MB are encoded in less than 1 MB; the ids are consumed while memory is measured.

    (The course takes 5 MB; measuring slows allocation down several times, and either the text or the ids break 1 MB.)
    """
    path = tmp_path / "corpus.txt"
    path.write_text(documents(2_000_000, seed=23), encoding="utf-8")

    def consume() -> None:
        with open(path, encoding="utf-8") as file:
            for _ in tokenizer.encode_iterable(file):
                pass

    peak = peak_bytes(consume)
    assert peak < 1_000_000, (
        f"encode_iterable allocated {peak / 1e6:.1f} MB at its peak, limit 1 MB: collect neither text nor ids "
        "and bound every cache"
    )


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured on Linux only, as in the course")
def test_encode_memory_usage(tokenizer):
    """Why encode_iterable exists: the list of ids alone breaks the limit that streaming keeps."""
    text = documents(1_000_000, seed=23)
    assert peak_bytes(lambda: tokenizer.encode(text)) > 1_000_000
