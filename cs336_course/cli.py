"""The `cs336` command: a table of verbs, each imported only when it is used.

A verb is one to three words and a function of the remaining arguments, "module:function" in the cli.py of its package.
Results go to standard output, progress and errors to standard error. Exit codes:

    0 done     1 an error, told in a line     2 wrong arguments     130 interrupted     141 the reader closed the pipe

CS336_TRACEBACK=1 shows where an error came from. Left out: parsing, which each verb does. Read next:
`cs336_basics/cli.py`.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# fmt: off
COMMANDS = {
    "tour": ("cs336_course.cli:tour", "the whole course in miniature, trained for real on this machine"),
    "data get": ("cs336_basics.corpora.cli:get", "download TinyStories, the OpenWebText sample or FineWeb-Edu"),
    "data get commoncrawl": ("cs336_data.cli:get_common_crawl", "download files of a Common Crawl archive"),
    "data synthesize": ("cs336_data.cli:synthesize", "write a small web crawl of known content (WARC, WET, truth)"),
    "data run": ("cs336_data.cli:run", "turn a crawl into clean documents and tell what became of every record"),
    "data filter-for-model": ("cs336_data.cli:filter_for_model", "train one model on filtered and on unfiltered text and compare"),
    "data stories": ("cs336_basics.corpora.cli:stories", "write synthetic stories whose entropy is known"),
    "data stdlib": ("cs336_basics.corpora.cli:stdlib", "gather the Python library's own sources as a corpus"),
    "data dedup-lines": ("cs336_data.deduplication.cli:dedup_lines", "remove lines that occur more than once in a collection"),
    "data dedup-documents": ("cs336_data.deduplication.cli:dedup_documents", "keep the first of documents with the same text"),
    "data dedup-near": ("cs336_data.deduplication.cli:dedup_near", "keep one of documents that are nearly the same (MinHash)"),
    "data decontaminate": ("cs336_data.deduplication.cli:decontaminate", "leave out documents that quote an evaluation text"),
    "data tokenize": ("cs336_data.deduplication.cli:tokenize", "encode documents into token files"),
    "data mix": ("cs336_data.deduplication.cli:mix", "plan epochs of sources and write one shuffled token file"),
    "data extract": ("cs336_data.classifiers.cli:extract", "the text of web pages, PDFs and crawl archives"),
    "data pii": ("cs336_data.classifiers.cli:pii", "list or mask e-mail addresses, telephone numbers and IP addresses"),
    "data rules": ("cs336_data.classifiers.cli:rules", "judge documents by Gopher's, C4's, FineWeb's or DCLM's rules"),
    "data classify": ("cs336_data.classifiers.cli:classify", "language, quality and harm of documents, and which model says so"),
    "data train-quality": ("cs336_data.classifiers.cli:train_quality", "train a quality classifier and sweep its threshold"),
    "data build-models": ("cs336_data.classifiers.cli:build_models", "make this package's own classifiers and their cards again"),
    "tokenizer train": ("cs336_basics.tokenization.cli:train", "train a BPE tokenizer on a text file"),
    "tokenizer encode": ("cs336_basics.tokenization.cli:encode", "turn a text file into a token file"),
    "tokenizer decode": ("cs336_basics.tokenization.cli:decode", "turn a token file back into text"),
    "tokenizer inspect": ("cs336_basics.tokenization.cli:inspect", "show a tokenizer and how it cuts a text"),
    "tokenizer export": ("cs336_basics.tokenization.cli:export", "write a tokenizer for tiktoken, Hugging Face ..."),
    "tokenizer import": ("cs336_basics.tokenization.cli:import_", "read another program's tokenizer"),
    "train": ("cs336_systems.parallel.cli:train", "train a language model, or go on with an interrupted run"),
    "generate": ("cs336_basics.cli:generate", "let a trained model write"),
    "evaluate": ("cs336_basics.cli:evaluate", "loss, perplexity and bits per byte of a trained model"),
    "model info": ("cs336_basics.cli:model_info", "count a model's parameters, FLOPs and memory"),
    "model import": ("cs336_basics.huggingface.cli:model_import", "read a Hugging Face folder (Llama, Qwen2.5)"),
    "model export": ("cs336_basics.huggingface.cli:model_export", "write a model as a Hugging Face folder"),
    "basics tokenizer report": ("cs336_basics.tokenization.cli:report", "compare tokenizers by text and language, and measure one"),
    "basics objectives": ("cs336_basics.objectives.cli:objectives", "train one model with five objectives, compared in bits per byte"),
    "basics ablate": ("cs336_basics.ablations.cli:ablate", "the course's ablations beside one baseline, with a report"),
    "systems benchmark": ("cs336_systems.cli:benchmark", "time forward, backward and optimizer step for the course's sizes"),
    "systems profile": ("cs336_systems.cli:profile", "trace, function table and flame graph of a training step"),
    "systems memory": ("cs336_systems.cli:memory", "where the memory of a training step goes"),
    "systems roofline": ("cs336_systems.cli:roofline", "this machine's peaks, and the model's operations below them"),
    "systems mixed-precision": ("cs336_systems.cli:mixed_precision", "what half precision loses, and what autocast keeps in float32"),
    "systems generate": ("cs336_systems.inference.cli:generate", "let a trained model continue many prompts at once"),
    "systems inference": ("cs336_systems.inference.cli:inference", "time the inference engine, batch by batch"),
    "systems leaderboard-step": ("cs336_systems.cli:leaderboard_step", "check and time the 2026 leaderboard's training step"),
    "systems collectives": ("cs336_systems.parallel.collectives_cli:collectives", "time all-reduce and other collectives"),
    "systems ring": ("cs336_systems.parallel.collectives_cli:ring", "draw a ring all-reduce step by step"),
    "systems pipeline": ("cs336_systems.parallel.collectives_cli:pipeline", "draw a pipeline schedule and its bubble"),
    "scaling fit": ("cs336_scaling.cli:fit", "fit scaling laws to finished runs, with intervals"),
    "scaling predict": ("cs336_scaling.cli:predict", "predict the best size and loss of a bigger run"),
    "scaling plan": ("cs336_scaling.cli:plan", "which runs to buy next within a budget"),
    "scaling plot": ("cs336_scaling.cli:plot", "a report of fits: profiles, frontier, contours, intervals"),
    "scaling size": ("cs336_scaling.cli:size", "tokens, text, FLOPs, hours and memory for a model's size"),
    "scaling sweep": ("cs336_scaling.cli:sweep", "train the bank of small runs, or go on with it"),
    "scaling solve": ("cs336_scaling.cli:solve", "assignment 3 worked: spend a budget, predict a bigger run, train it"),
    "scaling serve": ("cs336_scaling.service.cli:serve", "the training service of assignment 3, all editions"),
    "scaling client": ("cs336_scaling.service.cli:client", "submit runs to a training service and read their results"),
    "scaling admin": ("cs336_scaling.service.cli:admin", "seed learners, make keys, export grades, queue again"),
    "handout": ("cs336_course.handouts.cli:handout", "make a student repository: blanked adapters, public tests, the text"),
    "grade": ("cs336_course.grading.cli:grade", "grade a submission with the hidden suite, locked in"),
    "grade batch": ("cs336_course.grading.cli:batch", "grade a folder of submissions, or go on with it"),
    "grade gradescope-zip": ("cs336_course.grading.cli:gradescope_zip", "write the autograder zip for Gradescope"),
    "grade selftest": ("cs336_course.grading.cli:selftest", "every known misconception must lose its problem"),
    "doctor": ("cs336_course.learner.cli:doctor", "is this machine ready for the course?"),
    "check": ("cs336_course.learner.cli:check", "adapters filled, missing, wrong; forbidden names"),
    "progress": ("cs336_course.learner.cli:progress", "problems done, points, next step"),
    "submit pack": ("cs336_course.learner.cli:submit_pack", "pack a submission"),
    "submit verify": ("cs336_course.learner.cli:submit_verify", "check a packed submission by the grader's rules"),
    "leaderboard list": ("cs336_course.leaderboards.cli:list_", "the boards, their divisions and leaders"),
    "leaderboard show": ("cs336_course.leaderboards.cli:show", "the table of a board"),
    "leaderboard submit": ("cs336_course.leaderboards.cli:submit", "make an entry and its evidence, measured on the public half"),
    "leaderboard verify": ("cs336_course.leaderboards.cli:verify", "measure an entry again on hidden inputs"),
    "leaderboard baseline": ("cs336_course.leaderboards.cli:baseline", "make and verify our reference's entry"),
    "leaderboard lint": ("cs336_course.leaderboards.cli:lint", "check boards, entries and generated tables"),
    "leaderboard html": ("cs336_course.leaderboards.cli:html", "write the tables again, and pages with curves"),
    "leaderboard close": ("cs336_course.leaderboards.cli:close", "write a board's final standings"),
    "similarity": ("cs336_course.similarity:similarity", "which submissions look alike, for a person to judge"),
    "alignment sft": ("cs336_alignment.cli:sft", "imitate worked solutions"),
    "alignment dpo": ("cs336_alignment.cli:dpo", "train on pairs of a better and a worse response"),
    "alignment grpo": ("cs336_alignment.cli:grpo", "reinforcement learning with verifiable rewards: GRPO and its relatives"),
    "alignment ppo": ("cs336_alignment.cli:ppo", "reinforcement learning with a value function"),
    "alignment expert-iteration": ("cs336_alignment.cli:expert_iteration", "sample, keep what is right, imitate it, repeat"),
    "alignment reward-model": ("cs336_alignment.cli:reward_model", "learn a score from preference pairs"),
    "alignment evaluate": ("cs336_alignment.evaluation.cli:evaluate", "word problems, GSM8K, MMLU, CORE, IFEval ... with intervals"),
    "alignment chat-sft": ("cs336_alignment.chat.cli:chat_sft", "teach a model to chat, with or without the calculator"),
    "chat": ("cs336_alignment.chat.cli:chat", "talk with a model in the terminal, or on a page in the browser"),
    "lectures build": ("lectures.cli:build", "run lectures and write pages to step through, for any browser"),
    "lectures serve": ("lectures.cli:serve", "serve the built pages on this machine"),
    "lectures run": ("lectures.cli:run", "play a lecture in the terminal"),
    "lectures notes": ("lectures.cli:notes", "write the notes of a lecture in Markdown"),
    "lectures messages": ("lectures.cli:messages", "bring a lecture's catalogue up to date for translators"),
}
RESUMABLE = {
    "tour", "train", "data get", "data run", "data filter-for-model", "data dedup-lines", "data dedup-documents",
    "data dedup-near", "data decontaminate", "data tokenize", "basics ablate", "basics objectives", "scaling sweep",
    "scaling solve",
}
RESUMABLE |= {name for name in COMMANDS if name.startswith("alignment ")}
# fmt: on
GROUPS = sorted(
    {" ".join(name.split()[:n]) for name in COMMANDS for n in range(1, len(name.split()))} - COMMANDS.keys()
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        verbs = {" ".join(arguments[:words]) for words in (1, 2, 3)}
        advice = "; give the same command again to go on" if verbs & RESUMABLE else ""
        print(f"\n{str(stop) or 'interrupted'}{advice}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains once more when it exits
        return 141
    except Exception as error:
        message = _explain(error)
        if message is None or os.environ.get("CS336_TRACEBACK") == "1":
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1


def _dispatch(arguments: list[str]) -> int:
    """Find the verb and call it."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(COMMANDS, "cs336"))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"cs336 {_version()}")
        return 0
    words = max(
        (n for n in range(1, len(arguments) + 1) if " ".join(arguments[:n]) in GROUPS), default=0
    )  # words of the group
    if (
        len(arguments) >= words + 2 and " ".join(arguments[: words + 2]) in COMMANDS
    ):  # `data get commoncrawl` is a verb beside `data get`
        words += 1
    name, rest = " ".join(arguments[: words + 1]), arguments[words + 1 :]
    if words and (len(arguments) == words or arguments[words] in ("-h", "--help")):
        group = " ".join(arguments[:words])
        print(_overview({n: entry for n, entry in COMMANDS.items() if n.startswith(f"{group} ")}, f"cs336 {group}"))
        return 0 if len(arguments) > words else 2
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, *GROUPS], n=1)
        advice = f"did you mean `cs336 {near[0]}`?" if near else "`cs336 --help` lists all"
        print(f"error: unknown command {name!r}; {advice}", file=sys.stderr)
        return 2
    module, function = COMMANDS[name][0].split(":")
    try:
        getattr(importlib.import_module(module), function)(rest)
    except SystemExit as stop:  # the parser, after --help or a wrong argument
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    return 0


def _overview(commands: dict[str, tuple[str, str]], program: str) -> str:
    """The help page."""
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in commands.items()]
    example = "cs336 tour --quick" if program == "cs336" else f"cs336 {next(iter(commands))} --help"
    return "\n".join([
        f"usage: {program} COMMAND [arguments]", "", *lines, "",
        f"cs336 COMMAND --help explains a command. Example: {example}",
    ])  # fmt: skip


def _version() -> str:
    """The installed version."""
    try:
        return importlib.metadata.version("cs336")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: running from a checkout)"


def _explain(error: Exception) -> str | None:
    """One message for the errors a user can cause or repair; None for those that are bugs of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error}; install it with: pip install {error.name.split('.')[0]}"
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename else ""
        remedy = "; free some space and give the same command again" if error.errno == errno.ENOSPC else ""
        return f"{error.strerror}{where}{remedy}"
    ours = {"AlreadyLockedError", "DownloadError", "ChecksumError", "OutOfMemoryError"}
    if isinstance(error, (ValueError, OverflowError, OSError, ImportError)) or type(error).__name__ in ours:
        return str(error) or type(error).__name__
    return None


@dataclass(frozen=True)
class Tour:
    """Train tokenizers and a model on this machine, measure them, and write a report."""

    out: Path | None = None
    """directory of the tour; runs/tour by default, runs/tour-quick with --quick"""
    quick: bool = False
    """a small tour that ends much sooner, with a worse model"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    seed: int = 0
    """seed of the stories, the weights and the batches"""
    json: bool = False
    """print the result as JSON"""


def tour(argv: list[str]) -> None:
    """`cs336 tour`."""
    from cs336_basics.runs.command_line import parse, print_result

    options = parse(Tour, argv, "tour", example="tour --quick")
    from cs336_course.tour import run_tour, tour_config

    out = options.out or Path("runs/tour-quick" if options.quick else "runs/tour")
    result = run_tour(tour_config(quick=options.quick, seed=options.seed, device=options.device), out)
    values = {
        figure.label: " ".join(filter(None, [figure.value, figure.target and f"({figure.target})", figure.verdict]))
        for figure in result.key_figures
    }
    print_result({**values, "report": str(result.report)}, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
