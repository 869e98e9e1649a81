"""Supplement problem data_loading (assignment 5): packed instruction data and batches of it."""

from __future__ import annotations

import gzip
import json
import math

import pytest
import torch

from .fixtures.alignment_files import stored_tokenizer

PAIRS = [("This is a", "test ."), ("red + blue = ?", "green ! ! 1 2 3"), ("Hello world", "world Hello"),
         ("a quick brown fox", "jumps over the lazy dog")]  # fmt: skip
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n{}"
)


@pytest.fixture(scope="module")
def word_tokenizer():
    pytest.importorskip("transformers")
    return stored_tokenizer()


def write_pairs(path, compressed=False):
    opened = gzip.open if compressed else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in PAIRS)
    return path


def token_stream(tokenizer) -> list[int]:
    """All documents: <bos> (the tokenizer's own doing), template and response, <eos>."""
    return [i for p, r in PAIRS for i in (*tokenizer.encode(ALPACA.format(p, r)), tokenizer.eos_token_id)]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("seq_length", [7, 16, 32])
def test_packed_sft_dataset(adapters, word_tokenizer, tmp_path, seq_length, compressed):
    path = write_pairs(tmp_path / ("pairs.jsonl.gz" if compressed else "pairs.jsonl"), compressed)
    dataset = adapters.get_packed_sft_dataset(
        tokenizer=word_tokenizer, dataset_path=path, seq_length=seq_length, shuffle=False
    )
    stream = token_stream(word_tokenizer)
    assert len(dataset) == (len(stream) - 1) // seq_length, "an item needs a label for its last token"
    for index, item in zip(range(len(dataset)), dataset, strict=False):
        start = index * seq_length
        assert item["input_ids"].tolist() == stream[start : start + seq_length]
        assert item["labels"].tolist() == stream[start + 1 : start + seq_length + 1], "labels run on into the next item"
        assert item["input_ids"].dtype == torch.int64
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_packed_sft_dataset_at_the_border(adapters, word_tokenizer, tmp_path):
    """N tokens make (N - 1) // m items: N = k m has one label too few for its last item, N = k m + 1 just enough."""
    path, total = write_pairs(tmp_path / "pairs.jsonl"), len(token_stream(word_tokenizer))
    dataset = adapters.get_packed_sft_dataset(word_tokenizer, path, total - 1, False)
    assert len(dataset) == 1 and dataset[0]["labels"].shape == (total - 1,)
    divisor = next(m for m in range(2, total) if total % m == 0)
    assert len(adapters.get_packed_sft_dataset(word_tokenizer, path, divisor, False)) == total // divisor - 1


def test_packed_sft_dataset_shuffles_documents(adapters, word_tokenizer, tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl")
    plain, shuffled = (adapters.get_packed_sft_dataset(word_tokenizer, path, 4, shuffle) for shuffle in (False, True))
    ids = [[token for i in range(len(d)) for token in d[i]["input_ids"].tolist()] for d in (plain, shuffled)]
    assert len(ids[0]) == len(ids[1])


def test_iterate_batches(adapters, word_tokenizer, tmp_path):
    dataset = adapters.get_packed_sft_dataset(word_tokenizer, write_pairs(tmp_path / "pairs.jsonl"), 8, False)
    loader = adapters.run_iterate_batches(dataset=dataset, batch_size=3, shuffle=False)
    assert len(loader) == math.ceil(len(dataset) / 3), "the last batch may be short; none is dropped"
    rows = [row for batch in loader for row in batch["input_ids"].tolist()]
    assert rows == [dataset[i]["input_ids"].tolist() for i in range(len(dataset))]
    shuffled = adapters.run_iterate_batches(dataset=dataset, batch_size=3, shuffle=True)
    assert sorted(row for batch in shuffled for row in batch["input_ids"].tolist()) == sorted(rows)
