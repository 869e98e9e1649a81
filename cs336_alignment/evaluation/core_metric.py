"""CORE: one number from many small tests, each centred so that guessing gives 0 and perfection 1.

    centred = (accuracy - chance) / (1 - chance)        CORE = mean of centred over the tests

Three kinds of test: multiple_choice (one context, several continuations; lowest mean loss wins), schema (several
contexts, one continuation) and language_modeling (the continuation must be the greedy one, token by token). Examples
to learn from are drawn per question with the seed 1234 + its number, and the order of questions with seed 1337, as in
DCLM's and nanochat's programs, so that numbers can be compared.

Source: Li et al. 2024 (DCLM), section 3.5 and appendix; nanochat's core_eval. Files: DCLM's evaluation bundle
(core.yaml, eval_meta_data.csv, eval_data/). Read next: `generation.py`.
"""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cs336_alignment.evaluation.likelihood import score_rows
from cs336_alignment.evaluation.multiple_choice import Encode, rows_after_common_prefix
from cs336_alignment.jsonl import read_json_lines

Kind = Literal["multiple_choice", "schema", "language_modeling"]
_FIELDS: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("query", "choices", "gold"),
    "schema": ("context_options", "continuation", "gold"),
    "language_modeling": ("context", "continuation"),
}


@dataclass(frozen=True)
class CoreTest:
    """One test of the aggregate.

    Raises:
        ValueError: an unknown kind, chance outside [0, 1), a negative number of examples.
    """

    label: str
    kind: Kind
    items: tuple[Mapping[str, Any], ...]
    num_examples: int
    """solved questions before each"""
    delimiter: str
    """between context and continuation"""
    chance: float
    """accuracy of guessing"""

    def __post_init__(self) -> None:
        if self.kind not in _FIELDS:
            raise ValueError(f"kind must be one of {', '.join(_FIELDS)}; got {self.kind!r}")
        if not 0 <= self.chance < 1 or self.num_examples < 0:
            raise ValueError(f"need 0 <= chance < 1 and num_examples >= 0; got {self.chance} and {self.num_examples}")


def centred_accuracy(accuracy: float, chance: float) -> float:
    """0 for guessing, 1 for perfection, below 0 for worse than guessing."""
    return (accuracy - chance) / (1 - chance)


def core_metric(accuracies: Mapping[str, float], tests: Sequence[CoreTest]) -> float:
    """The mean of the centred accuracies of all tests."""
    return sum(centred_accuracy(accuracies[test.label], test.chance) for test in tests) / len(tests)


def read_core_bundle(folder: str | os.PathLike[str], *, limit: int | None = None) -> list[CoreTest]:
    """Read DCLM's bundle.

    Args:
        folder: holds core.yaml, eval_meta_data.csv and eval_data/.
        limit: questions per test, after shuffling; all by default.

    Raises:
        FileNotFoundError: a missing file.
        ImportError: PyYAML is not installed.
        ValueError: a test without baseline, a question without its fields (file and line are named).
    """
    try:
        import yaml
    except ImportError as error:
        raise ImportError("reading core.yaml needs PyYAML; install it with: pip install pyyaml") from error

    folder = Path(folder)
    config = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))
    with open(folder / "eval_meta_data.csv", encoding="utf-8", newline="") as file:
        percent = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(file)}
    tests = []
    for entry in config["icl_tasks"]:
        label, kind = entry["label"], entry["icl_task_type"]
        if label not in percent:
            raise ValueError(f"eval_meta_data.csv has no random baseline for {label}")
        items = _read_items(folder / "eval_data" / entry["dataset_uri"], kind)
        random.Random(1337).shuffle(items)
        delimiter, examples = entry.get("continuation_delimiter", " "), entry["num_fewshot"][0]
        tests.append(CoreTest(label, kind, tuple(items[:limit]), examples, delimiter, percent[label] / 100))
    return tests


def _read_items(path: Path, kind: str) -> list[Mapping[str, Any]]:
    """The questions of a file, checked."""
    items: list[Mapping[str, Any]] = []
    for number, record in read_json_lines(path):
        missing = [field for field in _FIELDS.get(kind, ()) if field not in record]
        if missing:
            raise ValueError(f"{path}, line {number}: a question of kind {kind} needs {', '.join(missing)}")
        items.append(record)
    return items


def evaluate_core_test(
    model: nn.Module,
    encode: Encode,
    test: CoreTest,
    *,
    first_id: int,
    context_length: int,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[bool]:
    """Whether each question was answered right.

    Args:
        model, context_length, batch_size, progress: see `score_rows`.
        encode: text to ids, without special tokens.
        first_id: BOS or end-of-text token, before every prompt.
    """
    rows: list[tuple[list[int], int]] = []
    counts = []
    for number in range(len(test.items)):
        encoded = [[first_id, *encode(text)] for text in _texts(test, number)]
        mine = _rows(test.kind, encoded)
        rows += mine
        counts.append(len(mine))
    scores = iter(score_rows(model, rows, context_length=context_length, batch_size=batch_size, progress=progress))
    right = []
    for item, count in zip(test.items, counts, strict=True):
        found = [next(scores) for _ in range(count)]
        if test.kind == "language_modeling":
            right.append(found[0].greedy)
        else:
            means = [score.nats / score.tokens for score in found]
            right.append(means.index(min(means)) == item["gold"])
    return right


def _texts(test: CoreTest, number: int) -> list[str]:
    """The texts to score for a question; for language modelling, the text without and with its continuation."""
    others = [index for index in range(len(test.items)) if index != number]
    chosen = random.Random(1234 + number).sample(others, min(test.num_examples, len(others)))
    head = "".join(_solved(test, test.items[index]) + "\n\n" for index in chosen)
    item = test.items[number]
    if test.kind == "multiple_choice":
        return [f"{head}{item['query']}{test.delimiter}{choice}" for choice in item["choices"]]
    if test.kind == "schema":
        return [f"{head}{context}{test.delimiter}{item['continuation']}" for context in item["context_options"]]
    without = f"{head}{item['context'].strip()}{test.delimiter}"
    return [without.strip(), without + item["continuation"]]


def _solved(test: CoreTest, item: Mapping[str, Any]) -> str:
    """An example to learn from."""
    if test.kind == "multiple_choice":
        return f"{item['query']}{test.delimiter}{item['choices'][item['gold']]}"
    if test.kind == "schema":
        return f"{item['context_options'][item['gold']]}{test.delimiter}{item['continuation']}"
    return f"{item['context'].strip()}{test.delimiter}{item['continuation']}"


def _rows(kind: Kind, encoded: Sequence[list[int]]) -> list[tuple[list[int], int]]:
    """What to score: from where the texts part, or the end that they share, or what the longer one adds."""
    if kind == "multiple_choice":
        return rows_after_common_prefix(encoded)
    if kind == "schema":
        backwards = rows_after_common_prefix([ids[::-1] for ids in encoded])
        shared = min(backwards[0][1], min(map(len, encoded)) - 1)
        return [(ids, len(ids) - shared) for ids in encoded]
    without, whole = encoded
    shared = next((at for at, pair in enumerate(zip(without, whole, strict=False)) if pair[0] != pair[1]), len(without))
    return [(whole, min(shared, len(whole) - 1))]
