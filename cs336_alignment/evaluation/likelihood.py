"""How likely a model finds given continuations: the basis of multiple choice, CORE, perplexity and bits per byte.

    nats = -sum of log p(token | all before it) over the tokens of the continuation

Rows of similar length share a forward pass, padded on the right, where padding cannot reach what is scored. A row
longer than the context loses tokens on the left, and says so. Log-softmax is in float32. Works with any model that
maps ids (batch, seq) to logits or to an object with `.logits`.

Read next: `multiple_choice.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cs336_basics.nn_utils import log_softmax

MAX_LOGITS = 1 << 28  # numbers in one pass: 1 GB in float32


@dataclass(frozen=True)
class ScoredRow:
    """One continuation after its context."""

    nats: float
    """summed over the continuation"""
    tokens: int
    """of the continuation"""
    greedy: bool
    """whether each of its tokens was the most likely one"""
    truncated: bool
    """whether context, or even continuation, was cut on the left"""


@torch.no_grad()
def score_rows(
    model: nn.Module,
    rows: Sequence[tuple[Sequence[int], int]],
    *,
    context_length: int,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> list[ScoredRow]:
    """Score continuations.

    Args:
        model: left in the mode it was in.
        rows: (ids, start) each: the continuation is ids[start:], and ids[:start] is not empty.
        context_length: tokens the model can read.
        batch_size: rows per forward pass at most; fewer where their logits would fill the memory.
        progress: called with the number of rows after each pass.

    Returns:
        As many results, in the order of the rows.

    Raises:
        ValueError: a row without context or without continuation.
    """
    for number, (ids, start) in enumerate(rows):
        if not 1 <= start < len(ids):
            raise ValueError(
                f"row {number} needs context and continuation; it has {len(ids)} tokens and its continuation starts at "
                f"{start}; begin with an end-of-text or BOS token"
            )
    training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number][0]))  # the largest pass first: fails early
    found: dict[int, ScoredRow] = {}
    while len(found) < len(rows):
        width = min(len(rows[order[len(found)]][0]), context_length)
        size = min(batch_size, max(1, MAX_LOGITS // (width * _vocab_size(model))))
        batch = order[len(found) : len(found) + size]
        found |= zip(batch, _score_batch(model, [rows[n] for n in batch], context_length), strict=True)
        if progress:
            progress(len(batch))
    model.train(training)
    return [found[number] for number in range(len(rows))]


def _vocab_size(model: nn.Module) -> int:
    """Logits per token; 1 where the model does not say."""
    return int(getattr(getattr(model, "config", None), "vocab_size", 1))


def _score_batch(model: nn.Module, rows: Sequence[tuple[Sequence[int], int]], context_length: int) -> list[ScoredRow]:
    """One forward pass."""
    device = next(model.parameters()).device
    cut = [
        (list(ids)[-context_length - 1 :], max(1, start - max(0, len(ids) - context_length - 1))) for ids, start in rows
    ]
    inputs = torch.zeros(len(rows), max(len(ids) for ids, _ in cut) - 1, dtype=torch.int64)
    for number, (ids, _) in enumerate(cut):
        inputs[number, : len(ids) - 1] = torch.tensor(ids[:-1])
    output = model(inputs.to(device))
    logits: Tensor = getattr(output, "logits", output)
    results = []
    for number, (ids, start) in enumerate(cut):
        targets = torch.tensor(ids[start:], device=device)
        scored = logits[number, start - 1 : len(ids) - 1].float()
        picked = log_softmax(scored, dim=-1).gather(-1, targets[:, None])
        greedy = bool((scored.argmax(dim=-1) == targets).all())
        truncated = len(ids) < len(rows[number][0])
        results.append(ScoredRow(-float(picked.double().sum()), len(targets), greedy, truncated))
    return results
