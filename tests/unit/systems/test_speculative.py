"""Speculative decoding: its distribution by chi-square against exact probabilities, greedy token for token."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from cs336_systems.inference.fused_model import FusedRunner
from cs336_systems.inference.model_runner import ModuleRunner
from cs336_systems.inference.sampling import SamplingParams, draw, sampling_probabilities
from cs336_systems.inference.speculative import (
    ModelDrafter,
    PromptLookupDrafter,
    accept_drafts,
    speculative_generate,
)
from tests.unit.systems.inference_cases import CONTEXT, VOCAB, build, decode_by_hand


def chi_square_is_plausible(counts: Counter, probabilities: dict, draws: int) -> bool:
    """Pearson's statistic below its 99.99 % point by Wilson and Hilferty; cells expecting under 5 are pooled."""
    assert set(counts) <= {key for key, p in probabilities.items() if p > 0}, "an impossible outcome"
    cells, rest = [], [0.0, 0.0]
    for key, p in probabilities.items():
        if p * draws >= 5:
            cells.append((counts[key], p * draws))
        else:
            rest = [rest[0] + counts[key], rest[1] + p * draws]
    cells += [tuple(rest)] if rest[1] >= 1 else []
    statistic, freedom = sum((o - e) ** 2 / e for o, e in cells), len(cells) - 1
    spread = 2 / (9 * freedom)
    return statistic < freedom * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


def test_the_test_itself_sees_a_wrong_distribution():
    rng = np.random.default_rng(0)
    right = Counter(rng.choice(3, size=4000, p=[0.5, 0.3, 0.2]).tolist())
    assert chi_square_is_plausible(right, {0: 0.5, 1: 0.3, 2: 0.2}, 4000)
    assert not chi_square_is_plausible(right, {0: 0.45, 1: 0.35, 2: 0.2}, 4000)


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_accepted_tokens_follow_the_target(sharpness):
    """Two drafts: all pairs of first tokens against p_0(a) p_1(b), though the drafter follows another law."""
    torch.manual_seed(0)
    p, q = (torch.softmax(sharpness * torch.randn(3, 4), dim=-1) for _ in range(2))
    q[:, 3] = 0.0
    q = q / q.sum(-1, keepdim=True)
    rng, first, pairs, draws = np.random.default_rng(1), Counter(), Counter(), 3000
    for _ in range(draws):
        drafts = draw(q[:2], rng.random(2))
        tokens = accept_drafts(drafts, q[:2], p, rng)
        assert tokens[:-1] == drafts[: len(tokens) - 1] and 1 <= len(tokens) <= 3
        first[tokens[0]] += 1
        tokens += draw(p[len(tokens) :], rng.random(3 - len(tokens)))
        pairs[tuple(tokens)] += 1
    assert chi_square_is_plausible(first, dict(enumerate(p[0].tolist())), draws)
    exact = {(a, b, c): float(p[0, a] * p[1, b] * p[2, c]) for a in range(4) for b in range(4) for c in range(4)}
    assert chi_square_is_plausible(pairs, exact, draws)


def test_draw_follows_its_probabilities():
    p = torch.tensor([[0.1, 0.0, 0.6, 0.3, 0.0]])
    uniforms = np.random.default_rng(3).random(5000)
    counts = Counter(draw(p.expand(5000, -1), uniforms))
    assert chi_square_is_plausible(counts, dict(enumerate(p[0].tolist())), 5000)
    assert draw(p, [0.0]) == [0] and draw(p, [1 - 2**-53]) == [3] and draw(torch.tensor([[0.0, 1.0]]), [0.0]) == [1]


def test_pairs_of_tokens_of_a_real_pair_of_models():
    """The joint law of two tokens from speculation equals p(a) p(b | a) by full forward passes."""
    target, small = build(vocab_size=5, num_layers=1), build(vocab_size=5, num_layers=1, d_model=8, num_heads=2)
    shared = {"max_tokens": 2, "temperature": 1.1, "top_k": 4}
    runner, counts = ModuleRunner(target, 20), Counter()
    drafter = ModelDrafter(ModuleRunner(small, 20))
    for seed in range(300):
        result = speculative_generate(runner, drafter, [1, 2], SamplingParams(seed=seed, **shared), num_drafts=2)
        counts[tuple(result.completion.ids)] += 1

    @torch.no_grad()
    def law(ids):
        return sampling_probabilities(target(torch.tensor([ids]))[:, -1], SamplingParams(**shared))[0].tolist()

    first = law([1, 2])
    exact = {(a, b): first[a] * p for a in range(5) for b, p in enumerate(law([1, 2, a]))}
    assert chi_square_is_plausible(counts, exact, 300)


@pytest.mark.parametrize("runner", ["fused", "modules"])
@pytest.mark.parametrize("drafter", ["small model", "itself", "lookup"])
def test_greedy_equals_decoding_by_hand(runner, drafter):
    target, small = build(), build(d_model=8, num_heads=2, num_layers=1)
    make = {"fused": FusedRunner, "modules": ModuleRunner}[runner]
    served = make(target, 20, page_size=4)
    draft = {
        "small model": lambda: ModelDrafter(make(small, 20, page_size=4)),
        "itself": lambda: ModelDrafter(make(target, 20, page_size=4)),
        "lookup": lambda: PromptLookupDrafter(VOCAB),
    }[drafter]()
    for prompt, most in (([1, 2, 3], 12), ([5], 1), ([4, 4, 4, 4], 60)):
        params = SamplingParams(max_tokens=most, temperature=0.0)
        result = speculative_generate(served, draft, prompt, params, num_drafts=3)
        ids, logprobs = decode_by_hand(target, prompt, params)
        assert result.completion.ids == ids
        np.testing.assert_allclose(result.completion.logprobs, logprobs, atol=2e-5)
        assert result.completion.finish_reason == ("length" if most < 60 else "context")
        if drafter == "itself":
            assert result.accepted == result.drafted and result.passes <= -(-len(ids) // 4) + 1
        assert len(served.cache.free) == 20


def test_lookup_continues_the_latest_longest_match():
    drafter, params, rng = PromptLookupDrafter(10, ngram=2), SamplingParams(), np.random.default_rng(0)
    for ids, expected in [
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),
        ([5, 6, 7, 6], [7, 6]),
        ([1, 2, 3], []),
        ([8], []),
    ]:
        drafts, q = drafter.propose(ids, 3, params, rng)
        assert drafts == expected and q.shape == (len(drafts), 10)
        assert all(q[i, token] == 1 for i, token in enumerate(drafts)) and q.sum() == len(drafts)


def test_stop_ids_and_bad_input():
    target = build()
    runner, drafter = ModuleRunner(target, 20), PromptLookupDrafter(VOCAB)
    ids = decode_by_hand(target, [1, 2, 3], SamplingParams(max_tokens=12, temperature=0.0))[0]
    stop = ids[5]
    params = SamplingParams(max_tokens=12, temperature=0.0, stop_ids=(stop,))
    completion = speculative_generate(runner, drafter, [1, 2, 3], params).completion
    assert completion.ids == ids[: ids.index(stop)] and completion.finish_reason == "stop"
    for wrong, text in (({"n": 2}, "n=2"), ({"stop": ("x",)}, "stop=")):
        with pytest.raises(ValueError, match=text):
            speculative_generate(runner, drafter, [1], SamplingParams(**wrong))
    for prompt in ([], [1] * (CONTEXT + 1)):
        with pytest.raises(ValueError, match="1 to 24 tokens"):
            speculative_generate(runner, drafter, prompt, SamplingParams())
    with pytest.raises(ValueError, match="model's 29 tokens; it has 7"):
        speculative_generate(runner, PromptLookupDrafter(7), [1, 2, 1], SamplingParams())
    with pytest.raises(ValueError, match=r"\[0, 29\); got 29"):
        speculative_generate(runner, drafter, [1, VOCAB], SamplingParams())
    damaged = ModuleRunner(build(), 20)
    with torch.no_grad():
        damaged.model.lm_head.weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        speculative_generate(damaged, drafter, [1], SamplingParams())
    assert len(damaged.cache.free) == 20
    windowed = ModuleRunner(build(attention_window=2), 20)
    with pytest.raises(ValueError, match="can forget"):
        speculative_generate(windowed, drafter, [1], SamplingParams())
    with pytest.raises(ValueError, match="must forget"):
        ModelDrafter(windowed)
    with pytest.raises(ValueError, match="ngram"):
        PromptLookupDrafter(5, ngram=0)
