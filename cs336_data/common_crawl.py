"""Files of Common Crawl, fetched one by one.

A crawl such as CC-MAIN-2026-17 lists its files in `wet.paths.gz` (texts, about 70 MB each) and `warc.paths.gz` (pages,
about 1 GB each), tens of thousands of them. A seeded sample of the list is fetched, several times resumable, into

    data/common-crawl/CC-MAIN-2026-17/wet/NAME.warc.wet.gz       manifest.json: address, size, SHA-256 of each

Common Crawl publishes no checksums: the first download is taken on trust, later calls check against the manifest. Its
servers ask for few parallel connections; files come one after another. Left out: reading from S3, the URL index. Read
next: `cs336_basics/corpora/download.py`, `warc.py`.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cs336_basics.corpora.download import download
from cs336_basics.runs.atomic import write_json

BASE_URL = "https://data.commoncrawl.org"


@dataclass(frozen=True)
class CommonCrawlConfig:
    """What to fetch; see `get_common_crawl`."""

    crawl: str
    """name of the crawl, such as CC-MAIN-2026-17 (https://commoncrawl.org/get-started lists them)"""
    kind: Literal["wet", "warc"] = "wet"
    """texts (about 70 MB a file) or pages as served (about 1 GB a file)"""
    num_files: int = 1
    """files to fetch"""
    dest: Path | None = None
    """folder for the files; data/common-crawl/CRAWL/KIND by default"""
    seed: int | None = None
    """fetch a random sample of the crawl's files; by default the first ones"""
    base_url: str = BASE_URL
    """a mirror with the same paths"""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"CC-MAIN-\d{4}-\d{2}", self.crawl):
            raise ValueError(f"crawl must look like CC-MAIN-2026-17; got {self.crawl!r}")
        if self.num_files < 1:
            raise ValueError(f"num_files must be at least 1; got {self.num_files}")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must start with http:// or https://; got {self.base_url!r}")

    @property
    def folder(self) -> Path:
        """Where the files go."""
        return self.dest if self.dest is not None else Path("data/common-crawl") / self.crawl / self.kind


def get_common_crawl(config: CommonCrawlConfig, *, progress: bool = True, first_pause_s: float = 1.0) -> list[Path]:
    """Fetch files of a crawl; what is there and whole is not fetched again, what broke off goes on.

    Args:
        config: which crawl, which and how many of its files.
        progress: draw a bar per file on standard error.
        first_pause_s: as in `download`.

    Raises:
        ValueError: more files are asked for than the crawl has.
        DownloadError: no such crawl, or a file cannot be fetched; the others stay.
        ChecksumError: a file is not what it was at the first download.
    """
    folder, base = config.folder, config.base_url.rstrip("/")
    listing = folder / f"{config.kind}.paths.gz"
    url = f"{base}/crawl-data/{config.crawl}/{config.kind}.paths.gz"
    download(url, listing, progress=False, first_pause_s=first_pause_s)
    known_path = folder / "manifest.json"
    known = json.loads(known_path.read_text(encoding="utf-8")) if known_path.exists() else {}
    files = []
    for path in choose_files(listing, config.num_files, seed=config.seed):
        name = path.rpartition("/")[2]
        expected = known.get(name, {}).get("sha256")
        got = download(f"{base}/{path}", folder / name, sha256=expected, progress=progress, first_pause_s=first_pause_s)
        known[name] = {"url": f"{base}/{path}", "sha256": got.sha256, "bytes": got.num_bytes}
        write_json(known_path, dict(sorted(known.items())))
        files.append(folder / name)
    return files


def choose_files(listing: Path, count: int, *, seed: int | None) -> list[str]:
    """The first `count` paths of a crawl's list, or a sample of it.

    Raises:
        ValueError: the list is shorter.
    """
    with gzip.open(listing, "rt", encoding="ascii") as file:
        paths = [line.strip() for line in file if line.strip()]
    if count > len(paths):
        raise ValueError(f"the crawl has {len(paths)} files; num_files={count} is more")
    return paths[:count] if seed is None else random.Random(seed).sample(paths, count)
