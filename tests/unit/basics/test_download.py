"""Downloads against a real HTTP server in this process that can cut, stall, lie and forget; it records all requests."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cs336_basics.corpora import download as download_module
from cs336_basics.corpora.download import ChecksumError, Downloaded, DownloadError, download
from cs336_basics.corpora.sources import GetConfig, get_corpus, run_get
from cs336_basics.runs.lock import AlreadyLockedError, exclusive_lock

pytest.importorskip("requests")

CONTENT = random.Random(0).randbytes(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclasses.dataclass
class Resource:
    """One file on the server and the faults it comes with."""

    content: bytes
    etag: str | None = '"v1"'
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut_after: list[int] = dataclasses.field(
        default_factory=list
    )  # bytes sent before the connection drops, per request
    fail_with: list[int] = dataclasses.field(default_factory=list)  # status codes, one per request
    ignores_range: bool = False
    ignores_if_range: bool = False
    wrong_start: bool = False
    length: int | None = None  # a false Content-Length
    redirect: str | None = None
    pause_s: float = 0.0  # between pieces


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.resources: dict[str, Resource] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.sent = 0

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        resource = self.server.resources.get(self.path)
        if resource is None or resource.fail_with or resource.redirect:
            return self.answer_without_body(resource)
        total, start = len(resource.content), 0
        same = resource.ignores_if_range or self.headers.get("If-Range", resource.etag) == resource.etag
        if wanted and same and not resource.ignores_range:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            start = 0 if resource.wrong_start else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_body(resource, start)

    def answer_without_body(self, resource: Resource | None) -> None:
        status = 404 if resource is None else resource.fail_with.pop(0) if resource.fail_with else 302
        self.send_response(status)
        if resource is not None and resource.redirect:
            self.send_header("Location", resource.redirect)
            for name, value in resource.headers.items():
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_body(self, resource: Resource, start: int) -> None:
        body = resource.content[start:]
        self.send_header("Content-Length", str(len(body) if resource.length is None else resource.length))
        if resource.etag:
            self.send_header("ETag", resource.etag)
        for name, value in resource.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if resource.cut_after:
            body = body[: resource.cut_after.pop(0)]
        for place in range(0, len(body), 10_000):
            self.wfile.write(body[place : place + 10_000])
            self.server.sent += len(body[place : place + 10_000])
            time.sleep(resource.pause_s)
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def fetch(server: Server, path: Path, **options: Any) -> Downloaded:
    return download(server.url(), path, **({"progress": False, "first_pause_s": 0.001} | options))


def ranges(server: Server) -> list[str | None]:
    return [wanted for _, wanted in server.requests]


# One file


def test_whole_file_and_nothing_else_beside_it(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT)
    target = tmp_path / "deep" / "file.bin"
    done = fetch(server, target)
    assert target.read_bytes() == CONTENT and done == Downloaded(SHA256, len(CONTENT), '"v1"')
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]


def test_right_file_in_place_is_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "f", sha256=SHA256.upper()).sha256 == SHA256
    assert fetch(server, tmp_path / "f").num_bytes == len(CONTENT)
    assert server.requests == []


@pytest.mark.parametrize("options", [{"sha256": SHA256}, {"expected_bytes": len(CONTENT)}])
def test_wrong_file_in_place_is_replaced(server: Server, tmp_path: Path, options: dict[str, Any]) -> None:
    server.resources["/file"] = Resource(CONTENT)
    (tmp_path / "f").write_bytes(b"old")
    fetch(server, tmp_path / "f", **options)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_empty_file(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(b"")
    assert fetch(server, tmp_path / "f").num_bytes == 0 and (tmp_path / "f").read_bytes() == b""


def test_cut_connection_resumes_with_the_rest_only(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT, cut_after=[300_000, 123_456])
    fetch(server, tmp_path / "f", attempts=2)  # each try gains bytes, so that two in a row never fail without gain
    assert (tmp_path / "f").read_bytes() == CONTENT
    starts = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in ranges(server)[1:] if wanted]
    assert len(starts) == 2 and 0 < starts[0] <= 300_000 and starts[0] < starts[1] <= starts[0] + 123_456
    assert server.sent == 300_000 + 123_456 + len(CONTENT) - starts[1]
    assert server.sent - len(CONTENT) < 2 * 2**16  # at most one unfinished piece is sent twice per cut


def test_busy_and_failing_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT, fail_with=[500, 429, 503])
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and len(server.requests) == 4


def test_gives_up_after_the_last_try_and_keeps_what_it_has(server: Server, tmp_path: Path) -> None:
    resource = server.resources["/file"] = Resource(CONTENT, cut_after=[200_000], fail_with=[])
    with pytest.raises(DownloadError, match="failed 1 times in a row.*goes on after"):
        fetch(server, tmp_path / "f", attempts=1)
    assert not (tmp_path / "f").exists()
    kept = (tmp_path / "f.partial").read_bytes()
    assert 0 < len(kept) <= 200_000 and CONTENT.startswith(kept)
    resource.fail_with = [500] * 9
    with pytest.raises(DownloadError, match="failed 3 times in a row.*500"):
        fetch(server, tmp_path / "f", attempts=3)
    assert (tmp_path / "f.partial").read_bytes() == kept and len(server.requests) == 4
    resource.fail_with = []
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and ranges(server)[-1] == f"bytes={len(kept)}-"


@pytest.mark.parametrize(("status", "word"), [(404, "check the name"), (403, "not public"), (401, "would not help")])
def test_final_answers_are_not_tried_again(server: Server, tmp_path: Path, status: int, word: str) -> None:
    server.resources["/file"] = Resource(CONTENT, fail_with=[status])
    with pytest.raises(DownloadError, match=f"{status}.*{word}"):
        fetch(server, tmp_path / "f")
    assert len(server.requests) == 1 and list(tmp_path.iterdir()) == []


def test_no_server_at_all(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url()
    with pytest.raises(DownloadError, match="failed 2 times in a row"):
        download(url, tmp_path / "f", progress=False, attempts=2, first_pause_s=0.001)


def test_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT, cut_after=[300_000], ignores_range=True)
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and len(server.requests) == 2


def test_answer_with_another_start_is_not_appended(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT, cut_after=[300_000], wrong_start=True)
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and ranges(server)[-1] is None


@pytest.mark.parametrize("ignores_if_range", [False, True])
@pytest.mark.parametrize("new_size", [len(CONTENT), 100_000, 900_000])
def test_changed_file_starts_anew(server: Server, tmp_path: Path, ignores_if_range: bool, new_size: int) -> None:
    new = random.Random(1).randbytes(new_size)
    server.resources["/file"] = Resource(CONTENT, cut_after=[300_000])
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "f", attempts=1)
    server.resources["/file"] = Resource(new, etag='"v2"', ignores_if_range=ignores_if_range)
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == new
    if not ignores_if_range:
        assert len(server.requests) == 2  # the server saw that the version changed and sent the new file at once


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_version_nothing_is_resumed(server: Server, tmp_path: Path, etag: str | None) -> None:
    """Nothing could tell old bytes from new ones; with a checksum the resumed file is checked by that."""
    for options, resumed in (({}, False), ({"sha256": SHA256}, True)):
        server.resources["/file"] = Resource(CONTENT, etag=etag, cut_after=[300_000])
        fetch(server, tmp_path / f"f{resumed}", **options)
        assert (tmp_path / f"f{resumed}").read_bytes() == CONTENT
        assert (ranges(server)[-1] is not None) == resumed


def test_date_serves_as_version(server: Server, tmp_path: Path) -> None:
    headers = {"Last-Modified": "Sun, 01 Nov 2026 10:00:00 GMT"}
    server.resources["/file"] = Resource(
        CONTENT, etag=None, headers=headers, cut_after=[300_000], ignores_if_range=True
    )
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and ranges(server)[-1] is not None


def test_whole_partial_file_only_needs_its_name(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT)
    (tmp_path / "f.partial").write_bytes(CONTENT)
    (tmp_path / "f.partial.validator").write_text('"v1"')
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and server.sent == 0


def test_partial_file_that_is_too_long_starts_anew(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT)
    (tmp_path / "f.partial").write_bytes(CONTENT + b"more")
    (tmp_path / "f.partial.validator").write_text('"v1"')
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_checksum_mismatch_names_both_and_deletes(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT)
    wrong = "0" * 64
    with pytest.raises(ChecksumError) as caught:
        fetch(server, tmp_path / "f", sha256=wrong)
    assert wrong in str(caught.value) and SHA256 in str(caught.value) and list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="64 hex digits"):
        fetch(server, tmp_path / "f", sha256="abc")


def test_checksum_announced_in_a_redirect_counts(server: Server, tmp_path: Path) -> None:
    server.resources["/store"] = Resource(CONTENT)
    linked = server.resources["/file"] = Resource(b"", redirect="/store", headers={"X-Linked-ETag": f'"{"1" * 64}"'})
    with pytest.raises(ChecksumError, match=f"expected {'1' * 64}"):
        fetch(server, tmp_path / "f")
    linked.headers["X-Linked-ETag"] = f'"{SHA256}"'
    assert fetch(server, tmp_path / "f").sha256 == SHA256


def test_sizes_must_fit(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT)
    with pytest.raises(ChecksumError, match=f"has {len(CONTENT)} bytes, expected 5"):
        fetch(server, tmp_path / "f", expected_bytes=5)
    assert server.sent <= len(CONTENT) and not (tmp_path / "f").exists()
    server.resources["/file"] = Resource(CONTENT, length=len(CONTENT) + 5, ignores_range=True)
    with pytest.raises(DownloadError, match="2 times in a row"):
        fetch(server, tmp_path / "g", attempts=2)
    assert not (tmp_path / "g").exists()


def test_packed_on_the_way_is_refused_but_gz_files_stay_packed(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(b"text" * 1000)
    server.resources["/file"] = Resource(packed, headers={"Content-Encoding": "gzip"})
    with pytest.raises(DownloadError, match="packs the file as gzip"):
        fetch(server, tmp_path / "f.txt")
    fetch(server, tmp_path / "f.txt.gz")
    assert (tmp_path / "f.txt.gz").read_bytes() == packed


def test_second_download_of_the_same_file_is_refused(server: Server, tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / ".f.lock", what="download", remedy="wait"),
        pytest.raises(AlreadyLockedError, match="wait until it is done"),
    ):
        fetch(server, tmp_path / "f")
    assert server.requests == []


def test_final_name_never_holds_a_part(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT, pause_s=0.002)
    worker = threading.Thread(target=fetch, args=(server, tmp_path / "f"))
    worker.start()
    sizes = set()
    while worker.is_alive():
        if (tmp_path / "f").exists():
            sizes.add((tmp_path / "f").stat().st_size)
        time.sleep(0.001)
    worker.join()
    assert sizes <= {len(CONTENT)} and (tmp_path / "f").read_bytes() == CONTENT


def test_killed_download_goes_on_to_identical_bytes(server: Server, tmp_path: Path) -> None:
    server.resources["/file"] = Resource(CONTENT, pause_s=0.05)
    program = f"from cs336_basics.corpora.download import download; download({server.url()!r}, {str(tmp_path / 'f')!r})"
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    partial = tmp_path / "f.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    have = partial.stat().st_size
    assert 0 < have < len(CONTENT) and not (tmp_path / "f").exists()
    server.resources["/file"].pause_s = 0.0
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and ranges(server) == [None, f"bytes={have}-"]


def test_full_disk_is_explained_and_the_part_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.resources["/file"] = Resource(CONTENT)
    real_write = download_module._write_all

    def write_until_full(file: Any, piece: bytes) -> None:
        if file.tell() > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real_write(file, piece)

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_write_all", write_until_full)
        with pytest.raises(OSError, match="disk full.*free some space") as caught:
            fetch(server, tmp_path / "f")
    assert caught.value.errno == errno.ENOSPC and len(server.requests) == 1
    have = (tmp_path / "f.partial").stat().st_size
    assert have > 200_000
    fetch(server, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT and ranges(server)[-1] == f"bytes={have}-"


def test_bar_goes_to_stderr(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.resources["/file"] = Resource(CONTENT)
    fetch(server, tmp_path / "name.bin", progress=True)
    captured = capfd.readouterr()
    assert captured.out == "" and "name.bin" in captured.err


# Corpora


TINY = "/datasets/roneneldan/TinyStories/resolve/main"
OWT = "/datasets/stanford-cs336/owt-sample/resolve/main"
FINEWEB = "/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main"


def get(server: Server, name: Any, folder: Path, **options: Any):  # type: ignore[no-untyped-def]
    return get_corpus(
        name, folder, **({"base_url": server.url(""), "progress": False, "first_pause_s": 0.001} | options)
    )


def serve_tinystories(server: Server) -> None:
    server.resources[f"{TINY}/TinyStoriesV2-GPT4-train.txt"] = Resource(b"a\n<|endoftext|>\nb\n")
    server.resources[f"{TINY}/TinyStoriesV2-GPT4-valid.txt"] = Resource(b"c\n")


def test_tinystories_and_its_manifest(server: Server, tmp_path: Path) -> None:
    serve_tinystories(server)
    files = get(server, "tinystories", tmp_path)
    assert [p.read_bytes() for p in (*files.train, *files.validation)] == [b"a\n<|endoftext|>\nb\n", b"c\n"]
    entry = json.loads((tmp_path / "manifest.json").read_text())["files"]["TinyStoriesV2-GPT4-valid.txt"]
    assert entry["sha256"] == hashlib.sha256(b"c\n").hexdigest() and entry["num_bytes"] == 2 and entry["etag"] == '"v1"'
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["manifest.json", files.train[0].name, files.validation[0].name]
    )
    server.requests.clear()
    assert get(server, "tinystories", tmp_path) == files and server.requests == []


def test_damaged_corpus_file_is_fetched_again_and_checked_against_the_manifest(server: Server, tmp_path: Path) -> None:
    serve_tinystories(server)
    files = get(server, "tinystories", tmp_path)
    files.validation[0].write_bytes(b"X\n")
    server.requests.clear()
    get(server, "tinystories", tmp_path)
    assert files.validation[0].read_bytes() == b"c\n" and len(server.requests) == 1
    files.validation[0].write_bytes(b"X\n")
    server.resources[f"{TINY}/TinyStoriesV2-GPT4-valid.txt"] = Resource(b"new\n")
    with pytest.raises(ChecksumError, match="manifest.json.*what came at first"):
        get(server, "tinystories", tmp_path)


def test_owt_sample_is_unpacked(server: Server, tmp_path: Path) -> None:
    train, valid = b"web text\n" * 50_000, b"valid\n"
    packed = gzip.compress(train[:100_000]) + gzip.compress(train[100_000:])  # two members, as some tools write
    server.resources[f"{OWT}/owt_train.txt.gz"] = Resource(packed, cut_after=[100])
    server.resources[f"{OWT}/owt_valid.txt.gz"] = Resource(gzip.compress(valid))
    files = get(server, "owt-sample", tmp_path)
    assert files.train[0].read_bytes() == train and files.validation[0].read_bytes() == valid
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "owt_train.txt", "owt_valid.txt"]
    server.requests.clear()
    get(server, "owt-sample", tmp_path)
    assert server.requests == []


def test_truncated_gzip_leaves_no_text_file(server: Server, tmp_path: Path) -> None:
    server.resources[f"{OWT}/owt_train.txt.gz"] = Resource(gzip.compress(CONTENT)[:-100])
    server.resources[f"{OWT}/owt_valid.txt.gz"] = Resource(gzip.compress(b"valid\n"))
    with pytest.raises(ChecksumError, match="owt_train.txt.gz is not a whole gzip file"):
        get(server, "owt-sample", tmp_path)
    assert not (tmp_path / "owt_train.txt").exists() and not (tmp_path / "owt_train.txt.gz").exists()


def test_fineweb_shards_and_the_last_for_validation(server: Server, tmp_path: Path) -> None:
    names = [f"shard_{i:05d}.parquet" for i in (*range(7), 1822)]
    for name in names:
        server.resources[f"{FINEWEB}/{name}"] = Resource(name.encode())
    files = run_get(GetConfig("fineweb-edu", num_shards=6, dest=tmp_path, base_url=server.url("")), progress=False)
    assert [p.name for p in files.train] == names[:6] and [p.name for p in files.validation] == ["shard_01822.parquet"]
    assert all(p.read_bytes() == p.name.encode() for p in (*files.train, *files.validation))
    server.requests.clear()
    get(server, "fineweb-edu", tmp_path, num_shards=7)
    assert [path for path, _ in server.requests] == [f"{FINEWEB}/shard_00006.parquet"]


def test_one_missing_shard_is_named_and_the_others_are_kept(server: Server, tmp_path: Path) -> None:
    for i in (0, 1822):
        server.resources[f"{FINEWEB}/shard_{i:05d}.parquet"] = Resource(b"x")
    with pytest.raises(DownloadError, match="shard_00001.parquet.*404"):
        get(server, "fineweb-edu", tmp_path, num_shards=2)
    server.resources[f"{FINEWEB}/shard_00001.parquet"] = Resource(b"y")
    files = get(server, "fineweb-edu", tmp_path, num_shards=2)
    assert [p.read_bytes() for p in files.train] == [b"x", b"y"]


def test_failure_stops_the_other_downloads_soon(server: Server, tmp_path: Path) -> None:
    server.resources[f"{TINY}/TinyStoriesV2-GPT4-train.txt"] = Resource(CONTENT * 20, pause_s=0.05)  # over a minute
    with pytest.raises(DownloadError, match="404"):
        get(server, "tinystories", tmp_path)
    assert server.sent < len(CONTENT) * 10


def test_second_get_into_one_folder_is_refused(server: Server, tmp_path: Path) -> None:
    with (
        exclusive_lock(tmp_path / ".download.lock", what="x", remedy="y"),
        pytest.raises(AlreadyLockedError, match="in use by process"),
    ):
        get(server, "tinystories", tmp_path)


def test_foreign_manifest_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"kind": "train"}')
    with pytest.raises(ValueError, match="not a list of downloaded files"):
        get(server, "tinystories", tmp_path)
    assert (tmp_path / "manifest.json").read_text() == '{"kind": "train"}' and server.requests == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"corpus": "wikipedia"}, "must be one of tinystories, owt-sample, fineweb-edu; got 'wikipedia'"),
        ({"corpus": "tinystories", "num_shards": 3}, "is for fineweb-edu"),
        ({"corpus": "fineweb-edu", "num_shards": 0}, "must be 1 to 1822; got 0"),
        ({"corpus": "fineweb-edu", "num_shards": 1823}, "got 1823"),
        ({"corpus": "tinystories", "base_url": "mirror.example"}, "must start with http"),
    ],
)
def test_wrong_requests_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GetConfig(**arguments)


def test_public_addresses_are_hugging_faces() -> None:
    """The addresses that the course's hand-outs give."""
    from cs336_basics.corpora.sources import HUGGING_FACE, _Corpus

    corpus = _Corpus("tinystories", Path(), HUGGING_FACE)
    assert corpus.url("TinyStoriesV2-GPT4-train.txt") == (
        "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt"
    )
