"""The verbs `cs336 data ...`: corpora into folders. Read next: `sources.py`, `stories.py`, `stdlib_source.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from cs336_basics.runs.command_line import parse, print_result

Folder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


def get(argv: list[str]) -> None:
    """`cs336 data get`."""
    from cs336_basics.corpora.sources import GetConfig, run_get

    options = tyro.conf.PositionalRequiredArgs[GetConfig]
    about = "Download a public corpus; what is there and whole is not fetched again. Prints the paths of its files."
    files = run_get(parse(options, argv, "data get", example="data get tinystories", description=about))
    for path in (*files.train, *files.validation):
        print(path)


@dataclass(frozen=True)
class Stories:
    """Write synthetic stories: train.txt, valid.txt, cloze.jsonl and a manifest with their exact entropy."""

    dest: Folder
    """folder for the files"""
    num_train: int = 30_000
    """training stories, about 600 bytes each"""
    num_valid: int = 1_000
    """validation stories"""
    num_cloze: int = 500
    """questions about the state of the world"""
    num_processes: int = 1
    """processes that draw stories"""
    seed: int = 0
    """same seed, same files"""
    json: Switch = False
    """print the result as JSON"""


def stories(argv: list[str]) -> None:
    """`cs336 data stories`."""
    from cs336_basics.corpora.stories import write_stories
    from cs336_basics.tokenization.progress import progress_bar

    o = parse(Stories, argv, "data stories", example="data stories data/stories --num-train 50000")
    with progress_bar("writing stories", enabled=True) as report:
        manifest = write_stories(
            o.dest, num_train=o.num_train, num_valid=o.num_valid, num_cloze=o.num_cloze, seed=o.seed,
            num_processes=o.num_processes, progress=report,
        )  # fmt: skip
    _print_corpus(o.dest, manifest, as_json=o.json)


@dataclass(frozen=True)
class Stdlib:
    """Gather the Python library's own sources: train.txt, valid.txt and a manifest."""

    dest: Folder
    """folder for the files"""
    max_bytes: int | None = None
    """at most so much text; all of it by default"""
    json: Switch = False
    """print the result as JSON"""


def stdlib(argv: list[str]) -> None:
    """`cs336 data stdlib`."""
    from cs336_basics.corpora.stdlib_source import write_stdlib

    o = parse(Stdlib, argv, "data stdlib", example="data stdlib data/stdlib --max-bytes 6000000")
    _print_corpus(o.dest, write_stdlib(o.dest, max_bytes=o.max_bytes), as_json=o.json)


def _print_corpus(folder: Path, manifest: Mapping[str, Any], *, as_json: Switch) -> None:
    """Where the splits are and how large."""
    values = {
        f"{split}_{name}": manifest[split][name]
        for split in ("train", "valid")
        for name in ("documents", "bytes", "nats")
        if name in manifest[split]
    }
    print_result({"folder": str(folder), **values}, as_json=as_json)
