"""Records of a crawl archive (WARC, WET), also of a damaged one.

A Common Crawl file is a chain of gzip members, each one record: WARC header, perhaps an HTTP header, payload. fastwarc
parses it; what is ours is what happens when the file lies. After damage the reader looks for the next place where a
record may begin (a gzip member, or a line "WARC/1." in a plain file) and goes on from there, so that one bad record
costs one record. Every record that is not handed out is counted under a reason:

    record_damaged       the compressed data is broken or the file ends within it
    length_too_long      Content-Length says more than there is, or reaches into the next record
    length_too_short     the record goes on after its Content-Length
    record_too_large     more than `max_record_bytes`; a zip bomb is left without being unpacked
    payload_encoding     the HTTP body is compressed in a way that cannot be undone within `max_record_bytes`
    http_status          the server answered with something else than 200
    other_kind           requests, metadata and so on: not asked for, not bad

A record is held back until its successor has been found sound, since only then is its length known to be true.

Left out: writing WARC files; digests (Common Crawl's are over the original transfer encoding). Handout: `look_at_cc`.
Read next: `extraction.py`.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

GZIP_MEMBER = b"\x1f\x8b\x08"
PLAIN_RECORD = b"WARC/1."
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """One record.

    Attributes:
        record_id: WARC-Record-ID without its angle brackets.
        kind: WARC-Type, such as "response" (a page as served) or "conversion" (text of a WET file).
        url: WARC-Target-URI, or "".
        date: WARC-Date as written, or "".
        content_type: of the HTTP response where there is one, else of the record; lower case, without parameters.
        charset: as declared in the content type, or "".
        payload: body without headers.
        offset: where the record begins in the file, in (compressed) bytes.
    """

    record_id: str
    kind: str
    url: str
    date: str
    content_type: str
    charset: str
    payload: bytes
    offset: int


def read_records(
    path: str | os.PathLike[str],
    *,
    counts: Counter[str] | None = None,
    kinds: Sequence[str] = ("response", "conversion"),
    max_record_bytes: int = 5_000_000,
) -> Iterator[WarcRecord]:
    """Yield the sound records of a WARC or WET file, plain or gzip.

    Args:
        path: the file.
        counts: takes "records" (handed out) and the reasons of the module docstring.
        kinds: WARC-Types wanted.
        max_record_bytes: longest record, headers included; bounds memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not empty and holds nothing that begins like a WARC record.
        ImportError: fastwarc is missing; says how to install it.
    """
    counts = Counter() if counts is None else counts
    with Path(path).open("rb") as file:
        magic = GZIP_MEMBER if file.read(3) == GZIP_MEMBER else PLAIN_RECORD
        run = _Run(file, 0, counts, max_record_bytes)
        parsed = 0
        while True:
            for record in run.records():
                if record.kind in kinds:
                    counts["records"] += 1
                    yield record
                else:
                    counts["other_kind"] += 1
            parsed += run.parsed
            found = _next_start(file, magic, run)
            former, run = run, _Run(file, found or 0, counts, max_record_bytes)
            if former.restart is None and found is not None:
                counts["record_damaged"] += 1  # damage that looked like the end of the file
            elif former.broke_off and not (found is not None and run.fails_at_once()):
                counts["record_damaged"] += 1  # else the new run, which begins with the same record, counts it
            if found is None:
                break
    if not parsed and Path(path).stat().st_size:
        raise ValueError(f"{path} holds no WARC record; expected a .warc, .wet or .warc.gz file of a crawl")


def _next_start(file: IO[bytes], magic: bytes, run: _Run) -> int | None:
    """Where to go on after a run, None at the end of the file.

    A damaged gzip header can look like the end, so a compressed file is searched for members beyond it as well; what
    looks like one and cannot be read is chance.
    """
    if run.restart is not None:
        return _find(file, magic, run.restart)
    if magic != GZIP_MEMBER:
        return None
    found = _find(file, magic, run.offset + 1)
    while found is not None and not _Run(file, found, Counter(), 0).begins_with_record():
        found = _find(file, magic, found + 1)
    return found


class _Run:
    """Records from one place in the file up to damage or the end; see `records`."""

    def __init__(self, file: IO[bytes], start: int, counts: Counter[str], max_record_bytes: int) -> None:
        self.file, self.start, self.counts, self.max_record_bytes = file, start, counts, max_record_bytes
        self.parsed = 0  # records whose header could be read
        self.restart: int | None = None  # where to look for the next record after damage
        self.offset = start  # of the record read last
        self.broke_off = False  # compressed data became unreadable after a sound record

    def fails_at_once(self) -> bool:
        """Whether not even one header can be read from here."""
        try:
            next(self._open(), None)
        except OSError:
            return True
        return False

    def begins_with_record(self) -> bool:
        """Whether a header can be read here."""
        try:
            return next(self._open(), None) is not None
        except OSError:
            return False

    def records(self) -> Iterator[WarcRecord]:
        """Yield sound records, each once its successor's header has been read."""
        iterator, held = self._open(), None
        while True:
            try:
                raw = next(iterator, None)
            except OSError as error:
                overlong = "header" in str(error)  # data unpacks, but no record begins where the last one ended
                if overlong and self.parsed:
                    self.counts["length_too_short"] += 1
                elif held is not None:
                    yield held
                self.broke_off = self.parsed > 0 and not overlong
                if not self.parsed:
                    self.counts["record_damaged"] += 1
                self.restart = self.offset + 1
                return
            if held is not None:
                yield held
            if raw is None:
                return
            self.parsed += 1
            self.offset = raw.stream_pos  # from the beginning of the file
            held, reason = _take(raw, self.offset, self.max_record_bytes)
            if held is None:
                self.counts[reason] += 1
                if reason in ("record_too_large", "length_too_long", "record_damaged"):
                    self.restart = self.offset + 1
                    return

    def _open(self) -> Iterator[Any]:
        """fastwarc's iterator from `start`."""
        from cs336_data.optional_packages import require

        warc = require("fastwarc.warc", install="fastwarc")
        self.file.seek(self.start)
        return iter(warc.ArchiveIterator(self.file, record_types=warc.WarcRecordType.any_type, parse_http=False))


def _take(raw: Any, offset: int, max_record_bytes: int) -> tuple[WarcRecord | None, str]:
    """(the record, "") or (None, why not)."""
    if raw.content_length > max_record_bytes:
        return None, "record_too_large"
    declared = raw.content_length
    try:
        content = raw.reader.read()
    except OSError:
        return None, "record_damaged"
    if len(content) < declared:
        return None, "length_too_long"
    if b"\r\n\r\nWARC/1." in content and b"\nWARC-Type:" in content:
        return None, "length_too_long"
    headers = {name.lower(): value for name, value in raw.headers.items()}
    content_type, payload = headers.get("content-type", ""), content
    if content_type.lower().startswith("application/http") and content.startswith(b"HTTP/"):
        head, _, payload = content.partition(b"\r\n\r\n")
        status, http = _parse_http(head)
        if status != 200:
            return None, "http_status"
        body = _decode_body(payload, http.get("content-encoding", ""), max_record_bytes)
        if body is None:
            return None, "payload_encoding"
        payload, content_type = body, http.get("content-type", "")
    media, _, parameters = content_type.lower().partition(";")
    charset = parameters.partition("charset=")[2].split(";")[0].strip(" \"'")
    return WarcRecord(
        record_id=headers.get("warc-record-id", "").strip("<>") or f"offset:{offset}",
        kind=headers.get("warc-type", "").lower(), url=headers.get("warc-target-uri", ""),
        date=headers.get("warc-date", ""), content_type=media.strip(), charset=charset, payload=payload, offset=offset,
    ), ""  # fmt: skip


def _parse_http(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers in lower case of an HTTP response; status 0 for one that cannot be read."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split()
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    pairs = (line.partition(":") for line in lines[1:])
    return status, {name.strip().lower(): value.strip() for name, _, value in pairs}


def _decode_body(payload: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Undo gzip or deflate, never unpacking more than `max_bytes`; None if that cannot be done.

    Crawlers mostly store bodies decoded under the original header, so a body that is not compressed stays as it is.
    """
    if encoding.lower() not in ("gzip", "x-gzip", "deflate") or payload[:1] not in (b"\x1f", b"\x78"):
        return payload
    unpacker = zlib.decompressobj(47)  # gzip or zlib, found by its header
    try:
        body = unpacker.decompress(payload, max_bytes)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail or not unpacker.eof else body


def _find(file: IO[bytes], magic: bytes, start: int) -> int | None:
    """First place from `start` where `magic` stands (in a plain file: at the beginning of a line)."""
    wanted = magic if magic == GZIP_MEMBER else b"\n" + magic
    position, rest = max(0, start - 1), b""
    file.seek(position)
    while block := file.read(_BLOCK):
        window = rest + block
        found = window.find(wanted, max(0, start - position))
        if found >= 0:
            return position + found + len(wanted) - len(magic)
        rest = window[-len(wanted) :]
        position += len(window) - len(rest)
    return None
