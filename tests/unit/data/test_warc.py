"""Crawl archives, sound and damaged: one bad record costs one record, and every loss is counted."""

from __future__ import annotations

import gzip
import random
from collections import Counter

import pytest

from cs336_data.warc import read_records

pytest.importorskip("fastwarc")


def body(number: int) -> bytes:
    return f"<p>page {number} has some words of its own, {number * 7919}</p>".encode()


def record(number: int, payload: bytes | None = None, *, length: int | None = None, status: int = 200,
           kind: str = "response", headers: str = "") -> bytes:  # fmt: skip
    """A WARC record with an HTTP response; `length` lies about its size."""
    payload = body(number) if payload is None else payload
    block = f"HTTP/1.1 {status} X\r\nContent-Type: text/HTML; charset=UTF-8\r\n{headers}\r\n".encode() + payload
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: http://a.example/{number}\r\n"
        "WARC-Date: 2025-01-02T03:04:05Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def members(*records: bytes) -> bytes:
    return b"".join(gzip.compress(one, mtime=0) for one in records)


def read(path, data: bytes, **options) -> tuple[list[int], Counter]:
    """(numbers of the records handed out, counts)."""
    path.write_bytes(data)
    counts: Counter[str] = Counter()
    found = list(read_records(path, counts=counts, **options))
    for one in found:
        assert one.payload == body(int(one.record_id.rpartition(":")[2]))
    return [int(one.record_id.rpartition(":")[2]) for one in found], counts


@pytest.fixture
def file(tmp_path):
    return tmp_path / "crawl.warc.gz"


@pytest.mark.parametrize("compress", [True, False])
def test_sound_records(file, compress):
    records = [record(number) for number in range(5)]
    file.write_bytes(members(*records) if compress else b"".join(records))
    counts: Counter[str] = Counter()
    found = list(read_records(file, counts=counts))
    assert [one.record_id for one in found] == [f"urn:uuid:{number}" for number in range(5)]
    one = found[3]
    assert (one.kind, one.url, one.date) == ("response", "http://a.example/3", "2025-01-02T03:04:05Z")
    assert (one.content_type, one.charset, one.payload) == ("text/html", "utf-8", body(3))
    lengths = [len(gzip.compress(entry, mtime=0)) if compress else len(entry) for entry in records]
    assert [entry.offset for entry in found] == [sum(lengths[:number]) for number in range(5)]
    assert counts == {"records": 5}


def test_truncated_gzip(file):
    data = members(*(record(number) for number in range(4)))
    assert read(file, data[:-40])[0] == [0, 1, 2]
    assert read(file, data[:-40])[1]["length_too_long"] == 1


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_broken_member(file, place):
    """Flipped bytes within the compressed data of one record."""
    parts = [members(record(number)) for number in range(4)]
    part = parts[place]
    parts[place] = part[:60] + bytes(byte ^ 255 for byte in part[60:70]) + part[70:]
    found, counts = read(file, b"".join(parts))
    assert found == [number for number in range(4) if number != place]
    assert counts == {"records": 3, "record_damaged": 1}


def test_neighbouring_broken_members_are_counted_one_by_one(file):
    broken = members(record(1))[:60] + b"\0" * 60
    found, counts = read(file, members(record(0)) + broken + broken + members(record(2)))
    assert found == [0, 2] and counts["record_damaged"] == 2


@pytest.mark.parametrize(
    ("length", "reason"),
    [(30, "length_too_short"), (0, "length_too_short"), (250, "length_too_long"), (99_999, "length_too_long")],
)
@pytest.mark.parametrize("compress", [True, False])
def test_lying_content_length(file, length, reason, compress):
    records = [record(0), record(1, length=length), record(2), record(3)]
    found, counts = read(file, members(*records) if compress else b"".join(records))
    assert found == [0, 2, 3]
    assert counts == {"records": 3, reason: 1}


def test_zip_bomb_is_left_without_being_unpacked(file):
    """200 MB of zeros in a small file: skipped by its declared size; the memory is that of one block."""
    import tracemalloc

    bomb = gzip.compress(record(1, b"\0" * 200_000_000), compresslevel=1)
    file.write_bytes(members(record(0)) + bomb + members(record(2)))
    del bomb
    counts: Counter[str] = Counter()
    tracemalloc.start()
    found = [one.record_id for one in read_records(file, counts=counts)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["urn:uuid:0", "urn:uuid:2"] and counts["record_too_large"] == 1
    assert peak < 20_000_000


def test_compressed_body(file):
    """Content-Encoding is undone, within the limit; a body already decoded stays."""
    packed = record(0, gzip.compress(body(0)), headers="Content-Encoding: gzip\r\n")
    plain = record(1, headers="Content-Encoding: gzip\r\n")
    bomb = record(2, gzip.compress(b"\0" * 50_000_000), headers="Content-Encoding: gzip\r\n")
    broken = record(3, gzip.compress(body(3))[:-9], headers="Content-Encoding: gzip\r\n")
    found, counts = read(file, members(packed, plain, bomb, broken, record(4)))
    assert found == [0, 1, 4] and counts["payload_encoding"] == 2


def test_other_kinds_and_statuses_are_counted(file):
    data = members(record(0), record(1, kind="request"), record(2, status=404), record(3))
    found, counts = read(file, data)
    assert found == [0, 3] and counts == {"records": 2, "other_kind": 1, "http_status": 1}


def test_wet_records(file):
    text = "plain text of a page\n"
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Record-ID: <x>\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"
    file.write_bytes(gzip.compress(head.encode() + text.encode() + b"\r\n\r\n"))
    (one,) = read_records(file)
    assert (one.kind, one.payload, one.content_type) == ("conversion", text.encode(), "text/plain")


@pytest.mark.parametrize(
    "data", [b"hello\n" * 20, gzip.compress(b"hello\n" * 20, mtime=0), b"\0" * 100], ids=["text", "gzip", "zeros"]
)
def test_what_is_no_archive_is_refused(file, data):
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"no WARC record.*\.warc"):
        list(read_records(file))


def test_empty_and_missing_files(file):
    file.write_bytes(b"")
    assert list(read_records(file)) == []
    with pytest.raises(FileNotFoundError):
        list(read_records(file.with_name("none.warc.gz")))


def test_random_damage_never_raises_and_costs_little(file):
    """Fuzz: bytes changed at random places lose at most the records they stand in, and one more beside each."""
    rng = random.Random(0)
    records = [record(number) for number in range(30)]
    parts = [members(one) for one in records]
    data, ends = b"".join(parts), []
    for part in parts:
        ends.append((ends[-1] if ends else 0) + len(part))
    for _ in range(60):
        places = sorted(rng.randrange(len(data)) for _ in range(3))
        damaged = bytearray(data)
        for place in places:
            damaged[place] = rng.randrange(256)
        hit = {next(i for i, end in enumerate(ends) if place < end) for place in places}
        file.write_bytes(damaged)
        counts: Counter[str] = Counter()
        found = {one.record_id for one in read_records(file, counts=counts)}
        lost = {number for number in range(30) if f"urn:uuid:{number}" not in found}
        assert lost <= hit | {number - 1 for number in hit}
        assert not lost or sum(counts.values()) > counts["records"], "a loss has to be counted"
