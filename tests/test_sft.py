"""Problems tokenize_prompt_and_output, get_response_log_probs and those of 2025: entropy, masked sums, SFT microbatch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from .assertions import assert_close
from .fixtures.alignment_files import TinyCausalLM, load_weights, stored_tokenizer, tiny_log_probs, tiny_logits

PROMPTS = ["Hello world", "This is a", "Question : red + blue = ?"]
OUTPUTS = ["quick brown fox !", "test .", "Answer : green"]


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    return stored_tokenizer()


@pytest.fixture
def batch(adapters, tokenizer):
    return adapters.run_tokenize_prompt_and_output(prompt_strs=PROMPTS, output_strs=OUTPUTS, tokenizer=tokenizer)


def joined(tokenizer) -> list[tuple[list[int], list[int]]]:
    """Ids of each prompt and output by the vocabulary alone: these texts are words between spaces."""
    vocab = tokenizer.get_vocab()
    return [
        ([vocab[w] for w in p.split()], [vocab[w] for w in o.split()]) for p, o in zip(PROMPTS, OUTPUTS, strict=True)
    ]


def test_tokenize_prompt_and_output(adapters, tokenizer, batch):
    pairs = joined(tokenizer)
    longest = max(len(p) + len(o) for p, o in pairs)
    assert set(batch) == {"input_ids", "labels", "response_mask"}
    for name, tensor in batch.items():
        assert tensor.shape == (3, longest - 1), f"{name}: cut one column, so (batch, longest - 1); got {tensor.shape}"
    assert batch["response_mask"].dtype == torch.bool
    for row, (prompt, output) in enumerate(pairs):
        full = prompt + output + [tokenizer.pad_token_id] * (longest - len(prompt) - len(output))
        assert batch["input_ids"][row].tolist() == full[:-1], "prompt and output without special tokens, padded right"
        assert batch["labels"][row].tolist() == full[1:], "labels are the ids shifted by one; padding stays the pad id"
        expected = [len(prompt) <= place < len(prompt) + len(output) for place in range(1, longest)]
        assert batch["response_mask"][row].tolist() == expected, "the mask is aligned with the labels"


def test_tokenize_with_padding_that_is_the_end_of_text(adapters, tokenizer):
    """pad == eos: an <eos> that belongs to the output stays in the mask, padding stays out."""
    pad, tokenizer.pad_token = tokenizer.pad_token, tokenizer.eos_token
    try:
        batch = adapters.run_tokenize_prompt_and_output(
            ["Hello", "Hello"], ["world <eos>", "this is a test"], tokenizer
        )
        assert batch["response_mask"].tolist() == [[True, True, False, False], [True, True, True, True]], (
            "find the response by its length, not by comparing ids with the padding"
        )
        tokenizer.pad_token = None
        batch = adapters.run_tokenize_prompt_and_output(["Hello", "Hello world"], ["world", "a"], tokenizer)
        assert batch["labels"][0].tolist() == [20, tokenizer.eos_token_id] or batch["labels"][0, 1] == (
            tokenizer.eos_token_id
        ), "a tokenizer without padding token pads with its end of text"
    finally:
        tokenizer.pad_token = pad


def test_get_response_log_probs(adapters, batch):
    model, weights = TinyCausalLM(), load_weights("policy")
    scores = adapters.run_get_response_log_probs(
        model=model, input_ids=batch["input_ids"], labels=batch["labels"], return_token_entropy=True
    )
    assert set(scores) == {"log_probs", "token_entropy"}
    for row in range(len(PROMPTS)):
        ids = [*batch["input_ids"][row].tolist(), int(batch["labels"][row, -1])]
        assert_close(scores["log_probs"][row], tiny_log_probs(weights, ids), atol=1e-5, hint="log p of each label")
        logits = tiny_logits(weights, ids[:-1])
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        assert_close(scores["token_entropy"][row], -(p * np.log(p)).sum(axis=1), atol=1e-5, hint="entropy in nats")
    only = adapters.run_get_response_log_probs(model, batch["input_ids"], batch["labels"], return_token_entropy=False)
    assert set(only) == {"log_probs"}, "the entropy is given only when asked for"


def test_log_probs_keep_the_gradient(adapters, batch):
    model = TinyCausalLM()
    model.train()
    adapters.run_get_response_log_probs(model, batch["input_ids"], batch["labels"])["log_probs"].sum().backward()
    assert model.training and model.E.grad is not None and model.E.grad.abs().sum() > 0


def test_log_probs_do_not_see_the_future(adapters, batch):
    """A change of the last column changes no score before it."""
    model = TinyCausalLM()
    other = {name: tensor.clone() for name, tensor in batch.items()}
    other["input_ids"][:, -1] = 5
    first, second = (
        adapters.run_get_response_log_probs(model, b["input_ids"], batch["labels"])["log_probs"] for b in (batch, other)
    )
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


@pytest.mark.edition2025
def test_compute_entropy(adapters):
    logits = torch.randn(2, 10, 100, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits.double(), dim=-1)
    assert_close(adapters.run_compute_entropy(logits), -(p * p.log()).sum(-1), atol=1e-5, hint="natural logarithm")
    huge = adapters.run_compute_entropy(torch.tensor([[[1000.0, 0.0, -1000.0], [1000.0, 1000.0, -1000.0]]]))
    assert_close(huge, [[0.0, math.log(2)]], atol=1e-5, hint="subtract the largest logit before exp")


def masked() -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor and a mask with an empty row and an empty column."""
    generator = torch.Generator().manual_seed(1)
    tensor, mask = torch.randn(4, 7, generator=generator), torch.rand(4, 7, generator=generator) > 0.4
    mask[2], mask[:, 3] = False, False
    return tensor, mask


@pytest.mark.edition2025
@pytest.mark.parametrize("dim", [None, 0, 1, -1])
def test_masked_normalize(adapters, dim):
    tensor, mask = masked()
    found = adapters.run_masked_normalize(tensor=tensor, mask=mask, dim=dim, normalize_constant=42.0)
    total = (tensor.double().numpy() * mask.numpy()).sum(axis=dim)
    assert_close(found, total / 42.0, atol=1e-6, hint="the sum over dim divided by the constant")


@pytest.mark.edition2025
@pytest.mark.parametrize("dim", [None, 0, 1, -1])
def test_masked_mean(adapters, dim):
    tensor, mask = masked()
    mean = adapters.run_masked_mean(tensor=tensor, mask=mask, dim=dim)
    with np.errstate(invalid="ignore"):
        expected = np.asarray((tensor.double().numpy() * mask.numpy()).sum(axis=dim) / mask.numpy().sum(axis=dim))
    assert np.array_equal(torch.isnan(mean).numpy(), np.isnan(expected)), "a mean of nothing is NaN, not 0"
    assert_close(torch.nan_to_num(mean), np.nan_to_num(expected), atol=1e-6, hint="sum over dim / number selected")


@pytest.mark.edition2025
@pytest.mark.parametrize("constant", [1.0, 42.0])
def test_sft_microbatch_train_step(adapters, constant):
    generator = torch.Generator().manual_seed(2)
    log_probs = torch.randn(2, 10, generator=generator).requires_grad_()
    mask = torch.rand(2, 10, generator=generator) > 0.5
    loss, _ = adapters.run_sft_microbatch_train_step(
        policy_log_probs=log_probs, response_mask=mask, gradient_accumulation_steps=2, normalize_constant=constant
    )
    rows = [sum(-float(log_probs.detach()[b, t]) for t in range(10) if mask[b, t]) / constant for b in range(2)]
    assert_close(loss, sum(rows) / 2 / 2, atol=1e-6, hint="sum over tokens, mean over rows, divided by the steps")
    assert log_probs.grad is not None, "backward belongs to the step"
    assert_close(log_probs.grad, -mask.double() / constant / 2 / 2, atol=1e-7, hint="-1 / (batch * steps * constant)")


@pytest.mark.edition2025
def test_sft_microbatch_steps_add_up(adapters):
    """Ten steps without zeroing: gradients accumulate."""
    log_probs = torch.zeros(2, 3, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for _ in range(10):
        adapters.run_sft_microbatch_train_step(log_probs, mask, 2)
    assert_close(log_probs.grad, torch.full((2, 3), -2.5), atol=1e-6, hint="never zero or replace a gradient inside")
