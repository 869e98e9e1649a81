"""How good a model is: loss, perplexity, bits per byte, and questions with a right answer.

    perplexity    = exp(nats / tokens)                      comparable between models of one tokenizer only
    bits per byte = nats / (ln 2 * bytes)                   comparable between tokenizers; specials count for neither

Two ways through a token stream: `evaluate_windows` cuts it into consecutive windows, each target scored once; the
early tokens of a window see little context. `evaluate_documents` starts every window at the beginning of a document,
which is what an exact entropy floor is about. Handout: cross_entropy (perplexity), training_together. Read next:
`training.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cs336_basics.nn_utils import token_losses

IGNORED = -1


@dataclass(frozen=True)
class Evaluation:
    """Summed loss over `tokens` predicted tokens; `text_nats` and `bytes` leave special tokens out."""

    nats: float
    tokens: int
    text_nats: float
    bytes: int

    @property
    def loss(self) -> float:
        """Mean nats per predicted token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits needed per byte of text; infinite when there is no text."""
        return self.text_nats / (math.log(2) * self.bytes) if self.bytes else math.inf


@runtime_checkable
class _Question(Protocol):
    """What `cloze_accuracy` needs of a question (see `corpora/story_cloze.py`)."""

    @property
    def prompt(self) -> str: ...  # noqa: D102
    @property
    def answer(self) -> str: ...  # noqa: D102
    @property
    def candidates(self) -> Sequence[str]: ...  # noqa: D102


def window_rows(tokens: npt.NDArray[Any], context_length: int) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Consecutive windows of up to context_length + 1 ids, overlapping by one; all ids but the first are targets."""
    for start in range(0, len(tokens) - 1, context_length):
        yield tokens[start : start + context_length + 1], 1


def document_rows(
    tokens: npt.NDArray[Any], context_length: int, end_of_text: int
) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """(ids, first target) per document, begun with end_of_text; a document longer than the context slides by half."""
    ends = np.flatnonzero(np.asarray(tokens) == end_of_text)
    for start, end in zip(np.concatenate(([-1], ends[:-1])), ends, strict=True):
        document = np.concatenate(([end_of_text], tokens[start + 1 : end + 1]))
        yield document[: context_length + 1], 1
        done = context_length + 1
        while done < len(document):
            stop = min(done + max(1, context_length // 2), len(document))
            row = document[max(0, stop - context_length - 1) : stop]
            yield row, len(row) - (stop - done)
            done = stop


@torch.no_grad()
def evaluate_rows(
    model: nn.Module,
    rows: Iterator[tuple[npt.NDArray[Any], int]],
    *,
    batch_size: int,
    device: str | torch.device,
    token_bytes: npt.NDArray[Any] | None = None,
) -> Evaluation:
    """Score rows of (ids, index of the first target), `batch_size` at a time, padded on the right to equal length."""
    training = model.training
    model.eval()
    nats = text_nats = 0.0
    count = num_bytes = 0
    pending = list(rows)
    pending.sort(key=lambda row: len(row[0]))  # stable; equal lengths share a batch
    for first in range(0, len(pending), batch_size):
        inputs, targets = _pad(pending[first : first + batch_size], device)
        losses = token_losses(model(inputs), targets.clamp(min=0)).double().cpu()
        scored = (targets != IGNORED).cpu()
        nats += float(losses[scored].sum())
        count += int(scored.sum())
        if token_bytes is not None:
            sizes = torch.from_numpy(token_bytes)[targets.clamp(min=0).cpu()] * scored
            text_nats += float(losses[sizes > 0].sum())
            num_bytes += int(sizes.sum())
    model.train(training)
    return Evaluation(nats, count, text_nats, num_bytes)


def _pad(rows: Sequence[tuple[npt.NDArray[Any], int]], device: str | torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(ids) for ids, _ in rows) - 1
    inputs = torch.zeros(len(rows), width, dtype=torch.int64)
    targets = torch.full((len(rows), width), IGNORED, dtype=torch.int64)
    for i, (ids, first_target) in enumerate(rows):
        row = torch.from_numpy(np.asarray(ids).astype(np.int64))
        inputs[i, : len(row) - 1] = row[:-1]
        targets[i, first_target - 1 : len(row) - 1] = row[first_target:]
    return inputs.to(device), targets.to(device)


def evaluate_windows(
    model: nn.Module, tokens: npt.NDArray[Any], context_length: int, *, batch_size: int = 32,
    device: str | torch.device = "cpu", token_bytes: npt.NDArray[Any] | None = None,
) -> Evaluation:  # fmt: skip
    """Loss over a token stream in consecutive windows.

    Raises:
        ValueError: fewer than two tokens.
    """
    if len(tokens) < 2:
        raise ValueError(f"evaluation needs at least two tokens; got {len(tokens)}")
    rows = window_rows(tokens, context_length)
    return evaluate_rows(model, rows, batch_size=batch_size, device=device, token_bytes=token_bytes)


def evaluate_documents(
    model: nn.Module, tokens: npt.NDArray[Any], context_length: int, end_of_text: int, *, batch_size: int = 32,
    device: str | torch.device = "cpu", token_bytes: npt.NDArray[Any] | None = None,
) -> Evaluation:  # fmt: skip
    """Loss over whole documents, each seen from its beginning; tokens after the last end_of_text are left out.

    Raises:
        ValueError: no end_of_text in the stream.
    """
    if not np.any(np.asarray(tokens) == end_of_text):
        raise ValueError(f"no document ends in these tokens: id {end_of_text} does not occur; use evaluate_windows")
    rows = document_rows(tokens, context_length, end_of_text)
    return evaluate_rows(model, rows, batch_size=batch_size, device=device, token_bytes=token_bytes)


@torch.no_grad()
def cloze_accuracy(
    model: nn.Module,
    encode: Callable[[str], list[int]],
    questions: Sequence[_Question],
    *,
    end_of_text: int,
    context_length: int,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> list[bool]:
    """Per question: does the model give the right candidate the highest summed log-probability after the prompt?

    Prompts begin a document (end_of_text is put before them) and are cut on the left to fit the context; a candidate is
    encoded on its own, so prompts end where a token ends.
    """
    training = model.training
    model.eval()
    rows, owners = [], []
    for number, question in enumerate(questions):
        prompt = [end_of_text, *encode(question.prompt)]
        for candidate in question.candidates:
            continuation = encode(candidate)
            ids = (prompt + continuation)[-context_length - 1 :]
            rows.append((np.array(ids), len(ids) - len(continuation)))
            owners.append(number)
    scores: list[list[float]] = [[] for _ in questions]
    for first in range(0, len(rows), batch_size):
        inputs, targets = _pad(rows[first : first + batch_size], device)
        losses = token_losses(model(inputs), targets.clamp(min=0)) * (targets != IGNORED)
        for number, loss in zip(owners[first : first + batch_size], losses.sum(dim=-1).tolist(), strict=True):
            scores[number].append(loss)
    model.train(training)
    return [q.candidates[int(np.argmin(s))] == q.answer for q, s in zip(questions, scores, strict=True)]
