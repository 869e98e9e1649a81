"""Compiled decoding steps against the model's own modules: logits, cache, texts; when they are taken and refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cs336_basics import generation
from cs336_basics.compiled_decoding import CompiledStep, PackedLinear
from cs336_basics.generation import generate
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization.compilation import stored
from cs336_basics.variants.configs import RopeScaling

pytest.importorskip("numba")
from cs336_basics.decoding_kernels import gate  # noqa: E402

VOCAB, CONTEXT = 19, 14
SERVED = {
    "plain": {},
    "grouped": {"num_kv_heads": 1},
    "tied, wide heads": {"tie_embeddings": True, "head_dim": 12},
    "qwen": {"num_kv_heads": 1, "qkv_bias": True, "rope_pairs": "halves"},
    "stretched": {"rope_scaling": RopeScaling("yarn", 4.0, 8), "rope_pairs": "halves"},
}


def build(dtype: torch.dtype = torch.float32, **choices) -> TransformerLM:
    torch.manual_seed(1)
    model = TransformerLM(ModelConfig(VOCAB, CONTEXT, 16, 2, 2, 24, **choices), dtype=dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return model.eval()


def prompts(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("choices", SERVED.values(), ids=SERVED)
@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_logits_and_cache_are_those_of_the_modules(choices, batch) -> None:
    model, ids = build(**choices), prompts(batch, CONTEXT)
    expected = model(ids)
    cache, oracle = model.new_cache(batch, CONTEXT), model.new_cache(batch, CONTEXT)
    model(ids[:, :5], cache, 0)
    model(ids, oracle, 0)
    step = CompiledStep(model, cache)
    for t in range(5, CONTEXT):
        torch.testing.assert_close(step(ids[:, t]), expected[:, t], atol=2e-5, rtol=1e-5)
    for ours, theirs in zip(cache, oracle, strict=True):
        assert ours.length == CONTEXT
        for a, b in zip(ours.pools(), theirs.pools(), strict=True):
            torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(b), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("length", [1, 6, CONTEXT, CONTEXT + 3])
def test_texts_are_those_of_the_modules_beyond_the_context_too(batch, length) -> None:
    model, prompt = build(), prompts(batch, length)
    for settings in ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 7, "top_p": 0.9}):
        plain, compiled, whole = (
            generate(model, prompt, 25, generator=torch.Generator().manual_seed(2), **settings, **way)
            for way in ({"engine": "plain"}, {"engine": "compiled"}, {"use_cache": False})
        )
        assert plain == compiled == whole


def test_products_of_any_width_against_float64() -> None:
    draw = torch.Generator().manual_seed(0)
    for outputs in (1, 63, 130, 1100):
        parts = [torch.randn(n, 48, generator=draw) for n in (outputs, 5)]
        packed, exact = PackedLinear(parts), torch.cat(parts).double()
        assert packed.num_bytes == 4 * 48 * (outputs + 5)
        for rows in (1, 2, 3, 4, 13):
            x = torch.randn(rows, 48, generator=draw)
            found = packed(x.numpy())
            torch.testing.assert_close(torch.from_numpy(found).double(), x.double() @ exact.T, atol=1e-4, rtol=0)
            assert all((packed(x[r : r + 1].numpy())[0] == found[r]).all() for r in range(rows))


def test_gates_of_any_size_against_float64() -> None:
    """Where exp overflows and vanishes too; NaN stays."""
    inputs = np.concatenate([np.linspace(-100, 100, 4001), [-1e4, -0.0, 1e30, np.nan]]).astype(np.float32)
    hidden, found = np.stack([inputs, np.ones_like(inputs)]).reshape(1, -1), np.empty((1, len(inputs)), np.float32)
    stored(gate)(hidden, found)
    with np.errstate(over="ignore"):
        exact = inputs / (1 + np.exp(-inputs.astype(np.float64)))
    np.testing.assert_allclose(found[0], exact, rtol=3e-7, atol=1e-34)


def test_the_number_of_threads_stays(monkeypatch) -> None:
    """Numba's threads start with the first kernel; OpenMP's number, which torch reads, must not follow them."""
    before = torch.get_num_threads()
    generate(build(), prompts(1, 2), 3, engine="compiled")
    assert torch.get_num_threads() == before


def test_when_steps_are_compiled(monkeypatch) -> None:
    """Automatic: a plain model, much to write, no hook to miss."""
    model, taken = build(), []
    monkeypatch.setattr(generation, "CompiledStep", lambda *args: taken.append(1) or CompiledStep(*args))

    def takes(model: TransformerLM, **settings) -> bool:
        taken.clear()
        generate(model, prompts(1, 2), 3, **settings)
        return bool(taken)

    assert not takes(model) and takes(model, engine="compiled")
    monkeypatch.setattr(generation, "MIN_COMPILED_WORK", 3 * model.get_num_params(non_embedding=True))
    assert takes(model) and not takes(model, engine="plain") and not takes(model, use_cache=False)
    assert not takes(build(torch.float64)) and not takes(build(positions="learned"))
    model.layers[0].ffn.register_forward_hook(lambda *args: None)
    assert not takes(model)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"positions": "learned"}, "positions='learned'"),
        ({"attention_window": 3}, "mixers=.*window"),
        ({"dtype": torch.float64}, "float64 weights on cpu, not float32"),
        ({"head_dim": 6}, "multiple of 8"),
    ],
)
def test_models_that_cannot_be_served(choices, words) -> None:
    with pytest.raises(ValueError, match=words):
        generate(build(**choices), prompts(1, 2), 3, engine="compiled")


def test_an_unknown_engine() -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        generate(build(), prompts(1, 2), 3, engine="fast")
    if caught.type is ValueError:
        assert "'auto', 'plain' or 'compiled'; got 'fast'" in str(caught.value)
