"""PPO: advantages by brute force, the value head, one run that learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cs336_alignment.ppo import PpoConfig, PpoTrainer, generalized_advantages
from cs336_alignment.scalar_head import ScalarHead
from cs336_alignment.sft import clone_model
from cs336_basics.training_config import OptimizerConfig
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (0.7, 0.0)])
def test_generalized_advantages_by_brute_force(gamma, lam):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    spans = [(0, 6), (2, 5), (3, 4)]
    mask = np.zeros((3, 6), dtype=bool)
    expected = np.zeros((3, 6))
    for b, (start, end) in enumerate(spans):
        mask[b, start:end] = True
        deltas = [rewards[b, t] + gamma * (values[b, t + 1] if t + 1 < end else 0) - values[b, t]
                  for t in range(start, end)]  # fmt: skip
        for t in range(start, end):
            expected[b, t] = sum((gamma * lam) ** (s - t) * deltas[s - start] for s in range(t, end))
    found = generalized_advantages(
        torch.tensor(rewards), torch.tensor(values), torch.tensor(mask), gamma=gamma, gae_lambda=lam
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_without_discount_and_values_the_advantage_is_the_reward():
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    mask = torch.tensor([[False, True, True, False]])
    found = generalized_advantages(rewards, torch.zeros(1, 4), mask, gamma=1.0, gae_lambda=1.0)
    assert found.tolist() == [[0, 1, 1, 0]]


def test_value_head_is_linear_in_the_hidden_states():
    model = ScalarHead(tiny_model(dtype=torch.float64))
    assert model(torch.tensor([[1, 2, 3]])).tolist() == [[0, 0, 0]]
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[1, 2, 3]])
    expected = model.body.hidden_states(ids) @ model.head.weight[0] + model.bias
    np.testing.assert_allclose(model(ids).detach(), expected.detach(), rtol=1e-5)


class FormOnly(LastDigit):
    def reward(self, response, answer):
        right = float(len(response) == 1 and response.isdigit())
        return {"format_reward": right, "answer_reward": right, "reward": right}


def test_ppo_learns():
    config = PpoConfig(
        num_steps=12, prompts_per_step=48,
        optimizer=OptimizerConfig(max_learning_rate=1e-2, schedule="constant", warmup_steps=3, weight_decay=0.0),
    )  # fmt: skip
    trainer = PpoTrainer(tiny_model(), CharTokenizer(), FormOnly(), config)
    records = [trainer.step() for _ in range(12)]
    assert records[-1]["mean_reward"] > records[0]["mean_reward"] + 0.3
    assert {"value_loss", "entropy", "clip_fraction", "grad_norm"} <= set(records[-1])


def test_divergence_costs_reward():
    model = tiny_model()
    with pytest.raises(ValueError, match="needs a reference"):
        PpoTrainer(model, CharTokenizer(), LastDigit(), PpoConfig(kl_coefficient=0.1))
    trainer = PpoTrainer(
        model, CharTokenizer(), LastDigit(), PpoConfig(kl_coefficient=0.1, prompts_per_step=8),
        reference=clone_model(model),
    )  # fmt: skip
    assert np.isfinite(trainer.step()["loss"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"gae_lambda": 1.5}, "gae_lambda"), ({"cliprange": 0.0}, "cliprange"), ({"minibatches": 0}, "minibatches")],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PpoConfig(**settings)
