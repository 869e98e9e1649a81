"""Every wrong input of the issue's list: an error that names the value, the rule and the remedy, and no file harmed.

Each row: what is done, the error, and words of its message. The cases run in a folder that already holds good files,
which must be the same afterwards, byte for byte.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cs336_basics.checkpoint import load_checkpoint, save_checkpoint
from cs336_basics.data import encode_file, get_batch, open_tokens, write_tokens
from cs336_basics.generation import generate
from cs336_basics.model import RotaryPositionalEmbedding, TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.atomic import write_json
from cs336_basics.tokenization import Tokenizer, train_bpe
from cs336_basics.training import save_model, train
from cs336_basics.training_config import OptimizerConfig
from tests.unit.basics.tiny_run import tiny_config, write_tiny_corpus

EOT = "<|endoftext|>"
MODEL = ModelConfig(257, 8, 8, 1, 2, 8)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A folder with a corpus, a tokenizer, token files, a checkpoint, a model and a finished run."""
    write_tiny_corpus(tmp_path)
    (tmp_path / "corpus.txt").write_text("a cat.\n" + EOT, encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9 au lait")
    torch.manual_seed(0)
    model = TransformerLM(MODEL)
    save_checkpoint(model, AdamW(model.parameters()), 1, tmp_path / "c.pt")
    save_model(model, tmp_path / "model")
    whole = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    shutil.copytree(tmp_path / "model", tmp_path / "cut_model")
    (tmp_path / "cut_model" / "model.pt").write_bytes(whole[:500])
    shutil.copytree(tmp_path / "model", tmp_path / "other_model")
    write_json(tmp_path / "other_model" / "model_config.json", dataclasses.asdict(MODEL) | {"d_model": 16})
    shutil.copy(tmp_path / "train.bin", tmp_path / "cut.bin")
    shutil.copy(tmp_path / "train.bin.json", tmp_path / "cut.bin.json")
    with open(tmp_path / "cut.bin", "r+b") as file:
        file.truncate(101)
    return tmp_path


def model_and_optimizer(config: ModelConfig = MODEL) -> tuple[TransformerLM, AdamW]:
    model = TransformerLM(config)
    return model, AdamW(model.parameters())


def tokenizer(*specials: str, vocab: dict[int, bytes] | None = None) -> Tokenizer:
    return Tokenizer(vocab or {b: bytes([b]) for b in range(256)}, [], list(specials))


Case = Callable[[Path], Any]
CASES: dict[str, tuple[Case, type[Exception], str]] = {
    # missing, empty and foreign text
    "train_bpe: missing corpus": (
        lambda f: train_bpe(f / "nowhere.txt", 300, [EOT]), FileNotFoundError, "nowhere.txt does not exist.*give",
    ),
    "train_bpe: empty corpus": (lambda f: train_bpe(f / "empty.txt", 300, [EOT]), ValueError, "empty.txt is empty"),
    "train_bpe: not UTF-8": (lambda f: train_bpe(f / "latin1.txt", 300, [EOT]), ValueError, "latin1.txt.*UTF-8"),
    "encode_file: missing corpus": (
        lambda f: encode_file(tokenizer(EOT), f / "nowhere.txt", f / "new.bin"), FileNotFoundError, "nowhere.txt",
    ),
    # vocabularies and special tokens
    "train_bpe: vocabulary too small": (
        lambda f: train_bpe(f / "corpus.txt", 256, [EOT]), ValueError, "at least 256 .* = 257; got 256",
    ),
    "train_bpe: duplicate special": (
        lambda f: train_bpe(f / "corpus.txt", 300, [EOT, EOT]), ValueError, r"(?i)<\|endoftext\|>.*",
    ),
    "train_bpe: empty special": (lambda f: train_bpe(f / "corpus.txt", 300, [""]), ValueError, "(?i)empty"),
    "tokenizer: duplicate special": (lambda f: tokenizer(EOT, EOT), ValueError, r"(?i)<\|endoftext\|>"),
    "tokenizer: empty special": (lambda f: tokenizer(""), ValueError, "(?i)empty"),
    "tokenizer: one string for a list": (lambda f: Tokenizer({0: b"a"}, [], EOT), TypeError, "list"),
    "tokenizer: byte without a token": (
        lambda f: tokenizer(vocab={0: b"a"}).encode("ab"), ValueError, "no token for byte 0x62.*add all 256",
    ),
    "encode: lone surrogate": (lambda f: tokenizer().encode("a\ud800"), ValueError, "surrogate.*clean it with"),
    # ids
    "decode: id too large": (lambda f: tokenizer().decode([1, 256]), ValueError, "id 256 is not in .*is 256"),
    "decode: negative id": (lambda f: tokenizer().decode([-1]), ValueError, "id -1 is not in the vocabulary"),
    "decode: not an id": (lambda f: tokenizer().decode(["a"]), TypeError, "integers; it holds 'a'"),
    "model: id outside the vocabulary": (
        lambda f: TransformerLM(MODEL)(torch.tensor([[257]])), IndexError, "257 is out of bounds.*257",
    ),
    # token files
    "open_tokens: missing": (lambda f: open_tokens(f / "no.bin"), FileNotFoundError, "no.bin; write one with"),
    "open_tokens: cut short": (lambda f: open_tokens(f / "cut.bin"), ValueError, "cut.bin has 101 bytes.*encode"),
    "open_tokens: no manifest": (lambda f: open_tokens(f / "c.pt"), FileNotFoundError, "no manifest c.pt.json"),
    "write_tokens: vocabulary does not fit": (
        lambda f: write_tokens(f / "train.bin", [1], vocab_size=65_537, dtype="uint16"),
        ValueError, "65537 ids does not fit uint16, whose largest value is 65535; write dtype='uint32'",
    ),
    "write_tokens: id outside the vocabulary": (
        lambda f: write_tokens(f / "train.bin", [1, 300], vocab_size=257), ValueError, r"300 is outside .*\[0, 257\)",
    ),
    "get_batch: corpus shorter than a window": (
        lambda f: get_batch(open_tokens(f / "valid.bin"), 1, 10_000, "cpu"), ValueError, "needs 10001 tokens; got",
    ),
    # checkpoints
    "load_checkpoint: missing": (
        lambda f: load_checkpoint(f / "no.pt", *model_and_optimizer()), FileNotFoundError, "no checkpoint at .*no.pt",
    ),
    "load_checkpoint: another model": (
        lambda f: load_checkpoint(f / "c.pt", *model_and_optimizer(dataclasses.replace(MODEL, d_model=16))),
        ValueError, r"token_embeddings.weight: checkpoint \(257, 8\), model \(257, 16\).*configuration",
    ),
    "from_pretrained: missing": (lambda f: TransformerLM.from_pretrained(f / "no"), FileNotFoundError, "model_config"),
    # shapes and ranges
    "config: heads do not divide": (
        lambda f: ModelConfig(10, d_model=100, num_heads=12), ValueError,
        "d_model=100, num_heads=12; choose d_model=96 or 108",
    ),
    "config: odd rotary width": (
        lambda f: ModelConfig(10, d_model=15, num_heads=3), ValueError, "even; got d_model=15, num_heads=3; choose",
    ),
    "config: no vocabulary": (lambda f: ModelConfig(0), ValueError, "vocab_size must be at least 1; got 0"),
    "config: dropout of 1": (lambda f: ModelConfig(9, attn_pdrop=1.0), ValueError, r"attn_pdrop .*\[0, 1\); got 1.0"),
    "config: negative d_ff": (lambda f: ModelConfig(9, d_ff=-4), ValueError, "d_ff must be at least 1; got -4"),
    "config: unknown attention": (
        lambda f: TransformerLM(dataclasses.replace(MODEL, attention="fast")), ValueError, "'fast' is not known",
    ),
    "rope: odd width": (lambda f: RotaryPositionalEmbedding(1e4, 5, 8), ValueError, "d_k must be even; got 5"),
    "model: context overflow": (
        lambda f: TransformerLM(MODEL)(torch.zeros(1, 9, dtype=torch.int64)), ValueError,
        "at most context_length=8 tokens; got 9; shorten",
    ),
    "generate: empty prompt": (
        lambda f: generate(TransformerLM(MODEL), torch.zeros(1, 0, dtype=torch.int64), 3), ValueError, "one token",
    ),
    # runs
    "train: corpus missing": (
        lambda f: train(tiny_config(f, train_tokens=f / "no.bin"), f.parent / "run_a"), FileNotFoundError, "no.bin",
    ),
    "train: corpus cut short": (
        lambda f: train(tiny_config(f, train_tokens=f / "cut.bin"), f.parent / "run_b"), ValueError, "cut.bin has 101",
    ),
    "train: vocabulary larger than the model": (
        lambda f: train(tiny_config(f, model=dataclasses.replace(MODEL, vocab_size=100)), f.parent / "run_c"),
        ValueError, "model.vocab_size=100; set model.vocab_size to at least 257",
    ),
    "train: directory of something else": (
        lambda f: train(tiny_config(f), f), ValueError, "not empty and holds no run.*choose a new or empty directory",
    ),
    "train: directory is a file": (lambda f: train(tiny_config(f), f / "c.pt"), ValueError, "is a file; choose"),
    "schedule: warm-up too long": (
        lambda f: tiny_config(f, optimizer=OptimizerConfig(warmup_steps=30)), ValueError, "warmup_steps=30 .*shorten",
    ),
}  # fmt: skip

MORE_CASES: dict[str, tuple[Case, type[Exception], str, str]] = {
    "encode_file: not UTF-8": (
        lambda f: encode_file(tokenizer(EOT), f / "latin1.txt", f / "new.bin"), ValueError, "latin1.txt",
        "a raw UnicodeDecodeError that does not name the file",
    ),
    "encode_file: empty corpus": (
        lambda f: encode_file(tokenizer(EOT), f / "empty.txt", f / "new.bin"), ValueError, "empty.txt",
        "an empty corpus is encoded without a word to a token file that cannot be opened",
    ),
    "load_checkpoint: cut in half": (
        lambda f: load_checkpoint(f / "cut.pt", *model_and_optimizer()), ValueError, "cut.pt is no readable.*remove it",
        "torch's OSError: [Errno 22] Invalid argument is let through",
    ),
    "load_checkpoint: foreign": (
        lambda f: load_checkpoint(f / "corpus.txt", *model_and_optimizer()), ValueError, "corpus.txt is no readable",
        "the unpickler's IndexError is let through",
    ),
    "load_checkpoint: empty file": (
        lambda f: load_checkpoint(f / "empty.txt", *model_and_optimizer()), ValueError, "empty.txt",
        "IndexError, because EOFError has no text",
    ),
    "from_pretrained: cut short": (
        lambda f: TransformerLM.from_pretrained(f / "cut_model"), ValueError, "cut_model",
        "torch's raw RuntimeError, without file or remedy",
    ),
    "from_pretrained: weights of another shape": (
        lambda f: TransformerLM.from_pretrained(f / "other_model"), ValueError, "token_embeddings",
        "torch's raw RuntimeError instead of checkpoint.check_weights",
    ),
    "get_batch: no windows": (
        lambda f: get_batch(open_tokens(f / "train.bin"), 0, 8, "cpu"), ValueError, "batch_size",
        "batch_size=0 gives empty tensors",
    ),
}  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


ROWS = [pytest.param(*case, id=name) for name, case in CASES.items()]
ROWS += [pytest.param(*case[:3], id=name) for name, case in MORE_CASES.items()]


@pytest.mark.parametrize(("do", "error", "words"), ROWS)
def test_bad_input(good, do, error, words) -> None:
    before = files_of(good)
    with pytest.raises(error, match=words) as caught:
        do(good)
    assert not isinstance(caught.value, UnicodeDecodeError), "a raw decoding error names no file and no remedy"
    assert files_of(good) == before


def test_invalid_utf8_ids_decode_to_replacement_characters() -> None:
    assert tokenizer().decode([0xE2, 0x82, 65]) == bytes([0xE2, 0x82, 65]).decode("utf-8", errors="replace")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "write",
    [
        lambda f: write_tokens(f / "train.bin", [1, 2], vocab_size=257),
        lambda f: encode_file(tokenizer(EOT), f / "corpus.txt", f / "train.bin"),
        lambda f: save_checkpoint(*model_and_optimizer(), 2, f / "c.pt"),
        lambda f: save_model(TransformerLM(MODEL), f / "model"),
        lambda f: tokenizer(EOT, "<|new|>").save(f / "tokenizer"),
        lambda f: write_json(f / "train.bin.json", {}),
    ],
    ids=["write_tokens", "encode_file", "save_checkpoint", "save_model", "tokenizer.save", "write_json"],
)
def test_a_full_disk_harms_no_file(good, monkeypatch, write, call) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files_of(good)
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write(good)
    monkeypatch.undo()
    assert files_of(good) == before


def test_a_full_disk_between_tokens_and_manifest_leaves_a_matching_pair(good, monkeypatch) -> None:
    """'Both appear whole or not at all.' The old and the new file have equally many tokens, so sizes say nothing."""
    path, replace, calls = good / "train.bin", os.replace, iter(range(1, 100))
    count = json.loads((good / "train.bin.json").read_text())["num_tokens"]

    def full(*arguments: Any) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*arguments)

    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_tokens(path, [7] * count, vocab_size=10_000)
    monkeypatch.undo()
    try:
        assert open_tokens(path).tobytes() == before
    except (ValueError, FileNotFoundError):
        pass  # refusing the pair is as good


def test_a_full_disk_while_training_keeps_the_last_checkpoint(good, tmp_path_factory, monkeypatch) -> None:
    """The third checkpoint does not fit; when there is room again the run goes on."""
    run, fsync, seen = tmp_path_factory.mktemp("full") / "run", os.fsync, []

    def full(descriptor: int) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc/self/fd") else ""
        if "step_00000015" in name:
            seen.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to tell which file is written")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(tiny_config(good), run, progress=False)
    monkeypatch.setattr(os, "fsync", fsync)
    assert seen and sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_00000005.pt", "step_00000010.pt"]
    assert train(tiny_config(good), run, progress=False)["steps"] == 30
