"""Text from a model, one token at a time.

    logits of the last position -> / temperature -> keep top-k -> keep top-p -> softmax -> draw

The filters are pure functions over logits (..., vocab), reused by every decoder above. Decoding keeps each layer's
keys and values (`kv_cache.py`), so that a new token costs one row of attention instead of a whole forward pass; past
context_length it falls back to recomputing the last context_length tokens. For long texts by plain models a step can
run in compiled code (`compiled_decoding.py`) on the same cache; its logits agree to rounding.

Handout: decoding, generate. Source of top-p: Holtzman et al. 2020. Left out: batching requests of different lengths,
speculative decoding (`cs336_systems/inference`). Read next: `evaluation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cs336_basics.compiled_decoding import CompiledStep, Engine, takes_compiled_steps
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import softmax

MIN_COMPILED_WORK = 4e9
"""weights times tokens from which "auto" compiles: some seconds of plain decoding, more than loading the compiled code
takes; making it takes some fifteen, once after an installation"""


@runtime_checkable
class TextCoder(Protocol):
    """The part of a Tokenizer that generation needs."""

    def encode(self, text: str) -> list[int]:
        """Text to ids."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Ids to text."""
        ...


def apply_temperature(logits: Float[Tensor, "... vocab"], temperature: float) -> Float[Tensor, "... vocab"]:
    """Divide by the temperature: below 1 sharpens, above 1 flattens; 0 is greedy and handled by `sample_token`."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite (0 means greedy); got {temperature}")
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "... vocab"], k: int) -> Float[Tensor, "... vocab"]:
    """Set all but the k largest logits to -inf; ties with the k-th stay."""
    if k < 1:
        raise ValueError(f"top_k must be at least 1; got {k}")
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, -math.inf)


def keep_top_p(logits: Float[Tensor, "... vocab"], p: float) -> Float[Tensor, "... vocab"]:
    """Keep the smallest set of most likely tokens whose probabilities reach p (the one that crosses p included)."""
    if not 0 < p <= 1:
        raise ValueError(f"top_p must lie in (0, 1]; got {p}")
    if p == 1:
        return logits  # a cumulative sum in float32 may stop short of 1
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = softmax(ordered, dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, mass_before >= p)
    return logits.masked_fill(drop, -math.inf)


def sample_token(
    logits: Float[Tensor, "... vocab"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "..."]:
    """Draw a token id per row; temperature 0 takes the most likely one (the smallest id among equals)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = apply_temperature(logits.float(), temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    probabilities = softmax(logits, dim=-1)
    flat = torch.multinomial(
        probabilities.flatten(0, -2) if logits.dim() > 1 else probabilities[None], 1, generator=generator
    )
    return flat.reshape(logits.shape[:-1])


@torch.no_grad()
def stream_tokens(
    model: TransformerLM,
    prompt: Int[Tensor, "batch seq"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    engine: Literal["plain", "compiled"] = "plain",
) -> Iterator[Int[Tensor, " batch"]]:
    """Yield the next token of every row, for ever; the caller decides when to stop. See `generate`."""
    if prompt.dim() != 2 or prompt.shape[1] == 0:
        raise ValueError(
            f"a prompt needs shape (batch, at least one token); got {tuple(prompt.shape)}; begin with <|endoftext|>"
        )
    context = model.config.context_length
    ids = pending = prompt[:, -context:]
    cache, length, step = model.new_cache(len(prompt), context) if use_cache else None, 0, None
    while True:
        if use_cache and length + pending.shape[1] <= context:
            logits = model(pending, cache, length)[:, -1] if step is None else step(pending[:, 0])
            length += pending.shape[1]
        else:  # the window slides: every position changes, so nothing cached is of use
            use_cache, ids = False, ids[:, -context:]
            logits = model(ids)[:, -1]
        token = sample_token(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield token
        if engine == "compiled" and step is None and cache is not None and length < context:
            step = CompiledStep(model, cache)
        pending = token[:, None]
        ids = torch.cat((ids, pending), dim=1)


def generate(
    model: TransformerLM,
    prompt: Int[Tensor, "batch seq"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    use_cache: bool = True,
    engine: Engine = "auto",
) -> list[list[int]]:
    """Continue each row of `prompt`.

    Args:
        prompt: ids of equal-length prompts; only the last context_length of them are seen.
        max_new_tokens: at most this many tokens are added.
        temperature: 0 is greedy; top_k, top_p: see `keep_top_k`, `keep_top_p`, applied in this order.
        stop_ids: a row ends before the first of these.
        generator: source of randomness on the model's device.
        use_cache: False recomputes everything (the oracle for the cache).
        engine: "plain" for the model's own modules, "compiled" for `compiled_decoding.py`; "auto" compiles for a plain
            model and much to write.

    Returns:
        The new ids of each row, without the stop token.

    Raises:
        ValueError: an empty prompt, a setting out of range, or "compiled" for a model that it cannot serve.
    """
    work = min(max_new_tokens, model.config.context_length) * model.get_num_params(non_embedding=True)
    compiled = use_cache and takes_compiled_steps(model, engine, work=work, least=MIN_COMPILED_WORK)
    training = model.training
    model.eval()
    rows: list[list[int]] = [[] for _ in range(len(prompt))]
    running = set(range(len(rows)))
    stream = stream_tokens(
        model, prompt, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator, use_cache=use_cache,
        engine="compiled" if compiled else "plain",
    )  # fmt: skip
    for _ in range(max_new_tokens):
        if not running:
            break
        for row, token in enumerate(next(stream).tolist()):
            if row in running and token in stop_ids:
                running.discard(row)
            elif row in running:
                rows[row].append(token)
    model.train(training)
    return rows


def generate_text(
    model: TransformerLM,
    tokenizer: TextCoder,
    prompt: str,
    max_new_tokens: int,
    *,
    stop: str | None = "<|endoftext|>",
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> str:
    """What a model adds to `prompt` (to a new document when it is empty), until `stop` or max_new_tokens."""
    device = next(model.parameters()).device
    stop_ids = [] if stop is None else tokenizer.encode(stop)
    if len(stop_ids) > 1:
        raise ValueError(f"stop must be one token; {stop!r} is {len(stop_ids)}")
    ids = tokenizer.encode(prompt) or stop_ids
    rows = generate(
        model, torch.tensor([ids], device=device), max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        stop_ids=stop_ids, generator=torch.Generator(device).manual_seed(seed),
    )  # fmt: skip
    return tokenizer.decode(rows[0])
