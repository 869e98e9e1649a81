"""MMLU: four-way multiple choice in 57 subjects, from headerless CSV files question,A,B,C,D,letter.

Files are `{split}/{subject}_{split}.csv` with split dev (five solved examples per subject), val or test; the subject is
the file name with spaces. Source: Hendrycks et al. 2021. Files: github.com/hendrycks/test. Handout: mmlu_baseline.
Read next: `commonsense.py`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cs336_alignment.tasks.choice_question import ChoiceQuestion

LETTERS = "ABCD"


def read_mmlu(
    folder: str | os.PathLike[str], split: Literal["dev", "val", "test"], *, subjects: Sequence[str] = ()
) -> list[ChoiceQuestion]:
    """The questions of a split.

    Args:
        folder: holds the folders dev, val and test.
        split: which of them.
        subjects: names such as "college biology"; all by default.

    Raises:
        FileNotFoundError: no files of this split.
        ValueError: a row that is not question, four answers and a letter (file and line are named), or a subject
            without a file.
    """
    paths = sorted(Path(folder, split).glob(f"*_{split}.csv"))
    if not paths:
        raise FileNotFoundError(
            f"no *_{split}.csv in {Path(folder, split)}; name the folder data of github.com/hendrycks/test"
        )
    found = {path.name.removesuffix(f"_{split}.csv").replace("_", " "): path for path in paths}
    unknown = [name for name in subjects if name.replace("_", " ") not in found]
    if unknown:
        raise ValueError(f"no subject {unknown[0]!r} in {Path(folder, split)}; there are {', '.join(found)}")
    wanted = [name.replace("_", " ") for name in subjects] or list(found)
    return [question for name in wanted for question in _read_subject(found[name], name)]


def _read_subject(path: Path, subject: str) -> list[ChoiceQuestion]:
    """One file."""
    questions = []
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if len(row) != 6 or row[5].strip() not in tuple(LETTERS):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: expected question, four answers and a letter A-D; got "
                        f"{len(row)} fields ending in {row[-1][:20]!r}"
                    )
                answer = LETTERS.index(row[5].strip())
                questions.append(ChoiceQuestion(row[0].strip(), tuple(row[1:5]), answer, subject))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    return questions


def format_question(question: ChoiceQuestion, *, solved: bool = False) -> str:
    """Question, lettered answers and `Answer:`, with the right letter if solved."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False)]
    answer = f" {LETTERS[question.answer]}\n\n" if solved else ""
    return "\n".join([question.context, *lines, "Answer:"]) + answer


def few_shot_prompt(question: ChoiceQuestion, shots: Sequence[ChoiceQuestion]) -> str:
    """The authors' prompt: a sentence that names the subject, solved examples, the question."""
    head = f"The following are multiple choice questions (with answers) about {question.subject}.\n\n"
    return head + "".join(format_question(shot, solved=True) for shot in shots) + format_question(question)
