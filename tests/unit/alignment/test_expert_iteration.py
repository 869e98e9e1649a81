"""Expert iteration: what is kept, and that imitating it helps."""

from __future__ import annotations

import pytest

from cs336_alignment.expert_iteration import ExpertIterationConfig, ExpertIterationTrainer, right_responses
from cs336_alignment.rollouts import Rollout
from cs336_alignment.sft import SftConfig
from cs336_alignment.task import Example
from cs336_basics.training_config import OptimizerConfig
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model


class FormOnly(LastDigit):
    def reward(self, response, answer):
        right = float(len(response) == 1 and response.isdigit())
        return {"format_reward": right, "answer_reward": right, "reward": right}


def rollout(text: str, reason: str = "stop") -> Rollout:
    return Rollout([1], [2], [-1.0], text, reason)


def test_only_finished_right_responses_are_kept_once():
    examples = [Example("1+2=", "3"), Example("4+4=", "8")]
    sampled = [
        [rollout("3"), rollout("3"), rollout("4"), rollout("3", "length")],
        [rollout("8", "length"), rollout("9")],
    ]
    assert right_responses(LastDigit(), examples, sampled) == [Example("1+2=", "3", "3")]


def test_rounds_raise_the_reward():
    optimizer = OptimizerConfig(max_learning_rate=1e-2, schedule="constant", warmup_steps=0, weight_decay=0.0)
    config = ExpertIterationConfig(
        num_steps=2, prompts_per_round=25, samples=8, sft=SftConfig(num_steps=8, batch_size=16, optimizer=optimizer)
    )
    trainer = ExpertIterationTrainer(tiny_model(), CharTokenizer(), FormOnly(), config)
    rewards = [trainer.step()["mean_reward"] for _ in range(2)]
    assert rewards[-1] > rewards[0] + 0.2


def test_nothing_right():
    class Never(LastDigit):
        def reward(self, response, answer):
            return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}

    trainer = ExpertIterationTrainer(
        tiny_model(), CharTokenizer(), Never(), ExpertIterationConfig(prompts_per_round=2, samples=2)
    )
    with pytest.raises(ValueError, match="none of 4 responses is right in round 1"):
        trainer.step()
