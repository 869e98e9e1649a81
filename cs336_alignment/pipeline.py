"""All of alignment on one small model: SFT, then DPO, then GRPO, with a control, judged on the same held-out problems.

    sft       imitate solutions, worked and terse ones; stopped early, so that there is something left to learn
    dpo       prefer right answers to wrong ones of its own
    grpo      reinforcement learning from the reward alone
    control   the same with a coin for a reward: what is left of the gain when the reward says nothing

Each phase is a run directory of its own (`training_run.py`) and begins with the model of the phase before; GRPO can also
begin where SFT ended, and the control begins where GRPO does. Accuracies are greedy, on problems that no phase has
seen, and come with intervals and with the paired comparison against SFT; DPO is reported by preference accuracy and by
the task.

Read next: `tour_alignment.py`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from cs336_alignment.grpo import GrpoTrainer
from cs336_alignment.grpo_config import GrpoConfig
from cs336_alignment.lockstep import LockstepSampler
from cs336_alignment.preference_training import DpoConfig, DpoTrainer, sample_pairs
from cs336_alignment.rollout_batch import describe_groups
from cs336_alignment.rollouts import task_params
from cs336_alignment.sft import SftConfig, SftTrainer, clone_model
from cs336_alignment.statistics import compare_paired
from cs336_alignment.task import Task
from cs336_alignment.tasks.word_problems import WordProblems
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_alignment.training_run import HeldOut, run_training
from cs336_basics.model import TransformerLM
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.child_processes import training_context
from cs336_basics.runs.intervals import wilson_interval


@dataclass(frozen=True)
class PipelineOptions:
    """The task and the length of each phase."""

    task: WordProblems = field(default_factory=WordProblems)
    """problems of all four splits"""
    sft: SftConfig = field(default_factory=SftConfig)
    """see there"""
    dpo: DpoConfig = field(default_factory=DpoConfig)
    """see there"""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """see there"""
    pair_samples: int = 8
    """responses per problem, of which a right and a wrong one make a preference pair"""
    pair_problems: int = 400
    """problems of the preference split that are sampled"""
    validation_pairs: int = 50
    """pairs kept apart to measure preference accuracy"""
    grpo_after_dpo: bool = True
    """False: GRPO and its control begin where SFT ended, so that a gain is theirs alone"""
    side_by_side: bool = False
    """on a CPU, GRPO and its control in two processes, each on half of the threads: a small model hardly notices"""
    seed: int = 0
    """of the problems, the data order and all samples"""


def run_pipeline(
    model: TransformerLM, tokenizer: Any, options: PipelineOptions, folder: Path, *, progress: bool = True
) -> dict[str, Any]:
    """All phases, or what is left of them, in folders below `folder`; the model ends as the control left it.

    Returns:
        What `results.json` there holds: per phase right answers, questions, interval and format; comparisons with
        SFT, question by question; some answers before and after.
    """
    phases = _Phases(model, tokenizer, options, folder, progress)
    phases.sft()
    dpo = phases.dpo()
    missing = [name for name in ("grpo", "control") if not (folder / name / "summary.json").exists()]
    if options.side_by_side and len(missing) == 2 and next(model.parameters()).device.type == "cpu":
        with _control_beside(phases):
            phases.reinforce("grpo")
    for name in ("grpo", "control"):
        phases.reinforce(name)
    results = phases.results() | {"dpo": dpo}
    write_json(folder / "results.json", results)
    return results


class _Phases:
    """The phases of one run, each a method that leaves its model in a folder of its name."""

    def __init__(self, model: TransformerLM, tokenizer: Any, options: PipelineOptions, folder: Path, progress: bool):
        self.model, self.tokenizer, self.options, self.folder = model, tokenizer, options, folder
        self.progress, self.task, self.eos_id = progress, options.task, TextTokenizer(tokenizer).eos_id
        self.sampler = LockstepSampler(model, tokenizer)
        self.questions = self.task.examples("test", options.seed)
        self.start, self.preferred, self.seconds = "sft", False, dict[str, float]()

    def sft(self) -> None:
        """Imitate."""
        config = replace(self.options.sft, seed=self.options.seed)
        trainer = SftTrainer(self.model, self.tokenizer, self.task.examples("sft", self.options.seed), config)
        self._run(trainer, "sft", config)

    def dpo(self) -> str:
        """Prefer; says how many pairs there were, or that there were too few, and SFT's model goes on."""
        self._load("sft")
        options, config = self.options, replace(self.options.dpo, seed=self.options.seed)
        problems = self.task.examples("preference", options.seed)[: options.pair_problems]
        pairs = sample_pairs(
            self.sampler, self.task, problems, self.eos_id, samples=options.pair_samples, seed=options.seed
        )
        told = f"{len(pairs)} of {len(problems)} problems had a right and a wrong answer among {options.pair_samples}"
        if len(pairs) <= options.validation_pairs:
            return f"{told}: too few"
        self.start = "dpo" if options.grpo_after_dpo else "sft"
        kept, used = pairs[: options.validation_pairs], pairs[options.validation_pairs :]
        trainer = DpoTrainer(self.model, clone_model(self.model), self.tokenizer, used, config, validation=kept)
        self._run(trainer, "dpo", config, after="sft")
        self.preferred = True
        return told

    def reinforce(self, name: str) -> None:
        """Practise; the control by a coin."""
        self._load(self.start)
        config = replace(self.options.grpo, seed=self.options.seed, random_reward=name == "control")
        trainer = GrpoTrainer(self.model, self.tokenizer, self.task, config, sampler=self.sampler)
        self._run(
            trainer,
            name,
            config,
            after=self.start,
            transcripts=lambda: describe_groups(trainer.last_groups, trainer.steps_done),
        )

    def _load(self, phase: str) -> None:
        self.model.load_state_dict(TransformerLM.from_pretrained(self.folder / phase).state_dict())

    def _run(self, trainer: Any, name: str, config: Any, *, after: str | None = None, **more: Any) -> None:
        before = None if after is None else read_answers(self.folder / after)["after"]
        summary = run_training(
            trainer, self.folder / name, kind=name, config=config, tokenizer=self.tokenizer, before=before,
            held_out=HeldOut(self.task, self.questions, self.sampler, self.eos_id), progress=self.progress, **more,
        )  # fmt: skip
        self.seconds[name] = summary["seconds"]

    def results(self) -> dict[str, Any]:
        """Right answers of each phase, the comparisons of the same questions, and some answers."""
        done = ["sft", *(["dpo"] if self.preferred else []), "grpo", "control"]
        answers = {name: read_answers(self.folder / name)["after"] for name in done}
        answers = {"base": read_answers(self.folder / "sft")["before"], **answers}
        right = {name: [score["answer_reward"] > 0 for score in scores] for name, scores in answers.items()}
        phases = {
            name: {
                "right": sum(outcomes), "questions": len(outcomes),
                "interval": wilson_interval(sum(outcomes), len(outcomes)),
                "format": sum(score["format_reward"] > 0 for score in answers[name]) / len(outcomes),
                "seconds": self.seconds.get(name, 0.0),
            }
            for name, outcomes in right.items()
        }  # fmt: skip
        pairs = {("grpo", "sft"), ("control", self.start), *([("dpo", "sft")] if self.preferred else [])}
        paired = {f"{b} against {a}": _paired(right[a], right[b]) for b, a in sorted(pairs)}
        return {"phases": phases, "start": self.start, "paired": paired, "example": self._transcripts()}

    def _transcripts(self, count: int = 4) -> list[dict[str, str]]:
        """The same problems answered by SFT and by GRPO: first those that SFT got wrong."""
        found = []
        scores = read_answers(self.folder / "sft")["after"]
        wrong_first = sorted(range(len(scores)), key=lambda i: (scores[i]["answer_reward"] > 0, i))[:count]
        chosen = [self.questions[i] for i in wrong_first]
        texts = {}
        for phase in ("sft", "grpo"):
            self._load(phase)
            texts[phase] = greedy_texts(self.sampler, self.task, [e.prompt for e in chosen], self.eos_id)
        for place, example in enumerate(chosen):
            found.append({"prompt": example.prompt, "answer": example.answer,
                          **{phase: texts[phase][place] for phase in texts}})  # fmt: skip
        return found


@contextlib.contextmanager
def _control_beside(phases: _Phases) -> Iterator[None]:
    """Run the control in a process of its own during the block. Interrupted, both save; what fails is left to go on.

    Raises:
        RuntimeError: the process failed; it has said why.
    """
    threads = torch.get_num_threads()
    arguments = (phases.tokenizer, phases.options, phases.folder, phases.start, max(1, threads // 2))
    child = cast(Any, training_context()).Process(target=_run_control, args=arguments)
    child.start()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
        child.join()
    finally:
        child.terminate()  # heard as a wish to save and stop, if it still runs
        child.join()
        torch.set_num_threads(threads)
    if child.exitcode:
        raise RuntimeError(f"the control's process ended with exit code {child.exitcode}; its error is above")


def _run_control(tokenizer: Any, options: PipelineOptions, folder: Path, start: str, threads: int) -> None:
    """What the process beside does."""
    torch.set_num_threads(threads)
    phases = _Phases(TransformerLM.from_pretrained(folder / start), tokenizer, options, folder, progress=False)
    phases.start = start
    with contextlib.suppress(KeyboardInterrupt):
        phases.reinforce("control")


def greedy_texts(sampler: LockstepSampler, task: Task, prompts: Sequence[str], eos_id: int) -> list[str]:
    """The greedy response to each prompt."""
    return [group[0].text for group in sampler.generate(prompts, task_params(task, eos_id, temperature=0.0))]


def read_answers(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The answers that a run has stored."""
    return json.loads((folder / "answers.json").read_text(encoding="utf-8"))


def _paired(first: list[bool], second: list[bool]) -> dict[str, float]:
    comparison = compare_paired(first, second)
    return {"gained": comparison.gained, "lost": comparison.lost, "p_value": comparison.p_value}
