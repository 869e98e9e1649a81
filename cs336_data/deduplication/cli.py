"""The verbs `cs336 data dedup-lines, dedup-documents, dedup-near, decontaminate, tokenize, mix`.

All read document files (.jsonl, .jsonl.gz, .jsonl.zst) or plain files and write files of the same names into another
folder, so they can be put in any order. An interrupted command goes on when it is given again.

Read next: `deduplication/near_duplicates.py`, `decontamination.py`, `tokenize_corpus.py`, `mixing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from cs336_basics.runs.command_line import parse, print_result
from cs336_data.deduplication.minhash import MinHashConfig
from cs336_data.document_files import is_document_file

Inputs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE_OR_FOLDER ...")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


def input_files(paths: Sequence[Path], suffix: str | None = None) -> list[Path]:
    """The files named, and of each folder its document files, or all files if it has none.

    Args:
        paths: files and folders.
        suffix: take the files of a folder that end so instead.

    Raises:
        FileNotFoundError: a path is neither, or a folder holds no such file.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
        if suffix is None:
            inside = list(filter(is_document_file, inside)) or inside
        else:
            inside = [one for one in inside if one.name.endswith(suffix)]
        if not inside:
            raise FileNotFoundError(f"the folder {path} holds no {suffix or ''} files")
        found += inside
    return found


@dataclass(frozen=True)
class _Selection:
    """What the verbs that select documents have in common."""

    inputs: Inputs
    """document files (.jsonl, .jsonl.gz, .jsonl.zst) or other files, each one document; or folders of them"""
    out: Path
    """folder for the files of the same names"""
    num_processes: int | None = None
    """processes; one per CPU by default"""
    json: Switch = False
    """print the result as JSON"""


@dataclass(frozen=True)
class DedupLines(_Selection):
    """Remove the lines that occur more than once in all files together, their first copy included."""

    drop_empty: Switch = False
    """leave out documents that have no text left"""


def dedup_lines(argv: list[str]) -> None:
    """`cs336 data dedup-lines`."""
    from cs336_data.deduplication.exact_lines import deduplicate_lines

    o = parse(DedupLines, argv, "data dedup-lines", example="data dedup-lines pages/ --out unique-lines")
    found = deduplicate_lines(
        input_files(o.inputs), o.out, drop_empty=o.drop_empty, num_processes=o.num_processes, progress=True
    )
    _print(o.out, found, o.json)


@dataclass(frozen=True)
class DedupDocuments(_Selection):
    """Keep the first of documents with the same text."""

    bloom_error_rate: float | None = None
    """remember texts in a Bloom filter that loses this share of unique ones, in less memory"""


def dedup_documents(argv: list[str]) -> None:
    """`cs336 data dedup-documents`."""
    from cs336_data.deduplication.exact_documents import deduplicate_documents

    o = parse(DedupDocuments, argv, "data dedup-documents", example="data dedup-documents pages/ --out unique")
    found = deduplicate_documents(
        input_files(o.inputs), o.out, bloom_error_rate=o.bloom_error_rate, num_processes=o.num_processes, progress=True
    )
    _print(o.out, found, o.json)


@dataclass(frozen=True)
class DedupNear(_Selection):
    """Keep one of documents that are nearly the same: MinHash, LSH, verified Jaccard similarity, union-find."""

    clusters: Path | None = None
    """file for a list of the clusters, one JSON object per line"""
    minhash: tyro.conf.OmitArgPrefixes[MinHashConfig] = field(default_factory=MinHashConfig)


def dedup_near(argv: list[str]) -> None:
    """`cs336 data dedup-near`."""
    from cs336_data.deduplication.near_duplicates import deduplicate_near

    o = parse(DedupNear, argv, "data dedup-near", example="data dedup-near pages/ --out unique --threshold 0.75")
    found = deduplicate_near(
        input_files(o.inputs), o.out, o.minhash, num_processes=o.num_processes, clusters_file=o.clusters, progress=True
    )
    _print(o.out, found, o.json)


@dataclass(frozen=True)
class Decontaminate(_Selection):
    """Leave out documents that share an n-gram of words with an evaluation text."""

    evaluation: tuple[Path, ...] = tyro.MISSING
    """files or folders of evaluation items: one per line of a document file, or one per other file"""
    n: int = 13
    """words in a row"""
    hits: Path | None = None
    """file for a list of what was left out and why, one JSON object per line"""


def decontaminate(argv: list[str]) -> None:
    """`cs336 data decontaminate`."""
    from cs336_data import decontamination

    example = "data decontaminate pages/ --out clean --evaluation valid.jsonl --hits hits.jsonl"
    o = parse(Decontaminate, argv, "data decontaminate", example=example)
    found = decontamination.decontaminate(
        input_files(o.inputs), o.out, input_files(o.evaluation), n=o.n, hits_file=o.hits,
        num_processes=o.num_processes, progress=True,
    )  # fmt: skip
    _print(o.out, found, o.json)


@dataclass(frozen=True)
class Tokenize(_Selection):
    """Encode documents into token files, <|endoftext|> after each document."""

    tokenizer: Path = tyro.MISSING
    """folder of the tokenizer"""


def tokenize(argv: list[str]) -> None:
    """`cs336 data tokenize`."""
    from cs336_basics.tokenization.tokenizer import Tokenizer
    from cs336_data.tokenize_corpus import tokenize_files

    o = parse(Tokenize, argv, "data tokenize", example="data tokenize pages/ --out tokens --tokenizer tok")
    tokenizer = Tokenizer.load(o.tokenizer)
    found = tokenize_files(input_files(o.inputs), o.out, tokenizer, num_processes=o.num_processes, progress=True)
    values = asdict(found) | {"files": len(found.files), "bytes_per_token": found.text_bytes / max(1, found.tokens)}
    print_result({"folder": str(o.out), **values}, as_json=o.json)


@dataclass(frozen=True)
class Mix:
    """Plan how often each source is read, and write the one shuffled token file that training reads."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME=FOLDER ...")]
    """folders of token files, or single ones"""
    out: Path
    """token file to write, such as train.bin"""
    tokenizer: Path
    """folder of the tokenizer they were made with"""
    weights: tuple[str, ...] = ()
    """NAME=SHARE for each source; by size if left out"""
    temperature: float = 1.0
    """weights n^(1/temperature) of the sizes n, if none are given"""
    total_tokens: int | None = None
    """tokens to write; one epoch of everything by default"""
    max_epochs: float = 4.0
    """no source is read more often"""
    plan_only: Switch = False
    """print the plan and write nothing"""
    seed: int = 0
    """chooses the order of the documents"""
    json: Switch = False
    """print the result as JSON"""


def mix(argv: list[str]) -> None:
    """`cs336 data mix`."""
    from cs336_basics.data import END_OF_TEXT
    from cs336_basics.tokenization.progress import progress_bar
    from cs336_basics.tokenization.tokenizer import Tokenizer
    from cs336_data import mixing

    example = "data mix web=tokens/web wiki=tokens/wiki --weights web=0.7 wiki=0.3 --tokenizer tok --out train.bin"
    o = parse(Mix, argv, "data mix", example=example)
    sources = {name: input_files([Path(path)], ".bin") for name, path in _pairs(o.sources)}
    available = mixing.count_tokens(sources)
    weights = {name: float(share) for name, share in _pairs(o.weights)}
    plan = mixing.plan_mixture(
        available,
        weights or mixing.temperature_weights(available, o.temperature),
        total_tokens=o.total_tokens,
        max_epochs=o.max_epochs,
    )
    rows = {row.name: f"{row.taken:,} tokens ({row.share:.1%}), {row.epochs:.2f} epochs" for row in plan}
    values: dict[str, Any] = {row.name: asdict(row) for row in plan} if o.json else rows
    if not o.plan_only:
        end = Tokenizer.load(o.tokenizer).special_id(END_OF_TEXT)
        with progress_bar("mixing", enabled=True) as report:
            manifest = mixing.mix(sources, plan, o.out, end_of_text=end, seed=o.seed, on_progress=report)
        values |= {"file": str(o.out), "tokens": manifest["num_tokens"], "documents": manifest["documents"]}
    print_result(values, as_json=o.json)


def _pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """NAME=VALUE, each name once."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in dict(pairs):
            raise ValueError(f"expected NAME=VALUE, each name once; got {text!r}")
        pairs.append((name, value))
    return pairs


def _print(folder: Path, found: Any, as_json: bool) -> None:
    """A result with its folder."""
    values = {name: value for name, value in asdict(found).items() if value is not None}
    seconds = values.pop("seconds", None)
    shown = {} if seconds is None else {"seconds": seconds if as_json else round(sum(seconds.values()), 1)}
    print_result({"folder": str(folder), **values, **shown}, as_json=as_json)
