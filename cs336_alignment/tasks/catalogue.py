"""The tasks by name; all but GSM8K, which reads data/gsm8k, are generated. Read next: the task itself."""

from __future__ import annotations

from collections.abc import Callable

from cs336_alignment.task import Task
from cs336_alignment.tasks.arithmetic import Arithmetic
from cs336_alignment.tasks.countdown import Countdown
from cs336_alignment.tasks.gsm8k import Gsm8k
from cs336_alignment.tasks.sorting import Sorting
from cs336_alignment.tasks.word_problems import WordProblems

TASKS: dict[str, Callable[..., Task]] = {
    Arithmetic.name: Arithmetic,
    Countdown.name: Countdown,
    Gsm8k.name: Gsm8k,
    Sorting.name: Sorting,
    WordProblems.name: WordProblems,
}
