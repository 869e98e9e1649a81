"""Token files: round trips, every damage they can take, and uniform, reproducible batches."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from cs336_basics import data
from cs336_basics.data import encode_file, get_batch, open_tokens, read_manifest, smallest_dtype, write_tokens
from cs336_basics.tokenization import Tokenizer

EOT = "<|endoftext|>"


def byte_tokenizer(*specials: str) -> Tokenizer:
    """Byte b has the id b + 7, so that ids are no byte values; special tokens follow."""
    return Tokenizer({b + 7: bytes([b]) for b in range(256)}, [], list(specials))


@pytest.mark.parametrize(
    ("vocab_size", "dtype", "width"), [(300, "uint16", 2), (2**16, "uint16", 2), (2**16 + 1, "uint32", 4)]
)
@pytest.mark.parametrize("count", [1, 5, 2**16 - 1, 2**16, 2**16 + 1, 150_000])
def test_round_trip(tmp_path, vocab_size, dtype, width, count) -> None:
    ids = np.random.default_rng(count).integers(0, vocab_size, count)
    ids[0] = vocab_size - 1
    path = tmp_path / "deep" / "tokens.bin"
    manifest = write_tokens(path, iter(ids.tolist()), vocab_size=vocab_size, source="a test")
    tokens = open_tokens(path)
    assert isinstance(tokens, np.memmap) and not tokens.flags.writeable and tokens.dtype == np.dtype(dtype)
    assert np.array_equal(tokens, ids)
    raw = path.read_bytes()
    assert raw == b"".join(int(i).to_bytes(width, "little") for i in ids)
    assert manifest == read_manifest(path) == json.loads(path.with_name("tokens.bin.json").read_text())
    expected = {"dtype": dtype, "num_tokens": count, "vocab_size": vocab_size, "source": "a test"}
    assert expected.items() <= manifest.items() and manifest["sha256"] == hashlib.sha256(raw).hexdigest()


def test_a_wider_type_can_be_asked_for(tmp_path) -> None:
    write_tokens(tmp_path / "t.bin", [1, 2], vocab_size=10, dtype="uint32")
    assert (tmp_path / "t.bin").stat().st_size == 8 and open_tokens(tmp_path / "t.bin").tolist() == [1, 2]
    assert [smallest_dtype(v).name for v in (1, 65536, 65537)] == ["uint16", "uint16", "uint32"]


def test_ids_are_taken_lazily(tmp_path) -> None:
    """Two blocks at most are in flight: an error in the third million leaves no file, and costs no memory."""
    pulled = 0

    def endless() -> Iterator[int]:
        nonlocal pulled
        while True:
            pulled += 1
            yield 99 if pulled == 200_000 else 3

    with pytest.raises(ValueError, match=r"token id 99 is outside the vocabulary \[0, 50\)"):
        write_tokens(tmp_path / "t.bin", endless(), vocab_size=50)
    assert pulled <= 200_000 + 2**16 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [-1, 50, 70_000, 2**40])
def test_an_id_outside_the_vocabulary_keeps_the_former_file(tmp_path, bad) -> None:
    path = tmp_path / "t.bin"
    write_tokens(path, [1, 2, 3], vocab_size=50)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"token id {bad} is outside .*another tokenizer"):
        write_tokens(path, [4, 5, bad, 6], vocab_size=50)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_vocabulary_that_does_not_fit_the_type(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"70000 ids does not fit uint16, .*65535; write dtype='uint32'"):
        write_tokens(tmp_path / "t.bin", [1], vocab_size=70_000, dtype="uint16")
    assert list(tmp_path.iterdir()) == []


def test_ids_that_are_no_integers_are_refused(tmp_path) -> None:
    with pytest.raises((TypeError, ValueError)):
        write_tokens(tmp_path / "t.bin", iter([1.9, 2.0]), vocab_size=10)  # type: ignore[list-item]


# Damaged files


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "t.bin"
    write_tokens(path, range(100), vocab_size=100)
    return path


def damage(path, how: str) -> None:
    raw, manifest = path.read_bytes(), path.with_name("t.bin.json")
    match how:
        case "cut by a byte":
            path.write_bytes(raw[:-1])
        case "cut by a token":
            path.write_bytes(raw[:-2])
        case "grown":
            path.write_bytes(raw + b"\0\0")
        case "emptied":
            path.write_bytes(b"")
        case "removed":
            path.unlink()
        case "manifest removed":
            manifest.unlink()
        case "manifest of another program":
            manifest.write_text('{"format": "theirs", "dtype": "uint16"}')
        case "manifest is a list":
            manifest.write_text("[1, 2]")
        case "manifest cut short":
            manifest.write_text(manifest.read_text()[:20])
        case "manifest without counts":
            manifest.write_text(json.dumps({"format": data.TOKEN_FORMAT}))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("cut by a byte", ValueError, "has 199 bytes, but 100 tokens of uint16 take 200; .*encode the corpus again"),
        ("cut by a token", ValueError, "has 198 bytes, but 100 tokens"),
        ("grown", ValueError, "has 202 bytes, but 100 tokens"),
        ("emptied", ValueError, "has 0 bytes"),
        ("removed", FileNotFoundError, "no token file at .*t.bin; write one with"),
        ("manifest removed", FileNotFoundError, "no manifest t.bin.json beside it; .*open_tokens"),
        ("manifest of another program", ValueError, "t.bin.json is not a token manifest .*another program"),
        ("manifest is a list", ValueError, "t.bin.json is not a token manifest"),
        pytest.param("manifest cut short", ValueError, "t.bin.json"),
        pytest.param("manifest without counts", ValueError, "t.bin.json"),
    ],
)
def test_damaged_files(token_file, how, error, words) -> None:
    damage(token_file, how)
    with pytest.raises(error, match=words):
        open_tokens(token_file)


def test_raw_files_without_a_manifest(tmp_path) -> None:
    path = tmp_path / "raw.bin"
    np.array([1, 2, 70_000], dtype="<u4").tofile(path)
    assert open_tokens(path, dtype="uint32").tolist() == [1, 2, 70_000]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="has 11 bytes"):
        open_tokens(path, dtype="uint32")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="has 0 bytes"):
        open_tokens(path, dtype="uint16")


# encode_file


TEXTS = [
    "one\ntwo\n" + EOT + "\u00e9t\u00e9 \U0001f642\n" + EOT,
    "no document ends here \u00fc",
    EOT + EOT,
    "crlf\r\nstays\r\n" + EOT + "tail",
    ("word " * 30_000 + "\u20ac\n" + EOT) * 2,
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_encode_file(tmp_path, text) -> None:
    source, target = tmp_path / "corpus.txt", tmp_path / "corpus.bin"
    source.write_bytes(text.encode("utf-8"))
    tokenizer = byte_tokenizer(EOT)
    manifest = encode_file(tokenizer, source, target, nats=1.5)
    documents = text.split(EOT)
    expected: list[int] = []
    for number, document in enumerate(documents):
        expected += [b + 7 for b in document.encode("utf-8")]
        expected += [263] * (number < len(documents) - 1)
    assert open_tokens(target).tolist() == expected
    assert tokenizer.decode(open_tokens(target)) == text
    assert manifest == read_manifest(target)
    assert manifest["documents"] == text.count(EOT)
    assert manifest["text_bytes"] == sum(len(d.encode("utf-8")) for d in documents)
    assert manifest["num_tokens"] == len(expected) and manifest["nats"] == 1.5 and manifest["vocab_size"] == 264


def test_encode_file_needs_the_end_token_and_the_corpus(tmp_path) -> None:
    (tmp_path / "c.txt").write_text("a")
    with pytest.raises(ValueError, match="'<|endoftext|>' is not a special token"):
        encode_file(byte_tokenizer(), tmp_path / "c.txt", tmp_path / "c.bin")
    with pytest.raises(FileNotFoundError, match="missing.txt"):
        encode_file(byte_tokenizer(EOT), tmp_path / "missing.txt", tmp_path / "c.bin")
    (tmp_path / "c.txt").write_bytes(b"good \xff bad")
    with pytest.raises(ValueError):
        encode_file(byte_tokenizer(EOT), tmp_path / "c.txt", tmp_path / "c.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


# Batches


def test_batches_follow_their_generator() -> None:
    tokens = np.random.default_rng(0).integers(0, 1000, 500).astype(np.uint16)

    def draw(seed: int, count: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.cat(get_batch(tokens, 4, 8, "cpu", generator=generator)) for _ in range(count)]

    first = draw(1, 5)
    torch.manual_seed(99)
    get_batch(tokens, 4, 8, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(first, draw(1, 5), strict=True))
    assert not torch.equal(first[0], draw(2, 1)[0]) and not torch.equal(first[0], first[1])
    torch.manual_seed(7)
    expected = get_batch(tokens, 4, 8, "cpu")
    torch.manual_seed(7)
    assert torch.equal(torch.cat(get_batch(tokens, 4, 8, "cpu")), torch.cat(expected))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_windows_come_from_the_file(tmp_path, dtype) -> None:
    ids = np.random.default_rng(0).integers(0, 2**16, 300)
    write_tokens(tmp_path / "t.bin", ids.tolist(), vocab_size=2**16, dtype=dtype)
    x, y = get_batch(open_tokens(tmp_path / "t.bin"), 64, 10, "cpu", generator=torch.Generator().manual_seed(0))
    assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (64, 10)
    known = {tuple(ids[s : s + 11].tolist()) for s in range(290)}
    assert {(*a, b[-1]) for a, b in zip(x.tolist(), y.tolist(), strict=True)} <= known
    assert torch.equal(x[:, 1:], y[:, :-1])


def test_starts_are_uniform() -> None:
    """Chi-square over the 41 possible starts; the 1e-4 quantile of 40 degrees of freedom is about 82."""
    generator, counts = torch.Generator().manual_seed(3), Counter[int]()
    for _ in range(200):
        counts.update(get_batch(np.arange(50), 41, 9, "cpu", generator=generator)[0][:, 0].tolist())
    assert set(counts) == set(range(41))
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 82


def test_too_few_tokens_for_a_window() -> None:
    with pytest.raises(ValueError, match="context_length=8 needs 9 tokens; got 8; use a longer corpus"):
        get_batch(np.arange(8), 1, 8, "cpu")


def test_ids_may_come_from_any_iterable(tmp_path) -> None:
    sources: list[Iterable[int]] = [(3, 1), range(3, 0, -2), {3: "", 1: ""}.keys(), iter([3, 1])]
    for ids in sources:
        write_tokens(tmp_path / "t.bin", ids, vocab_size=5)
        assert open_tokens(tmp_path / "t.bin").tolist() == [3, 1]
