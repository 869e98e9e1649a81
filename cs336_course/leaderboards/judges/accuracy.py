"""Judge of reasoning: fresh problems with answers a program can check, put to the participant's model.

    metric = share of right answers in percent        standard error = sqrt(p (1 - p) / n)

Problems come from the held-out split of a task (`cs336_alignment/tasks/`), which is fixed by a hash of the problem, so
no honest training run has seen them; the wording and choice are the half's own. The model runs in the sandbox, sees
the prompts only, and its responses are graded here by the task's own reward. A lookup of the answers by arithmetic in
Python would pass: staff read the entrypoint, which is short. Read next: `cs336_alignment/tasks/arithmetic.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cs336_alignment.tasks.arithmetic import Arithmetic
from cs336_alignment.tasks.splits import SplitSizes
from cs336_alignment.tasks.word_problems import WordProblems
from cs336_course.leaderboards.conversation import ProbeFailure, Question
from cs336_course.leaderboards.judges.judging import Judging
from cs336_course.leaderboards.verification import PASSED, Measurement


@dataclass(frozen=True)
class AccuracySettings:
    """The task and how many problems."""

    task: Literal["arithmetic", "word-problems"] = "arithmetic"
    problems: int = 500
    batch: int = 100
    """prompts per question"""
    asked_again: int = 1
    """batches asked again in a fresh process, whose responses must be the same"""


def measure(judging: Judging) -> Measurement:
    """Ask all problems and grade the responses."""
    s = judging.settings(AccuracySettings)
    sizes = SplitSizes(test=s.problems)
    task = Arithmetic(sizes=sizes) if s.task == "arithmetic" else WordProblems(sizes=sizes)
    examples = task.examples("test", int(judging.random("problems").integers(2**31)))
    batches = [examples[i : i + s.batch] for i in range(0, len(examples), s.batch)]
    questions = [Question("answer", {"prompts": [example.prompt for example in batch]}) for batch in batches]
    assert judging.talk is not None
    answers = [answer.value.get("responses") for answer in judging.talk.ask(questions)]
    right = 0
    for batch, responses in zip(batches, answers, strict=True):
        if not isinstance(responses, list) or len(responses) != len(batch):
            raise ProbeFailure("answers", f"answer must return one response per prompt: {len(batch)}")
        rewards = [
            task.reward(str(response), example.answer) for response, example in zip(responses, batch, strict=True)
        ]
        right += sum(reward["answer_reward"] > 0 for reward in rewards)
    again = [answer.value.get("responses") for answer in judging.talk.ask(questions[-s.asked_again :][::-1])][::-1]
    same = again == answers[-s.asked_again :]
    probes = {
        "answers": PASSED,
        "repeat": PASSED if same else "the same prompts get other responses in a fresh process",
    }
    share = right / len(examples)
    beside = {"right": float(right), "problems": float(len(examples))}
    return Measurement(100 * share, 100 * math.sqrt(share * (1 - share) / len(examples)), probes, beside)
