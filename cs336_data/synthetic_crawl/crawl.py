"""The synthetic crawl: real and generated pages in WARC and WET files, and the truth about every one of them.

    warc/crawl-00000.warc.gz ...      pages as a server would have sent them
    wet/crawl-00000.warc.wet.gz ...   their texts
    truth.jsonl                       a line per page: all that is known about it
    validation.jsonl                  articles outside the crawl: what training should help with
    evaluation.jsonl                  passages of these, some of which were copied into pages of the crawl
    manifest.json                     options, counts and checksums, written last

Articles (`pydoc_pages.py`) are what a filter should keep; to some, known things are done: personal data
planted, copies and near copies made, a passage of the evaluation set inserted, odd encodings. Same options and same
Python give the same bytes. Handout: `look_at_cc`, for those without a crawl at hand. Read next: `truth.py`.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import file_sha256
from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.config import config_to_dict
from cs336_data.document import Document
from cs336_data.document_files import to_line
from cs336_data.extraction import extract_text_from_html_bytes
from cs336_data.synthetic_crawl.pages import Page, PageMaker
from cs336_data.synthetic_crawl.records import HTML, break_member, cut_member, gzip_member, http_response, warc_record

FORMAT = "cs336-crawl-1"
_PASSAGE_WORDS = 40
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CrawlOptions:
    """How many pages of each sort; copies come on top of `articles`."""

    articles: int = 330
    """pages of prose; a tenth more is held out for validation"""
    reference: int = 60
    """pages of topics, modules and classes as pydoc shows them (a Python library has about 500)"""
    boilerplate: int = 150
    """pages of menus, baskets, forum chrome"""
    spam: int = 80
    """pages that praise one product without end"""
    adult: int = 40
    """pages that advertise pornography"""
    hostile: int = 40
    """threads of insults"""
    foreign: int = 160
    """pages in eight other languages, in encodings of their own"""
    copies: int = 40
    """articles served again under another URL"""
    near_copies: int = 60
    """articles again with some words replaced"""
    broken: int = 44
    """records of eleven kinds of damage"""
    files: int = 4
    """WARC files"""
    seed: int = 0
    """same seed and same Python, same crawl"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (lowest := int(name in ("articles", "files"))):
                raise ValueError(f"{name} must be at least {lowest}; got {value}")
        if max(self.copies, self.near_copies) > self.articles:
            raise ValueError(
                f"copies={self.copies} and near_copies={self.near_copies} are made of different articles; there are "
                f"only {self.articles}"
            )


def write_crawl(
    directory: Path, options: CrawlOptions, *, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Write a crawl into `directory` unless the same one is there; return its manifest.

    Args:
        directory: created; files of an earlier crawl with the same names are replaced.
        options: what and how much.
        progress: called with (reference pages rendered, all of them).

    Raises:
        ValueError: the library has less prose than is asked for.
        ImportError: resiliparse is missing; says how to install it.
    """
    present = _matching(directory, options)
    if present is not None:
        return present
    maker = PageMaker(options.seed)
    held_out = max(4, options.articles // 10)
    articles = maker.articles(options.articles + held_out)
    if len(articles) < options.articles + held_out:
        raise ValueError(f"this Python library has prose for {len(articles)} articles; articles={options.articles} and "
                         f"{held_out} for validation are too many")  # fmt: skip
    validation, articles = articles[:held_out], articles[held_out:]
    passages = _passages(validation, maker.rng)
    pages = [*maker.treat(articles, passages), *_generated(maker, options)]
    pages += maker.reference(options.reference, progress)
    pages += maker.copies(articles, options.copies)
    pages += maker.near_copies(articles, options.near_copies)
    pages += maker.broken(options.broken)
    maker.rng.shuffle(pages)
    folders = [pages[i :: options.files] for i in range(options.files)]
    names = [f"crawl-{i:05d}" for i in range(options.files)]
    for name, content in zip(names, folders, strict=True):
        _write_files(directory, name, content, maker.rng)
    _write_lines(directory / "validation.jsonl", [_document(page) for page in validation])
    _write_lines(
        directory / "evaluation.jsonl",
        [Document(f"passage-{i}", "", passage) for i, passage in enumerate(passages)],
    )
    with atomic_write(directory / "truth.jsonl", "w") as file:
        for name, content in zip(names, folders, strict=True):
            file.writelines(json.dumps(page.truth() | {"file": name}, ensure_ascii=False) + "\n" for page in content)
    return _write_manifest(directory, options, pages)


def _generated(maker: PageMaker, options: CrawlOptions) -> list[Page]:
    """Pages that are no documents."""
    counts = {kind: getattr(options, kind) for kind in ("boilerplate", "spam", "adult", "hostile", "foreign")}
    return [maker.generated(kind) for kind, count in counts.items() for _ in range(count)]


def _passages(pages: Sequence[Page], rng: random.Random) -> list[str]:
    """From each page a stretch of words, if it has enough of them."""
    texts = [(extract_text_from_html_bytes(page.html) or "").split() for page in pages]
    long = [words for words in texts if len(words) > 3 * _PASSAGE_WORDS]
    starts = [rng.randrange(_PASSAGE_WORDS, len(words) - 2 * _PASSAGE_WORDS) for words in long]
    return [" ".join(words[s : s + _PASSAGE_WORDS]) for words, s in zip(long, starts, strict=True)]


def _document(page: Page) -> Document:
    """A page's text as a document."""
    return Document(page.record_id, page.url, extract_text_from_html_bytes(page.html) or "", {"kind": page.kind})


def _write_lines(path: Path, documents: Sequence[Document]) -> None:
    with atomic_write(path) as file:
        file.writelines(to_line(document) for document in documents)


def _write_files(directory: Path, name: str, pages: Sequence[Page], rng: random.Random) -> None:
    """A WARC file and its WET file; a page that is cut off stands last."""
    whole = [page for page in pages if page.kind != "cut_off"]
    cut = [page for page in pages if page.kind == "cut_off"][:1]
    for surplus in [page for page in pages if page.kind == "cut_off"][1:]:
        whole.append(replace(surplus, kind="damaged_member"))
    info = warc_record(
        "warcinfo", b"software: cs336\r\n", record_id="urn:uuid:0", url="", content_type="application/warc-fields"
    )
    with atomic_write(directory / "warc" / f"{name}.warc.gz") as file:
        file.write(gzip_member(info))
        file.writelines(_warc_bytes(page, rng) for page in itertools.chain(whole, cut))
    with atomic_write(directory / "wet" / f"{name}.warc.wet.gz") as file:
        file.write(gzip_member(info))
        file.writelines(filter(None, map(_wet_bytes, whole)))


def _warc_bytes(page: Page, rng: random.Random) -> bytes:
    """A page's gzip member, damaged as its kind says, with the request before it."""
    request = warc_record(
        "request", f"GET {page.url} HTTP/1.1\r\n\r\n".encode(), record_id=f"{page.record_id}-request", url=page.url,
        content_type="application/http; msgtype=request",
    )  # fmt: skip
    response = http_response(
        page.html, content_type=page.content_type, status="404 Not Found" if page.kind == "not_found" else "200 OK",
        content_encoding="gzip" if page.kind == "zip_bomb" else None,
    )  # fmt: skip
    error = {"length_too_long": 5_000, "length_too_short": -200}.get(page.kind, 0)
    member = gzip_member(
        warc_record("response", response, record_id=page.record_id, url=page.url, length_error=error,
                    content_type="application/http; msgtype=response",
                    extra=f"WARC-Identified-Payload-Type: {page.content_type}\r\n")
    )  # fmt: skip
    if page.kind == "damaged_member":
        member = break_member(member, rng)
    return gzip_member(request) + (cut_member(member) if page.kind == "cut_off" else member)


def _wet_bytes(page: Page) -> bytes | None:
    """A page's text as Common Crawl gives it; None for what has none."""
    if not page.is_sound or not page.content_type.startswith(HTML):
        return None
    text = extract_text_from_html_bytes(page.html)
    if not text:
        return None
    record = warc_record(
        "conversion", text.encode("utf-8"), record_id=f"{page.record_id}-text", url=page.url,
        content_type="text/plain", extra=f"WARC-Refers-To: <{page.record_id}>\r\n",
    )  # fmt: skip
    return gzip_member(record)


def _request(options: CrawlOptions) -> dict[str, Any]:
    import platform

    return {"format": FORMAT, "python": platform.python_version(), "options": config_to_dict(options)}


def _matching(directory: Path, options: CrawlOptions) -> dict[str, Any] | None:
    """The manifest of the same crawl, if it is there and whole."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {key: manifest.get(key) for key in ("format", "python", "options")} != _request(options):
        return None
    whole = all((directory / f).exists() and file_sha256(directory / f) == sha for f, sha in manifest["files"].items())
    return manifest if whole else None


def _write_manifest(directory: Path, options: CrawlOptions, pages: Sequence[Page]) -> dict[str, Any]:
    paths = [
        *sorted(directory.glob("w*/crawl-*.gz")),
        *(directory / f"{n}.jsonl" for n in ("truth", "validation", "evaluation")),
    ]
    manifest = _request(options) | {
        "pages": dict(sorted(Counter(page.kind for page in pages).items())),
        "files": {path.relative_to(directory).as_posix(): file_sha256(path) for path in paths},
    }
    write_json(directory / "manifest.json", manifest)
    return manifest
