"""How a row chooses its next token: by its own parameters and its own stream of random numbers.

    probabilities = softmax(top_p(top_k(logits / temperature)))       filters of `cs336_basics/generation.py`
    token = the first whose cumulated probability exceeds u            u uniform in [0, 1), one per token

A row draws from a generator seeded by (seed, stream, sample) and by nothing else, so neighbours that come and go do
not change its numbers. One uniform per token also makes a run repeatable from the count of tokens alone.

Read next: `text_stop.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cs336_basics.generation import apply_temperature, keep_top_k, keep_top_p
from cs336_basics.nn_utils import logsumexp, softmax


@dataclass(frozen=True)
class SamplingParams:
    """What a request asks for.

    Raises:
        ValueError: a value outside its range, or an empty stop string.
    """

    max_tokens: int = 128
    """tokens to add at most"""
    temperature: float = 1.0
    """0 is greedy"""
    top_k: int | None = None
    """keep the k most likely tokens"""
    top_p: float | None = None
    """then keep the smallest set whose probabilities reach p"""
    n: int = 1
    """samples of each prompt, which share its pages"""
    seed: int = 0
    """with the request's stream and the sample's number, the source of all randomness"""
    stop_ids: tuple[int, ...] = ()
    """tokens that end a sample"""
    stop: tuple[str, ...] = ()
    """texts that end a sample wherever their characters fall among the tokens; they need a tokenizer"""
    include_stop: bool = False
    """keep the stop token in ids and log-probs, and the stop text in text"""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise ValueError(f"stop is a tuple of texts; got the text {self.stop!r}; write ({self.stop!r},)")
        for name, low in (("max_tokens", 1), ("n", 1), ("seed", 0), ("top_k", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}; got {value}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be finite and not negative (0 is greedy); got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p}")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ValueError(f"each stop must be a text of at least one character; got {self.stop!r}")


def row_generator(seed: int, *, stream: int = 0, sample: int = 0) -> np.random.Generator:
    """The random numbers of one sample; every triple has its own independent ones."""
    return np.random.default_rng(np.random.SeedSequence([seed, stream, sample]))


def sampling_probabilities(logits: Float[Tensor, "rows vocab"], params: SamplingParams) -> Float[Tensor, "rows vocab"]:
    """The distribution that a token is drawn from; at temperature 0 all of it lies on the most likely token."""
    logits = logits.float()
    if params.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    if params.temperature != 1:
        logits = apply_temperature(logits, params.temperature)
    if params.top_k is not None:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p is not None:
        logits = keep_top_p(logits, params.top_p)
    return softmax(logits, dim=-1)


def invert(probabilities: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """One token per row by inverting the cumulated probabilities; a token of probability 0 is never drawn.

    Args:
        probabilities: they need not add up to 1 exactly.
        uniforms: float64 in [0, 1), one per row.
    """
    mass = probabilities.double().cumsum(dim=-1)
    total = mass[:, -1:]
    # a product that is rounded up to the total would find no token whose mass exceeds it
    targets = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, targets, right=True)[:, 0].clamp(max=mass.shape[-1] - 1)


def draw(probabilities: Float[Tensor, "rows vocab"], uniforms: Ordered[float]) -> list[int]:
    """`invert` with numbers in place of a tensor."""
    return invert(probabilities, torch.tensor(uniforms, dtype=torch.float64, device=probabilities.device)).tolist()


def check_finite(logprobs: Ordered[float]) -> None:
    """Raise a ValueError if the log-probability of a chosen token shows that logits are NaN or infinite."""
    if not all(map(math.isfinite, logprobs)):
        raise ValueError("the model's logits are NaN or infinite; its training has diverged or its file is damaged")


def log_probabilities(logits: Float[Tensor, "rows vocab"], chosen: list[int]) -> list[float]:
    """log softmax(logits)[chosen] of each row."""
    of_chosen = logits.gather(-1, torch.tensor(chosen, device=logits.device)[:, None])[:, 0]
    return (of_chosen - logsumexp(logits, dim=-1)).tolist()


@torch.no_grad()
def choose_tokens(
    logits: Ordered[Tensor],
    params: Ordered[SamplingParams],
    generators: Ordered[np.random.Generator],
    *,
    measure: Callable[[Tensor, list[int]], list[float]] = log_probabilities,
) -> tuple[list[int], list[float]]:
    """The next token of each row and its log-probability under the model itself (temperature 1, nothing filtered).

    Args:
        logits: a (1, vocab) tensor per row; rows with equal parameters are filtered together, row by row alike.
        params, generators: one per row; a greedy row draws nothing.
        measure: `log_probabilities`, or a faster one.

    Raises:
        ValueError: logits that are NaN or infinite.
    """
    groups: dict[tuple[float, int | None, float | None], list[int]] = {}
    for index, choice in enumerate(params):
        groups.setdefault((choice.temperature, choice.top_k, choice.top_p), []).append(index)
    tokens, logprobs = [0] * len(params), [0.0] * len(params)
    for (temperature, _, _), members in groups.items():
        rows = (torch.cat([logits[i] for i in members]) if len(members) > 1 else logits[members[0]]).float()
        if temperature == 0:
            # numpy's argmax is vectorised, torch's on the CPU is not and takes eight times as long
            chosen = (rows.numpy() if rows.device.type == "cpu" else rows).argmax(-1).tolist()
        else:
            uniforms = [generators[i].random() for i in members]
            chosen = draw(sampling_probabilities(rows, params[members[0]]), uniforms)
        found = measure(rows, chosen)
        check_finite(found)
        for index, token, logprob in zip(members, chosen, found, strict=True):
            tokens[index], logprobs[index] = token, logprob
    return tokens, logprobs
