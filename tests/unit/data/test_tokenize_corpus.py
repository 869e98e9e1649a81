"""Token files of documents against encoding one document at a time; and the verbs of the command line."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from cs336_basics.data import open_tokens, read_manifest
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_course.cli import main
from cs336_data import tokenize_corpus
from cs336_data.document_files import write_lines
from cs336_data.tokenize_corpus import tokenize_files

END = "<|endoftext|>"
TEXTS = [
    "The quick brown fox.", "", "A page about <|endoftext|> and <|user|> tokens.", "<|endoftext|>",
    "\u00e9t\u00e9 \u4e2d\u6587 \U0001f600\0",
    "line\n\n  line \r\n", "  ", "The end<|endof", "text|> of it", *(f"the document number {i} of the quick fox" for i in range(60)),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "text.txt"
    path.write_text("the quick brown fox and the document number of a page about tokens. " * 20)
    vocab, merges = train_bpe(path, 330, [END, "<|user|>"])
    return Tokenizer(vocab, merges, [END, "<|user|>"])


@pytest.fixture
def files(tmp_path):
    texts = {"a.jsonl": TEXTS[:5], "b.jsonl.gz": TEXTS[5:40], "c.jsonl.zst": [], "d.jsonl": TEXTS[40:]}
    for name, part in texts.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        with write_lines(tmp_path / "in" / name) as write:
            for text in part:
                write((json.dumps({"text": text}) + "\n").encode())
    return texts


def expected_ids(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    plain = Tokenizer(tokenizer.vocab, tokenizer.merges)
    return [i for text in texts for i in [*plain.encode(text), tokenizer.special_id(END)]]


@pytest.mark.parametrize(
    ("engine", "processes", "batch"), [("plain", 1, 1 << 20), ("compiled", 1, 100), ("plain", 2, 64)]
)
def test_token_files(tmp_path, monkeypatch, tokenizer, files, engine, processes, batch):
    monkeypatch.setattr(tokenize_corpus, "_BATCH_BYTES", batch)
    found = tokenize_files(
        (tmp_path / "in").iterdir(), tmp_path / "out", tokenizer, engine=engine, num_processes=processes
    )
    assert [path.name for path in found.files] == ["a.bin", "b.bin", "d.bin"], "no documents, no token file"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        name for path in found.files for name in (path.name, f"{path.name}.json")
    )
    for path, texts in zip(found.files, (part for part in files.values() if part), strict=True):
        assert open_tokens(path).tolist() == expected_ids(tokenizer, texts)
        manifest = read_manifest(path)
        assert manifest["documents"] == len(texts)
        assert manifest["text_bytes"] == sum(len(text.encode()) for text in texts)
    assert found.documents == len(TEXTS) and found.text_bytes == sum(len(text.encode()) for text in TEXTS)


def test_plain_files_share_token_files(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr("cs336_data.units._FILES_PER_UNIT", 2)
    for number, text in enumerate(TEXTS[:5]):
        (tmp_path / f"{number}.txt").write_bytes(text.encode())
    found = tokenize_files(tmp_path.glob("*.txt"), tmp_path / "out", tokenizer)
    assert [path.name for path in found.files] == [f"files-{i:06d}.bin" for i in range(3)]
    assert np.concatenate([open_tokens(path) for path in found.files]).tolist() == expected_ids(tokenizer, TEXTS[:5])


def test_interrupted_and_resumed(tmp_path, monkeypatch, tokenizer, files):
    real, calls = tokenize_corpus.write_token_blocks, []

    def full_disk_at_second(path, *arguments, **options):
        calls.append(path.name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr(tokenize_corpus, "write_token_blocks", full_disk_at_second)
    with pytest.raises(OSError, match="No space"):
        tokenize_files((tmp_path / "in").iterdir(), tmp_path / "out", tokenizer)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.bin", "a.bin.json"]
    found = tokenize_files((tmp_path / "in").iterdir(), tmp_path / "out", tokenizer)
    assert calls == ["a.bin", "b.bin", "b.bin", "d.bin"] and found.documents == len(TEXTS)


def test_what_cannot_be_tokenized(tmp_path, tokenizer):
    for name in ("a.jsonl", "a.jsonl.gz"):
        with write_lines(tmp_path / name) as write:
            write(b'{"text": "x"}\n')
    with pytest.raises(ValueError, match="two input files would both become a.bin"):
        tokenize_files([tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"], tmp_path / "out", tokenizer)
    with pytest.raises(ValueError, match="endoftext"):
        tokenize_files([tmp_path / "a.jsonl"], tmp_path / "out", Tokenizer(tokenizer.vocab, tokenizer.merges))


def run(capsys, *arguments: object) -> dict:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_verbs_in_a_row(tmp_path, capsys, tokenizer):
    """Lines, documents, near duplicates, quotations, tokens, mixture: counts known beforehand."""
    choice = random.Random(0)
    pages = [" ".join(choice.choices([f"w{i}" for i in range(900)], k=120)) for _ in range(30)]
    texts = [f"Menu\n{page}" for page in pages] + [pages[0], pages[1].replace(" ", "  "), pages[2] + " more"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:20]))
    (tmp_path / "in" / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[20:]))
    (tmp_path / "valid.jsonl").write_text(json.dumps({"text": " ".join(pages[5].split()[20:50])}))
    tokenizer.save(tmp_path / "tok")
    one = ("--num-processes", 1)
    lines = run(capsys, "data", "dedup-lines", tmp_path / "in", "--out", tmp_path / "1", "--drop-empty", *one)
    assert (lines["documents"], lines["kept_documents"], lines["repeated"]) == (33, 31, 2), "the menu, and page 0 twice"
    documents = run(capsys, "data", "dedup-documents", tmp_path / "1", "--out", tmp_path / "2", *one)
    assert documents["kept"] == 31
    near = run(capsys, "data", "dedup-near", tmp_path / "2", "--out", tmp_path / "3", "--num-bands", 28, *one)
    assert near["kept"] == 29, "pages 1 and 2 have near copies"
    arguments = ("--evaluation", tmp_path / "valid.jsonl", "--hits", tmp_path / "hits.jsonl", *one)
    clean = run(capsys, "data", "decontaminate", tmp_path / "3", "--out", tmp_path / "4", *arguments)
    assert clean["kept"] == 28 and json.loads((tmp_path / "hits.jsonl").read_text())["document"] == "a.jsonl:5"
    arguments = ("--tokenizer", tmp_path / "tok")
    tokens = run(capsys, "data", "tokenize", tmp_path / "4", "--out", tmp_path / "5", *arguments, *one)
    assert (tokens["documents"], tokens["files"]) == (28, 2)
    mixed = run(capsys, "data", "mix", f"web={tmp_path / '5'}", "--out", tmp_path / "train.bin", *arguments)
    assert (mixed["documents"], mixed["tokens"], mixed["web"]["epochs"]) == (28, tokens["tokens"], 1.0)
    assert sorted(open_tokens(tmp_path / "train.bin").tolist()) == sorted(
        i for name in "ab" for i in open_tokens(tmp_path / "5" / f"{name}.bin").tolist()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dedup-near", "missing", "--out", "o"], "no file at missing"),
        (["dedup-near", ".", "--out", "o"], "the folder . holds no"),
        (["dedup-lines", "--out", "o"], "there are no input files"),
        (["dedup-near", "x.jsonl", "--out", "o", "--num-bands", "5"], "num_bands must divide"),
        (["mix", "web", "--out", "o", "--tokenizer", "t"], "expected NAME=VALUE"),
        (["mix", "web=a", "web=b", "--out", "o", "--tokenizer", "t"], "each name once"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err
