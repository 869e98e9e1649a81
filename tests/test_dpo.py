"""Supplement problem dpo_loss: the loss of one pair, its symmetries, its gradient."""

from __future__ import annotations

import math

import pytest
import torch

from .assertions import assert_close
from .fixtures.alignment_files import TinyCausalLM, load_weights, stored_tokenizer, tiny_log_probs

PROMPT, GOOD, BAD = "The quick brown fox jumps over", "the lazy dog .", "their crazy frog ."
TEMPLATE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n{}"
)


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("transformers")
    return stored_tokenizer()


def margin(tokenizer, policy: str, reference: str) -> float:
    """h(good) - h(bad) in float64, over template, response and <eos>."""
    found = []
    for response in (GOOD, BAD):
        ids = [*tokenizer.encode(TEMPLATE.format(PROMPT, response)), tokenizer.eos_token_id]
        sums = [tiny_log_probs(load_weights(name), ids).sum() for name in (policy, reference)]
        found.append(sums[0] - sums[1])
    return found[0] - found[1]


def loss_of(adapters, tokenizer, model, reference, beta=0.5, swap=False):
    chosen, rejected = (BAD, GOOD) if swap else (GOOD, BAD)
    return adapters.run_compute_per_instance_dpo_loss(
        lm=model, lm_ref=reference, tokenizer=tokenizer, beta=beta, prompt=PROMPT, response_chosen=chosen,
        response_rejected=rejected,
    )  # fmt: skip


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_per_instance_dpo_loss(adapters, tokenizer, beta):
    loss = loss_of(adapters, tokenizer, TinyCausalLM("policy"), TinyCausalLM("reference"), beta)
    expected = math.log1p(math.exp(-beta * margin(tokenizer, "policy", "reference")))
    assert loss.dim() == 0
    assert_close(
        loss, expected, atol=1e-4, hint="-log sigmoid(beta * margin); Alpaca template, <eos> right after the response"
    )


def test_edition_2024_name(adapters, tokenizer):
    model, reference = TinyCausalLM("policy"), TinyCausalLM("reference")
    old = adapters.compute_per_instance_dpo_loss(model, reference, tokenizer, 0.5, PROMPT, GOOD, BAD)
    assert_close(old, loss_of(adapters, tokenizer, model, reference), atol=1e-6, hint="the same function")


def test_model_equal_to_its_reference(adapters, tokenizer):
    loss = loss_of(adapters, tokenizer, TinyCausalLM(), TinyCausalLM())
    assert_close(loss, math.log(2), atol=1e-5, hint="without any difference sigmoid is one half")


def test_swapped_responses(adapters, tokenizer):
    """sigmoid(z) + sigmoid(-z) = 1."""
    models = TinyCausalLM("policy"), TinyCausalLM("reference")
    losses = [loss_of(adapters, tokenizer, *models, swap=swap).item() for swap in (False, True)]
    assert_close(sum(math.exp(-loss) for loss in losses), 1.0, atol=1e-5, hint="the roles are symmetric")


def test_gradient_reaches_the_model_only(adapters, tokenizer):
    model, reference = TinyCausalLM("policy"), TinyCausalLM("reference")
    loss_of(adapters, tokenizer, model, reference).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in reference.parameters()), "the reference is frozen: use no_grad"


def test_gradient_raises_the_chosen_response(adapters, tokenizer):
    model, reference = TinyCausalLM("policy"), TinyCausalLM("reference")
    before = loss_of(adapters, tokenizer, model, reference)
    before.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 1e-3 * p.grad
    assert loss_of(adapters, tokenizer, model, reference) < before
