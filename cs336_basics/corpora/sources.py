"""The course's public corpora: where they are, and `get_corpus`, which fetches them into a folder.

    tinystories   TinyStoriesV2-GPT4-{train,valid}.txt             roneneldan/TinyStories, 2.2 GB + 22 MB
    owt-sample    owt_{train,valid}.txt, unpacked from .txt.gz     stanford-cs336/owt-sample, 12 GB + 290 MB unpacked
    fineweb-edu   shard_00000.parquet ... shard_01822.parquet      karpathy/fineweb-edu-100b-shuffle, about 100 MB each

All three live on Hugging Face. We ship no checksums of them. The first download is checked against the SHA-256 that
Hugging Face sends for large files, where it sends one, and is otherwise taken on trust; its checksum, size and ETag go
into manifest.json beside the files, and every later call checks the files against that.

Left out: reading the files (`data.py`, `tokenization/pretokenization.py`); corpora made on the spot (`stories.py`,
`stdlib_source.py`). Read next: `download.py`, how one file is fetched.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import gzip
import json
import os
import shutil
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from cs336_basics.corpora.download import (
    ChecksumError,
    Downloaded,
    disk_full_explained,
    download,
    file_sha256,
    progress_bars,
)
from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.lock import exclusive_lock

if TYPE_CHECKING:
    from rich.progress import Progress

CorpusName = Literal["tinystories", "owt-sample", "fineweb-edu"]
HUGGING_FACE = "https://huggingface.co"
LAST_SHARD = 1822  # the validation shard of fineweb-edu
_DEFAULT_SHARDS = 8
_WORKERS = 4
_DATASETS = {
    "tinystories": "roneneldan/TinyStories",
    "owt-sample": "stanford-cs336/owt-sample",
    "fineweb-edu": "karpathy/fineweb-edu-100b-shuffle",
}
_FILES = {
    "tinystories": ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-valid.txt"),
    "owt-sample": ("owt_train.txt.gz", "owt_valid.txt.gz"),
}


@dataclasses.dataclass(frozen=True)
class GetConfig:
    """What to fetch and where to; see `get_corpus`."""

    corpus: CorpusName  # which corpus
    num_shards: int | None = None  # fineweb-edu: number of training shards (8); the validation shard comes on top
    dest: Path | None = None  # folder for the files; data/CORPUS by default
    base_url: str | None = None  # a mirror of huggingface.co

    def __post_init__(self) -> None:
        if self.corpus not in get_args(CorpusName):
            raise ValueError(f"corpus must be one of {', '.join(get_args(CorpusName))}; got {self.corpus!r}")
        if self.num_shards is not None and self.corpus != "fineweb-edu":
            raise ValueError(
                f"num_shards={self.num_shards} is for fineweb-edu; {self.corpus} comes whole, leave it out"
            )
        if self.num_shards is not None and not 1 <= self.num_shards <= LAST_SHARD:
            raise ValueError(f"num_shards must be 1 to {LAST_SHARD}; got {self.num_shards}")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://; got {self.base_url!r}")


@dataclasses.dataclass(frozen=True)
class CorpusFiles:
    """Where a corpus lies, in reading order."""

    train: tuple[Path, ...]
    validation: tuple[Path, ...]


def run_get(config: GetConfig, *, progress: bool = True) -> CorpusFiles:
    """`get_corpus` from a config, as the command line calls it."""
    directory = config.dest if config.dest is not None else Path("data") / config.corpus
    return get_corpus(
        config.corpus, directory, num_shards=config.num_shards, base_url=config.base_url, progress=progress
    )


def get_corpus(
    name: CorpusName,
    directory: str | os.PathLike[str],
    *,
    num_shards: int | None = None,
    base_url: str | None = None,
    progress: bool = True,
    attempts: int = 5,
    first_pause_s: float = 1.0,
) -> CorpusFiles:
    """Fetch a corpus into `directory`; what is there and whole is not fetched again, what broke off goes on.

    Args:
        name: which corpus.
        directory: folder for the files and manifest.json; created. Several corpora may share it.
        num_shards: for fineweb-edu only, the number of training shards, 1 to 1822, 8 by default; the last shard is
            always fetched too, as validation data.
        base_url: a mirror with Hugging Face's paths instead of https://huggingface.co.
        progress: draw bars on stderr.
        attempts: as in `download`.
        first_pause_s: as in `download`.

    Raises:
        ValueError: an unknown corpus, or an argument out of range.
        ChecksumError: a file differs from what Hugging Face announces or manifest.json holds.
        DownloadError: a file cannot be fetched; the others stay.
        AlreadyLockedError: another process is fetching into this folder.
    """
    config = GetConfig(name, num_shards=num_shards, base_url=base_url)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    train, validation = _file_names(config)
    options = {"attempts": attempts, "first_pause_s": first_pause_s}
    lock = exclusive_lock(
        folder / ".download.lock", what=f"{folder}", remedy="wait until it is done", delete_after=True
    )
    with lock, progress_bars() if progress else contextlib.nullcontext(False) as bars:
        fetch = functools.partial(
            _fetch_file, _Corpus(name, folder, base_url or HUGGING_FACE), bars=bars, options=options
        )
        _fetch_all(fetch, [*train, *validation], _Manifest(folder / "manifest.json"))
    for file in [*train, *validation]:
        if file.endswith(".gz"):
            (folder / file).unlink(missing_ok=True)  # only now that the manifest knows the unpacked file
    paths = [tuple(folder / file.removesuffix(".gz") for file in files) for files in (train, validation)]
    return CorpusFiles(*paths)


@dataclasses.dataclass(frozen=True)
class _Corpus:
    """A corpus, the folder it goes to and the host it comes from."""

    name: str
    folder: Path
    base_url: str

    def url(self, file: str) -> str:
        """Where a file is."""
        return f"{self.base_url.rstrip('/')}/datasets/{_DATASETS[self.name]}/resolve/main/{file}"


def _file_names(config: GetConfig) -> tuple[list[str], list[str]]:
    """The corpus's files on the server, for training and for validation."""
    if config.corpus != "fineweb-edu":
        train, validation = _FILES[config.corpus]
        return [train], [validation]
    shards = [f"shard_{i:05d}.parquet" for i in range(config.num_shards or _DEFAULT_SHARDS)]
    return shards, [f"shard_{LAST_SHARD:05d}.parquet"]


class _Manifest:
    """manifest.json: file name to what is known of it. Written anew after each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                self.files = json.loads(path.read_text(encoding="utf-8"))["files"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} is not a list of downloaded files; choose another folder or move it away"
                ) from error

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Remember a file."""
        if self.files.get(name) != entry:
            self.files[name] = entry
            write_json(self.path, {"files": dict(sorted(self.files.items()))})


def _fetch_all(fetch: Any, files: list[str], manifest: _Manifest) -> None:
    """Fetch several files at a time; the first that fails, or an interrupt, stops the others."""
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as workers:
        known = {file: manifest.files.get(file.removesuffix(".gz")) for file in files}
        running = {workers.submit(fetch, file, known[file], stop=stop): file for file in files}
        try:
            for done in concurrent.futures.as_completed(running):
                manifest.record(running[done].removesuffix(".gz"), done.result())
        except BaseException:
            stop.set()
            workers.shutdown(wait=True, cancel_futures=True)
            for done, file in running.items():  # keep what the others finished meanwhile
                if done.done() and not done.cancelled() and done.exception() is None:
                    manifest.record(file.removesuffix(".gz"), done.result())
            raise


def _fetch_file(
    corpus: _Corpus,
    file: str,
    known: dict[str, Any] | None,
    *,
    bars: bool | Progress,
    options: dict[str, Any],
    stop: threading.Event,
) -> dict[str, Any]:
    """Fetch and unpack one file unless it is there as `known`; returns its manifest entry."""
    target = corpus.folder / file
    final = corpus.folder / file.removesuffix(".gz")
    if (
        known
        and final.exists()
        and final.stat().st_size == known["num_bytes"]
        and file_sha256(final) == known["sha256"]
    ):
        return known
    expected = known["fetched_sha256"] if known else None
    try:
        fetched = download(corpus.url(file), target, sha256=expected, progress=bars, stop=stop, **options)
    except ChecksumError as error:
        if known is None:
            raise
        manifest = corpus.folder / "manifest.json"
        remedy = f"delete its entry in {manifest}, which holds what came at first, to take the new file"
        raise ChecksumError(f"{error}; {remedy}") from error
    return _entry(corpus.url(file), fetched, _unpack(target, final) if final != target else fetched)


def _entry(url: str, fetched: Downloaded, final: Downloaded) -> dict[str, Any]:
    """What the manifest holds of a file."""
    return {
        "url": url,
        "fetched_sha256": fetched.sha256,
        "etag": fetched.etag,
        "sha256": final.sha256,
        "num_bytes": final.num_bytes,
    }


def _unpack(packed: Path, final: Path) -> Downloaded:
    """Unpack a gzip file, atomically."""
    try:
        with disk_full_explained(final), gzip.open(packed) as source, atomic_write(final, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        packed.unlink()
        raise ChecksumError(
            f"{packed} is not a whole gzip file ({error}); deleted it, try again or check the source"
        ) from error
    return Downloaded(file_sha256(final), final.stat().st_size)
