"""The tour's stage of data: a crawl becomes training text, and a model says what that was worth.

    crawl      written on the spot, every page of it known (`synthetic_crawl/`)
    pipeline   language, harm, rules, quality, personal data, duplicates, evaluation text; funnel, recall and precision
    models     one trained on what passed, one on the crawl as it is, equally long (`filter_for_model.py`)

Handout: filter_data, tokenize_data, train_model. Read next: `pipeline.py`, `truth.py`, `filter_for_model.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.report import Block, KeyFigure, KeyFigures, Paragraph, Section
from cs336_basics.runs.stage import Stage
from cs336_data.filter_for_model import FilterForModelConfig, TrainerConfig, model_section, run_filter_for_model
from cs336_data.funnel import FunnelRow
from cs336_data.pipeline_config import CorpusStepConfig, ExecutionConfig, PipelineConfig
from cs336_data.report import funnel_section
from cs336_data.report_truth import truth_figures, truth_section
from cs336_data.steps import StepConfig
from cs336_data.synthetic_crawl.crawl import CrawlOptions

FOLDER = "data"
RUN = f"{FOLDER}/run"
RESULTS = f"{FOLDER}/results.json"
_SMALL_CRAWL = 200  # articles; done sooner than a second worker starts


@dataclass(frozen=True)
class DataStageOptions:
    """Sizes of the crawl and of the two trainings."""

    articles: int
    """pages of prose in the crawl; all other pages in proportion"""
    reference: int
    """pages as pydoc shows them, which take longest to make"""
    vocab_size: int
    num_steps: int
    """of each training"""
    seed: int
    device: str


DEFAULT = DataStageOptions(articles=330, reference=24, vocab_size=1024, num_steps=300, seed=0, device="auto")
"""about 60 s of one CPU core"""
QUICK = replace(DEFAULT, articles=50, reference=6, vocab_size=512, num_steps=50)


def data_stage(options: DataStageOptions) -> Stage:
    """Write a crawl, filter it, train on both."""
    files = ("results.json", "data/funnel.json", "data/truth.json", "training/filtered-0/log.jsonl",
             "training/unfiltered-0/log.jsonl")  # fmt: skip
    outputs = (RESULTS, *(f"{RUN}/{file}" for file in files))
    return Stage(
        name=FOLDER, title="data", options=options, inputs=(), outputs=outputs, run=_run, section=_section
    )  # fmt: skip


def flow_config(directory: Path, options: DataStageOptions) -> FilterForModelConfig:
    """The flow of the tour; paths are absolute, so that it resumes from any working directory."""
    crawl = directory.resolve() / RUN / "crawl"
    n = options.articles
    steps = (
        StepConfig("language", {"languages": ["en"], "minimum": 0.65}), StepConfig("nsfw", {"maximum": 0.97}),
        StepConfig("toxic", {"maximum": 0.97}),
        StepConfig("rules", {"set": "gopher"}), StepConfig("quality"), StepConfig("pii"),
    )  # fmt: skip
    corpus_steps = (
        CorpusStepConfig("dedup_documents"), CorpusStepConfig("dedup_near"),
        CorpusStepConfig("decontaminate", {"evaluation": [str(crawl / "evaluation.jsonl")]}),
    )  # fmt: skip
    return FilterForModelConfig(
        pipeline=PipelineConfig(
            inputs=(str(crawl / "warc" / "*.gz"),), steps=steps, corpus_steps=corpus_steps, truth=crawl,
            execution=ExecutionConfig(workers=2 if n > _SMALL_CRAWL else 1), seed=options.seed,
        ),
        crawl=CrawlOptions(
            articles=n, reference=options.reference, boilerplate=n // 3, spam=n // 4, adult=n // 10, hostile=n // 10,
            foreign=n // 2, copies=n // 8, near_copies=n // 6, broken=44, files=4, seed=options.seed,
        ),
        vocab_size=options.vocab_size,
        train=TrainerConfig(num_steps=options.num_steps, eval_every=max(1, options.num_steps // 8),
                            device=options.device),
    )  # fmt: skip


def _run(directory: Path, options: DataStageOptions) -> None:
    results = run_filter_for_model(flow_config(directory, options), directory / RUN)
    write_json(directory / RESULTS, {"arms": results["arms"]})


def _section(directory: Path) -> Section:
    run = directory / RUN
    rows = [FunnelRow(**row) for row in json.loads((run / "data" / "funnel.json").read_text(encoding="utf-8"))]
    measured = json.loads((run / "data" / "truth.json").read_text(encoding="utf-8"))
    figures = [
        KeyFigure("records in the crawl", f"{rows[0].came:,}"),
        KeyFigure("documents kept", f"{rows[-1].left:,}"),
    ]
    blocks: list[Block] = [
        Paragraph(_INTRODUCTION),
        KeyFigures([*figures, *truth_figures(measured)[:2]]),
        funnel_section(rows),
    ]
    return Section("Data", [*blocks, truth_section(measured), model_section(run)])


_INTRODUCTION = """
Most of a web crawl is no text that one would want a model to learn from. This crawl was written on this machine a moment
ago: prose and reference pages of its own Python library, and around them boilerplate, spam, other languages, copies and
damaged records in known numbers. So the pipeline can be graded page by page, and not only by what it keeps.
"""
