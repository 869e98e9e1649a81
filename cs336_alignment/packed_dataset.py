"""Instruction data without padding: documents in a row, cut into equal pieces.

    document = BOS (if the tokenizer adds one) + Alpaca prompt with the response + EOS
    ids      = all documents after one another
    item i   = ids[i m : (i + 1) m] and the same shifted by one

Every token is trained on, the prompt's too; documents see what stands before them in their piece. A last piece that
lacks its last label is dropped. Handout (supplement): data_loading. Read next: `sft.py`.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.prompts import fill_prompt, load_prompt
from cs336_alignment.text_tokenizer import TextTokenizer


class PackedDataset(Dataset[dict[str, Tensor]]):
    """Items `input_ids` and `labels`, int64 (seq_length,) each.

    Args:
        tokenizer: its default special tokens go before each document, EOS goes after it.
        dataset_path: JSON Lines with `prompt` and `response`, perhaps gzipped.
        seq_length: tokens of an item.
        shuffle: put the documents in another order before they are packed.
        seed: of that order.

    Raises:
        ValueError: seq_length below 1, a malformed line, or too little text for one item.
    """

    def __init__(
        self,
        tokenizer: Any,
        dataset_path: str | os.PathLike[str],
        seq_length: int,
        shuffle: bool,
        *,
        seed: int = 0,
    ):
        if seq_length < 1:
            raise ValueError(f"seq_length must be at least 1; got {seq_length}")
        text, template = TextTokenizer(tokenizer), load_prompt("alpaca_sft")
        documents = [
            fill_prompt(template, instruction=pair["prompt"], response=pair["response"])
            for _, pair in read_json_lines(dataset_path, required=("prompt", "response"))
        ]
        if shuffle:
            order = np.random.default_rng(seed).permutation(len(documents))
            documents = [documents[i] for i in order]
        ids = [token for document in documents for token in (*text.encode_document(document), text.eos_id)]
        self.ids, self.seq_length = torch.tensor(ids, dtype=torch.int64), seq_length
        if not len(self):
            raise ValueError(
                f"{os.fspath(dataset_path)} has {len(ids)} tokens, too few for one item of seq_length={seq_length} and "
                "its last label; choose a smaller seq_length"
            )

    def __len__(self) -> int:
        return max(0, (len(self.ids) - 1) // self.seq_length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"the dataset has {len(self)} items; got index {index}")
        start = (index % len(self)) * self.seq_length
        window = self.ids[start : start + self.seq_length + 1]
        return {"input_ids": window[:-1].clone(), "labels": window[1:].clone()}


def iterate_batches(
    dataset: Dataset[Any], batch_size: int, shuffle: bool, *, seed: int | None = None
) -> DataLoader[Any]:
    """Batches of one epoch; the last may be short. With a seed, every pass over it has its own repeatable order."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, generator=generator)
