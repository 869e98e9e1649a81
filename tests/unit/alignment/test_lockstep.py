"""Sampling in lockstep: every row gets what it would have got alone, for every kind of model and cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cs336_alignment import lockstep
from cs336_alignment.cache_rows import select_rows
from cs336_alignment.lockstep import LockstepSampler, draw_tokens
from cs336_alignment.rollouts import EngineSampler, Sampler, greedy_rewards, task_params
from cs336_basics.generation import generate
from cs336_systems.inference import SamplingParams
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model

VARIANTS = {
    "plain": {},
    "alibi and canon": {"positions": "alibi", "canon_width": 4},
    "window": {"mixers": ("attention", "window"), "attention_window": 3},
    "grouped queries, softcap": {"num_kv_heads": 1, "logit_softcap": 5.0},
    "learned positions": {"positions": "learned"},
}
PROMPTS = ["1+2=", "a", "12+34=", "7+7=#ab", "b+"]


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer()


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_rows_equal_decoding_alone(tokenizer, variant):
    """The oracle is the teaching decoder, one prompt at a time and without a cache."""
    model = tiny_model(**VARIANTS[variant])
    params = SamplingParams(max_tokens=9, temperature=0.0, stop_ids=(0,), include_stop=True)
    for (rollout,), prompt in zip(LockstepSampler(model, tokenizer).generate(PROMPTS, params), PROMPTS, strict=True):
        ids = tokenizer.encode(prompt)
        alone = generate(model, torch.tensor([ids]), 9, temperature=0.0, stop_ids=(0,), use_cache=False)[0]
        assert rollout.prompt_ids == ids
        assert [i for i in rollout.ids if i] == alone
        assert rollout.finish_reason == ("stop" if len(alone) < 9 else "length")


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probs_are_those_of_a_forward_pass(tokenizer, variant):
    model = tiny_model(**VARIANTS[variant])
    params = SamplingParams(max_tokens=7, n=3, seed=5, temperature=0.7, top_k=9, stop_ids=(0,), include_stop=True)
    for group in LockstepSampler(model, tokenizer).generate(PROMPTS, params):
        for rollout in group:
            full = torch.tensor([[*rollout.prompt_ids, *rollout.ids]])
            log_probs = torch.log_softmax(model(full[:, :-1]).double(), dim=-1)[0]
            start = len(rollout.prompt_ids)
            expected = [log_probs[start - 1 + i, token].item() for i, token in enumerate(rollout.ids)]
            np.testing.assert_allclose(rollout.logprobs, expected, atol=1e-5)


def test_compiled_steps_sample_what_the_modules_sample(tokenizer):
    """Prompts of four lengths, rows that end early and are dropped; only kinds of calls that are worth it compile."""
    pytest.importorskip("numba")
    model = tiny_model(num_kv_heads=1, rope_pairs="halves")
    params = SamplingParams(max_tokens=20, n=5, seed=2, stop_ids=(0, 3, 4), include_stop=True)
    plain, compiled = (
        LockstepSampler(model, tokenizer, engine=engine).generate(PROMPTS, params) for engine in ("plain", "compiled")
    )
    assert len({len(rollout.ids) for group in plain for rollout in group}) > 5
    for ours, theirs in zip(sum(compiled, []), sum(plain, []), strict=True):
        assert ours.ids == theirs.ids and ours.finish_reason == theirs.finish_reason
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_which_calls_compile(tokenizer, monkeypatch):
    model, params, packed = tiny_model(), SamplingParams(max_tokens=2, n=3), []
    monkeypatch.setattr(lockstep, "PackedModel", lambda model: packed.append(1))
    work = len(PROMPTS) * 3 * 2 * model.get_num_params(non_embedding=True)
    for least, engine, expected in ((work + 1, "auto", 0), (work, "auto", 1), (work, "plain", 0)):
        packed.clear()
        monkeypatch.setattr(lockstep, "MIN_COMPILED_WORK", least)
        LockstepSampler(model, tokenizer, engine=engine).generate(PROMPTS, params)
        assert len(packed) == expected
    with pytest.raises(ValueError, match="positions='alibi'"):
        LockstepSampler(tiny_model(positions="alibi"), tokenizer, engine="compiled").generate(PROMPTS, params)


def test_samples_do_not_depend_on_company(tokenizer):
    model = tiny_model()
    params = SamplingParams(max_tokens=8, n=4, seed=3, stop_ids=(0,))
    together = LockstepSampler(model, tokenizer).generate(PROMPTS, params)
    apart = LockstepSampler(model, tokenizer, max_rows=4, max_spread=0).generate(PROMPTS, params)
    assert [[r.ids for r in group] for group in together] == [[r.ids for r in group] for group in apart]
    again = LockstepSampler(model, tokenizer).generate(
        PROMPTS, SamplingParams(max_tokens=8, n=4, seed=4, stop_ids=(0,))
    )
    assert [[r.ids for r in group] for group in together] != [[r.ids for r in group] for group in again]


def test_samples_of_a_prompt_differ(tokenizer):
    """Equal members of a group would mean no advantage and no gradient for a whole run."""
    group = LockstepSampler(tiny_model(), tokenizer).generate(["1+2="], SamplingParams(max_tokens=8, n=16))[0]
    assert len({tuple(rollout.ids) for rollout in group}) > 8


def test_frequencies_follow_the_model(tokenizer):
    """4,000 first tokens against the probabilities of the forward pass: chi-square far from its tail."""
    model, n = tiny_model(), 4000
    group = LockstepSampler(model, tokenizer, max_rows=n).generate(["1+2="], SamplingParams(max_tokens=1, n=n))[0]
    counts = np.bincount([rollout.ids[0] for rollout in group], minlength=18)
    p = torch.softmax(model(torch.tensor([tokenizer.encode("1+2=")]))[0, -1].double(), dim=-1).detach().numpy()
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi_square < 17 + 5 * np.sqrt(2 * 17)


def test_draw_tokens_inverts_the_cumulated_probabilities():
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.5]])).repeat(5, 1)
    uniforms = torch.tensor([0.0, 0.19, 0.21, 0.49, 0.999999], dtype=torch.float64)
    assert draw_tokens(logits, uniforms, SamplingParams()).tolist() == [0, 0, 1, 1, 2]
    assert draw_tokens(logits, uniforms, SamplingParams(top_k=1)).tolist() == [2] * 5
    forbidden = torch.tensor([[0.0, -torch.inf]])
    assert draw_tokens(forbidden, torch.tensor([1.0 - 1e-16], dtype=torch.float64), SamplingParams()).tolist() == [0]


def test_stop_text_across_tokens(tokenizer):
    """The stop text is three tokens; it ends the row, and include_stop decides whether the text keeps it."""
    model = tiny_model()
    params = SamplingParams(max_tokens=20, n=64, seed=1)
    free = [r.text for r in LockstepSampler(model, tokenizer).generate(["1+2="], params)[0]]
    stop = next(text[5:7] for text in free if len(text) > 8)
    for include in (True, False):
        params = SamplingParams(max_tokens=20, n=64, seed=1, stop=(stop,), include_stop=include)
        group = LockstepSampler(model, tokenizer).generate(["1+2="], params)[0]
        for text, rollout in zip(free, group, strict=True):
            end = text.find(stop)
            expected = text if end < 0 else text[: end + (len(stop) if include else 0)]
            assert rollout.text == expected
            assert rollout.finish_reason == ("length" if end < 0 else "stop")


def test_context_ends_a_row(tokenizer):
    model = tiny_model(context_length=8)
    rollout = LockstepSampler(model, tokenizer).generate(["1+2=1"], SamplingParams(max_tokens=20))[0][0]
    assert len(rollout.ids) == 3 and rollout.finish_reason == "context"


def test_mode_is_left_as_found(tokenizer):
    model = tiny_model().train()
    LockstepSampler(model, tokenizer).generate(["1"], SamplingParams(max_tokens=1))
    assert model.training


@pytest.mark.parametrize(("prompts", "message"), [([""], "prompt 0 is empty"), (["1", "1" * 40], "prompt 1 has 40")])
def test_bad_prompts(tokenizer, prompts, message):
    with pytest.raises(ValueError, match=message):
        LockstepSampler(tiny_model(), tokenizer).generate(prompts, SamplingParams(max_tokens=2))


def test_select_rows_of_shared_parts():
    """What two layers share stays shared."""

    class Cache:
        def __init__(self, x):
            self.x, self.length = x, 3

    part = Cache(torch.arange(6.0).reshape(3, 2))
    first, second = select_rows([part, part], torch.tensor([2, 2, 0, 1]))
    assert first is second and first.length == 3 and part.x.shape == (3, 2)
    assert first.x[:, 0].tolist() == [4, 4, 0, 2]


def test_engine_sampler_gives_the_same_greedy_answers(tokenizer):
    model, task = tiny_model(), LastDigit()
    params = task_params(task, 0, temperature=0.0)
    prompts = [e.prompt for e in task.examples("test", 0)]
    engine, lockstep = EngineSampler(model, tokenizer, path="modules"), LockstepSampler(model, tokenizer)
    assert isinstance(engine, Sampler) and isinstance(lockstep, Sampler)
    found = [[(r.ids, r.text, r.finish_reason) for (r,) in s.generate(prompts, params)] for s in (engine, lockstep)]
    assert found[0] == found[1]


def test_greedy_rewards(tokenizer):
    model, task = tiny_model(), LastDigit()
    examples = task.examples("test", 0)
    rewards = greedy_rewards(LockstepSampler(model, tokenizer), task, examples, 0, batch=7)
    for example, score in zip(examples, rewards, strict=True):
        ids = torch.tensor([tokenizer.encode(example.prompt)])
        alone = generate(model, ids, 4, temperature=0.0, stop_ids=(0,))[0]
        assert score == task.reward(tokenizer.decode(alone), example.answer)
