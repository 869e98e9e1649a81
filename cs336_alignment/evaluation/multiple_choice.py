"""Multiple choice without generation: the answer the model finds most likely is the answer it gives.

    score of a choice:   sum    log p(choice | context)             favours short answers
                         token  the same per token                  fair between lengths, depends on the tokenizer
                         byte   the same per byte                   fair between lengths and tokenizers (acc_norm)

Context and choice are encoded together and scored from where the encodings of the choices part, so that a token may
cross the border. `letter_question` makes MMLU of a question: the choices stand in the prompt and a letter is scored.

Source: Brown et al. 2020, section 2.4; EleutherAI's evaluation harness. Handout: mmlu_baseline. Read next:
`core_metric.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from cs336_alignment.evaluation.likelihood import score_rows
from cs336_alignment.tasks.choice_question import ChoiceQuestion
from cs336_alignment.tasks.mmlu import LETTERS, few_shot_prompt

Normalization = Literal["sum", "token", "byte"]
NORMALIZATIONS: tuple[Normalization, ...] = ("sum", "token", "byte")
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class ChoiceOutcome:
    """What a model chose under each normalisation."""

    question: ChoiceQuestion
    chosen: dict[str, int]
    nats: tuple[float, ...]
    truncated: bool

    def right(self, normalization: Normalization) -> bool:
        """Whether the choice under this normalisation is the right one."""
        return self.chosen[normalization] == self.question.answer


def evaluate_choices(
    model: nn.Module,
    encode: Encode,
    questions: Sequence[ChoiceQuestion],
    *,
    first_id: int,
    context_length: int,
    shots: Sequence[ChoiceQuestion] = (),
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[ChoiceOutcome]:
    """Let a model choose.

    Args:
        model, context_length, batch_size: see `score_rows`.
        encode: text to ids, without special tokens.
        questions: a choice stands after its context and a space.
        first_id: BOS or end-of-text token, before every context.
        shots: solved questions put before each.
        progress: called with the number of rows done (a row per choice).
    """
    head = "".join(f"{shot.context} {shot.choices[shot.answer]}\n\n" for shot in shots)
    rows: list[tuple[list[int], int]] = []
    for question in questions:
        texts = [f"{head}{question.context} {choice}" for choice in question.choices]
        rows += rows_after_common_prefix([[first_id, *encode(text)] for text in texts])
    scores = iter(score_rows(model, rows, context_length=context_length, batch_size=batch_size, progress=progress))
    outcomes = []
    for question in questions:
        found = [next(scores) for _ in question.choices]
        lengths = [max(1, len(choice.encode())) for choice in question.choices]
        divided = {
            "sum": [score.nats for score in found],
            "token": [score.nats / score.tokens for score in found],
            "byte": [score.nats / length for score, length in zip(found, lengths, strict=True)],
        }
        chosen = {name: values.index(min(values)) for name, values in divided.items()}
        truncated = any(score.truncated for score in found)
        outcomes.append(ChoiceOutcome(question, chosen, tuple(divided["sum"]), truncated))
    return outcomes


def rows_after_common_prefix(encoded: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """(ids, start) of each: start is the first position at which they are not all the same.

    Where one of them is the beginning of the others, start is its last token, so that something of it is scored.

    >>> rows_after_common_prefix([[0, 5, 6], [0, 5, 7, 8]])
    [([0, 5, 6], 2), ([0, 5, 7, 8], 2)]
    """
    shortest = min(map(len, encoded))
    parted = (at for at in range(shortest) if len({ids[at] for ids in encoded}) > 1)
    start = max(1, next(parted, shortest - 1))
    return [(list(ids), start) for ids in encoded]


def letter_question(question: ChoiceQuestion, shots: Sequence[ChoiceQuestion] = ()) -> ChoiceQuestion:
    """The question in MMLU's form: lettered choices in the prompt, after solved ones; the letters are the choices."""
    letters = tuple(LETTERS[: len(question.choices)])
    return ChoiceQuestion(few_shot_prompt(question, shots), letters, question.answer, question.subject)
