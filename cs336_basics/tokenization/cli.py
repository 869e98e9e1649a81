"""The verbs `cs336 tokenizer ...`: train, encode, decode, inspect. Read next: `bpe.py`, `tokenizer.py`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cs336_basics.corpora.corpus_files import END_OF_TEXT, known_nats
from cs336_basics.runs.command_line import parse, print_result
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.text_stream import decode_stream
from cs336_basics.tokenization.tokenizer import Tokenizer

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Train:
    """Train a byte-level BPE tokenizer and save vocab.json, merges.txt and special_tokens.json."""

    text: File
    """UTF-8 text file"""
    out: Path
    """folder for the tokenizer"""
    vocab_size: int = 10_000
    """tokens in all, bytes and special tokens included"""
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    """hard boundaries, each one token"""
    num_processes: int | None = None
    """processes or threads that count; one per CPU by default"""
    tie_break: Literal["bytes", "ids"] = "bytes"
    """of equally frequent pairs take the greater byte strings (the course) or the smaller ids (rustbpe)"""
    engine: Literal["auto", "plain", "compiled"] = "auto"
    """readable or compiled code; the same result"""


def train(argv: list[str]) -> None:
    """`cs336 tokenizer train`."""
    o = parse(Train, argv, "tokenizer train", example="tokenizer train corpus.txt --out tok --vocab-size 5000")
    vocab, merges = train_bpe(
        o.text,
        o.vocab_size,
        list(o.special_tokens),
        num_processes=o.num_processes,
        progress=True,
        tie_break=o.tie_break,
        engine=o.engine,
    )
    Tokenizer(vocab, merges, list(o.special_tokens)).save(o.out)
    print(f"{len(vocab):,} tokens in {o.out}")


@dataclass(frozen=True)
class Encode:
    """Turn a text file into a token file with its manifest beside it."""

    text: File
    """UTF-8 text file; documents ended by <|endoftext|>"""
    tokens: File
    """token file to write, such as train.bin"""
    tokenizer: Path
    """folder of the tokenizer"""
    num_threads: int | None = None
    """threads for a large file; one per CPU by default"""
    engine: Literal["auto", "plain", "compiled"] = "auto"
    """readable or compiled code; the same file"""
    json: Switch = False
    """print the manifest as JSON"""


def encode(argv: list[str]) -> None:
    """`cs336 tokenizer encode`; the exact entropy of a corpus that has one goes into the manifest.

    A large file is encoded in parts; the same command continues after an interruption.
    """
    from cs336_basics.data import encode_file

    o = parse(Encode, argv, "tokenizer encode", example="tokenizer encode train.txt train.bin --tokenizer tok")
    nats = known_nats(o.text)
    tokenizer = Tokenizer.load(o.tokenizer)
    facts = {} if nats is None else {"nats": nats}
    manifest = encode_file(
        tokenizer, o.text, o.tokens, engine=o.engine, num_threads=o.num_threads, progress=True, **facts
    )
    print_result({"file": str(o.tokens), **manifest}, as_json=o.json)


@dataclass(frozen=True)
class Decode:
    """Print the text of a token file."""

    tokens: File
    """token file"""
    tokenizer: Path
    """folder of the tokenizer"""
    limit: int | None = None
    """only so many tokens from the beginning"""


def decode(argv: list[str]) -> None:
    """`cs336 tokenizer decode`."""
    from cs336_basics.data import open_tokens

    o = parse(Decode, argv, "tokenizer decode", example="tokenizer decode train.bin --tokenizer tok --limit 200")
    tokens = open_tokens(o.tokens)[: o.limit]
    blocks = (int(token) for start in range(0, len(tokens), 65536) for token in tokens[start : start + 65536])
    for piece in decode_stream(Tokenizer.load(o.tokenizer), blocks):
        sys.stdout.write(piece)


@dataclass(frozen=True)
class Inspect:
    """Show a tokenizer: its sizes, its longest tokens and, if given, how it cuts a text."""

    tokenizer: Folder
    """folder of the tokenizer"""
    text: str | None = None
    """text to cut into tokens"""
    json: Switch = False
    """print the result as JSON"""


def inspect(argv: list[str]) -> None:
    """`cs336 tokenizer inspect`."""
    o = parse(Inspect, argv, "tokenizer inspect", example='tokenizer inspect tok --text "Hello, world"')
    tokenizer = Tokenizer.load(o.tokenizer)
    longest = sorted(tokenizer.vocab.values(), key=lambda token: (-len(token), token))[:10]
    values: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "special_tokens": tokenizer.special_tokens,
        "longest_tokens": [token.decode("utf-8", errors="replace") for token in longest],
    }
    if o.text is not None:
        ids = tokenizer.encode(o.text)
        values |= {"ids": ids, "pieces": [tokenizer.decode([token]) for token in ids]}
        values |= {"bytes_per_token": len(o.text.encode("utf-8")) / max(1, len(ids))}
    print_result(values, as_json=o.json)
