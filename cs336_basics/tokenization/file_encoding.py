"""Encoding a large text file in parts: on all cores, and resumed where it was interrupted.

    train.bin.parts/plan.json     what is encoded: the text's size and time, the tokenizer, where the text is cut
    train.bin.parts/000003.bin    the ids of the fourth stretch of text

The cuts depend on the text and the tokenizer alone, and lie where the whole text has a boundary (`file_chunks.py`), so
the parts joined are the ids of the whole text, whatever the number of threads. A part appears whole or not at all. A
run with the same plan takes the parts that are there; another plan removes them.

Threads are enough, since compiled code runs without the interpreter's lock; without numba the work is done by one core.

Source: handout problem `tokenizer_experiments`. Left out: several machines. Read next: `cs336_basics/data.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.compilation import Engine, use_compiled
from cs336_basics.tokenization.file_chunks import find_cut_points, read_text
from cs336_basics.tokenization.pretoken_counts import available_cpus, check_num_processes
from cs336_basics.tokenization.progress import Report
from cs336_basics.tokenization.tokenizer import Tokenizer

_PART_BYTES = 16 << 20


def encode_in_parts(
    tokenizer: Tokenizer,
    text_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    engine: Engine = "auto",
    num_threads: int | None = None,
    on_progress: Report | None = None,
) -> Iterator[npt.NDArray[Any]]:
    """Yield the ids of a UTF-8 file part by part; parts already in `folder` are read, others are written there.

    Args:
        tokenizer: the tokenizer.
        text_path: a file that is not empty.
        folder: made if missing, and left to the caller to remove when the ids are safe; removed on invalid text.
        engine: see `Tokenizer.encode_to_array`.
        num_threads: at least 1; None takes one per CPU.
        on_progress: called with (bytes of text done, bytes in all).

    Yields:
        The arrays of `encode_to_array`, in order.

    Raises:
        ValueError: `num_threads` below 1, or what `encode_iterable` and `read_text` say of the text.

    Memory: the text and ids of one part for each thread.
    """
    check_num_processes(num_threads)
    folder, size = Path(folder), os.path.getsize(text_path)
    with open(text_path, "rb") as file:
        cuts = find_cut_points(file, -(-size // _PART_BYTES), tokenizer.special_tokens, pattern=tokenizer.pattern)
    _prepare(folder, _plan(tokenizer, text_path, cuts))
    chosen: Engine = "compiled" if use_compiled(engine, size) else "plain"
    dtype = tokenizer.encode_to_array("", engine=chosen).dtype  # also makes ready what the threads share

    def work(index: int, start: int, end: int) -> Path:
        part = folder / f"{index:06d}.bin"
        if not part.exists():
            ids = _encode_range(tokenizer, text_path, start, end, chosen)
            with atomic_write(part) as file:
                file.write(ids.tobytes())
        return part

    with ThreadPoolExecutor(num_threads or available_cpus()) as pool:
        jobs = [pool.submit(work, index, *bounds) for index, bounds in enumerate(pairwise(cuts))]
        try:
            for job, end in zip(jobs, cuts[1:], strict=True):
                yield np.fromfile(job.result(), dtype=dtype)
                if on_progress:
                    on_progress(end, size)
        except ValueError:
            pool.shutdown(cancel_futures=True)
            shutil.rmtree(folder)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _encode_range(
    tokenizer: Tokenizer, text_path: str | os.PathLike[str], start: int, end: int, engine: Engine
) -> npt.NDArray[Any]:
    """The ids of bytes `start` to `end` of a file."""
    with open(text_path, "rb") as file:
        file.seek(start)
        data = file.read(end - start)
    try:
        return tokenizer.encode_to_array(data, engine=engine)
    except ValueError:
        # The same error, with the name of the file and the place in it.
        deque(tokenizer.encode_iterable(read_text(text_path, start=start, end=end)), maxlen=0)
        raise


def _plan(tokenizer: Tokenizer, text_path: str | os.PathLike[str], cuts: list[int]) -> dict[str, Any]:
    """All that the parts depend on."""
    stat = os.stat(text_path)
    identity = repr((sorted(tokenizer.vocab.items()), tokenizer.merges, tokenizer.special_tokens, tokenizer.pattern))
    return {
        "format": "cs336-parts-1",
        "text_bytes": stat.st_size,
        "text_modified_ns": stat.st_mtime_ns,
        "tokenizer_sha256": hashlib.sha256(identity.encode("utf-8")).hexdigest(),
        "cuts": cuts,
    }


def _prepare(folder: Path, plan: dict[str, Any]) -> None:
    """Keep a folder of the same plan, else start an empty one."""
    plan_path = folder / "plan.json"
    try:
        if json.loads(plan_path.read_text(encoding="utf-8")) == plan:
            return
    except (FileNotFoundError, ValueError):
        pass
    if folder.exists():
        shutil.rmtree(folder)
    write_json(plan_path, plan)
