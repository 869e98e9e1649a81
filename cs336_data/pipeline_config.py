"""The configuration of a pipeline run, as it stands in a TOML file; `configs/web-en.toml` is the default.

What decides about the result (inputs, steps, limits, corpus steps, seed) must stay the same when a run is taken up
again; `execution` says only where and how wide, and may change. Read next: `steps.py`, `pipeline.py`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cs336_basics.runs.config import config_to_dict
from cs336_data.steps import StepConfig


@dataclass(frozen=True)
class ReadingConfig:
    """How records become documents."""

    extractor: Literal["plain", "main_content", "trafilatura"] = "plain"
    """how HTML becomes text"""
    max_page_bytes: int = 5_000_000
    """longer pages are passed over"""


@dataclass(frozen=True)
class LimitsConfig:
    """What one document may cost before it is set aside."""

    document_cpu_s: float = 20.0
    """seconds of CPU time; wall time does not count, so that a busy machine changes nothing"""
    document_memory_mb: int = 2_000
    """memory that a worker may take beyond what it has when its models are loaded (Linux only)"""
    strikes: int = 3
    """how often a worker may die at a document before the document is set aside"""

    def __post_init__(self) -> None:
        if not self.document_cpu_s > 0:
            raise ValueError(f"limits.document_cpu_s must be positive; got {self.document_cpu_s}")
        if self.document_memory_mb < 100:
            raise ValueError(f"limits.document_memory_mb must be at least 100; got {self.document_memory_mb}")
        if self.strikes < 1:
            raise ValueError(f"limits.strikes must be at least 1; got {self.strikes}")


@dataclass(frozen=True)
class CorpusStepConfig:
    """A step over all files at once; see `corpus_steps.py`."""

    name: Literal["dedup_documents", "dedup_near", "dedup_lines", "decontaminate", "min_words"]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SlurmConfig:
    """What a Slurm job asks for; also for `cluster = "local"`, which tries it out without Slurm."""

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    partition: str = ""
    minutes: int = 60
    memory_gb: int = 4
    parallel_jobs: int = 64
    """jobs of the array that run at a time"""


@dataclass(frozen=True)
class ExecutionConfig:
    """Where the work is done; changes nothing in the result."""

    executor: Literal["local", "ray", "slurm"] = "local"
    workers: int = 0
    """processes, Ray actors or Slurm jobs; 0 for one per CPU of this machine"""
    ray_address: str = ""
    """address of a Ray cluster; empty starts one on this machine"""
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"execution.workers must be 0 (one per CPU) or more; got {self.workers}")


@dataclass(frozen=True)
class PipelineConfig:
    """A whole run of `cs336 data run`."""

    inputs: tuple[str, ...]
    """files or patterns such as crawl/warc/*.warc.gz: WARC, WET, or documents as .jsonl, .jsonl.gz, .jsonl.zst"""
    steps: tuple[StepConfig, ...]
    """filters and transforms, in order, for each document by itself"""
    corpus_steps: tuple[CorpusStepConfig, ...] = ()
    """steps over all documents, in order"""
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    tokenizer: Path | None = None
    """folder of a tokenizer; the documents are then also written as token files"""
    truth: Path | None = None
    """folder of a synthetic crawl; the report then says how right each step was"""
    samples: int = 3
    """kept documents, and rejected ones per reason, that each file shows for inspection"""
    seed: int = 0
    """draws the samples"""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("inputs is empty; name at least one file or pattern")
        names = [step.name for step in self.corpus_steps]
        if len(set(names)) < len(names):
            raise ValueError(f"each corpus step may stand once; got {', '.join(names)}")

    def fingerprint(self) -> str:
        """Hash of what the output of one file depends on."""
        values = config_to_dict(self)
        kept = {key: values[key] for key in ("steps", "reading", "limits", "samples", "seed")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
