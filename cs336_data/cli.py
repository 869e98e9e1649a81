"""The verbs of the pipeline: `cs336 data run`, `data synthesize`, `data get commoncrawl`, `data filter-for-model`.

Read next: `pipeline.py`, `synthetic_crawl/crawl.py`, `common_crawl.py`, `filter_for_model.py`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cs336_basics.runs.command_line import parse, print_result
from cs336_data.common_crawl import CommonCrawlConfig
from cs336_data.synthetic_crawl.crawl import CrawlOptions

CONFIG_FOLDER = Path(__file__).parent / "configs"
Switch = tyro.conf.FlagCreatePairsOff[bool]
Overrides = Annotated[tuple[str, ...], tyro.conf.arg(name="set"), tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class Run:
    """Turn a crawl into documents: extract, filter, deduplicate, report; called again, it goes on where it was.

    The configuration is a TOML file or a shipped one (web-en, the default). The result is OUT/documents, and
    OUT/report.html tells what became of every record.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = "web-en"
    """TOML file, or web-en"""
    out: Path = Path("runs/data")
    """directory of the run"""
    inputs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")] = ()
    """WARC, WET or .jsonl files in place of those that the configuration names"""
    workers: int | None = None
    """processes, Ray actors or Slurm jobs; changes nothing in the result"""
    executor: Literal["local", "ray", "slurm"] | None = None
    """where the work is done"""
    overrides: Overrides = ()
    """change the configuration, such as --set limits.document_cpu_s=5; may be repeated"""
    json: Switch = False
    """print the summary as JSON"""


def run(argv: list[str]) -> None:
    """`cs336 data run`."""
    o = parse(
        Run, argv, "data run", example="data run web-en --inputs crawl/warc/*.warc.gz --out runs/data",
        description=inspect.getdoc(Run),
    )  # fmt: skip
    from cs336_basics.runs.config import load_config
    from cs336_data.pipeline import run_pipeline
    from cs336_data.pipeline_config import PipelineConfig

    sets = list(o.overrides)
    if o.inputs:
        sets.append(f"inputs={[str(path) for path in o.inputs]!r}")
    if o.workers is not None:
        sets.append(f"execution.workers={o.workers}")
    if o.executor is not None:
        sets.append(f"execution.executor={o.executor}")
    summary = run_pipeline(load_config(PipelineConfig, find_config(o.config), overrides=sets), o.out)
    print_result({**summary, "report": str(o.out / "report.html")}, as_json=o.json)


def find_config(name: str) -> Path:
    """A TOML file by path, or a shipped one by name.

    Raises:
        FileNotFoundError: neither.
    """
    for path in (Path(name), CONFIG_FOLDER / f"{name}.toml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in CONFIG_FOLDER.glob("*.toml")))
    raise FileNotFoundError(f"no config file {name}; give a path or one of {shipped}")


@dataclass(frozen=True)
class Synthesize:
    """Write a small web crawl of known content: WARC and WET files, and the truth about every page.

    Real pages are rendered by pydoc from this machine's Python library; around them stand generated boilerplate, spam,
    other languages, copies and damaged records. Set against a run with: cs336 data run --set truth=DEST
    """

    dest: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DEST")]
    """folder for the crawl"""
    crawl: Annotated[CrawlOptions, tyro.conf.arg(name="")] = field(default_factory=CrawlOptions)
    json: Switch = False
    """print the result as JSON"""


def synthesize(argv: list[str]) -> None:
    """`cs336 data synthesize`."""
    o = parse(
        Synthesize, argv, "data synthesize", example="data synthesize crawl --articles 200 --files 2",
        description=inspect.getdoc(Synthesize),
    )  # fmt: skip
    from cs336_basics.tokenization.progress import progress_bar
    from cs336_data.synthetic_crawl.crawl import write_crawl

    with progress_bar("rendering pages", enabled=True) as report:
        manifest = write_crawl(o.dest, o.crawl, progress=report)
    total = sum(manifest["pages"].values())
    print_result({"folder": str(o.dest), "pages": total, **manifest["pages"]}, as_json=o.json)


def get_common_crawl(argv: list[str]) -> None:
    """`cs336 data get commoncrawl`."""
    from cs336_data.common_crawl import get_common_crawl as fetch

    about = (
        "Download files of a Common Crawl archive; what is there and whole is not fetched again. Prints their paths."
    )
    example = "data get commoncrawl CC-MAIN-2026-17 --num-files 4 --seed 0"
    options = tyro.conf.PositionalRequiredArgs[CommonCrawlConfig]
    for path in fetch(parse(options, argv, "data get commoncrawl", example=example, description=about)):
        print(path)


@dataclass(frozen=True)
class FilterForModel:
    """Train one model on filtered and on unfiltered text and compare; called again, it goes on where it was.

    By default in miniature, on a synthetic crawl, in about two minutes. leaderboard-2025 and leaderboard-2026 are the
    sizes of the course, for those who have its files and GPUs.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")] = "model-small"
    """TOML file, or model-small, leaderboard-2025, leaderboard-2026"""
    out: Path = Path("runs/filter-for-model")
    """directory of the run"""
    overrides: Overrides = ()
    """change the configuration, such as --set train.num_steps=1000; may be repeated"""
    json: Switch = False
    """print the summary as JSON"""


def filter_for_model(argv: list[str]) -> None:
    """`cs336 data filter-for-model`."""
    o = parse(
        FilterForModel, argv, "data filter-for-model", example="data filter-for-model --set seeds=3",
        description=inspect.getdoc(FilterForModel),
    )  # fmt: skip
    from cs336_basics.runs.config import load_config
    from cs336_data.filter_for_model import FilterForModelConfig, run_filter_for_model, summary_of

    results = run_filter_for_model(
        load_config(FilterForModelConfig, find_config(o.config), overrides=o.overrides), o.out
    )
    print_result({**summary_of(results), "report": str(o.out / "report.html")}, as_json=o.json)
