"""From document files to token files: each document's ids followed by the id of <|endoftext|>.

    web-000.jsonl.zst  ->  web-000.bin and web-000.bin.json        the format of `cs336_basics/data.py`

Files are worked on by several processes, and a token file appears whole or not at all. Text that looks like a special
token is ordinary text here: a page about tokenizers must not end a document. Mixing and shuffling come after
(`mixing.py`), and give the one file that training reads.

Source: handout problem `tokenize_data` (whose snippet takes each line for a document and holds all ids in memory). Left
out: cutting a large document file among processes. Read next: `mixing.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.data import END_OF_TEXT, write_token_blocks
from cs336_basics.runs.atomic import write_json
from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_data.document_files import SUFFIXES
from cs336_data.file_jobs import open_job
from cs336_data.units import PathLike, Unit, plan_units

_BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class TokenizedCorpus:
    """What was written."""

    files: tuple[Path, ...]
    """token files, in the order of their names"""
    documents: int
    """documents in them"""
    tokens: int
    """tokens in them, one <|endoftext|> per document included"""
    text_bytes: int
    """bytes of their text"""


def tokenize_files(
    input_files: Iterable[PathLike],
    output_directory: PathLike,
    tokenizer: Tokenizer,
    *,
    engine: Engine = "auto",
    num_processes: int | None = 1,
    progress: bool = False,
) -> TokenizedCorpus:
    """Encode document files into token files.

    Args:
        input_files: .jsonl, .jsonl.gz or .jsonl.zst with a document per line; other files are a document each, and
            up to 1,000 of them share a token file. A file without documents gives no token file.
        output_directory: not the folder of an input. `<output_directory>.parts` holds the work; an interrupted run
            leaves it, and the same call goes on.
        tokenizer: must have <|endoftext|>.
        engine: "plain" or "compiled"; "auto" compiles from 16 MB on. The files are the same.
        num_processes: None takes one per CPU. The files are the same.
        progress: show a bar on stderr.

    Raises:
        FileNotFoundError, ValueError: as `plan_units`, a damaged document file, or names that differ in suffix only.
        ChildProcessError: a worker died; the same call goes on.
    """
    tokenizer.special_id(END_OF_TEXT)  # says so at once if there is none
    units = plan_units(input_files, output_directory)
    names = [_name(unit) for unit in units]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two input files would both become {name}; rename one")
    size = sum(path.stat().st_size for unit in units for path in unit.paths)
    chosen: Engine = "compiled" if use_compiled(engine, size) else "plain"
    settings = {"job": "tokens", "tokenizer": _identity(tokenizer)}
    with open_job(output_directory, units, num_processes=num_processes, progress=progress, **settings) as job:
        paths = [job.output / name for name in names]
        arguments = [(unit, job.folder, path, tokenizer, chosen) for unit, path in zip(units, paths, strict=True)]
        manifests = job.run("tokenizing", _tokenize_unit, arguments)
        written = [(path, found) for path, found in zip(paths, manifests, strict=True) if found]
    totals = [sum(found[key] for _, found in written) for key in ("documents", "num_tokens", "text_bytes")]
    return TokenizedCorpus(tuple(path for path, _ in written), *totals)


def _name(unit: Unit) -> str:
    if not unit.has_lines:
        return f"files-{unit.number:06d}.bin"
    name = unit.paths[0].name
    return name.removesuffix(next(suffix for suffix in SUFFIXES if name.endswith(suffix))) + ".bin"


def _identity(tokenizer: Tokenizer) -> str:
    """A hash of all that decides about ids."""
    parts = (sorted(tokenizer.vocab.items()), tokenizer.merges, tokenizer.special_tokens, tokenizer.pattern)
    return hashlib.sha256(repr(parts).encode("utf-8")).hexdigest()


def _tokenize_unit(unit: Unit, folder: Path, path: Path, tokenizer: Tokenizer, engine: Engine) -> dict[str, Any]:
    """Write the token file of a unit, unless that has been done; returns its manifest, {} if it has no documents."""
    done = folder / f"written-{unit.number:06d}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    documents = text_bytes = 0

    def counted() -> Iterator[bytes]:
        nonlocal documents, text_bytes
        for text in unit.texts():
            documents, text_bytes = documents + 1, text_bytes + len(text)
            yield text

    def facts() -> dict[str, Any]:
        known = {"source": unit.paths[0].name, "tokenizer_sha256": _identity(tokenizer)}
        return {"documents": documents, "text_bytes": text_bytes, **known}

    blocks = encode_documents(counted(), tokenizer, engine=engine)
    first = next(blocks, None)
    manifest: dict[str, Any] = {}
    if first is not None:
        manifest = write_token_blocks(path, chain([first], blocks), vocab_size=tokenizer.vocab_size, facts=facts)
    write_json(done, manifest)
    return manifest


def encode_documents(
    texts: Iterable[bytes], tokenizer: Tokenizer, *, engine: Engine = "auto"
) -> Iterator[npt.NDArray[Any]]:
    """The ids of documents, each followed by that of <|endoftext|>, in blocks of some megabytes of text.

    Args:
        texts: valid UTF-8.
        tokenizer: its other special tokens are ordinary text here, and so is <|endoftext|> within a document.
        engine: as in `Tokenizer.encode_to_array`.
    """
    ends = Tokenizer(tokenizer.vocab, tokenizer.merges, [END_OF_TEXT], pattern=tokenizer.pattern)
    ordinary = Tokenizer(tokenizer.vocab, tokenizer.merges, None, pattern=tokenizer.pattern)
    mark, end = END_OF_TEXT.encode(), tokenizer.special_id(END_OF_TEXT)
    batch: list[bytes] = []
    size = 0
    for text in texts:
        if mark in text:
            if batch:
                yield ends.encode_to_array(b"".join(batch), engine=engine)
                batch, size = [], 0
            ids = ordinary.encode_to_array(text, engine="plain")
            yield np.append(ids, np.array([end], dtype=ids.dtype))
            continue
        batch += text, mark
        size += len(text)
        if size >= _BATCH_BYTES:
            yield ends.encode_to_array(b"".join(batch), engine=engine)
            batch, size = [], 0
    if batch:
        yield ends.encode_to_array(b"".join(batch), engine=engine)
