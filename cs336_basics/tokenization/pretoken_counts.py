"""Counting the pre-tokens of a corpus file, over several processes when the file is large.

BPE training needs only how often each distinct pre-token occurs: a corpus of gigabytes shrinks to a table of some
hundred thousand words. The file is cut into more ranges than there are processes, so that one slow range does not
hold up the others; each process returns a table and the tables are added up.

Source: handout problem `train_bpe`. Left out: spilling tables to disk. Read next: `bpe.py`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import pairwise

from cs336_basics.tokenization.file_chunks import find_cut_points, read_text
from cs336_basics.tokenization.pretokenization import GPT2_PATTERN, compile_pattern, stream_segments
from cs336_basics.tokenization.progress import Report

_MIN_PARALLEL_BYTES = 8 << 20  # below this, starting processes costs more than it saves
_CHUNKS_PER_PROCESS = 4
_MAX_CHUNK_BYTES = 64 << 20


def count_pretokens_in_range(
    path: str | os.PathLike[str], start: int, end: int, special_tokens: Sequence[str], pattern: str
) -> Counter[str]:
    """Count the pre-tokens of bytes `start` to `end` of a file, in bounded memory; special tokens are dropped."""
    find_all = compile_pattern(pattern).findall
    counts: Counter[str] = Counter()
    for segment, is_special in stream_segments(read_text(path, start=start, end=end), special_tokens, pattern=pattern):
        if not is_special:
            counts.update(find_all(segment))
    return counts


def count_pretokens(
    path: str | os.PathLike[str],
    special_tokens: Sequence[str],
    *,
    pattern: str = GPT2_PATTERN,
    num_processes: int | None = None,
    min_parallel_bytes: int = _MIN_PARALLEL_BYTES,
    on_progress: Report | None = None,
) -> Counter[bytes]:
    """Count the pre-tokens of a UTF-8 text file.

    Args:
        path: the corpus.
        special_tokens: hard boundaries, not counted themselves.
        pattern: the pre-token pattern.
        num_processes: at least 1; None takes one per available CPU.
        min_parallel_bytes: smaller files are counted in this process, whatever `num_processes` says.
        on_progress: called with (bytes done, bytes in all).

    Returns:
        Pre-token as UTF-8 bytes -> number of occurrences.

    Raises:
        ValueError: `num_processes` below 1, or a file that is not UTF-8.
        RuntimeError: the worker processes could not start.
    """
    size = os.path.getsize(path)
    check_num_processes(num_processes)
    num_processes = (num_processes or available_cpus()) if size >= min_parallel_bytes else 1
    num_chunks = max(_CHUNKS_PER_PROCESS * num_processes if num_processes > 1 else 1, size // _MAX_CHUNK_BYTES)
    with open(path, "rb") as file:
        ranges = list(pairwise(find_cut_points(file, num_chunks, special_tokens, pattern=pattern)))
    totals: Counter[str] = Counter()
    done = 0
    for num_bytes, counts in _count_ranges(path, ranges, special_tokens, pattern, num_processes):
        totals.update(counts)
        done += num_bytes
        if on_progress:
            on_progress(done, size)
    return Counter({word.encode("utf-8"): count for word, count in totals.items()})


def _count_ranges(
    path: str | os.PathLike[str],
    ranges: Sequence[tuple[int, int]],
    special_tokens: Sequence[str],
    pattern: str,
    num_processes: int,
) -> Iterator[tuple[int, Counter[str]]]:
    """Yield (number of bytes, counts) for each range, in any order."""
    if num_processes == 1 or len(ranges) == 1:
        for start, end in ranges:
            yield end - start, count_pretokens_in_range(path, start, end, special_tokens, pattern)
        return
    # "spawn" is the only start method that is safe in a process with threads (torch, the progress bar).
    context = multiprocessing.get_context("spawn")
    work = partial(count_pretokens_in_range, path, special_tokens=list(special_tokens), pattern=pattern)
    try:
        with ProcessPoolExecutor(min(num_processes, len(ranges)), mp_context=context) as pool:
            jobs = {pool.submit(work, start, end): end - start for start, end in ranges}
            for job in as_completed(jobs):
                yield jobs[job], job.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "the worker processes died; a script that trains on a large file must do so under "
            "if __name__ == '__main__': (or pass num_processes=1); else the machine may be out of memory"
        ) from error


def check_num_processes(num_processes: int | None) -> None:
    """At least one; None stands for one per CPU.

    Raises:
        ValueError: `num_processes` below 1.
    """
    if num_processes is not None and num_processes < 1:
        raise ValueError(f"num_processes must be at least 1; got {num_processes}; leave it out to use every CPU")


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
