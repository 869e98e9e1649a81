"""Several tokens per pass of the large model: a cheap drafter guesses, the model checks all guesses at once.

    accept x_i with probability min(1, p_i(x_i) / q_i(x_i))              q what the drafter drew from, p the model's
    at the first refusal draw from max(p_i - q_i, 0) / sum, and stop     all accepted: one more from p_{k+1}

The tokens that come out are distributed exactly as if drawn from p one by one, whatever q is: x is accepted from the
draft with probability min(p, q), and the rest, p - min(p, q), is what the second line draws. A bad drafter costs time
only. Greedy decoding is the special case in which p lies on one token.

Drafters: a smaller model, or the text itself (what followed the last time these tokens stood here), which is free and
good at copying.

Source: Leviathan et al. 2023 (2211.17192), algorithm 1 and theorem 3.5; prompt lookup: Saxena 2023. Left out: trees of
drafts, drafts within a running batch of the engine. Read next: `inference_benchmark.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cs336_basics.nn_utils import log_softmax
from cs336_systems.inference.completion import Completion, FinishReason
from cs336_systems.inference.model_runner import Row, Runner
from cs336_systems.inference.sampling import SamplingParams, check_finite, draw, row_generator, sampling_probabilities


def accept_drafts(
    drafts: Ordered[int],
    draft_probabilities: Float[Tensor, "drafts vocab"],
    target_probabilities: Float[Tensor, "drafts_and_one vocab"],
    generator: np.random.Generator,
) -> list[int]:
    """The drafts that stand and the one token drawn behind them.

    Args:
        drafts: k tokens, the i-th drawn from draft_probabilities[i].
        draft_probabilities: (k, vocab).
        target_probabilities: (k + 1, vocab); row i is the model's distribution after the first i drafts.
        generator: one uniform per draft looked at, one for the last token.

    Returns:
        Between 1 and k + 1 tokens.
    """
    for i, token in enumerate(drafts):
        p, q = float(target_probabilities[i, token]), float(draft_probabilities[i, token])
        if generator.random() * q < p:
            continue
        rest = (target_probabilities[i] - draft_probabilities[i]).clamp(min=0.0)
        if not rest.any():  # p and q are equal but for rounding
            rest = target_probabilities[i]
        return [*drafts[:i], *draw(rest[None], [generator.random()])]
    return [*drafts, *draw(target_probabilities[-1:], [generator.random()])]


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def propose(
        self, ids: Ordered[int], count: int, params: SamplingParams, generator: np.random.Generator
    ) -> tuple[list[int], Float[Tensor, "drafts vocab"]]:
        """At most `count` tokens behind `ids`, and the distributions that they were drawn from."""
        ...


class ModelDrafter:
    """A smaller model with the same vocabulary, sampled with the same parameters.

    Raises:
        ValueError: its cache cannot be shortened after a refusal.
    """

    def __init__(self, runner: Runner):
        if not runner.can_truncate:
            raise ValueError(f"a drafter must forget refused tokens; path {runner.path!r} cannot; choose another model")
        self.runner = runner
        self.row, self.known = runner.new_row(), list[int]()

    def propose(
        self, ids: Ordered[int], count: int, params: SamplingParams, generator: np.random.Generator
    ) -> tuple[list[int], Tensor]:
        """Feed what the row lacks of `ids`, then draw token after token."""
        common = 0
        while common < min(len(self.known), len(ids) - 1) and self.known[common] == ids[common]:
            common += 1
        self.runner.truncate(self.row, common)
        drafts, rows, pending = list[int](), list[Tensor](), list(ids[common:])
        room = self.runner.context_length - len(ids) + 1
        for _ in range(min(count, room)):
            logits = self.runner.forward([self.row], [pending])[0]
            rows.append(sampling_probabilities(logits, params))
            pending = draw(rows[-1], [generator.random()])
            drafts += pending
        self.known = [*ids, *drafts][: self.row.length]
        return drafts, torch.cat(rows) if rows else torch.empty(0, self.runner.vocab_size)


class PromptLookupDrafter:
    """What followed the latest earlier place where the last `ngram` tokens (or fewer) stood; q lies on one token.

    Args:
        vocab_size: of the model.
        ngram: tokens that should agree, at least 1.
    """

    def __init__(self, vocab_size: int, *, ngram: int = 3):
        if ngram < 1:
            raise ValueError(f"ngram must be at least 1; got {ngram}")
        self.vocab_size, self.ngram = vocab_size, ngram

    def propose(
        self, ids: Ordered[int], count: int, params: SamplingParams, generator: np.random.Generator
    ) -> tuple[list[int], Tensor]:
        """Look the longest ending up first."""
        drafts = list(self._continuation(list(ids))[:count])
        certain = torch.zeros(len(drafts), self.vocab_size)
        certain[range(len(drafts)), drafts] = 1.0
        return drafts, certain

    def _continuation(self, ids: list[int]) -> list[int]:
        for length in range(min(self.ngram, len(ids) - 1), 0, -1):
            for start in range(len(ids) - length - 1, -1, -1):
                if ids[start : start + length] == ids[-length:]:
                    return ids[start + length :]
        return []


@dataclass(frozen=True)
class SpeculativeResult:
    """A completion and what the drafts were worth."""

    completion: Completion
    passes: int
    """forward passes of the large model"""
    drafted: int
    accepted: int


def speculative_generate(
    runner: Runner, drafter: Drafter, prompt: Ordered[int], params: SamplingParams, *, num_drafts: int = 4
) -> SpeculativeResult:
    """One sample of one prompt, several tokens per pass.

    Args:
        runner: the large model; its cache must be able to forget (`can_truncate`).
        prompt: at least one id, at most context_length.
        params: n and stop texts are the engine's; here n must be 1 and stop empty.
        num_drafts: guesses per pass, at least 1.

    Raises:
        ValueError: one of the above does not hold, or the drafter has another vocabulary.
    """
    if not runner.can_truncate:
        raise ValueError(f"drafts need a cache that can forget; path {runner.path!r} cannot; use the engine")
    if params.n != 1 or params.stop or num_drafts < 1:
        raise ValueError(f"n=1, no stop texts and num_drafts >= 1 are served here; got n={params.n}, "
                         f"stop={params.stop}, num_drafts={num_drafts}")  # fmt: skip
    if not 1 <= len(prompt) <= runner.context_length:
        raise ValueError(f"the prompt needs 1 to {runner.context_length} tokens; got {len(prompt)}")
    bad = next((i for i in prompt if not 0 <= i < runner.vocab_size), None)
    if bad is not None:
        raise ValueError(f"ids lie in [0, {runner.vocab_size}); got {bad}; is it another tokenizer's?")
    row = runner.new_row()
    try:
        return _decode(runner, row, drafter, [int(i) for i in prompt], params, num_drafts)
    finally:
        runner.truncate(row, 0)


def _decode(
    runner: Runner, row: Row, drafter: Drafter, prompt: list[int], params: SamplingParams, num_drafts: int
) -> SpeculativeResult:
    generator, ids = row_generator(params.seed), prompt
    made, logprobs, counts = list[int](), list[float](), [0, 0, 0]
    reason: FinishReason | None = None
    while reason is None:
        room = min(params.max_tokens - len(made) - 1, runner.context_length - len(ids))
        proposal = drafter.propose(ids, min(num_drafts, room), params, generator) if room > 0 else None
        drafts, draft_probabilities = proposal or ([], torch.empty(0, runner.vocab_size))
        if draft_probabilities.shape[-1] != runner.vocab_size:
            raise ValueError(f"the drafter must have the model's {runner.vocab_size} tokens; it has "
                             f"{draft_probabilities.shape[-1]}")  # fmt: skip
        logits = runner.forward([row], [[*ids[row.length :], *drafts]], every=True)[0][-len(drafts) - 1 :]
        tokens = accept_drafts(drafts, draft_probabilities, sampling_probabilities(logits, params), generator)
        found = log_softmax(logits[: len(tokens)].float(), dim=-1)[range(len(tokens)), tokens].tolist()
        check_finite(found)
        counts = [counts[0] + 1, counts[1] + len(drafts), counts[2] + len(tokens) - 1]
        for token, logprob in zip(tokens, found, strict=True):
            if reason is None:
                reason = _take(token, logprob, made, logprobs, params)
        ids = [*prompt, *made]
        if reason is None and len(ids) > runner.context_length:
            reason = "context"
        runner.truncate(row, min(row.length, len(ids) - 1))
    return SpeculativeResult(Completion(made, logprobs, reason, None), *counts)


def _take(
    token: int, logprob: float, made: list[int], logprobs: list[float], params: SamplingParams
) -> FinishReason | None:
    """Add a token as the engine would; returns why the sample ends with it, if it does."""
    if token not in params.stop_ids or params.include_stop:
        made.append(token)
        logprobs.append(logprob)
    if token in params.stop_ids:
        return "stop"
    return "length" if len(made) == params.max_tokens else None
