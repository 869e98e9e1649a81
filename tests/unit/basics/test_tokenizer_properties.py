"""The tokenizer against tiktoken, brute force and the course's limits."""

from __future__ import annotations

import json
import os
import pickle
import pydoc_data.topics
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_basics.tokenization import GPT2_PATTERN, Tokenizer, byte_to_printable, train_bpe
from tests import naive_bpe

EOT = "<|endoftext|>"
SPECIALS = [EOT, EOT + EOT, "<|pad|>"]
TRICKY = [
    "",
    "s",
    "\U0001f643",
    "Hello, how are you?",
    "H\u00e9ll\u00f2 h\u00f4w are \u00fc? \U0001f643",
    f"Hello{EOT}{EOT} and{EOT}",
    f"{EOT}\n\n",
    f"{EOT}\n\ntesting!",
    f"x\n\n{EOT} \n y  {EOT}<|endof",
    "a\n\n\nb",
    "   a    b\t\t\nc \r\n\r\n d\u00a0\u2003e\u3000",
    "I'll you've 's'S can't''re don\u2019t",
    "\u4e2d\u6587\u5b57\u7b26\uff0c\u4e2d\u6587 123\u0663abc456",
    "<|endoftext|<|endoftext|>|><|pad|<|pad|>",
    "the  quick   brown    fox" + " " * 40,
    "a" * 300 + "ab" * 200 + " " + "=" * 150,
    "\ufffd\x00\x7f\x85\x1c",
]
CORPUS = "\n".join(pydoc_data.topics.topics.values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_bytes((CORPUS[:60_000] + "".join(TRICKY) * 3).encode("utf-8"))
    return train_bpe(path, 256 + 3 + 500, SPECIALS)


@pytest.fixture(scope="module")
def tokenizer(trained) -> Tokenizer:
    return Tokenizer(*trained, SPECIALS)


@pytest.fixture(scope="module")
def oracle(trained) -> tiktoken.Encoding:
    return as_tiktoken(trained[0], SPECIALS)


def as_tiktoken(vocab: dict[int, bytes], specials: list[str]) -> tiktoken.Encoding:
    """Ranks are ids less the specials, so that ranks 0..255 are the bytes and then the merges."""
    special_ids = {token: next(i for i, b in vocab.items() if b == token.encode()) for token in specials}
    ranks = {token: token_id for token_id, token in vocab.items() if token_id not in special_ids.values()}
    return tiktoken.Encoding("test", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special_ids)


def expected_ids(oracle: tiktoken.Encoding, text: str) -> list[int]:
    """Special tokens are split off by the brute-force oracle: tiktoken does not promise longest first."""
    ids = []
    for part, is_special in naive_bpe.split_specials(text, SPECIALS):
        ids += [oracle._special_tokens[part]] if is_special else oracle.encode_ordinary(part)
    return ids


def test_the_handouts_example():
    tokens = [b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    tokenizer = Tokenizer(dict(enumerate(tokens)), merges)
    assert tokenizer.encode("the cat ate") == [9, 7, 1, 5, 10, 3]
    assert tokenizer.decode([9, 7, 1, 5, 10, 3]) == "the cat ate"
    with pytest.raises(ValueError, match=r"no token for byte 0x71 \('q'\).*add all 256"):
        tokenizer.encode("the qat")


@pytest.mark.parametrize("text", TRICKY)
def test_equals_tiktoken_on_tricky_texts(tokenizer, oracle, text):
    ids = tokenizer.encode(text)
    assert ids == expected_ids(oracle, text)
    assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in ids] == [oracle.decode([i]) for i in ids]


def test_equals_tiktoken_on_long_text(tokenizer, oracle):
    assert tokenizer.encode(CORPUS) == oracle.encode_ordinary(CORPUS)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*TRICKY[1:], *" \n'abz\u00e9\u4e2d<|>"]) | st.text(max_size=8), max_size=8).map("".join)
)
def test_equals_tiktoken_on_random_texts(tokenizer, oracle, text):
    ids = tokenizer.encode(text)
    assert ids == expected_ids(oracle, text)
    assert list(tokenizer.encode_iterable(text)) == ids
    assert tokenizer.decode(ids) == text


def test_equals_brute_force_when_ids_are_shuffled(trained):
    vocab, merges = trained
    ids = list(range(1000, 1000 + 3 * len(vocab), 3))
    random.Random(0).shuffle(ids)
    shuffled = dict(zip(ids, vocab.values(), strict=True))
    tokenizer = Tokenizer(shuffled, merges, SPECIALS)
    for text in TRICKY:
        assert tokenizer.encode(text) == naive_bpe.encode(text, shuffled, merges, SPECIALS)


@pytest.mark.parametrize("specials", [[EOT, EOT + EOT], [EOT + EOT, EOT]])
def test_overlapping_specials_take_the_longest(trained, specials):
    tokenizer = Tokenizer(*trained, specials)
    one, two = tokenizer.special_id(EOT), tokenizer.special_id(EOT + EOT)
    assert tokenizer.encode(EOT * 3) == [two, one]
    assert list(tokenizer.encode_iterable(list(EOT * 3))) == [two, one]


def test_special_tokens_get_the_next_free_ids():
    vocab = {3 * byte: bytes([byte]) for byte in range(256)}
    tokenizer = Tokenizer(vocab, [], ["<a>", "b", "<c>"])
    assert [tokenizer.special_id(token) for token in ("<a>", "b", "<c>")] == [766, 3 * 98, 767]
    assert tokenizer.vocab_size == 768 and tokenizer.vocab[767] == b"<c>"
    assert 766 not in vocab
    with pytest.raises(ValueError, match="'<d>' is not a special token"):
        tokenizer.special_id("<d>")


def test_without_specials_their_text_is_ordinary(trained):
    tokenizer = Tokenizer(*trained)
    ids = tokenizer.encode("a" + EOT)
    assert len(ids) > 2 and tokenizer.decode(ids) == "a" + EOT and 0 not in ids


@pytest.mark.parametrize("text", TRICKY)
def test_every_split_encodes_alike(tokenizer, text):
    ids = tokenizer.encode(text)
    for cut in range(len(text) + 1):
        assert list(tokenizer.encode_iterable([text[:cut], text[cut:]])) == ids
    for size in (1, 2, 3, 7):
        assert list(tokenizer.encode_iterable(text[i : i + size] for i in range(0, len(text), size))) == ids
    assert list(tokenizer.encode_iterable(text.splitlines(keepends=True))) == ids


def test_encode_iterable_on_a_file_and_on_one_giant_piece(tokenizer, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(CORPUS, encoding="utf-8", newline="")
    with open(path, encoding="utf-8", newline="") as file:
        assert list(tokenizer.encode_iterable(file)) == tokenizer.encode(CORPUS)
    assert list(tokenizer.encode_iterable([CORPUS])) == tokenizer.encode(CORPUS)


def test_encode_iterable_is_lazy(tokenizer):
    read = 0

    def lines():
        nonlocal read
        for number in range(10_000):
            read += 1
            yield f"line number {number}\n"

    ids = tokenizer.encode_iterable(lines())
    assert read == 0
    next(ids)
    assert read == 1
    for _ in range(1000):
        next(ids)
    assert read < 400


def test_encode_iterable_needs_less_than_a_megabyte(tokenizer):
    """The course's limit, measured while the ids are consumed: 5 MB of text, 1 MB of memory."""
    rng = random.Random(0)
    lines = CORPUS[:60_000].splitlines(keepends=True)

    def five_megabytes():
        total = 0
        while total < 5_000_000:
            piece = "".join(rng.choices(lines, k=20)) + str(rng.random())  # new words all the time
            total += len(piece)
            yield piece

    tracemalloc.start()
    try:
        count = sum(1 for _ in tokenizer.encode_iterable(five_megabytes()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count > 1_000_000
    assert peak < 1_000_000


def test_the_cache_forgets_without_changing_the_result(trained, monkeypatch):
    monkeypatch.setattr("cs336_basics.tokenization.tokenizer._CACHE_BYTES", 2000)
    small = Tokenizer(*trained, SPECIALS)
    assert small.encode(CORPUS[:50_000]) == Tokenizer(*trained, SPECIALS).encode(CORPUS[:50_000])


@pytest.mark.parametrize("text", ["a" * 50_000, "ab" * 25_000, " " * 50_000, "\u4e2d" * 20_000])
def test_long_words_are_not_quadratic(tokenizer, oracle, text):
    ids = tokenizer.encode(text)
    assert ids == oracle.encode_ordinary(text)
    assert list(tokenizer.encode_iterable(text)) == ids


def test_decode_replaces_invalid_utf8(tokenizer):
    byte_ids = {token: token_id for token_id, token in tokenizer.vocab.items()}
    for data in (b"\xff\xffa", b"\xe4\xb8", b"a\xf0\x9f\x99b", b"\xed\xa0\x80"):
        ids = [byte_ids[bytes([byte])] for byte in data]
        assert tokenizer.decode(ids) == data.decode("utf-8", errors="replace")


def test_decode_takes_any_integers(tokenizer):
    text = "Hello world"
    ids = tokenizer.encode(text)
    for form in (
        tuple,
        iter,
        np.array,
        torch.tensor,
        lambda x: np.array(x, dtype=np.uint16),
        lambda x: list(torch.tensor(x)),
    ):
        assert tokenizer.decode(form(ids)) == text
    assert tokenizer.decode([]) == ""


def test_decode_errors(tokenizer):
    with pytest.raises(ValueError, match=f"id 100000 is not in the vocabulary; vocab_size is {tokenizer.vocab_size}"):
        tokenizer.decode([5, 100_000])
    with pytest.raises(ValueError, match="id -1 "):
        tokenizer.decode([-1])
    for wrong in ([1.0], ["a"], [[1, 2]], torch.zeros(2, 2, dtype=torch.long)):
        with pytest.raises(TypeError, match="flat iterable of integers"):
            tokenizer.decode(wrong)


def test_encode_errors(tokenizer):
    with pytest.raises(TypeError, match="encode takes a str; got list"):
        tokenizer.encode(["a"])
    with pytest.raises(TypeError, match="pieces of str"):
        list(tokenizer.encode_iterable([b"a"]))
    with pytest.raises(ValueError, match=r"lone surrogate '\\ud800'"):
        tokenizer.encode("a\ud800")


def test_constructor_errors():
    letters = {0: b"a", 1: b"b", 2: b"ab"}
    with pytest.raises(TypeError, match="id 1 has 'b' of type str"):
        Tokenizer({0: b"a", 1: "b"}, [])
    with pytest.raises(TypeError, match="got the id 'a'"):
        Tokenizer({"a": b"a"}, [])
    with pytest.raises(ValueError, match="negative; got -1"):
        Tokenizer({-1: b"a"}, [])
    for merge, missing in [((b"a", b"c"), b"c"), ((b"b", b"a"), b"ba"), ((b"x", b"a"), b"x")]:
        with pytest.raises(ValueError, match=f"merge 0 .* needs the token {missing!r}, which is not in the vocabulary"):
            Tokenizer(letters, [merge])
    with pytest.raises(TypeError, match="list of str"):
        Tokenizer(letters, [], EOT)
    with pytest.raises(ValueError, match="duplicate"):
        Tokenizer(letters, [], [EOT, EOT])
    with pytest.raises(ValueError, match="empty string"):
        Tokenizer(letters, [], [""])


def test_save_and_load(tokenizer, trained, tmp_path):
    custom = Tokenizer(*trained, ["\u00e9 t", "a", EOT], pattern=r"\S+|\s+")
    for number, original in enumerate([tokenizer, custom]):
        original.save(tmp_path / str(number))
        loaded = Tokenizer.load(tmp_path / str(number))
        assert loaded.vocab == original.vocab and loaded.merges == original.merges
        assert loaded.special_tokens == original.special_tokens and loaded.pattern == original.pattern
        for text in [*TRICKY, "caf\u00e9 t a"]:
            assert loaded.encode(text) == original.encode(text)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == [
        "merges.txt",
        "special_tokens.json",
        "vocab.json",
    ]


def test_a_special_token_that_is_also_a_byte_survives_saving(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("banana bandana", encoding="utf-8")
    original = Tokenizer(*train_bpe(corpus, 260, ["a"]), ["a"])
    original.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved")
    assert loaded.vocab == original.vocab
    assert loaded.encode("banana")[1] == loaded.special_id("a") == 0


def test_from_files_reads_gpt2_files(tmp_path):
    """The published format: no or one `#version` line, specials in vocab.json."""
    show = byte_to_printable()
    vocab = {byte: bytes([byte]) for byte in range(256)} | {256: b" t", 257: b" th", 258: b"##", 259: EOT.encode()}
    (tmp_path / "vocab.json").write_text(
        json.dumps({"".join(show[byte] for byte in token): token_id for token_id, token in vocab.items()})
    )
    for first_line in ("", "#version: 0.2\n"):
        (tmp_path / "merges.txt").write_text(f"{first_line}\u0120 t\n\u0120t h\n# #\n", encoding="utf-8")
        tokenizer = Tokenizer.from_files(tmp_path / "vocab.json", tmp_path / "merges.txt", [EOT])
        assert tokenizer.merges == [(b" ", b"t"), (b" t", b"h"), (b"#", b"#")]
        assert tokenizer.vocab == vocab
        assert tokenizer.encode(f" thin##{EOT}") == [257, ord("i"), ord("n"), 258, 259]


def test_file_errors(tmp_path):
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text('{"a": 0, "b": 1, "ab": 2}')
    for text, words in [("a b c\n", "line 1.*'a b c'"), ("a b\nab\n", "line 2"), ("a \u4e2d\n", "printable-byte")]:
        merges.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            Tokenizer.from_files(vocab, merges)
    merges.write_text("")
    for text, words in [
        ("{", "not valid JSON"),
        ("[]", "one JSON object"),
        ('{"a": 0, "b": 0}', "once"),
        ('{"a": "x"}', "int"),
    ]:
        vocab.write_text(text)
        with pytest.raises(ValueError, match=words):
            Tokenizer.from_files(vocab, merges)


def test_token_byte_lengths(tokenizer):
    lengths = tokenizer.token_byte_lengths()
    assert lengths.dtype == np.int64 and lengths.shape == (tokenizer.vocab_size,)
    assert [lengths[tokenizer.special_id(token)] for token in SPECIALS] == [0, 0, 0]
    for text in TRICKY:
        plain = "".join(part for part, is_special in naive_bpe.split_specials(text, SPECIALS) if not is_special)
        assert lengths[np.array(tokenizer.encode(text), dtype=int)].sum() == len(plain.encode("utf-8"))


def test_a_tokenizer_can_be_sent_to_another_process(tokenizer):
    tokenizer.encode(CORPUS)
    sent = pickle.dumps(tokenizer)
    assert len(sent) < 100_000  # without its cache
    assert pickle.loads(sent).encode(TRICKY[5]) == tokenizer.encode(TRICKY[5])


def test_byte_alphabet_is_gpt2s():
    table = byte_to_printable()
    assert len(set(table.values())) == 256 and all(character.isprintable() for character in table.values())
    samples = [table[byte] for byte in (0x0A, 0x20, 0x7F, 0xA0, 0xAD, 0x41, 0xFF)]
    assert samples == [*"\u010a\u0120\u0121\u0142\u0143A\u00ff"]


@pytest.mark.skipif("CS336_REAL_DATA" not in os.environ, reason="CS336_REAL_DATA names no folder with real data")
def test_the_real_gpt2_tokenizer():
    folder = Path(os.environ["CS336_REAL_DATA"]) / "gpt2"
    tokenizer = Tokenizer.from_files(folder / "gpt2_vocab.json", folder / "gpt2_merges.txt", [EOT])
    special_ids = {EOT: 50256}
    ranks = {token: token_id for token_id, token in tokenizer.vocab.items() if token_id != 50256}
    oracle = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special_ids)
    for text in [*TRICKY, CORPUS]:
        assert tokenizer.encode(text) == oracle.encode(text, allowed_special="all")
        assert list(tokenizer.encode_iterable(text.splitlines(keepends=True))) == tokenizer.encode(text)
    assert tokenizer.encode("a\n\n\nb") == [64, 628, 198, 65]
