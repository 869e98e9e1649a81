"""Decoding: the cache against recomputation, the filters against brute force, draws against their probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from cs336_basics import blocked_attention  # noqa: F401  (registers attention="blocked")
from cs336_basics.generation import (
    apply_temperature,
    generate,
    generate_text,
    keep_top_k,
    keep_top_p,
    sample_token,
    stream_tokens,
)
from cs336_basics.kv_cache import KVCache
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization import Tokenizer

VOCAB, CONTEXT = 19, 12


def build(**choices) -> TransformerLM:
    """A model with large weights, so that its choices are not all alike."""
    torch.manual_seed(1)
    model = TransformerLM(ModelConfig(VOCAB, CONTEXT, 16, 2, 2, 24, **choices), dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=seeded(9))


def greedy_by_hand(model: TransformerLM, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids[-CONTEXT:]]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("attention", ["plain", "blocked"])
@pytest.mark.parametrize("length", [1, 5, CONTEXT, CONTEXT + 4])
def test_greedy_equals_recomputing_everything_by_hand(positions, attention, length) -> None:
    """18 new tokens with a context of 12: past the limit the window slides."""
    model, prompt = build(positions=positions, attention=attention), prompts(2, length)
    expected = [greedy_by_hand(model, row, 18) for row in prompt.tolist()]
    assert len({tuple(row) for row in expected}) > 1 and len(set(expected[0])) > 2
    for use_cache in (True, False):
        assert generate(model, prompt, 18, temperature=0.0, use_cache=use_cache) == expected


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}, {"top_k": 9, "top_p": 0.5}])
def test_sampling_with_and_without_cache_draws_the_same(options) -> None:
    model, prompt = build(), prompts(4, 6)
    cached, plain = (
        generate(model, prompt, 25, generator=seeded(3), use_cache=use_cache, **options) for use_cache in (True, False)
    )
    assert cached == plain and all(len(row) == 25 for row in cached)
    assert generate(model, prompt, 25, generator=seeded(4), **options) != cached


def test_rows_of_a_batch_equal_single_runs() -> None:
    model, prompt = build(), prompts(5, 4)
    together = generate(model, prompt, 20, temperature=0.0)
    assert together == [generate(model, row[None], 20, temperature=0.0)[0] for row in prompt]


def test_stop_ids_end_each_row_alone() -> None:
    model, prompt = build(), prompts(6, 3)
    free = generate(model, prompt, 25, temperature=0.0)
    stops = {free[0][4], free[1][0]}
    expected = []
    for row in free:
        ends = [i for i, token in enumerate(row) if token in stops]
        expected.append(row[: ends[0]] if ends else row)
    assert len(set(map(len, expected))) > 1
    assert generate(model, prompt, 25, temperature=0.0, stop_ids=stops) == expected


def test_generation_stops_early_and_restores_training_mode() -> None:
    model, calls = build(attn_pdrop=0.5).train(), []
    model.register_forward_hook(lambda *args: calls.append(model.training))
    (first,) = generate(model, prompts(1, 3), 1, temperature=0.0)
    calls.clear()
    assert generate(model, prompts(1, 3), 50, temperature=0.0, stop_ids=first) == [[]]
    assert calls == [False] and model.training
    assert generate(model, prompts(2, 3), 0) == [[], []] and len(calls) == 1


def test_the_stream_is_lazy_and_endless() -> None:
    model, calls = build(), []
    model.register_forward_hook(lambda *args: calls.append(args[1][0].shape))
    stream = stream_tokens(model, prompts(2, 5), temperature=0.0)
    assert not calls
    tokens = [next(stream) for _ in range(CONTEXT + 10)]
    assert len(calls) == CONTEXT + 10 and all(t.shape == (2,) and not t.requires_grad for t in tokens)
    assert calls[0] == (2, 5) and calls[1] == (2, 1), "a cached step sees the new token only"
    assert calls[-1] == (2, CONTEXT)


def test_gradients_are_on_again_outside_the_stream() -> None:
    next(stream_tokens(build(), prompts(1, 2)))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("shape", [(0,), (2, 0), (3,)])
def test_prompts_need_a_batch_and_a_token(shape) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        next(stream_tokens(build(), torch.zeros(shape, dtype=torch.int64)))
    if caught.type is ValueError:
        assert "begin with <|endoftext|>" in str(caught.value)


# Filters


def brute_top_k(row: list[float], k: int) -> set[int]:
    kth = sorted(row, reverse=True)[min(k, len(row)) - 1]
    return {i for i, value in enumerate(row) if value >= kth and value > -math.inf}


def brute_top_p(row: list[float], p: float) -> set[int]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    total, mass, kept = math.fsum(weights), 0.0, set()
    for i in sorted(range(len(row)), key=lambda i: (-row[i], i)):
        if mass >= p:
            break
        kept.add(i)
        mass += weights[i] / total
    return {i for i in kept if row[i] > -math.inf}


def random_logits(ties: bool) -> torch.Tensor:
    logits = 2 * torch.randn(60, 17, generator=seeded(5), dtype=torch.float64)
    logits = (2 * logits).round() / 2 if ties else logits
    return logits.masked_fill(torch.rand(60, 17, generator=seeded(6)) < 0.1, -math.inf)


def kept(logits: torch.Tensor) -> list[set[int]]:
    return [{i for i, value in enumerate(row) if value > -math.inf} for row in logits.tolist()]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [1, 2, 5, 16, 17, 100])
def test_top_k(ties, k) -> None:
    logits = random_logits(ties)
    filtered = keep_top_k(logits, k)
    assert kept(filtered) == [brute_top_k(row, k) for row in logits.tolist()]
    assert torch.equal(filtered[filtered > -math.inf], logits[filtered > -math.inf])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("p", [1e-9, 0.1, 0.37, 0.5, 0.9, 0.999])
def test_top_p(ties, p) -> None:
    logits = random_logits(ties)
    filtered = keep_top_p(logits, p)
    assert kept(filtered) == [brute_top_p(row, p) for row in logits.tolist()]
    assert torch.equal(filtered[filtered > -math.inf], logits[filtered > -math.inf])


@pytest.mark.parametrize(
    ("p", "expected"), [(0.1, {2}), (0.5, {2}), (0.5001, {2, 0}), (0.75, {2, 0}), (0.8, {2, 0, 1}), (1.0, {2, 0, 1, 3})]
)
def test_top_p_keeps_the_token_that_crosses(p, expected) -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8, exact in binary."""
    logits = torch.tensor([0.25, 0.125, 0.5, 0.125], dtype=torch.float64).log()
    assert kept(keep_top_p(logits[None], p)) == [expected]


def test_top_p_of_one_keeps_every_token() -> None:
    logits = torch.randn(20, 50257, generator=seeded(0))
    assert torch.equal(keep_top_p(logits, 1.0), logits)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: keep_top_k(x, 0), "top_k must be at least 1; got 0"),
        (lambda x: keep_top_p(x, 0.0), r"top_p must lie in \(0, 1\]; got 0.0"),
        (lambda x: keep_top_p(x, 1.5), r"top_p must lie in \(0, 1\]; got 1.5"),
        (lambda x: apply_temperature(x, -1.0), "temperature must be positive and finite .*got -1.0"),
        (lambda x: sample_token(x, temperature=math.nan), "temperature must be positive and finite .*got nan"),
        (lambda x: sample_token(x, temperature=math.inf), "temperature must be positive and finite .*got inf"),
    ],
)
def test_settings_out_of_range(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(1, 5))


# Draws


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, None, None), (0.5, None, None), (2.0, 4, None), (1.0, None, 0.8)]
)
def test_frequencies_follow_the_softmax(temperature, top_k, top_p) -> None:
    """Chi-square of 60,000 draws; with at most 6 degrees of freedom, 40 has a probability below 1e-6."""
    row = [0.3, -1.0, 1.2, 0.0, 2.0, -0.5, 0.9]
    scaled = [value / temperature for value in row]
    allowed = set(range(7)) if top_k is None else brute_top_k(scaled, top_k)
    allowed &= set(range(7)) if top_p is None else brute_top_p(scaled, top_p)
    weights = [math.exp(value) if i in allowed else 0.0 for i, value in enumerate(scaled)]
    draws = sample_token(
        torch.tensor(row).expand(300, 200, 7), temperature=temperature, top_k=top_k, top_p=top_p, generator=seeded(8)
    )
    assert draws.shape == (300, 200)
    counts = torch.bincount(draws.flatten(), minlength=7).tolist()
    expected = [60_000 * w / sum(weights) for w in weights]
    assert all(count == 0 for count, e in zip(counts, expected, strict=True) if e == 0)
    assert sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True) if e) < 40


def test_one_row_and_greedy_ties() -> None:
    assert sample_token(torch.tensor([0.0, 5.0, 5.0]), temperature=0.0).item() == 1
    assert sample_token(torch.tensor([-math.inf, 0.0]), generator=seeded()).shape == ()


def test_tiny_temperatures_are_nearly_greedy() -> None:
    logits = torch.randn(50, 9, generator=seeded(2))
    assert torch.equal(sample_token(logits, temperature=1e-4, generator=seeded()), logits.argmax(-1))


# The cache and text


def test_the_cache_refuses_more_than_it_holds() -> None:
    cache = KVCache(3)
    cache.append(torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))
    with pytest.raises(ValueError, match="holds 3 tokens; got 4"):
        cache.append(torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))


def test_generate_text() -> None:
    """Letters with ids from 0; the end token is 18. The oracle decodes by hand."""
    letters = {i: bytes([97 + i]) for i in range(18)}
    tokenizer, model = Tokenizer(letters, [], ["<|endoftext|>"]), build()
    assert tokenizer.special_id("<|endoftext|>") == 18

    def by_hand(ids: list[int]) -> str:
        new = greedy_by_hand(model, ids, 20)
        new = new[: new.index(18)] if 18 in new else new
        return "".join(chr(97 + i) for i in new)

    assert generate_text(model, tokenizer, "abc", 20, temperature=0.0) == by_hand([0, 1, 2])
    assert generate_text(model, tokenizer, "", 20, temperature=0.0) == by_hand([18]), (
        "an empty prompt begins a document"
    )
    draws = {generate_text(model, tokenizer, "a", 20, seed=seed) for seed in (1, 1, 2)}
    assert len(draws) == 2
    with pytest.raises(ValueError, match="stop must be one token; 'ab' is 2"):
        generate_text(model, tokenizer, "a", 5, stop="ab")


def test_a_given_generator_leaves_the_global_one_alone() -> None:
    model, state = build(), torch.get_rng_state()
    generate(model, prompts(1, 2), 5, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
