"""The text that ablations train on, when no token files are given: a folder with train.txt and valid.txt, or stories.

Stories are the default because their entropy is known: a table of losses then says how far each model is from the best
possible, not only which is better. Read next: `stages.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import END_OF_TEXT, known_nats
from cs336_basics.corpora.stories import write_stories
from cs336_basics.data import encode_file, read_manifest
from cs336_basics.runs.report import Paragraph, Section
from cs336_basics.runs.stage import Stage
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.progress import progress_bar
from cs336_basics.tokenization.tokenizer import Tokenizer

FOLDER = "corpus"
TOKENIZER = f"{FOLDER}/tokenizer"
TRAIN_TOKENS, VALID_TOKENS = f"{FOLDER}/train.bin", f"{FOLDER}/valid.bin"


@dataclass(frozen=True)
class CorpusOptions:
    """Where the text comes from and how many tokens its tokenizer may have."""

    vocab_size: int = 1024
    folder: Path | None = None
    """a folder with train.txt and valid.txt, documents ended by <|endoftext|>; None writes stories"""
    num_train: int = 20_000
    """training stories"""
    num_valid: int = 200
    """validation stories"""
    seed: int = 0
    """seed of the stories"""


def corpus_stage(options: CorpusOptions) -> Stage:
    """Write the stories unless there is text, train the tokenizer, encode both splits."""
    inputs = () if options.folder is None else (_text(options.folder, "train"), _text(options.folder, "valid"))
    outputs = [f"{TOKENIZER}/{file}" for file in ("vocab.json", "merges.txt", "special_tokens.json")]
    outputs += [f"{path}{suffix}" for path in (TRAIN_TOKENS, VALID_TOKENS) for suffix in ("", ".json")]
    return Stage(
        name=FOLDER, title="text and tokens", options=options, inputs=inputs, outputs=tuple(outputs), run=_run,
        section=_section,
    )  # fmt: skip


def _text(folder: Path, split: str) -> str:
    """The absolute path of a split's text."""
    return str((folder / f"{split}.txt").resolve())


def _run(directory: Path, options: CorpusOptions) -> None:
    folder = options.folder
    if folder is None:
        folder = directory / FOLDER / "text"
        with progress_bar("writing stories", enabled=True) as report:
            write_stories(
                folder, num_train=options.num_train, num_valid=options.num_valid, num_cloze=1, seed=options.seed,
                progress=report,
            )  # fmt: skip
    texts = {split: Path(_text(folder, split)) for split in ("train", "valid")}
    vocab, merges = train_bpe(texts["train"], options.vocab_size, [END_OF_TEXT], progress=True)
    tokenizer = Tokenizer(vocab, merges, [END_OF_TEXT])
    tokenizer.save(directory / TOKENIZER)
    for split, path in (("train", TRAIN_TOKENS), ("valid", VALID_TOKENS)):
        nats = known_nats(texts[split])
        facts: dict[str, Any] = {} if nats is None else {"nats": nats}
        encode_file(tokenizer, texts[split], directory / path, **facts)


def _section(directory: Path) -> Section:
    train, valid = read_manifest(directory / TRAIN_TOKENS), read_manifest(directory / VALID_TOKENS)
    text = (
        f"{train['num_tokens']:,} tokens in {train['documents']:,} documents to train on, {valid['num_tokens']:,} in "
        f"{valid['documents']:,} to validate on; vocabulary {train['vocab_size']:,}."
    )
    if "nats" in valid:
        text += (
            f" The exact probability of this text is known: the **entropy floor**, the loss of a model that knows its "
            f"source perfectly, is {valid['nats'] / valid['num_tokens']:.4f} nats per token on the validation text."
        )
    return Section("The text", [Paragraph(text)])
