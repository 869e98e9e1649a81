"""Compiled encoding against tiktoken, brute force and the readable tokenizer; files in parts; life without numba."""

from __future__ import annotations

import os
import pickle
import pydoc_data.topics
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_basics.data import encode_file, open_tokens
from cs336_basics.tokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    NANOCHAT_PATTERN,
    Tokenizer,
    compilation,
    compiled_encoding,
    file_encoding,
    train_bpe,
)
from cs336_basics.tokenization.compiled_kernel import kernel
from cs336_basics.tokenization.merging import merge_by_passes
from tests import naive_bpe

EOT = "<|endoftext|>"
SPECIALS = [EOT, EOT + EOT, "<|pad|>"]
PATTERNS = [GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN]
ATOMS = [*"aBlsSv7'.,<|> \n\r\t\u00e9\u0301\u0663\u4e2d\u017f\U0001f643\u00a0\u2003\x85\x1c\x00", *SPECIALS, EOT[:6]]
ATOMS += ["'s", "'LL", "  ", "\r\n", "\n\n", "1234567", "=" * 20, "the cat", "ab" * 300, "a" * 700]
nasty_text = st.lists(st.sampled_from(ATOMS) | st.text(max_size=6), max_size=15).map("".join)
CORPUS = "\n".join(pydoc_data.topics.topics.values())


@pytest.fixture(scope="module", params=PATTERNS, ids=["gpt2", "gpt4", "nanochat"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_bytes((CORPUS[:60_000] + "".join(ATOMS) * 3).encode("utf-8"))
    return Tokenizer(*train_bpe(path, 900, SPECIALS, pattern=request.param), SPECIALS, pattern=request.param)


def tiktoken_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Special tokens are split off by the brute-force oracle: tiktoken does not promise longest first."""
    special_ids = {token: tokenizer.special_id(token) for token in tokenizer.special_tokens}
    ranks = {token: i for i, token in tokenizer.vocab.items() if i not in special_ids.values()}
    oracle = tiktoken.Encoding("test", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=special_ids)
    ids = []
    for part, is_special in naive_bpe.split_specials(text, tokenizer.special_tokens):
        ids += [special_ids[part]] if is_special else oracle.encode_ordinary(part)
    return ids


def compiled(tokenizer: Tokenizer, text: str | bytes) -> list[int]:
    return tokenizer.encode_to_array(text, engine="compiled").tolist()


def test_equals_tiktoken(tokenizer):
    texts = [CORPUS, "", "".join(ATOMS), "a" * 5000 + " " * 3000 + "ab" * 5000, EOT * 5 + "x"]
    rng = random.Random(0)
    texts += ["".join(rng.choices(ATOMS, k=rng.randint(1, 60))) for _ in range(100)]
    for text in texts:
        assert compiled(tokenizer, text) == tiktoken_ids(tokenizer, text)
        assert compiled(tokenizer, text.encode("utf-8")) == tokenizer.encode(text, engine="plain")
        assert tokenizer.decode(compiled(tokenizer, text)) == text


def test_random_texts_equal_the_readable_tokenizer(tokenizer):
    @settings(max_examples=150, deadline=None)
    @given(nasty_text)
    def check(text):
        assert compiled(tokenizer, text) == tokenizer.encode(text, engine="plain")

    check()


def test_a_small_cache_and_small_blocks_change_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(compiled_encoding, "_FIRST_SLOTS", 1 << 12)
    monkeypatch.setattr(compiled_encoding, "_MAX_SLOTS", 1 << 12)
    monkeypatch.setattr(compiled_encoding, "_BLOCK_IDS", 2000)
    rng = random.Random(3)
    text = "".join(rng.choices([*ATOMS, *(f" {n}{n}x" for n in range(5000))], k=30_000))
    fresh = Tokenizer(tokenizer.vocab, tokenizer.merges, SPECIALS, pattern=tokenizer.pattern)
    assert compiled(fresh, text) == tokenizer.encode(text, engine="plain")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("abc", min_size=2, max_size=4), unique=True, max_size=14), st.text("abc ", max_size=40))
def test_merges_in_any_order_equal_passes(tokens, text):
    """A merge may come before those that make its parts: the readable rule decides, and tiktoken has no such thing."""
    vocab = dict(enumerate([*(bytes([byte]) for byte in range(256)), *(token.encode() for token in tokens)]))
    known = set(vocab.values())
    splits = [(token[:i].encode(), token[i:].encode()) for token in tokens for i in range(1, len(token))]
    merges = [pair for pair in splits if known.issuperset(pair)]
    tokenizer = Tokenizer(vocab, merges)
    ids = {token: token_id for token_id, token in vocab.items()}
    ranks: dict[tuple[int, int], int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault((ids[left], ids[right]), rank)
    merged = [ids[left + right] for left, right in merges]
    expected = [i for word in naive_bpe.pretokens(text, []) for i in merge_by_passes([*word.encode()], ranks, merged)]
    assert compiled(tokenizer, text) == expected


def test_shuffled_ids_and_both_widths(tokenizer):
    ids = list(range(1000, 1000 + 3 * len(tokenizer.vocab), 3))
    random.Random(0).shuffle(ids)
    shuffled = dict(zip(ids, tokenizer.vocab.values(), strict=True))
    narrow = Tokenizer(shuffled, tokenizer.merges, SPECIALS, pattern=tokenizer.pattern)
    far = {token_id + 2**20: token for token_id, token in shuffled.items()}
    wide = Tokenizer(far, tokenizer.merges, SPECIALS, pattern=tokenizer.pattern)
    for engine in ("plain", "compiled"):
        for text in ("", "".join(ATOMS)):
            one, two = (t.encode_to_array(text, engine=engine) for t in (narrow, wide))
            assert one.dtype == np.uint16 and two.dtype == np.uint32
            assert one.tolist() == naive_bpe.encode(text, shuffled, tokenizer.merges, SPECIALS, tokenizer.pattern)
            assert (two - 2**20).tolist() == one.tolist()


def test_threads_may_share_a_tokenizer(tokenizer):
    texts = [CORPUS[start : start + 30_000] for start in range(0, 300_000, 30_000)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: compiled(tokenizer, text), texts))
    assert found == [tokenizer.encode(text, engine="plain") for text in texts]


def test_same_errors_as_the_readable_path(tokenizer):
    for engine in ("plain", "compiled"):
        with pytest.raises(ValueError, match=r"lone surrogate '\\ud800'"):
            tokenizer.encode_to_array("a\ud800", engine=engine)
        with pytest.raises(ValueError, match="not valid UTF-8: invalid start byte at byte offset 2"):
            tokenizer.encode_to_array(b"ab\xff", engine=engine)
        with pytest.raises(TypeError, match="str or bytes; got list"):
            tokenizer.encode_to_array(["a"], engine=engine)
        with pytest.raises(ValueError, match=r"no token for byte 0x71 \('q'\)"):
            Tokenizer({0: b"a", 1: b" "}, []).encode_to_array("a q", engine=engine)
    with pytest.raises(ValueError, match="engine must be"):
        tokenizer.encode("a", engine="fast")


def test_a_used_encoder_can_be_sent_to_another_process(tokenizer):
    compiled(tokenizer, CORPUS)
    assert compiled(pickle.loads(pickle.dumps(tokenizer)), CORPUS[:999]) == compiled(tokenizer, CORPUS[:999])


def test_large_texts_take_the_compiled_path(tokenizer, monkeypatch):
    expected = tokenizer.encode(CORPUS[:5000], engine="plain")
    calls = []
    original = compiled_encoding.CompiledEncoder.encode
    monkeypatch.setattr(
        compiled_encoding.CompiledEncoder, "encode", lambda *args, **kw: calls.append(1) or original(*args, **kw)
    )
    assert tokenizer.encode(CORPUS[:5000]) == expected and calls == []
    monkeypatch.setattr(compilation, "MIN_COMPILED_BYTES", 1000)
    assert tokenizer.encode(CORPUS[:5000]) == expected and len(calls) == 1


# Files


@pytest.fixture
def corpus(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(file_encoding, "_PART_BYTES", 5000)
    path = tmp_path / "corpus.txt"
    documents = [CORPUS[start : start + 900] + "\u00e9\u4e2d" for start in range(0, 60_000, 900)]
    path.write_bytes("".join(document + EOT for document in documents).encode("utf-8"))
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("num_threads", [1, 3])
def test_parts_make_the_file_of_the_plain_path(tokenizer, corpus, tmp_path, num_threads):
    expected = encode_file(tokenizer, corpus, tmp_path / "plain.bin", engine="plain", nats=2.0)
    manifest = encode_file(
        tokenizer, corpus, tmp_path / "new.bin", engine="compiled", num_threads=num_threads, nats=2.0
    )
    assert manifest == expected and list(manifest) == list(expected)
    assert (tmp_path / "new.bin").read_bytes() == (tmp_path / "plain.bin").read_bytes()
    assert open_tokens(tmp_path / "new.bin").tolist() == tiktoken_ids(tokenizer, corpus.read_text(encoding="utf-8"))
    assert files(tmp_path) == ["corpus.txt", "new.bin", "new.bin.json", "plain.bin", "plain.bin.json"]


def test_an_interrupted_run_goes_on(tokenizer, corpus, tmp_path, monkeypatch):
    encode_file(tokenizer, corpus, tmp_path / "plain.bin", engine="plain")
    done = []
    original = Tokenizer.encode_to_array

    def dies_after_five(self, data, **options):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.extend([data] if data else [])
        return original(self, data, **options)

    monkeypatch.setattr(Tokenizer, "encode_to_array", dies_after_five)
    with pytest.raises(KeyboardInterrupt):
        encode_file(tokenizer, corpus, tmp_path / "new.bin", engine="compiled", num_threads=1)
    parts = files(tmp_path / "new.bin.parts")
    assert parts == [*(f"00000{i}.bin" for i in range(5)), "plan.json"] and not (tmp_path / "new.bin").exists()

    def is_noted(self, data, **options):
        done.extend([data] if data else [])
        return original(self, data, **options)

    monkeypatch.setattr(Tokenizer, "encode_to_array", is_noted)
    encode_file(tokenizer, corpus, tmp_path / "new.bin", engine="compiled", num_threads=2)
    assert sorted(done) == sorted(set(done)) and sum(map(len, done)) == corpus.stat().st_size  # nothing twice
    assert (tmp_path / "new.bin").read_bytes() == (tmp_path / "plain.bin").read_bytes()
    assert not (tmp_path / "new.bin.parts").exists()


@pytest.mark.parametrize("change", ["text", "tokenizer"])
def test_parts_of_something_else_are_not_taken(tokenizer, corpus, tmp_path, change):
    stale = tmp_path / "new.bin.parts"
    stream = file_encoding.encode_in_parts(tokenizer, corpus, stale, engine="compiled", num_threads=1)
    next(stream)
    stream.close()
    assert len(files(stale)) > 1
    if change == "text":
        corpus.write_bytes(corpus.read_bytes().replace(b"e", b"o"))
        os.utime(corpus, ns=(1, 1))
    else:
        tokenizer = Tokenizer(tokenizer.vocab, tokenizer.merges[:-50], SPECIALS, pattern=tokenizer.pattern)
    encode_file(tokenizer, corpus, tmp_path / "new.bin", engine="compiled")
    encode_file(tokenizer, corpus, tmp_path / "plain.bin", engine="plain")
    assert (tmp_path / "new.bin").read_bytes() == (tmp_path / "plain.bin").read_bytes()


@pytest.mark.parametrize("wrong", [b"\xff", b"\xe4\xb8"])
def test_invalid_utf8_is_named_as_by_the_plain_path(tokenizer, corpus, tmp_path, wrong):
    data = corpus.read_bytes()
    corpus.write_bytes(data[:33_333].rsplit(b" ", 1)[0] + wrong + data[33_333:])
    messages = []
    for engine in ("plain", "compiled"):
        with pytest.raises(ValueError, match="corpus.txt is not valid UTF-8") as caught:
            encode_file(tokenizer, corpus, tmp_path / "new.bin", engine=engine)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert files(tmp_path) == ["corpus.txt"]


# Compiled code itself


def double(number):
    return 2 * number


def test_machine_code_is_stored_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "here"))
    assert compilation.cache_folder().parent == tmp_path / "here"
    assert compilation.stored(kernel(double))(21) == 42
    assert list((tmp_path / "here").rglob("*.nbi"))
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert compilation.cache_folder().is_relative_to(tmp_path / "user" / "cs336" / "numba")


def test_a_cache_that_cannot_be_written_is_said_and_survived(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be stored .* set NUMBA_CACHE_DIR"):
        assert compilation.stored(kernel(double))(21) == 42


WITHOUT_NUMBA = """
import sys
from pathlib import Path
if sys.argv[2] == "hidden":
    sys.modules["numba"] = None
from cs336_basics.tokenization import Tokenizer, compilation, train_bpe
from cs336_basics.data import encode_file
if sys.argv[2] == "hidden":
    compilation.MIN_COMPILED_BYTES = 100
corpus = Path(sys.argv[1])
tokenizer = Tokenizer(*train_bpe(corpus, 300, ["<|endoftext|>"]), ["<|endoftext|>"])
text = corpus.read_text()
assert tokenizer.decode(tokenizer.encode(text)) == text
assert tokenizer.encode_to_array(text).tolist() == tokenizer.encode(text)
encode_file(tokenizer, corpus, corpus.with_suffix(".bin"))
assert sys.modules.get("numba") is None, "numba was loaded for a small input"
try:
    train_bpe(corpus, 300, [], engine="compiled")
except ImportError as error:
    assert "pip install numba" in str(error) and sys.argv[2] == "hidden"
"""


@pytest.mark.parametrize("numba", ["hidden", "present"])
def test_without_numba_and_without_compiling_for_small_inputs(tmp_path, numba):
    (tmp_path / "corpus.txt").write_text("Some text, some more text.\n" * 100)
    command = [sys.executable, "-c", WITHOUT_NUMBA, str(tmp_path / "corpus.txt"), numba]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
