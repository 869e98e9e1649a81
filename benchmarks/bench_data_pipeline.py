"""The data pipeline: pages per second and core, against datatrove with the same steps, and with one and two workers.

    python benchmarks/bench_data_pipeline.py [PART ...] [--crawl FOLDER] [--rounds 3] [--quick]

Input: a synthetic crawl (half of its real pages long ones, as pydoc renders them); kept in FOLDER, it serves the next
call. Steps: read, extract, language, FineWeb's rules, quality classifier, masking, write. datatrove reads with warcio,
and runs its own filters, masking and writer in one process, its extractor in a child of it, as it always does; models
(lid.176.ftz through fastText's library, our quality classifier) are called from its steps. Parts:

    same         datatrove with our extractor, resiliparse: what is compared is the pipeline and the rules
    trafilatura  datatrove with its own extractor, which takes most of its time
    workers      wall seconds with 1 and 2 worker processes, their start included; needs a machine with two idle cores

The first two count CPU seconds, children included. All run file by file in turn, so that a change of the machine's
speed meets all; ratios are medians over files and rounds. "ours, library" asks the language model through fastText's
library too; "extractor" is resiliparse alone, which both have in common in the part "same". That part also lists the
pages on which the two disagree, and why.

Each part adds its answer to results/data_pipeline.json. Needs datatrove, spaCy, warcio, faust-cchardet, python-magic
and trafilatura (`make bench` installs them).
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import resource
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_data.document_files import read_lines
from cs336_data.executors import run_tasks
from cs336_data.extraction import record_to_document
from cs336_data.fasttext_model import FastTextModel
from cs336_data.file_task import FileTask, process_file
from cs336_data.guarded_worker import warm_up
from cs336_data.language import LanguageIdentifier
from cs336_data.pipeline import make_tasks
from cs336_data.pipeline_config import ExecutionConfig, LimitsConfig, PipelineConfig
from cs336_data.steps import StepConfig, build_steps
from cs336_data.synthetic_crawl.crawl import CrawlOptions, write_crawl
from cs336_data.warc import WarcRecord, read_records

RESULT = Path(__file__).parent / "results" / "data_pipeline.json"
DEFAULT_ROUNDS = {"same": 3, "trafilatura": 1, "workers": 2}
STEPS = (StepConfig("language"), StepConfig("rules", {"set": "fineweb"}), StepConfig("quality"), StepConfig("pii"))
FULL = CrawlOptions(articles=300, reference=300, broken=0)
QUICK = CrawlOptions(articles=60, reference=20, boilerplate=30, spam=15, adult=8, hostile=8, foreign=30, copies=8,
                     near_copies=10, broken=0, files=2)  # fmt: skip


def cpu_seconds() -> float:
    """CPU time of this process and its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def ours(file: Path, output: Path, steps: list[Any]) -> dict[str, Any]:
    """One pass over a file in this process, with the timer that a worker sets for each record; the manifest's counts."""
    (task,) = make_tasks(PipelineConfig((str(file),), STEPS), [file], output)
    manifest = process_file(task, steps, watch=lambda _: _set_timer(60))
    _set_timer(0)
    seconds = {name: manifest["measured"]["steps_s"].get(name, 0) for name in manifest["funnel"]}
    seconds = {"read": manifest["measured"]["steps_s"]["read"], **seconds}
    funnel = manifest["funnel"]
    return {"pages": funnel["extract"]["in"], "kept": funnel["pii"]["out"], "steps_s": seconds}


def _set_timer(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, seconds)


def fresh_steps(*, library: bool = False) -> list[Any]:
    """Our steps with their models loaded, as a worker begins with them."""
    steps = build_steps(STEPS)
    if library:
        steps[0].apply.identifier = LanguageIdentifier()  # type: ignore[attr-defined]
    warm_up(steps)
    return steps


def extractor_alone(file: Path) -> dict[str, Any]:
    """CPU seconds of resiliparse over the pages of a file."""
    from cs336_data.extraction import METHODS, decode_html

    pages = [decode_html(record.payload)[0] for record in read_records(file)]
    started = time.process_time()
    for page in pages:
        METHODS["plain"](page)
    return {"pages": len(pages), "seconds": time.process_time() - started}


class LanguageModel:
    """lid.176.ftz with the interface that datatrove expects of its model."""

    def __init__(self) -> None:
        self.model: Any = FastTextModel(LanguageIdentifier().path)

    def predict(self, text: str, k: int = -1) -> tuple[list[str], list[Any]]:
        import numpy as np

        answers = self.model._model.f.predict(text + "\n", k, 0.0, "replace")
        return [label for _, label in answers], [np.float64(probability) for probability, _ in answers]


def datatrove_pipeline(file: Path, output: Path, *, extractor: str) -> list[Any]:
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
        WarcReader(str(file.parent), glob_pattern=file.name),
        Trafilatura(favour_precision=True, timeout=60) if extractor == "trafilatura" else Resiliparse(),
        language, GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(), LambdaFilter(lambda document: quality.score(document.text) >= 0.5), PIIFormatter(),
        JsonlWriter(str(output)),
    ]  # fmt: skip


def theirs(file: Path, output: Path, *, extractor: str) -> dict[str, Any]:
    """One pass of datatrove's steps over a file, chained as its executor chains them."""
    data: Any = None
    for step in datatrove_pipeline(file, output, extractor=extractor):
        data = step.run(data, 0, 1)
    return {"kept": sum(1 for _ in data)}


def kept_pages(output: Path) -> set[str]:
    """Identities of the pages that a pass kept."""
    files = [*(output / "filtered").glob("*.jsonl.gz")] or [*output.glob("*.jsonl.gz")]
    return {json.loads(line)["id"].strip("<>") for file in files for line in read_lines(file)}


def explain(file: Path, pages: set[str]) -> list[dict[str, str]]:
    """Why ours and datatrove disagree on some pages of a file: found by a pass of each that is not measured."""
    names, passed, texts = [], dict[str, int](), dict[str, str]()

    def tap(stream: Any, number: int) -> Any:
        for document in stream:
            passed[document.id.strip("<>")] = number
            if number == 1:
                texts[document.id.strip("<>")] = document.text
            yield document

    with tempfile.TemporaryDirectory() as output:
        data: Any = None
        for number, step in enumerate(datatrove_pipeline(file, Path(output, "theirs"), extractor="resiliparse")):
            names.append(type(step).__name__)
            data = tap(step.run(data, 0, 1), number)
        collections.deque(data, maxlen=0)
        ours(file, Path(output, "ours"), fresh_steps())
        (verdicts,) = Path(output, "ours", "verdicts").iterdir()
        rows = {row["id"]: row for row in map(json.loads, read_lines(verdicts))}
    found = []
    for record in read_records(file):
        if record.record_id in pages:
            place, row = passed.get(record.record_id, -1) + 1, rows[record.record_id]
            found.append({
                "page": record.record_id, "ours": row["reason"] or row["step"],
                "datatrove": names[place] if place < len(names) else "kept",
                "why": _why(record, texts.get(record.record_id, "")),
            })  # fmt: skip
    return found


def _why(record: WarcRecord, their_text: str) -> str:
    """What the two see differently: the text after extraction, or the language of the text."""
    document, model, reasons = record_to_document(record), LanguageModel(), []
    if isinstance(document, str) or document.text != their_text:
        ours_is = document if isinstance(document, str) else document.metadata["encoding"]
        reasons.append(f"decoded otherwise: ours is {ours_is}")
    spaces = their_text.replace("\n", " "), " ".join(their_text.split())
    raw, split = (model.predict(text, k=1)[0][0] for text in spaces)
    if raw != split:
        reasons.append(f"no-break spaces are letters to datatrove's language model: {raw} in place of {split}")
    return "; ".join(reasons) or "unexplained"


def compare(files: list[Path], *, extractor: str, rounds: int) -> dict[str, Any]:
    """Ours and datatrove's CPU seconds, file by file in turn."""
    steps: dict[str, list[Any]] = {}
    passes: dict[str, Any] = {
        "ours": lambda file, output: ours(file, output, steps["ours"]),
        "ours, library": lambda file, output: ours(file, output, steps["ours, library"]),
        "extractor": lambda file, output: extractor_alone(file),
        "datatrove": lambda file, output: theirs(file, output, extractor=extractor),
    }
    steps |= {"ours": fresh_steps(), "ours, library": fresh_steps(library=True)}
    with tempfile.TemporaryDirectory() as output:
        for name, run in passes.items():
            run(files[0], Path(output, name))  # once unmeasured: models loaded, code compiled
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in passes}
    kept, differences = dict[str, set[str]](), list[dict[str, str]]()
    for number, file in enumerate(rounds * files):
        if number % len(files) == 0:  # so that no page is met a second time: words are learnt within the measured time
            steps |= {"ours": fresh_steps(), "ours, library": fresh_steps(library=True)}
        for name, run in passes.items():
            with tempfile.TemporaryDirectory() as output:
                started = cpu_seconds()
                answers[name].append(run(file, Path(output)))
                seconds[name].append(answers[name][-1].get("seconds", cpu_seconds() - started))
                kept[name] = kept_pages(Path(output))
        if number < len(files) and extractor == "resiliparse" and (pages := kept["ours"] ^ kept["datatrove"]):
            differences += explain(file, pages)
        print(file.name, {name: round(values[-1], 3) for name, values in seconds.items()}, flush=True)
    num_pages = sum(answer["pages"] for answer in answers["ours"])
    steps_s = [answer["steps_s"] for answer in answers["ours"]]
    microseconds = {name: round(1e6 * sum(step[name] for step in steps_s) / num_pages) for name in steps_s[0]}
    microseconds["write and the rest"] = round(1e6 * sum(seconds["ours"]) / num_pages) - sum(microseconds.values())

    def ratio(our: str, shared: str | None = None) -> float:
        taken_off = seconds[shared] if shared else [0.0] * len(seconds[our])
        rows = zip(seconds["datatrove"], seconds[our], taken_off, strict=True)
        return round(statistics.median((their - common) / (mine - common) for their, mine, common in rows), 2)

    return {
        "pages": num_pages // rounds,
        "kept": {name: sum(a["kept"] for a in answers[name]) // rounds for name in passes if name != "extractor"},
        **({"differences": differences} if extractor == "resiliparse" else {}),
        "pages_per_cpu_second": {name: round(num_pages / sum(values), 1) for name, values in seconds.items()},
        "fastest_file_pages_per_cpu_second": {
            name: round(max(a["pages"] / s for a, s in zip(answers["ours"], values, strict=True)), 1)
            for name, values in seconds.items()
        },
        "our_microseconds_per_page": microseconds,
        "times_as_fast": {
            "ours": ratio("ours"), "ours, library": ratio("ours, library"),
            **({"ours, extractor taken off both": ratio("ours", "extractor")} if extractor == "resiliparse" else {}),
        },
        "seconds": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
    }  # fmt: skip


def measure_workers(files: list[Path], *, copies: int, rounds: int) -> dict[str, Any]:
    """Wall and CPU seconds of the file steps over `copies` of the crawl with 1 and with 2 workers, in turn."""
    wall: dict[int, list[float]] = {1: [], 2: []}
    cpu: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch, "in")
        inputs.mkdir()
        for number in range(copies):
            for file in files:
                shutil.copyfile(file, inputs / f"{number:02d}-{file.name}")
        copied = sorted(inputs.iterdir())
        for _ in range(rounds):
            for workers in wall:
                output = Path(scratch, "out")
                tasks: list[FileTask] = make_tasks(PipelineConfig(("in",), STEPS), copied, output)
                started = time.perf_counter(), cpu_seconds()
                outcomes = list(run_tasks(tasks, ExecutionConfig(workers=workers), LimitsConfig(), output=output))
                wall[workers].append(round(time.perf_counter() - started[0], 3))
                cpu[workers].append(round(cpu_seconds() - started[1], 3))
                assert all(outcome.manifest for outcome in outcomes)
                shutil.rmtree(output)
                print(f"{workers} workers: {wall[workers][-1]} s wall, {cpu[workers][-1]} s CPU", flush=True)
    pairs = zip(wall[1], wall[2], strict=True)
    return {
        "files": len(copied), "wall_s": wall, "cpu_s": cpu,
        "speedup_2_workers": round(statistics.median(one / two for one, two in pairs), 3),
        "speedup_2_workers_fastest": round(min(wall[1]) / min(wall[2]), 3),
    }  # fmt: skip


def main() -> None:
    """Measure, print, add to results/data_pipeline.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="same, trafilatura, workers; all by default")
    parser.add_argument("--quick", action="store_true", help="small crawl, one round, no result file")
    parser.add_argument("--rounds", type=int, help="of each part; by default 3, 1 and 2")
    parser.add_argument("--crawl", type=Path, help="folder in which the crawl is made, once, and kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - DEFAULT_ROUNDS.keys():
        parser.error(f"unknown part {unknown.pop()!r}; choose from {', '.join(DEFAULT_ROUNDS)}")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        crawl = arguments.crawl or Path(scratch)
        write_crawl(crawl, QUICK if arguments.quick else FULL)
        files = sorted((crawl / "warc").glob("*.gz"))
        for part in arguments.parts or DEFAULT_ROUNDS:
            rounds = arguments.rounds or (1 if arguments.quick else DEFAULT_ROUNDS[part])
            if part == "workers":
                result[part] = measure_workers(files, copies=1 if arguments.quick else 24, rounds=rounds)
            else:
                result[part] = compare(
                    files, extractor="resiliparse" if part == "same" else "trafilatura", rounds=rounds
                )
            result[part]["html_bytes"] = sum(
                json.loads(line)["bytes"] for line in (crawl / "truth.jsonl").open(encoding="utf-8")
            )
    print(json.dumps(result, indent=2))
    if not arguments.quick:
        former = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
        facts = {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
        write_json(RESULT, former | result | facts)


if __name__ == "__main__":
    main()
