"""Common Crawl's lists and files from a server in this process."""

from __future__ import annotations

import gzip
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cs336_basics.corpora.download import ChecksumError, DownloadError
from cs336_course.cli import main
from cs336_data.common_crawl import CommonCrawlConfig, choose_files, get_common_crawl

pytest.importorskip("requests")
CRAWL = "CC-MAIN-2026-17"
PATHS = [f"crawl-data/{CRAWL}/segments/1/wet/CC-{i:05d}.warc.wet.gz" for i in range(9)]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {f"/{path}": f"file {i}".encode() for i, path in enumerate(PATHS)}
        self.files[f"/crawl-data/{CRAWL}/wet.paths.gz"] = gzip.compress("\n".join(PATHS).encode() + b"\n")
        self.asked: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def config(server: Server, folder: Path, **changes) -> CommonCrawlConfig:
    return CommonCrawlConfig(CRAWL, dest=folder, base_url=f"http://127.0.0.1:{server.server_port}", **changes)


def test_the_first_files_are_fetched_once(server, tmp_path):
    files = get_common_crawl(config(server, tmp_path, num_files=2), progress=False)
    assert [file.name for file in files] == ["CC-00000.warc.wet.gz", "CC-00001.warc.wet.gz"]
    assert [file.read_bytes() for file in files] == [b"file 0", b"file 1"]
    before = len(server.asked)
    get_common_crawl(config(server, tmp_path, num_files=3), progress=False)
    assert server.asked[before:] == [f"/{PATHS[2]}"]


def test_a_seed_draws_a_sample_that_stays(server, tmp_path):
    listing = tmp_path / "paths.gz"
    listing.write_bytes(gzip.compress("\n".join(PATHS).encode()))
    sample = choose_files(listing, 4, seed=336)
    assert sample == choose_files(listing, 4, seed=336) != choose_files(listing, 4, seed=1)
    assert len(set(sample)) == 4 and set(sample) <= set(PATHS)
    with pytest.raises(ValueError, match="has 9 files; num_files=10 is more"):
        choose_files(listing, 10, seed=None)


def test_a_changed_file_and_a_missing_crawl_are_errors(server, tmp_path):
    [file] = get_common_crawl(config(server, tmp_path), progress=False)
    file.unlink()
    server.files[f"/{PATHS[0]}"] = b"another"
    with pytest.raises(ChecksumError):
        get_common_crawl(config(server, tmp_path), progress=False, first_pause_s=0.01)
    with pytest.raises(DownloadError, match="404"):
        get_common_crawl(config(server, tmp_path / "warc", kind="warc"), progress=False, first_pause_s=0.01)
    with pytest.raises(ValueError, match="crawl must look like"):
        CommonCrawlConfig("2026-17")


def test_the_command_prints_the_paths(server, tmp_path, capsys):
    arguments = ["--dest", str(tmp_path), "--base-url", f"http://127.0.0.1:{server.server_port}", "--num-files", "2"]
    assert main(["data", "get", "commoncrawl", CRAWL, *arguments]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"CC-0000{i}.warc.wet.gz") for i in (0, 1)]
    assert main(["data", "get", "--help"]) == 0
    assert "tinystories" in capsys.readouterr().out
