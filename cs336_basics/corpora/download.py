"""One file over HTTP: resumed where it broke off, checked, and under its final name only when whole.

The bytes stream into NAME.partial. A connection that breaks, a busy server (429) or a failing one (5xx) is tried again
after a pause that doubles each time; the next request asks for the rest only (`Range`), and only if the file is still
the same one (`If-Range` with its ETag or date, kept in NAME.partial.validator). Where the server sends the whole file
instead, or nothing could tell that the file has changed, it starts anew. In the end the length and, where known, the
SHA-256 must fit; then the file is flushed to disk and renamed.

Left out: mirrors, parallel ranges of one file, log-ins. Read next: `sources.py`, the corpora that are fetched this way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cs336_basics.runs.atomic import atomic_write
from cs336_basics.runs.lock import exclusive_lock

if TYPE_CHECKING:
    import requests
    from rich.progress import Progress

_TIMEOUT_S = (10.0, 30.0)  # to connect, and between two pieces
_PIECE_BYTES = 1 << 16
_LONGEST_PAUSE_S = 60.0
_STOPPED = "stopped; run the same command again, it goes on where it stopped"


class DownloadError(RuntimeError):
    """The file could not be fetched; the text says why and what to do."""


class ChecksumError(DownloadError):
    """The file that came is not the expected one."""


class _BrokenTransferError(Exception):
    """This attempt failed in a way that the next one may not."""


@dataclasses.dataclass(frozen=True)
class Downloaded:
    """What was fetched (or found in place): SHA-256 in hex, size, and the ETag where the server gave one."""

    sha256: str
    num_bytes: int
    etag: str | None = None


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    expected_bytes: int | None = None,
    progress: bool | Progress = True,
    attempts: int = 5,
    first_pause_s: float = 1.0,
    stop: threading.Event | None = None,
) -> Downloaded:
    """Fetch `url` into `path`, resuming an earlier attempt.

    Args:
        url: http or https.
        path: final name; parent folders are created. With the right content already there, nothing is fetched. Without
            a `sha256` a file that is there counts as right when its size is `expected_bytes` or no size is given.
        sha256: expected checksum, 64 hex digits. Without it the server's own is used where it sends one (Hugging Face
            does, as X-Linked-ETag, for its large files).
        expected_bytes: expected size.
        progress: draw a bar on stderr; or a `rich.progress.Progress` to add one to, for several downloads at once.
        attempts: how often in a row a try may fail without a single byte gained.
        first_pause_s: pause before the second try, in seconds; doubles up to a minute.
        stop: when another thread sets it, the download ends with a DownloadError; what was fetched stays.

    Raises:
        ChecksumError: the content has another checksum or size; what was fetched is deleted.
        DownloadError: not found, forbidden, or still failing after the last try (what was fetched stays for the next
            call).
        AlreadyLockedError: another process is fetching the same file.
        OSError: the disk is full (the text says what to do; what was fetched stays) and the like.
        ImportError: requests is not installed.
    """
    target = Path(path)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256 must be 64 hex digits; got {sha256!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    remedy = "wait until it is done"
    lock = target.with_name(f".{target.name}.lock")
    with (
        exclusive_lock(lock, what=f"download {target}", remedy=remedy, delete_after=True),
        _bar(target, progress, stop) as bar,
    ):
        present = _already_there(target, sha256, expected_bytes)
        if present is not None:
            return present
        transfer = _Transfer(url, target, bar, sha256=sha256.lower() if sha256 else None, num_bytes=expected_bytes)
        with disk_full_explained(target):
            transfer.run(attempts, first_pause_s)
            return transfer.finish()


def _already_there(target: Path, sha256: str | None, expected_bytes: int | None) -> Downloaded | None:
    """The description of a right file that is in place already."""
    if not target.exists() or expected_bytes not in (None, target.stat().st_size):
        return None
    found = file_sha256(target)
    return Downloaded(found, target.stat().st_size) if sha256 is None or found == sha256.lower() else None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Transfer:
    """One file on its way: what is known about it, and the partial file."""

    def __init__(self, url: str, target: Path, bar: _Bar, *, sha256: str | None, num_bytes: int | None) -> None:
        self.url, self.target, self.bar = url, target, bar
        self.partial = target.with_name(f"{target.name}.partial")
        self.validator_file = target.with_name(f"{target.name}.partial.validator")
        self.wanted_sha256, self.wanted_bytes = sha256, num_bytes
        self.sha256, self.num_bytes = sha256, num_bytes  # as wanted, else as the server says
        self.etag: str | None = None

    def run(self, attempts: int, pause_s: float) -> None:
        """Try until all bytes are there; a try that gained bytes starts the count anew."""
        requests = _requests()
        failures = 0
        while True:
            before = self._size()
            try:
                with requests.Session() as session:
                    return self._attempt(session)
            except (requests.ConnectionError, requests.Timeout, _BrokenTransferError) as error:
                failures = 1 if self._size() > before else failures + 1
                if failures >= attempts:
                    raise DownloadError(
                        f"{self.url} failed {failures} times in a row: {error}; run the same command again later, "
                        f"it goes on after the {self._size():,} bytes that are here"
                    ) from error
                if self.bar.stop.wait(min(pause_s * 2 ** (failures - 1), _LONGEST_PAUSE_S)):
                    raise DownloadError(_STOPPED) from error

    def _attempt(self, session: requests.Session) -> None:
        """Ask for what is missing and write it."""
        have, validator = self._resumable_bytes(), self._validator()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
        with session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if response.status_code == 416 and have:
                return self._judge_unsatisfiable(response, have)
            self._raise_for_status(response)
            resumes = response.status_code == 206
            same_file = validator in (None, _strong_validator(response))
            if resumes and not (same_file and _range_start(response) == have):
                self._discard()
                raise _BrokenTransferError(f"asked for bytes from {have}, got others or another file; starting anew")
            self._learn(response, start=have if resumes else 0)
            self._receive(response, start=have if resumes else 0)

    def _resumable_bytes(self) -> int:
        """Bytes that can be kept; none where neither checksum nor server could tell that the file has changed."""
        return self._size() if self._validator() or self.wanted_sha256 else 0

    def _validator(self) -> str | None:
        """What names the version of the file the partial bytes are from."""
        return self.validator_file.read_text(encoding="latin-1") if self.validator_file.exists() else None

    def _raise_for_status(self, response: requests.Response) -> None:
        """Sort answers into good, worth another try, and final."""
        status = response.status_code
        if status in (200, 206):
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity" and not (encoding == "gzip" and self.target.name.endswith(".gz")):
                raise DownloadError(f"{self.url}: the server packs the file as {encoding}, unasked; use another source")
            return
        if status in (408, 429) or status >= 500:
            raise _BrokenTransferError(f"the server answered {status} {response.reason}")
        advice = {404: "check the name and the base URL", 403: "it is not public, or this network blocks it"}
        remedy = advice.get(status, "another try would not help")
        raise DownloadError(f"{self.url}: the server answered {status} {response.reason}; {remedy}")

    def _judge_unsatisfiable(self, response: requests.Response, have: int) -> None:
        """416: nothing comes after what we have. Either that is all, or it belongs to another file."""
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total != str(have):
            self._discard()
            raise _BrokenTransferError(
                f"had {have} bytes, but the server's file has {total or 'unknown'}; starting anew"
            )
        self._learn_checksum(response)
        self.num_bytes = have if self.wanted_bytes is None else self.wanted_bytes

    def _learn(self, response: requests.Response, *, start: int) -> None:
        """Take size, ETag and checksum from the answer's headers, and remember the version for resuming."""
        length = response.headers.get("Content-Length")
        self.num_bytes = start + int(length) if length is not None else self.wanted_bytes
        if self.wanted_bytes not in (None, self.num_bytes):
            raise ChecksumError(
                f"{self.url} has {self.num_bytes} bytes, expected {self.wanted_bytes}; check the source"
            )
        self._learn_checksum(response)
        self.etag = response.headers.get("ETag")
        if start == 0:
            self._discard()  # before the validator: no bytes of one version beside the name of another
            validator = _strong_validator(response)
            if validator is not None:
                with atomic_write(self.validator_file, "wb") as file:
                    file.write(validator.encode("latin-1"))

    def _learn_checksum(self, response: requests.Response) -> None:
        """Hugging Face names the SHA-256 of a large file in its redirect."""
        linked = [answer.headers.get("X-Linked-ETag", "").strip('"') for answer in [*response.history, response]]
        sent = [value for value in linked if re.fullmatch("[0-9a-f]{64}", value)]
        self.sha256 = self.wanted_sha256 or (sent[0] if sent else None)

    def _receive(self, response: requests.Response, *, start: int) -> None:
        """Write the body, as sent, behind the first `start` bytes."""
        import urllib3  # requests stands on it; its own iter_content would unpack gzip

        self.bar.start(self.num_bytes, start)
        with open(self.partial, "ab", buffering=0) as file:
            try:
                for piece in response.raw.stream(_PIECE_BYTES, decode_content=False):
                    _write_all(file, piece)
                    self.bar.advance(len(piece))
            except urllib3.exceptions.HTTPError as error:
                raise _BrokenTransferError(str(error)) from error
            os.fsync(file.fileno())
        if self.num_bytes is not None and self._size() < self.num_bytes:
            raise _BrokenTransferError(f"the connection ended after {self._size()} of {self.num_bytes} bytes")

    def finish(self) -> Downloaded:
        """Check the partial file and give it its name."""
        size, found = self._size(), file_sha256(self.partial)
        if self.num_bytes not in (None, size):
            self._discard()
            raise ChecksumError(f"{self.url} has {size} bytes, expected {self.num_bytes}; deleted it, check the source")
        if self.sha256 not in (None, found):
            self._discard()
            raise ChecksumError(
                f"{self.url} has SHA-256 {found}, expected {self.sha256}; deleted it, try again or check the source"
            )
        os.replace(self.partial, self.target)
        self.validator_file.unlink(missing_ok=True)
        return Downloaded(found, size, self.etag)

    def _size(self) -> int:
        """Bytes in the partial file."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _discard(self) -> None:
        """Forget what was fetched."""
        self.partial.unlink(missing_ok=True)
        self.validator_file.unlink(missing_ok=True)


def _strong_validator(response: requests.Response) -> str | None:
    """What names this version of the file: a strong ETag, else the date of its last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _range_start(response: requests.Response) -> int | None:
    """First byte of a partial answer."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _write_all(file: BinaryIO, piece: bytes) -> None:
    """Write all of it; unbuffered files may take only a part at once."""
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


@contextlib.contextmanager
def disk_full_explained(target: Path) -> Iterator[None]:
    """Say what to do when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        remedy = "free some space, then run the same command again, it goes on where it stopped"
        raise OSError(errno.ENOSPC, f"disk full while writing {target}; {remedy}") from error


class _Bar:
    """A progress bar on stderr, or none; also the place where a download notices that it should stop."""

    def __init__(self, progress: Progress | None, name: str, stop: threading.Event | None) -> None:
        self.progress, self.stop = progress, stop or threading.Event()
        self.task = progress.add_task(name, total=None) if progress is not None else None

    def start(self, total: int | None, completed: int) -> None:
        """Set where the bar stands."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, total=total, completed=completed)

    def advance(self, num_bytes: int) -> None:
        """Move on."""
        if self.stop.is_set():
            raise DownloadError(_STOPPED)
        if self.progress is not None and self.task is not None:
            self.progress.advance(self.task, num_bytes)


@contextlib.contextmanager
def _bar(target: Path, progress: bool | Progress, stop: threading.Event | None) -> Iterator[_Bar]:
    """The bar for one file: none, one of its own, or one among others that goes when the file is done."""
    if progress is False:
        yield _Bar(None, "", stop)
        return
    with contextlib.ExitStack() as stack:
        bars = stack.enter_context(progress_bars()) if progress is True else progress
        bar = _Bar(bars, target.name, stop)
        yield bar
        if progress is not True and bar.task is not None:
            bars.remove_task(bar.task)


def progress_bars() -> Progress:
    """Bars on stderr with bytes, speed and time left; a context manager."""
    from rich import progress
    from rich.console import Console

    columns = ("[progress.description]{task.description}", progress.BarColumn(), progress.DownloadColumn())
    rates = (progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    return progress.Progress(*columns, *rates, console=Console(stderr=True))


def _requests():
    """The requests package."""
    try:
        import requests
    except ImportError as error:
        raise ImportError("downloads need requests; install it with: pip install requests") from error
    return requests
