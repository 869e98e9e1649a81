"""Tokens on disk and batches of them.

A token file is raw little-endian uint16 (vocabularies up to 65,536 ids) or uint32, nothing else, as the course's own
`.bin` files are; what the numbers mean stands beside it in `<name>.json`: dtype, count, vocabulary size, documents,
bytes of text. Files are memory-mapped, so a corpus larger than memory trains as a small one does.

    x = tokens[s : s + T];  y = tokens[s + 1 : s + T + 1]      for a start s drawn uniformly from 0 .. len - T - 1

Handout: data_loading, tokenizer_experiments (encoding to uint16). Left out: packing, document masks. Read next:
`checkpoint.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.compilation import MIN_COMPILED_BYTES, Engine
from cs336_basics.tokenization.file_chunks import read_text
from cs336_basics.tokenization.file_encoding import encode_in_parts
from cs336_basics.tokenization.progress import Report, progress_bar
from cs336_basics.tokenization.tokenizer import Tokenizer

TOKEN_FORMAT = "cs336-tokens-1"
END_OF_TEXT = "<|endoftext|>"


@runtime_checkable
class Encoder(Protocol):
    """The part of a Tokenizer that writing token files needs."""

    @property
    def vocab_size(self) -> int:
        """The largest id plus one."""
        ...

    def encode_iterable(self, iterable: Iterable[str]) -> Iterator[int]:
        """Ids of the concatenated pieces, lazily."""
        ...

    def special_id(self, token: str) -> int:
        """Id of a special token."""
        ...


def get_batch(
    dataset: npt.NDArray[Any],
    batch_size: int,
    context_length: int,
    device: str | torch.device,
    *,
    generator: torch.Generator | None = None,
    starts: npt.NDArray[Any] | None = None,
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Draw `batch_size` windows at random; targets are the inputs shifted by one.

    Args:
        dataset: one-dimensional array of ids of any integer dtype, in memory or memory-mapped.
        device: where the int64 result goes.
        generator: source of the starts (a CPU generator); torch's global one by default.
        starts: positions to draw from instead of all (see `document_starts`).

    Raises:
        ValueError: the dataset has fewer than context_length + 1 tokens.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    num_starts = len(dataset) - context_length
    if num_starts < 1:
        raise ValueError(
            f"a window of context_length={context_length} needs {context_length + 1} tokens; got {len(dataset)}; "
            "use a longer corpus or a shorter context"
        )
    picks = torch.randint(num_starts if starts is None else len(starts), (batch_size,), generator=generator).numpy()
    first = picks if starts is None else starts[picks]
    windows = torch.from_numpy(dataset[first[:, None] + np.arange(context_length + 1)].astype(np.int64))
    if torch.device(device).type == "cuda":
        windows = windows.pin_memory()
    windows = windows.to(device, non_blocking=True)
    return windows[:, :-1], windows[:, 1:]


def document_starts(dataset: npt.NDArray[Any], end_of_text: int, context_length: int) -> npt.NDArray[np.int64]:
    """Where a window of context_length inputs and their targets can begin with the end_of_text before a document.

    Raises:
        ValueError: there is no such place.
    """
    ends = np.flatnonzero(np.asarray(dataset) == end_of_text)
    starts = ends[ends < len(dataset) - context_length]
    if len(starts) == 0:
        raise ValueError(
            f"no window of {context_length} tokens begins with token {end_of_text}; use a longer corpus, a shorter "
            "context, or windows that start anywhere"
        )
    return starts


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 when every id below `vocab_size` fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def write_tokens(
    path: str | os.PathLike[str],
    ids: Iterable[int],
    *,
    vocab_size: int,
    dtype: str | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Write a token file and the manifest beside it; both appear whole or not at all.

    Args:
        path: the `.bin` file; the manifest is `<path>.json`.
        ids: any iterable of ids, consumed lazily in blocks of 2^16.
        vocab_size: ids must be below it.
        dtype: "uint16" or "uint32"; the smaller that fits by default.
        facts: further entries of the manifest (documents, text_bytes, nats ...).

    Raises:
        ValueError: the vocabulary does not fit `dtype`, or an id is outside the vocabulary.
    """
    stream = iter(ids)
    blocks = (_checked_ids(block, vocab_size) for block in iter(lambda: list(islice(stream, 2**16)), []))
    return write_token_blocks(path, blocks, vocab_size=vocab_size, dtype=dtype, facts=lambda: facts)


def write_token_blocks(
    path: str | os.PathLike[str],
    blocks: Iterable[npt.NDArray[Any]],
    *,
    vocab_size: int,
    dtype: str | None = None,
    facts: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """`write_tokens` for arrays of ids that are known to be in the vocabulary, such as a Tokenizer's.

    Args:
        path, vocab_size, dtype: as in `write_tokens`.
        blocks: arrays of shape (any,), consumed one by one.
        facts: asked for further entries of the manifest when all blocks are written.
    """
    kind = smallest_dtype(vocab_size) if dtype is None else np.dtype(dtype).newbyteorder("<")
    if vocab_size - 1 > np.iinfo(kind).max:
        raise ValueError(
            f"a vocabulary of {vocab_size} ids does not fit {kind.name}, whose largest value is {np.iinfo(kind).max}; "
            "write dtype='uint32'"
        )
    digest, count = hashlib.sha256(), 0
    with atomic_write(path) as file:
        for block in blocks:
            data = block.astype(kind).tobytes()
            digest.update(data)
            file.write(data)
            count += len(block)
        if count == 0:
            raise ValueError(f"there are no tokens to write to {os.fspath(path)}; is the corpus empty?")
        file.flush()
        os.fsync(file.fileno())  # a full disk shows here, while the former pair of files still stands
        manifest = {
            "format": TOKEN_FORMAT, "dtype": kind.name, "num_tokens": count, "vocab_size": vocab_size,
            "sha256": digest.hexdigest(), **facts(),
        }  # fmt: skip
        write_json(_manifest_path(path), manifest)
    return manifest


def _checked_ids(block: list[int], vocab_size: int) -> npt.NDArray[Any]:
    array = np.array(block)
    if array.dtype.kind not in "iu":
        raise TypeError(f"token ids are whole numbers; got {array.dtype} such as {block[0]!r}")
    if array.min() < 0 or array.max() >= vocab_size:
        bad = int(array[(array < 0) | (array >= vocab_size)][0])
        raise ValueError(f"token id {bad} is outside the vocabulary [0, {vocab_size}); was another tokenizer used?")
    return array


def encode_file(
    tokenizer: Encoder,
    text_path: str | os.PathLike[str],
    token_path: str | os.PathLike[str],
    *,
    engine: Engine = "auto",
    num_threads: int | None = None,
    progress: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """Encode a UTF-8 corpus (documents ended by <|endoftext|>) into a token file, streaming; return its manifest.

    Args:
        engine: "auto" encodes files of 16 MB and more in parts (see `tokenization/file_encoding.py`), by compiled code
            where it can; "compiled" does so for any file, "plain" for none. The token file is the same.
        num_threads: for parts; None takes one per CPU.
        progress: show a progress bar on stderr.
        facts: further entries of the manifest.

    An interrupted run of parts leaves `<token_path>.parts`, and the same call continues it.
    """
    size = os.path.getsize(text_path)
    if size == 0:
        raise ValueError(f"{os.fspath(text_path)} is empty; there is nothing to encode")
    end, documents = tokenizer.special_id(END_OF_TEXT), 0
    in_parts = engine == "compiled" or (engine == "auto" and size >= MIN_COMPILED_BYTES)
    if engine == "compiled" and not isinstance(tokenizer, Tokenizer):
        raise TypeError(f"engine='compiled' needs a Tokenizer of this library; got {type(tokenizer).__name__}")
    parts = Path(f"{os.fspath(token_path)}.parts")

    def blocks(report: Report) -> Iterator[npt.NDArray[Any]]:
        nonlocal documents
        if in_parts and isinstance(tokenizer, Tokenizer):
            found = encode_in_parts(
                tokenizer, text_path, parts, engine=engine, num_threads=num_threads, on_progress=report
            )
        else:
            found = _encode_by_lines(tokenizer, text_path, size, report)
        for block in found:
            documents += int(np.count_nonzero(block == end))
            yield block

    def all_facts() -> dict[str, Any]:
        return facts | {"documents": documents, "text_bytes": size - documents * len(END_OF_TEXT)}

    with progress_bar("encoding", enabled=progress) as report:
        manifest = write_token_blocks(token_path, blocks(report), vocab_size=tokenizer.vocab_size, facts=all_facts)
    shutil.rmtree(parts, ignore_errors=True)
    return manifest


def _encode_by_lines(
    tokenizer: Encoder, text_path: str | os.PathLike[str], size: int, report: Report
) -> Iterator[npt.NDArray[Any]]:
    """Ids of a file in blocks, in little memory."""

    def pieces() -> Iterator[str]:
        done = 0
        for piece in read_text(text_path):
            yield piece
            done += len(piece.encode("utf-8"))
            report(done, size)

    stream = tokenizer.encode_iterable(pieces())
    while block := list(islice(stream, 2**16)):
        yield _checked_ids(block, tokenizer.vocab_size)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest beside a token file.

    Raises:
        FileNotFoundError: there is none; ValueError: it is not one of ours.
    """
    manifest_path = _manifest_path(path)
    if not manifest_path.exists():
        raise FileNotFoundError(
            f"{path} has no manifest {manifest_path.name} beside it; write token files with `cs336 tokenizer encode`, "
            "or open a raw file with open_tokens(path, dtype='uint16')"
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    except ValueError:
        manifest = None
    needed = {"format", "dtype", "num_tokens", "vocab_size"}
    if not isinstance(manifest, dict) or manifest.get("format") != TOKEN_FORMAT or needed - manifest.keys():
        raise ValueError(
            f"{manifest_path} is not a token manifest (format {TOKEN_FORMAT!r}): cut short, or made by another program"
        )
    return manifest


def open_tokens(path: str | os.PathLike[str], *, dtype: str | None = None) -> npt.NDArray[Any]:
    """Memory-map a token file, read-only.

    Args:
        path: the `.bin` file.
        dtype: for raw files without a manifest ("uint16" for the course's own); otherwise the manifest's.

    Raises:
        FileNotFoundError: the file or its manifest is missing.
        ValueError: the file is empty, cut short or has grown, so that its size contradicts the manifest.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no token file at {path}; write one with `cs336 tokenizer encode`")
    manifest = None if dtype is not None else read_manifest(path)
    kind = np.dtype(dtype if manifest is None else manifest["dtype"]).newbyteorder("<")
    size = Path(path).stat().st_size
    expected = size // kind.itemsize if manifest is None else manifest["num_tokens"]
    if size == 0 or size != expected * kind.itemsize:
        raise ValueError(
            f"{path} has {size} bytes, but {expected} tokens of {kind.name} take {expected * kind.itemsize}; "
            "the file was cut short or replaced: encode the corpus again"
        )
    return np.memmap(path, dtype=kind, mode="r")


def _manifest_path(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.fspath(path)}.json")
