"""The verbs `cs336 tokenizer ...`: train, encode, decode, inspect, export, import; and `cs336 basics tokenizer report`.

Read next: `bpe.py`, `tokenizer.py`, `exchange.py`, `report.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cs336_basics.corpora.corpus_files import END_OF_TEXT, known_nats
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.command_line import parse, print_result
from cs336_basics.runs.config import config_from_dict
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.chat_tokens import add_chat_tokens
from cs336_basics.tokenization.exchange import Format, export_tokenizer, import_tokenizer
from cs336_basics.tokenization.text_stream import decode_stream
from cs336_basics.tokenization.tokenizer import Tokenizer

File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
AnyTokenizer = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
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


@dataclass(frozen=True)
class Export:
    """Write a tokenizer in the files of another program: tiktoken, Hugging Face, GPT-2, nanochat."""

    tokenizer: AnyTokenizer
    """folder or file of the tokenizer, of any kind that import reads"""
    out: Path
    """folder to write into"""
    format: Format
    """whose files to write"""
    renumber: Switch = False
    """give bytes, merges and special tokens new ids in this order; old token files will not fit"""
    chat_tokens: Switch = False
    """add the nine special tokens of chats under the last ids"""
    json: Switch = False
    """print the result as JSON"""


def export(argv: list[str]) -> None:
    """`cs336 tokenizer export`."""
    o = parse(Export, argv, "tokenizer export", example="tokenizer export tok --out tok-hf --format huggingface")
    tokenizer = import_tokenizer(o.tokenizer)
    if o.chat_tokens:
        tokenizer = add_chat_tokens(tokenizer)
    files = export_tokenizer(tokenizer, o.out, format=o.format, renumber_ids=o.renumber)
    print_result({"vocab_size": tokenizer.vocab_size, "files": [str(file) for file in files]}, as_json=o.json)


@dataclass(frozen=True)
class Import:
    """Read another program's tokenizer, check it, and save it as a tokenizer of this library."""

    tokenizer: AnyTokenizer
    """folder, or .tiktoken, tokenizer.json or vocab.json file"""
    out: Path
    """folder for the tokenizer"""
    pattern: str | None = None
    """gpt2, gpt4, nanochat or a regular expression, where the files do not say"""
    special_tokens: tuple[str, ...] | None = None
    """GPT-2's files: which tokens of vocab.json are special; <|endoftext|> by default"""
    drop_template: Switch = False
    """Hugging Face: go without the tokens that its post-processor adds around each text"""
    chat_tokens: Switch = False
    """add the nine special tokens of chats under the last ids"""
    json: Switch = False
    """print the result as JSON"""


def import_(argv: list[str]) -> None:
    """`cs336 tokenizer import`."""
    o = parse(Import, argv, "tokenizer import", example="tokenizer import ranks.tiktoken --out tok --pattern gpt4")
    tokenizer = import_tokenizer(
        o.tokenizer, pattern=o.pattern, special_tokens=o.special_tokens, drop_template=o.drop_template
    )
    if o.chat_tokens:
        tokenizer = add_chat_tokens(tokenizer)
    tokenizer.save(o.out)
    values: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "merges": len(tokenizer.merges)}
    values |= {"special_tokens": tokenizer.special_tokens, "pattern": tokenizer.pattern, "folder": str(o.out)}
    print_result(values, as_json=o.json)


@dataclass(frozen=True)
class Report:
    """Measure a tokenizer: against others by kind of text and language, rare tokens, parameters, speed."""

    tokenizer: AnyTokenizer
    """folder or file of the tokenizer, of any kind that `tokenizer import` reads"""
    baselines: tuple[str, ...] = ()
    """other tokenizers, as NAME=PATH or PATH"""
    train: Path | None = None
    """text the tokenizer was trained on"""
    valid: Path | None = None
    """text of the same kind that it was not trained on"""
    sample_bytes: int = 1_000_000
    """how much of train and valid to read"""
    threshold: int = 10
    """a token that occurs less often in the sample counts as undertrained"""
    d_model: int = 768
    """width of the model whose parameter share is shown"""
    num_layers: int = 12
    """its number of blocks"""
    tie_embeddings: Switch = False
    """its embedding is its head too"""
    model: Path | None = None
    """run folder whose model_config.json gives the model instead"""
    pattern: str | None = None
    """gpt2, gpt4, nanochat or a regular expression, for rank files that do not say"""
    seed: int = 0
    """seed of the bootstrap intervals"""
    out: Path | None = None
    """folder for report.html, report.md and results.json"""
    json: Switch = False
    """print the results as JSON"""


def report(argv: list[str]) -> None:
    """`cs336 basics tokenizer report`."""
    example = "basics tokenizer report tok --baselines gpt2=gpt2-files --train train.txt --valid valid.txt --out report"
    o = parse(Report, argv, "basics tokenizer report", example=example)
    from cs336_basics.tokenization import report as reports

    named = [_named(baseline) for baseline in o.baselines]
    tokenizers = {"Ours": import_tokenizer(o.tokenizer, pattern=o.pattern, drop_template=True)}
    for name, path in named:
        if name in tokenizers:
            raise ValueError(f"two tokenizers are called {name!r}; name the baselines apart, as NAME=PATH")
        tokenizers[name] = import_tokenizer(path, pattern=o.pattern, drop_template=True)
    options = reports.ReportOptions(
        train=o.train, valid=o.valid, sample_bytes=o.sample_bytes, threshold=o.threshold, seed=o.seed,
        model=_model_config(o),
    )  # fmt: skip
    results = reports.measure(tokenizers, options)
    if o.json:
        print_result(results, as_json=True)
    else:
        reports.print_report(results)
    if o.out is not None:
        html, _ = reports.write_tokenizer_report(results, o.out)
        print(f"report in {html}", file=sys.stderr)


def _named(baseline: str) -> tuple[str, str]:
    """(name, path) of NAME=PATH; a path alone is named after its last part."""
    name, sign, path = baseline.partition("=")
    return (name, path) if sign and name and path else (Path(baseline).name, baseline)


def _model_config(o: Report) -> ModelConfig:
    """The model whose parameters are counted; its vocabulary is replaced by each tokenizer's."""
    if o.model is None:
        return ModelConfig(
            vocab_size=1, d_model=o.d_model, num_layers=o.num_layers, num_heads=1, tie_embeddings=o.tie_embeddings
        )
    return config_from_dict(ModelConfig, json.loads((o.model / "model_config.json").read_text(encoding="utf-8")))
