"""The options of `cs336 alignment evaluate` as tests of one model; a finished test is never run again.

Read next: `suites.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cs336_alignment.evaluation import suites
from cs336_alignment.evaluation.core_metric import read_core_bundle
from cs336_alignment.evaluation.generation import Respond
from cs336_alignment.evaluation.instruction_following import InstructionPrompt, generated_prompts, read_ifeval
from cs336_alignment.evaluation.judges import LikelihoodJudge, ModelJudge
from cs336_alignment.evaluation.multiple_choice import Normalization
from cs336_alignment.evaluation.report import model_name
from cs336_alignment.evaluation.responders import ChatResponder, auto_style, first_token, make_responder
from cs336_alignment.evaluation.results import SuiteResult, finished_result, write_result
from cs336_alignment.evaluation.suites import Subject
from cs336_alignment.policy_files import load_policy
from cs336_alignment.task import Example, RewardFunction
from cs336_alignment.tasks.catalogue import TASKS
from cs336_alignment.tasks.choice_question import ChoiceQuestion
from cs336_alignment.tasks.commonsense import read_arc, read_hellaswag
from cs336_alignment.tasks.gsm8k import Gsm8k, read_gsm8k
from cs336_alignment.tasks.instruction_sets import (
    Instruction,
    read_alpaca_eval,
    read_simple_safety,
    write_alpaca_eval,
    write_simple_safety,
)
from cs336_alignment.tasks.mmlu import read_mmlu
from cs336_alignment.text_tokenizer import TextTokenizer

if TYPE_CHECKING:
    from cs336_alignment.evaluation.cli import Evaluate

Item = TypeVar("Item")
Test = Callable[[suites.Advance], SuiteResult]
FILES = ("gsm8k", "mmlu", "hellaswag", "arc", "core", "ifeval", "alpaca_eval", "safety", "text")
GENERATED = ("word-problems", "arithmetic", "story-cloze", "story-instructions")


class Bench:
    """The model under test, and how the options turn into tests.

    Args:
        options: of the command line.

    Raises:
        FileNotFoundError, ValueError: no finished model or tokenizer there.
    """

    def __init__(self, options: Evaluate):
        self.o = options
        model, tokenizer = load_policy(options.model, options.tokenizer, device=options.device)
        text = TextTokenizer(tokenizer)
        self.subject = Subject(model, text, first_token(text), options.batch_size)
        self.style = auto_style(text) if options.style == "auto" else options.style
        self.count = options.limit or 500  # of generated questions
        self._open = ExitStack()  # what a test has started, to be ended with it

    def tests(self) -> list[tuple[str, Test]]:
        """Name and function of every test asked for.

        Raises:
            ValueError: an unknown name.
        """
        known: dict[str, Test] = {name: partial(self._task, name) for name in TASKS if name != "gsm8k"}
        known |= {
            "story-cloze": self._cloze, "story-core": self._story_core, "story-instructions": self._instructions
        }  # fmt: skip
        given = [name for name in FILES if getattr(self.o, name) is not None]
        names = self.o.tasks or (() if given else GENERATED)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"unknown task {unknown[0]!r}; there are {', '.join(known)}")
        return [*((name, known[name]) for name in names), *((name, getattr(self, f"_{name}")) for name in given)]

    def result(self, name: str, run: Test) -> SuiteResult:
        """Run a test, or take up its result from before."""
        left_out = ("out", "json", "compare", "tasks", "batch_size", *FILES)
        request = {key: str(value) for key, value in vars(self.o).items() if key not in left_out}
        request |= {"data": str(getattr(self.o, name, None)), "weights": _stamp(Path(self.o.model) / "model.pt")}
        done = finished_result(self.o.out, name, request)
        if done is not None:
            print(f"{name}: taken from {self.o.out}", file=sys.stderr)
            return done
        with _bar(name) as advance, self._open:
            result = run(advance)
        write_result(self.o.out, result, request)
        return result

    def _limited(self, items: Sequence[Item]) -> list[Item]:
        return list(items[: self.o.limit or None])

    def _respond(self, max_tokens: int, shots: Sequence[Example] = (), stop: tuple[str, ...] = ()) -> Respond:
        """Answers by the model under test."""
        temperature = self.o.temperature if self.o.temperature is not None else float(self.o.samples > 1)
        longest = max_tokens if self.style in ("plain", "chat") else max(512, max_tokens)  # prompts ask for reasoning
        return self._opened(make_responder(
            self.subject.model, self.subject.text, style=self.style, max_batch=self.o.batch_size,
            shots=shots, stop=stop, seed=self.o.seed,
            max_tokens=self.o.max_tokens or longest, samples=self.o.samples, temperature=temperature,
        ))  # fmt: skip

    def _opened(self, responder: Respond | ChatResponder) -> Respond:
        """The same; a chat is closed when the test is over."""
        if isinstance(responder, ChatResponder):
            self._open.enter_context(responder.chat)
        return responder

    def _written(self, prompts: list[str], advance: suites.Advance) -> list[str]:
        """One answer per prompt."""
        respond, size = self._respond(256), self.o.batch_size
        texts: list[str] = []
        for first in range(0, len(prompts), size):
            texts += [answers[0] for answers in respond(prompts[first : first + size])]
            advance(len(texts) - first)
        return texts

    def _reward(self, default: RewardFunction) -> RewardFunction:
        """The reward that belongs to the style of the prompt."""
        if self.style in ("r1_zero", "r1_zero_three_shot_gsm8k"):
            from cs336_alignment.rewards import r1_zero_reward_fn

            return r1_zero_reward_fn
        if self.style == "question_only":
            from cs336_alignment.rewards import question_only_reward_fn

            return question_only_reward_fn
        return default

    def _task(self, name: str, advance: suites.Advance) -> SuiteResult:
        task = TASKS[name]()
        examples = self._limited(task.examples("test", self.o.seed))
        shots = task.examples("sft", self.o.seed)[: self.o.shots]
        respond = self._respond(task.max_tokens, shots, task.stop)
        return suites.task_suite(name, respond, examples, self._reward(task.reward), advance=advance)

    def _gsm8k(self, advance: suites.Advance) -> SuiteResult:
        shots = read_gsm8k(self.o.gsm8k.with_name("train.jsonl"))[: self.o.shots] if self.o.shots else []
        examples, respond = self._limited(read_gsm8k(self.o.gsm8k)), self._respond(256, shots)
        return suites.task_suite("gsm8k", respond, examples, self._reward(Gsm8k().reward), advance=advance)

    def _mmlu(self, advance: suites.Advance) -> SuiteResult:
        questions = self._limited(read_mmlu(self.o.mmlu, "test", subjects=self.o.subjects))
        if self.o.mmlu_by == "writing":
            return suites.mmlu_written_suite(self._respond(64), questions, advance=advance)
        return suites.mmlu_suite(self.subject, questions, read_mmlu(self.o.mmlu, "dev"), advance=advance)

    def _choices(
        self, name: str, questions: Sequence[ChoiceQuestion], normalization: Normalization, advance: suites.Advance
    ) -> SuiteResult:
        kept = self._limited(questions)
        return suites.choice_suite(name, self.subject, kept, normalization=normalization, advance=advance)

    def _hellaswag(self, advance: suites.Advance) -> SuiteResult:
        return self._choices("hellaswag", read_hellaswag(self.o.hellaswag), "byte", advance)

    def _arc(self, advance: suites.Advance) -> SuiteResult:
        return self._choices("arc", read_arc(self.o.arc), "byte", advance)

    def _cloze(self, advance: suites.Advance) -> SuiteResult:
        questions = suites.story_cloze_questions(count=self.count, seed=self.o.seed)
        return self._choices("story-cloze", questions, "sum", advance)

    def _story_core(self, advance: suites.Advance) -> SuiteResult:
        tests = suites.story_core(count=self.count, seed=self.o.seed)
        return suites.core_suite("story-core", self.subject, tests, advance=advance)

    def _core(self, advance: suites.Advance) -> SuiteResult:
        tests = read_core_bundle(self.o.core, limit=self.o.limit or None)
        return suites.core_suite("core", self.subject, tests, advance=advance)

    def _instructions(self, advance: suites.Advance) -> SuiteResult:
        return self._follow("story-instructions", generated_prompts(count=self.count, seed=self.o.seed), advance)

    def _ifeval(self, advance: suites.Advance) -> SuiteResult:
        return self._follow("ifeval", self._limited(read_ifeval(self.o.ifeval)), advance)

    def _follow(self, name: str, prompts: Sequence[InstructionPrompt], advance: suites.Advance) -> SuiteResult:
        return suites.following_suite(name, prompts, self._written([p.prompt for p in prompts], advance))

    def _judge_responder(self) -> Respond | None:
        """Verdicts of the judge's model; None without one."""
        if self.o.judge is None:
            return None
        model, tokenizer = load_policy(self.o.judge, device=self.o.device)
        text = TextTokenizer(tokenizer)
        return self._opened(make_responder(model, text, style=auto_style(text), max_tokens=16, max_batch=1))

    def _alpaca_eval(self, advance: suites.Advance) -> SuiteResult:
        baseline = self._limited(read_alpaca_eval(self.o.alpaca_eval))
        outputs = self._written([item.instruction for item in baseline], advance)
        name = model_name(Path(self.o.model))
        pairs = zip(baseline, outputs, strict=True)
        made = [Instruction(base.instruction, output, name, base.dataset) for base, output in pairs]
        write_alpaca_eval(self.o.out / "alpaca_eval_outputs.json", made)
        asked, s = self._judge_responder(), self.subject
        if asked is not None:
            return suites.pairwise_suite(ModelJudge(asked), str(self.o.judge), baseline, outputs)
        own = LikelihoodJudge(s.model, s.text.encode, s.first_id, s.context_length)
        return suites.pairwise_suite(own, "none: likelihood under the model itself", baseline, outputs)

    def _safety(self, advance: suites.Advance) -> SuiteResult:
        prompts = self._limited(read_simple_safety(self.o.safety))
        outputs = self._written([item.instruction for item in prompts], advance)
        made = [Instruction(prompt.instruction, output) for prompt, output in zip(prompts, outputs, strict=True)]
        write_simple_safety(self.o.out / "safety_outputs.jsonl", made)
        return suites.safety_suite(prompts, outputs, self._judge_responder())

    def _text(self, advance: suites.Advance) -> SuiteResult:
        return suites.text_suite(self.subject, self.o.text, advance=advance)


def _stamp(path: Path) -> int:
    """When a file was written; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


@contextmanager
def _bar(name: str) -> Iterator[suites.Advance]:
    """Count on standard error: a moving line on a terminal, else one line."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{name} ...", file=sys.stderr, flush=True)
    columns = SpinnerColumn(), TextColumn(name), TextColumn("{task.completed:,.0f} done"), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=None)
        yield lambda count: bars.advance(task, count)
