"""HellaSwag and ARC: endings and science questions, scored by the likelihood of each answer.

HellaSwag lines: {"activity_label", "ctx_a", "ctx_b", "endings", "label"}; remains of the web page in brackets are cut
out as in EleutherAI's harness. ARC lines come in two forms: AI2's own {"question": {"stem", "choices": [{"text",
"label"}]}, "answerKey"} and Hugging Face's {"question", "choices": {"text", "label"}, "answerKey"}.

Source: Zellers et al. 2019; Clark et al. 2018. Read next: `evaluation/multiple_choice.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.tasks.choice_question import ChoiceQuestion


def read_hellaswag(path: str | os.PathLike[str]) -> list[ChoiceQuestion]:
    """The questions of a HellaSwag file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without the fields; it is named.
    """
    return _read(path, _hellaswag)


def read_arc(path: str | os.PathLike[str]) -> list[ChoiceQuestion]:
    """The questions of an ARC file, in either form.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without the fields; it is named.
    """
    return _read(path, _arc)


def _read(path: str | os.PathLike[str], convert: Callable[[dict[str, Any]], ChoiceQuestion]) -> list[ChoiceQuestion]:
    """Each line as a question."""
    questions = []
    for number, record in read_json_lines(path):
        try:
            questions.append(convert(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}, line {number}: {type(error).__name__} {error}; got the fields {sorted(record)}"
            ) from error
    return questions


def _hellaswag(record: dict[str, Any]) -> ChoiceQuestion:
    context = f"{record['ctx_a']} {record['ctx_b'].capitalize()}" if "ctx_a" in record else record["ctx"]
    endings = tuple(_without_brackets(ending) for ending in record["endings"])
    context = _without_brackets(f"{record['activity_label']}: {context}")
    return ChoiceQuestion(context, endings, int(record["label"]), record["activity_label"])


def _without_brackets(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.replace(" [title]", ". ")).replace("  ", " ").strip()


def _arc(record: dict[str, Any]) -> ChoiceQuestion:
    question = record["question"]
    if isinstance(question, str):
        labels, texts = record["choices"]["label"], record["choices"]["text"]
    else:
        labels = [choice["label"] for choice in question["choices"]]
        texts, question = [choice["text"] for choice in question["choices"]], question["stem"]
    return ChoiceQuestion(f"Question: {question}\nAnswer:", tuple(texts), labels.index(record["answerKey"]))
