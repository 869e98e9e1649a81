"""What the tests of the pipeline share: small inputs, a configuration, and the bytes a run leaves."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from cs336_data.document import Document
from cs336_data.document_files import to_line, write_lines
from cs336_data.pipeline_config import (
    CorpusStepConfig,
    ExecutionConfig,
    LimitsConfig,
    PipelineConfig,
)
from cs336_data.steps import StepConfig
from cs336_data.synthetic_crawl.crawl import CrawlOptions

SMALL = CrawlOptions(
    articles=24, reference=0, boilerplate=10, spam=6, adult=2, hostile=2, foreign=12, copies=4, near_copies=5,
    broken=11, files=3, seed=1,
)  # fmt: skip
RESULT_FOLDERS = ("filtered", "verdicts", "samples", "quarantine", "manifests", "corpus", "documents", "tokens")
RESULT_FILES = ("funnel.json", "dataset_card.md")


def make_config(*inputs: Path | str, **changes: Any) -> PipelineConfig:
    """Language and masking only, so that a worker starts quickly; exact duplicates removed."""
    config = PipelineConfig(
        inputs=tuple(map(str, inputs)),
        steps=(StepConfig("language"), StepConfig("pii")),
        corpus_steps=(CorpusStepConfig("dedup_documents"),),
        limits=LimitsConfig(document_cpu_s=5.0, document_memory_mb=500),
        execution=ExecutionConfig(workers=1),
    )
    return replace(config, **changes)


def result_bytes(run: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of everything that must not depend on how the run went; no stray files are left out."""
    paths = [path for folder in RESULT_FOLDERS for path in (run / folder).rglob("*") if path.is_file()]
    hashes = {}
    for path in [*paths, *(run / name for name in RESULT_FILES if (run / name).exists())]:
        content = path.read_bytes()
        if path.parent.name == "manifests":
            manifest = json.loads(content)
            assert manifest.pop("measured")["cpu_s"] >= 0
            content = json.dumps(manifest, sort_keys=True).encode()
        if path.name == "dataset_card.md":  # names the commit, which may change while tests run
            content = re.sub(rb"; code [^.]*", b"", content)
        hashes[path.relative_to(run).as_posix()] = hashlib.sha256(content).hexdigest()
    return hashes


def write_documents(path: Path, texts: list[str]) -> Path:
    """A document file of texts."""
    with write_lines(path) as write:
        for number, text in enumerate(texts):
            write(to_line(Document(f"{path.name}:{number}", f"https://example.org/{number}", text)))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON file, plain or gzip."""
    from cs336_data.document_files import read_lines

    return [json.loads(line) for line in read_lines(path)]
