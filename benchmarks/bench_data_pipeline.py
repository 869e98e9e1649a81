"""The data pipeline: pages per second and core, against datatrove with the same steps, and with one and two workers.

    python benchmarks/bench_data_pipeline.py [--quick] [--rounds 3] [--only rate rivals workers]

Input: a synthetic crawl (half of its real pages long ones, as pydoc renders them). Steps: read, extract, language,
FineWeb's rules, quality classifier, masking, write. datatrove reads with warcio, and runs its own filters, masking and
writer in one process; language model (lid.176.ftz), quality classifier and, in the second row, the extractor are ours,
called from its steps, so that what is compared is the pipeline and the rules. Its own extractor is trafilatura.

    rate      CPU seconds of one process, its children included; median over rounds, both in turn
    workers   wall seconds of the file steps with 1 and 2 worker processes, their start included; needs an idle machine

Needs datatrove, spaCy, warcio, faust-cchardet, python-magic and trafilatura (`make bench` installs them).
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_data.executors import run_tasks
from cs336_data.file_task import FileTask, process_file
from cs336_data.pipeline import make_tasks
from cs336_data.pipeline_config import ExecutionConfig, LimitsConfig, PipelineConfig
from cs336_data.steps import StepConfig, build_steps
from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl

STEPS = (StepConfig("language"), StepConfig("rules", {"set": "fineweb"}), StepConfig("quality"), StepConfig("pii"))
FULL = CrawlOptions(articles=300, reference=300, broken=0)
QUICK = CrawlOptions(articles=60, reference=20, boilerplate=30, spam=15, adult=8, hostile=8, foreign=30, copies=8,
                     near_copies=10, broken=0, files=2)  # fmt: skip


def cpu_seconds() -> float:
    """CPU time of this process and its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def ours(files: list[Path], steps: list[Any]) -> dict[str, Any]:
    """One pass over all files in this process; the manifests' counts."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = make_tasks(PipelineConfig(tuple(map(str, files)), STEPS), files, Path(folder))
        manifests = [process_file(task, steps) for task in tasks]
    pages = sum(m["funnel"]["extract"]["in"] for m in manifests)
    seconds = {
        key: sum(m["measured"]["steps_s"].get(key, 0) for m in manifests) for key in manifests[0]["measured"]["steps_s"]
    }
    return {"pages": pages, "kept": sum(m["funnel"]["pii"]["out"] for m in manifests), "steps_s": seconds}


class LanguageModel:
    """lid.176.ftz with the interface that datatrove expects of its model."""

    def __init__(self) -> None:
        from cs336_data.language import LanguageIdentifier

        self.model = LanguageIdentifier()
        self.model.identify("load the model, please")

    def predict(self, text: str, k: int = -1) -> tuple[list[str], list[Any]]:
        import numpy as np

        answers = self.model._model._model.f.predict(text + "\n", k, 0.0, "replace")
        return [label for _, label in answers], [np.float64(probability) for probability, _ in answers]


def datatrove_pipeline(folder: Path, output: Path, *, extractor: str) -> list[Any]:
    """datatrove's steps in our order."""
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.extractors.base import BaseExtractor
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
        LanguageFilter,
    )
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import WarcReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    from cs336_data.extraction import METHODS
    from cs336_data.quality_classifier import QualityClassifier

    class Resiliparse(BaseExtractor):
        name = "resiliparse"

        def __init__(self) -> None:
            super().__init__(timeout=60)  # wall time: a busy machine must not drop pages

        def extract(self, text: str) -> str:
            return METHODS["plain"](text) or ""

    LanguageFilter._requires_dependencies = []  # asks for another build of fastText than the one that runs here
    language = LanguageFilter(["en"], language_threshold=0.65)
    language.model._model = LanguageModel()
    quality = QualityClassifier()
    return [
        WarcReader(str(folder), glob_pattern="*.warc.gz"),
        Trafilatura(favour_precision=True, timeout=60) if extractor == "trafilatura" else Resiliparse(),
        language, GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(), LambdaFilter(lambda document: quality.score(document.text) >= 0.5), PIIFormatter(),
        JsonlWriter(str(output)),
    ]  # fmt: skip


def theirs(folder: Path, *, extractor: str) -> dict[str, Any]:
    """One pass of datatrove's steps, chained as its executor chains them."""
    kept = 0
    with tempfile.TemporaryDirectory() as output:
        data: Any = None
        for step in datatrove_pipeline(folder, Path(output), extractor=extractor):
            data = step.run(data, 0, 1)
        for _ in data:
            kept += 1
    return {"kept": kept}


def measure_rates(folder: Path, *, rounds: int, rivals: bool) -> dict[str, Any]:
    """CPU seconds per pass of each, in turn."""
    files, steps = sorted(folder.glob("*.gz")), build_steps(STEPS)
    passes: dict[str, Any] = {"ours": lambda: ours(files, steps)}
    if rivals:
        passes["datatrove, our extractor"] = lambda: theirs(folder, extractor="resiliparse")
        passes["datatrove, trafilatura"] = lambda: theirs(folder, extractor="trafilatura")
    facts = {name: run() for name, run in passes.items()}  # once unmeasured: models loaded, code compiled
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, run in passes.items():
            started = cpu_seconds()
            facts[name] = run()
            seconds[name].append(cpu_seconds() - started)
            print(f"{name}: {seconds[name][-1]:.2f} s", flush=True)
    pages = facts["ours"]["pages"]
    rows = {
        name: {"pages_per_cpu_second": round(pages / statistics.median(values), 1), "seconds": values, **facts[name]}
        for name, values in seconds.items()
    }
    base = rows["ours"]["pages_per_cpu_second"]
    for row in rows.values():
        row["ours_is_times"] = round(base / row["pages_per_cpu_second"], 2)
    return {"pages": pages, "rows": rows}


def measure_workers(folder: Path, *, copies: int, rounds: int) -> dict[str, Any]:
    """Wall seconds of the file steps over `copies` of the crawl with 1 and with 2 workers."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch, "in")
        inputs.mkdir()
        for number in range(copies):
            for file in sorted(folder.glob("*.gz")):
                shutil.copyfile(file, inputs / f"{number:02d}-{file.name}")
        files = sorted(inputs.iterdir())
        for _ in range(rounds):
            for workers in seconds:
                output = Path(scratch, "out")
                tasks: list[FileTask] = make_tasks(PipelineConfig(("in",), STEPS), files, output)
                started = time.perf_counter()
                outcomes = list(run_tasks(tasks, ExecutionConfig(workers=workers), LimitsConfig(), output=output))
                seconds[workers].append(time.perf_counter() - started)
                assert all(outcome.manifest for outcome in outcomes)
                shutil.rmtree(output)
                print(f"{workers} workers: {seconds[workers][-1]:.2f} s", flush=True)
    best = {workers: min(values) for workers, values in seconds.items()}
    return {"files": len(files), "wall_s": seconds, "speedup_2_workers": round(best[1] / best[2], 3)}


def main() -> None:
    """Measure, print, write results/data_pipeline.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small crawl, one round, no result file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=["rate", "rivals", "workers"], default=["rivals", "workers"])
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as folder:
        crawl = Path(folder)
        write_crawl(crawl, QUICK if arguments.quick else FULL)
        warc = crawl / "warc"
        size = sum(json.loads(line)["bytes"] for line in (crawl / "truth.jsonl").open(encoding="utf-8"))
        result: dict[str, Any] = {"html_bytes": size}
        if {"rate", "rivals"} & set(arguments.only):
            result |= measure_rates(warc, rounds=rounds, rivals="rivals" in arguments.only)
        if "workers" in arguments.only:
            result["workers"] = measure_workers(warc, copies=1 if arguments.quick else 6, rounds=rounds)
    print(json.dumps(result, indent=2))
    if not arguments.quick and "rows" in result:
        facts = {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
        write_json(Path(__file__).parent / "results" / "data_pipeline.json", result | facts)


if __name__ == "__main__":
    main()
