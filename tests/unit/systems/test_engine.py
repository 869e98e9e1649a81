"""The engine against decoding by hand without cache or batch; joining and leaving; stops; cancelling; bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cs336_basics.tokenization import Tokenizer
from cs336_systems.inference import engine as engine_module
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.fused_model import FusedRunner
from cs336_systems.inference.model_runner import ModuleRunner
from cs336_systems.inference.sampling import SamplingParams
from tests.unit.systems.inference_cases import CONTEXT, VARIANTS, VOCAB, build, decode_by_hand, full_logits

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [1, 2, 3], [12, 13], [2] * CONTEXT]


def all_free(engine: Engine) -> bool:
    cache = engine.runner.cache
    return sorted(cache.free) == list(range(cache.num_pages)) and not any(cache.owners)


@pytest.mark.parametrize(
    ("variant", "temperature"), [*((name, 0.8) for name in VARIANTS), ("plain", 0.0), ("nanochat", 0.0)]
)
def test_every_variant_equals_decoding_by_hand(variant, temperature):
    """Six requests through three rows: they join and leave at different times."""
    model = build(torch.float64, **VARIANTS[variant])
    params = [
        SamplingParams(max_tokens=3 + 2 * k, temperature=temperature, top_k=9, top_p=0.9, seed=k) for k in range(6)
    ]
    engine = Engine(model, max_batch=3, page_size=4)
    for k, found in enumerate(engine.generate(PROMPTS, params)):
        ids, logprobs = decode_by_hand(model, PROMPTS[k], params[k], stream=k)
        assert found.ids == ids and found.request == k
        np.testing.assert_allclose(found.logprobs, logprobs, atol=1e-5)
    assert all_free(engine)


@pytest.mark.parametrize("path", ["fused", "modules"])
@pytest.mark.parametrize(
    "choices",
    [{}, {"num_kv_heads": 1, "qkv_bias": True, "rope_pairs": "halves"}, {"tie_embeddings": True, "head_dim": 8}],
)
def test_float32_paths_equal_decoding_by_hand(path, choices):
    model = build(**choices)
    params = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.95, seed=5, n=3)
    engine = Engine(model, max_batch=4, page_size=4, path=path)
    found = engine.generate(PROMPTS, params)
    assert [(c.request, c.sample) for c in found] == [(k, i) for k in range(6) for i in range(3)]
    for completion in found:
        where = {"stream": completion.request, "sample": completion.sample}
        ids, logprobs = decode_by_hand(model, PROMPTS[completion.request], params, **where)
        assert completion.ids == ids
        np.testing.assert_allclose(completion.logprobs, logprobs, atol=2e-5)
    assert all_free(engine)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_fused_logits_are_the_same_bits_in_any_company(weights):
    """Prefill at once, token by token, in pieces, and beside other rows."""
    runner = FusedRunner(build(d_model=40, d_ff=72, num_heads=5), 60, page_size=4, weights=weights)
    ids = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    expected = runner.forward([runner.new_row()], [ids], every=True)[0]
    row = runner.new_row()
    assert torch.equal(torch.cat([runner.forward([row], [[i]])[0] for i in ids]), expected)
    rows = [runner.new_row() for _ in range(4)]
    pieces = runner.forward(rows, [ids[:4], [7, 7], ids[:9], ids])
    for k, n in ((0, 4), (2, 9), (3, 11)):
        assert torch.equal(pieces[k][0], expected[n - 1])
    later = runner.forward([rows[3], rows[0], rows[2]], [[8], ids[4:], ids[9:]])
    assert torch.equal(later[1][0], expected[-1]) and torch.equal(later[2][0], expected[-1])


def test_completions_do_not_depend_on_neighbours_bit_for_bit():
    model, rng = build(), np.random.default_rng(0)
    params = SamplingParams(max_tokens=10, seed=1, temperature=1.3)
    alone = Engine(model, max_batch=1, page_size=4)
    busy = Engine(model, max_batch=5, page_size=4)
    prompts = [rng.integers(VOCAB, size=rng.integers(1, 12)).tolist() for _ in range(9)]
    numbers, streams = {}, iter(rng.permutation(9).tolist())
    while len(numbers) < 9 or busy.has_work:
        if len(numbers) < 9 and rng.random() < 0.5:
            k = next(streams)
            numbers[k] = busy.submit(prompts[k], params, stream=k)
        busy.step()
    for k, number in numbers.items():
        mine = alone.submit(prompts[k], params, stream=k)
        while alone.has_work:
            alone.step()
        a, b = alone.take_results(mine)[0], busy.take_results(number)[0]
        assert a.ids == b.ids and a.logprobs == b.logprobs


def test_fused_logits_agree_with_the_modules():
    model = build(d_model=64, d_ff=40, num_heads=8, num_kv_heads=2)
    fused, modules = FusedRunner(model, 40, page_size=4), ModuleRunner(model, 40, page_size=4)
    ids = np.random.default_rng(1).integers(VOCAB, size=CONTEXT).tolist()
    expected = model(torch.tensor([ids]))[0]
    for runner in (fused, modules):
        found = runner.forward([runner.new_row()], [ids], every=True)[0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5, check_dtype=True)


def test_paths_are_named():
    assert Engine(build()).path == "fused"
    assert Engine(build(torch.float64)).path == "modules, paged"
    assert Engine(build(positions="learned")).path == "modules, paged"
    assert Engine(build(attention_window=3)).path == "modules, a cache per row"
    assert Engine(build(num_kv_heads=2, qkv_bias=True, rope_pairs="halves")).path == "fused"
    with pytest.raises(ValueError, match="qk_norm"):
        Engine(build(qk_norm=True), path="fused")


def test_weights_after_an_update():
    model = build()
    engine, params = Engine(model, page_size=4), SamplingParams(max_tokens=8, temperature=0.0)
    before = engine.generate([[1, 2]], params)[0].ids
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.flip(0))
    assert engine.generate([[1, 2]], params)[0].ids == before
    with pytest.raises(ValueError, match="num_layers=1"):
        engine.load_weights(build(num_layers=1))
    engine.load_weights(model)
    after = engine.generate([[1, 2]], params)[0].ids
    assert after == decode_by_hand(model, [1, 2], params)[0] != before


BYTES = Tokenizer({i: bytes([i]) for i in range(256)} | {256: b"ab", 257: b"<|end|>"}, [(b"a", b"b")], ["<|end|>"])


class Scripted:
    """A runner whose rows write a given text whatever they are asked: token t of the script after t tokens."""

    path, can_truncate, vocab_size, context_length = "scripted", True, 258, 200

    def __init__(self, script: list[int]):
        from cs336_systems.inference.kv_cache import PagedKVCache

        self.script, self.cache = script, PagedKVCache(1, 100, page_size=4)

    def new_row(self):
        from cs336_systems.inference.kv_cache import PagedSequence
        from cs336_systems.inference.model_runner import Row

        return Row(PagedSequence(), [])

    def fork(self, row):
        from cs336_systems.inference.model_runner import Row

        return Row(self.cache.fork(row.sequence), [])

    def truncate(self, row, length):
        self.cache.truncate(row.sequence, length)

    def forward(self, rows, ids, *, every=False):
        found = []
        for row, new in zip(rows, ids, strict=True):
            self.cache.reserve(row.sequence, len(new))
            row.sequence.length += len(new)
            found.append(torch.zeros(1, 258).index_fill(1, torch.tensor(self.script[row.length - 1]), 9.0))
        return found


def scripted(text: bytes | list[int]) -> Engine:
    engine = Engine(build(), BYTES)
    engine.runner = Scripted(list(text))
    return engine


@pytest.mark.parametrize(
    "script, stop, include, text, count, reason",
    [
        (b"one END two", ("END",), False, "one ", 7, "stop"),
        (b"one END two", ("END",), True, "one END", 7, "stop"),
        (b"EEND", ("END",), False, "E", 4, "stop"),
        (b"ENEND", ("END",), False, "EN", 5, "stop"),
        (b"xaab-", ("b-", "ab"), False, "xa", 4, "stop"),
        (b"no stop here", ("END",), False, "no stop here", 12, "length"),
        (b"halfway EN", ("END",), False, "halfway EN", 10, "length"),
        ("h\u00e9 \u4f60\u597d!".encode(), ("\u597d",), False, "h\u00e9 \u4f60", 10, "stop"),
        ([120, 256, 120], ("bx",), False, "xa", 3, "stop"),
        ("caf\u00e9".encode()[:-1], (), False, "caf\ufffd", 4, "length"),
        (b"ab" + bytes([0xFF]) + b"c", (), False, "ab\ufffdc", 4, "length"),
    ],
)  # fmt: skip
def test_stop_texts_and_characters_across_tokens(script, stop, include, text, count, reason):
    engine = scripted(script)
    params = SamplingParams(max_tokens=len(script), temperature=0.0, stop=stop, include_stop=include)
    events = list(engine.stream([[1]], params))
    found = "".join(event.text for event in events)
    assert found == text and len(events) == count
    completion = scripted(script).generate([[1]], params)[0]
    assert completion.text == text and completion.ids == list(script)[:count]
    assert completion.finish_reason == reason
    if stop and not include:
        for event in events:
            assert not any(s in event.text for s in stop)


def test_stop_ids_with_and_without_the_stop_token():
    script = [5, 6, 7, 8]
    params = {"max_tokens": 4, "temperature": 0.0, "stop_ids": (7,)}
    without = scripted(script).generate([[1]], SamplingParams(**params))[0]
    assert (without.ids, without.finish_reason, len(without.logprobs)) == ([5, 6], "stop", 2)
    kept = scripted(script).generate([[1]], SamplingParams(**params, include_stop=True))[0]
    assert (kept.ids, kept.finish_reason, len(kept.logprobs)) == ([5, 6, 7], "stop", 3)
    exact = -float(torch.logsumexp(torch.tensor([9.0] + [0.0] * 257, dtype=torch.float64), 0) - 9.0)
    np.testing.assert_allclose(kept.logprobs, [exact] * 3, atol=1e-6)


def test_the_context_ends_a_sample():
    model = build(torch.float64)
    params = SamplingParams(max_tokens=100, temperature=0.0)
    found = Engine(model, page_size=4).generate([[1] * 20, [2] * CONTEXT], params)
    assert [(len(c.ids), c.finish_reason) for c in found] == [(5, "context"), (1, "context")]


def test_cancel_frees_pages_and_leaves_the_others_alone():
    model, params = build(), SamplingParams(max_tokens=15, seed=2, n=2)
    engine = Engine(model, max_batch=3, page_size=4)
    numbers = [engine.submit([k + 1, 5], params, stream=k) for k in range(3)]
    for _ in range(4):
        engine.step()
    events = engine.cancel(numbers[1])
    assert {event.finish_reason for event in events} == {"cancelled"}
    assert [len(c.ids) for c in engine.take_results(numbers[1])] == [4]
    while engine.has_work:
        engine.step()
    for k in (0, 2):
        for c in engine.take_results(numbers[k]):
            assert c.ids == decode_by_hand(model, [k + 1, 5], params, stream=k, sample=c.sample)[0]
    assert all_free(engine)
    with pytest.raises(ValueError, match="no request"):
        engine.cancel(numbers[1])


def test_leaving_a_stream_cancels_the_rest():
    engine = Engine(build(), max_batch=2, page_size=4)
    stream = engine.stream([[1], [2], [3]], SamplingParams(max_tokens=9, n=2))
    next(stream)
    with pytest.raises(RuntimeError, match="idle"):
        engine.generate([[1]], SamplingParams())
    stream.close()
    assert not engine.has_work and all_free(engine)


def test_few_pages_delay_but_never_break():
    """Seven pages of four tokens: two short rows at a time, samples of a prompt share pages."""
    model, params = build(), SamplingParams(max_tokens=7, n=4, seed=9)
    engine = Engine(model, max_batch=8, num_pages=7, page_size=4)
    found = engine.generate([[1, 2, 3, 4, 5, 6], [7] * 5, [8]], params)
    for c in found:
        prompt = [[1, 2, 3, 4, 5, 6], [7] * 5, [8]][c.request]
        assert c.ids == decode_by_hand(model, prompt, params, stream=c.request, sample=c.sample)[0]
    assert all_free(engine)


def test_prompts_that_start_together_share_a_pass(monkeypatch):
    """As many as have rows, pages and tokens for all their samples; the results are those of each alone."""
    model, params = build(), SamplingParams(max_tokens=3, n=2, seed=2)
    alone = [decode_by_hand(model, prompt, params, stream=k)[0] for k, prompt in enumerate(PROMPTS[:5])]

    def passes(**sizes) -> list[int]:
        engine, prefilled = Engine(model, page_size=4, **sizes), []
        forward = engine.runner.forward
        monkeypatch.setattr(engine.runner, "forward", lambda rows, ids: (prefilled.append(ids), forward(rows, ids))[1])
        found = engine.generate(PROMPTS[:5], params)
        assert [c.ids for c in found if c.sample == 0] == alone and all_free(engine)
        return [len(ids) for ids in prefilled if ids[0] in PROMPTS]

    assert passes() == [5]
    assert passes(max_batch=4) == [2, 2, 1]
    assert passes(num_pages=9)[0] == 2  # two rows each of up to 2, 1 and 3 pages, and one page more per prompt
    monkeypatch.setattr(engine_module, "PREFILL_TOKENS", 9)
    assert passes() == [2, 1, 2]  # of 3, 1, 7, 3 and 2 tokens


def test_bad_input():
    engine = Engine(build(), page_size=4, num_pages=4)
    for prompt, params, text in [
        ([], SamplingParams(), "at least one token"),
        ([1] * (CONTEXT + 1), SamplingParams(), "25 tokens and the model sees 24"),
        ([VOCAB], SamplingParams(), "another tokenizer"),
        ([-1], SamplingParams(), r"\[0, 29\)"),
        ([1], SamplingParams(stop=("x",)), "need a tokenizer"),
        ([1] * 10, SamplingParams(max_tokens=12), "raise num_pages"),
    ]:
        with pytest.raises(ValueError, match=text):
            engine.submit(prompt, params)
    assert not engine.has_work
    for wrong in ({"n": 0}, {"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0},
                  {"top_k": 0}, {"stop": "x"}, {"stop": ("",)}, {"seed": -1}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SamplingParams(**wrong)
    for wrong in ({"weights": "int4"}, {"path": "fast"}, {"max_batch": 0}, {"num_pages": 0}, {"page_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Engine(build(), **wrong)
    with pytest.raises(TypeError, match="integer"):
        engine.submit([1.5], SamplingParams())
    with pytest.raises(TypeError, match="vocab"):
        Engine(build(), tokenizer=object())
    with pytest.raises(ValueError, match="2 for 1"):
        engine.generate([[1]], [SamplingParams()] * 2)
    number = engine.submit([1], SamplingParams(max_tokens=2))
    with pytest.raises(ValueError, match="still running"):
        engine.take_results(number)
    with pytest.raises(RuntimeError, match="between requests"):
        engine.load_weights(build())


@pytest.mark.parametrize("path", ["fused", "modules"])
def test_damaged_weights_are_an_error_not_a_text(path):
    model = build()
    with torch.no_grad():
        model.layers[1].ffn.w2.weight[3, 3] = float("nan")
    engine = Engine(model, path=path, page_size=4)
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="NaN"):
            engine.generate([[1, 2]], SamplingParams(temperature=temperature, top_k=4, top_p=0.9))
        assert all_free(engine) and not engine.has_work


def test_pages_by_default(monkeypatch):
    """Rows of 24 tokens in pages of 4 and one page more each; a page is 2 layers * (k, v) * 16 * 4 tokens * 4 bytes."""
    assert Engine(build(), max_batch=3, page_size=4).runner.cache.num_pages == 4 * 7
    monkeypatch.setattr("cs336_systems.inference.engine.DEFAULT_CACHE_BYTES", 20 * 1024)
    assert Engine(build(), max_batch=3, page_size=4).runner.cache.num_pages == 20
    monkeypatch.setattr("cs336_systems.inference.engine.DEFAULT_CACHE_BYTES", 1)
    assert Engine(build(), max_batch=3, page_size=4).runner.cache.num_pages == 14


def test_module_logits_are_those_of_a_full_forward():
    model = build(torch.float64, attention_window=3)
    runner = ModuleRunner(model, 10, page_size=4)
    row = runner.new_row()
    runner.forward([row], [[1, 2, 3, 4]])
    copy = runner.fork(row)
    a = runner.forward([row], [[5]])[0][0]
    b = runner.forward([copy], [[6, 7]])[0][0]
    torch.testing.assert_close(a, full_logits(model, [1, 2, 3, 4, 5]))
    torch.testing.assert_close(b, full_logits(model, [1, 2, 3, 4, 6, 7]))
    with pytest.raises(ValueError, match="cannot be shortened"):
        runner.truncate(row, 2)
