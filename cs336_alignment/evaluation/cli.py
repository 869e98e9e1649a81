"""`cs336 alignment evaluate`: the tests named on the command line, one after the other, resumable.

Each finished test is a file in the output folder; the same command again runs only what is missing.

Read next: `bench.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cs336_basics.runs.command_line import parse, print_result

Switch = tyro.conf.FlagCreatePairsOff[bool]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True)
class Evaluate:
    """Measure a model on generated tasks and on the public test sets whose files are given.

    Without any test named it answers word problems, arithmetic, story questions and verifiable instructions, all of
    them generated.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory, Hugging Face folder, or a name on its hub"""
    tasks: tuple[str, ...] = ()
    """generated tests: word-problems, arithmetic, sorting, countdown, story-cloze, story-core, story-instructions"""
    gsm8k: File = None
    """test.jsonl of GSM8K"""
    mmlu: Folder = None
    """folder of MMLU that holds dev/ and test/"""
    mmlu_by: Literal["likelihood", "writing"] = "likelihood"
    """compare the letters' likelihood after solved examples, or parse a written sentence (the handout's way)"""
    subjects: tuple[str, ...] = ()
    """MMLU's subjects; all by default"""
    hellaswag: File = None
    """hellaswag_val.jsonl"""
    arc: File = None
    """a file of ARC, such as ARC-Easy-Test.jsonl"""
    core: Folder = None
    """DCLM's evaluation bundle: core.yaml, eval_meta_data.csv, eval_data/"""
    ifeval: File = None
    """input_data.jsonl of IFEval"""
    alpaca_eval: File = None
    """baseline outputs of AlpacaEval (JSON array with instruction and output)"""
    safety: File = None
    """simple_safety_tests.csv"""
    text: File = None
    """UTF-8 text for perplexity and bits per byte"""
    judge: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    """model that judges AlpacaEval and safety; without it, answers are compared by the model's own likelihood"""
    style: str = "auto"
    """how questions are put: plain, chat, a prompt's name such as r1_zero, or a file; auto is chat where it can be"""
    shots: int = 0
    """solved examples before each question of a task or of GSM8K (train.jsonl beside the file)"""
    samples: int = 1
    """answers per question; with several, pass@k is measured"""
    temperature: float | None = None
    """0 (greedy) for one sample, 1 for several by default"""
    max_tokens: int | None = None
    """longest answer; what the task needs, else 256, by default"""
    limit: int = 500
    """questions per test at most (the first ones); 0 for all of a file"""
    batch_size: int = 32
    """questions answered, or texts scored, at a time"""
    seed: int = 0
    """of generated questions and of sampling"""
    compare: Folder = None
    """folder of an earlier evaluation with the same questions: paired comparison"""
    tokenizer: Folder = None
    """folder of the tokenizer; by default the one the model was trained with"""
    out: Path = Path("runs/evaluation")
    """folder for report.html, report.md, results.json and a file per test"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    json: Switch = False
    """print the results as JSON"""

    def __post_init__(self) -> None:
        for name in ("shots", "samples", "batch_size", "limit", "max_tokens"):
            value, least = getattr(self, name), int(name not in ("shots", "limit"))
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} must be at least {least}; got {value}")


def evaluate(argv: list[str]) -> None:
    """`cs336 alignment evaluate`."""
    o = parse(
        Evaluate, argv, "alignment evaluate",
        example="alignment evaluate runs/sft --tasks word-problems --gsm8k data/gsm8k/test.jsonl --samples 8",
    )  # fmt: skip
    from cs336_alignment.evaluation.bench import Bench
    from cs336_alignment.evaluation.report import compare_table, evaluation_report, model_name
    from cs336_alignment.evaluation.results import compare_with
    from cs336_basics.runs.atomic import write_json
    from cs336_basics.runs.provenance import describe_environment
    from cs336_basics.runs.report import write_report

    bench = Bench(o)
    results = [bench.result(name, run) for name, run in bench.tests()]
    comparisons = {}
    if o.compare is not None:
        found = {result.name: compare_with(o.compare, result) for result in results}
        comparisons = {name: comparison for name, comparison in found.items() if comparison is not None}
    compared = model_name(o.compare) if o.compare else ""
    report = evaluation_report(model_name(Path(o.model)), results, comparisons, compared)
    page, _ = write_report(report, o.out)
    summary = {result.name: result.summary() for result in results}
    write_json(o.out / "results.json", {"tests": summary, "environment": describe_environment()})
    shown: dict[str, Any] = dict(summary) if o.json else dict(compare_table(results))
    shown |= {f"{name} against {compared}": f"p = {c.p_value:.2g}, z = {c.z:+.2f}" for name, c in comparisons.items()}
    print_result({**shown, "report": str(page)}, as_json=o.json)
