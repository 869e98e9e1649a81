"""Writing crawl archives, and damaging them on purpose.

A record is a WARC header, a blank line, the content and two more line ends; each is a gzip member of its own, so that a
reader can begin anywhere. fastwarc writes sound files well; a crawl for tests needs lengths that lie and members that
are broken, so the bytes are put together here (WARC 1.0, ISO 28500). Read next: `crawl.py`.
"""

from __future__ import annotations

import gzip
import random

HTML = "text/html"
DATE = "2024-05-18T04:12:30Z"


def http_response(
    body: bytes, *, content_type: str = HTML, status: str = "200 OK", content_encoding: str | None = None
) -> bytes:
    """A response as the server sent it."""
    encoding = f"Content-Encoding: {content_encoding}\r\n" if content_encoding else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{encoding}Content-Length: {len(body)}\r\n\r\n"
    return head.encode("ascii") + body


def warc_record(
    kind: str, content: bytes, *, record_id: str, url: str, content_type: str, length_error: int = 0, extra: str = ""
) -> bytes:
    """One record, not compressed.

    Args:
        kind: WARC-Type: "response", "conversion", "request", "warcinfo".
        content: what follows the header.
        length_error: added to the true Content-Length.
        extra: further header lines, each with its line end.
    """
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: {DATE}\r\nWARC-Record-ID: <{record_id}>\r\n"
        f"WARC-Target-URI: {url}\r\nContent-Type: {content_type}\r\n{extra}"
        f"Content-Length: {len(content) + length_error}\r\n\r\n"
    )
    return head.encode("utf-8") + content + b"\r\n\r\n"


def gzip_member(data: bytes) -> bytes:
    """The data as one gzip member, the same on each call."""
    return gzip.compress(data, compresslevel=6, mtime=0)


def break_member(member: bytes, rng: random.Random) -> bytes:
    """The member with 40 bytes in its middle overwritten; header and end stay."""
    middle = len(member) // 2
    return member[:middle] + rng.randbytes(40) + member[middle + 40 :]


def cut_member(member: bytes) -> bytes:
    """The first two thirds of a member, as a download that broke off leaves them."""
    return member[: len(member) * 2 // 3]
