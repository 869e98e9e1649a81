"""The trainer: its updates against the formulas on the whole batch in float64, and runs that can be interrupted."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from cs336_alignment.grpo import GrpoTrainer
from cs336_alignment.grpo_config import METHODS, GrpoConfig, method_config
from cs336_alignment.lockstep import LockstepSampler
from cs336_alignment.response_tokens import align_right_padded, pad_pairs
from cs336_alignment.rollout_batch import PromptStream, RolloutBatch, collect_groups, make_batch, overlong_penalty
from cs336_alignment.rollouts import Rollout
from cs336_alignment.sft import clone_model
from cs336_alignment.task import Example
from cs336_alignment.training_run import HeldOut, run_training
from cs336_basics.training import Interrupted
from cs336_basics.training_config import OptimizerConfig
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model

PLAIN = OptimizerConfig(
    name="adamw", max_learning_rate=1e-2, schedule="constant", warmup_steps=0, weight_decay=0.0, max_grad_norm=1e9
)


def tiny_config(method: str = "dr_grpo", **settings) -> GrpoConfig:
    small = {"num_steps": 3, "prompts_per_step": 4, "group_size": 4, "optimizer": PLAIN, "eval_examples": 5}
    return method_config(method, **{**small, **settings})


def trainer_of(config: GrpoConfig, **options) -> GrpoTrainer:
    return GrpoTrainer(tiny_model(dtype=torch.float64), CharTokenizer(), LastDigit(), config, **options)


def fixed_batch(config: GrpoConfig, rows: int = 8) -> RolloutBatch:
    """Rollouts of different lengths, one of them empty, with made-up advantages and sampler log-probs."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(1, 18, size=3 + row % 3).tolist() for row in range(rows)]
    responses = [rng.integers(1, 18, size=length).tolist() for length in (1, 4, 2, 0, 3, 4, 1, 2)][:rows]
    tokens = pad_pairs(prompts, responses, 0)
    sampled = align_right_padded([rng.normal(-2, 0.5, len(r)).tolist() for r in responses], tokens["response_mask"])
    advantages = torch.tensor([1.0, -0.5, 0.0, 2.0, -1.0, 0.0, 0.5, -2.0])[:rows].double()
    return RolloutBatch(tokens, advantages, sampled.double(), {})


def loss_by_loop(trainer: GrpoTrainer, batch: RolloutBatch, old: torch.Tensor, reference=None) -> torch.Tensor:
    """The whole loss, token by token, from full forward passes of single rows."""
    config, terms, count = trainer.config, [], int(batch.tokens["response_mask"].sum())
    for row in range(len(batch.advantages)):
        ids, labels, mask = (batch.tokens[key][row] for key in ("input_ids", "labels", "response_mask"))
        scores = torch.log_softmax(trainer.model(ids[None])[0] / config.temperature, dim=-1)
        places = mask.nonzero().flatten().tolist()
        a, tokens = batch.advantages[row], []
        for t in places:
            log_p = scores[t, labels[t]]
            w = torch.exp(log_p - old[row, t])
            if config.importance == "none":
                loss = -a * log_p
            elif config.importance == "gspo":
                mean = torch.stack([scores[i, labels[i]] - old[row, i] for i in places]).mean().exp()
                loss = -torch.minimum(mean * a, mean.clamp(1 - config.cliprange, 1 + config.cliprange) * a)
            elif config.importance == "cispo":
                loss = -w.detach().clamp(max=1 + config.cliprange) * a * log_p
            else:
                high = config.cliprange if config.cliprange_high is None else config.cliprange_high
                loss = -torch.minimum(w * a, w.clamp(1 - config.cliprange, 1 + high) * a)
            if config.sampler_ratio_cap is not None:
                loss = loss * torch.exp(old[row, t] - batch.sampler_log_probs[row, t]).clamp(
                    max=config.sampler_ratio_cap
                )
            if reference is not None:
                q = torch.log_softmax(reference(ids[None])[0], dim=-1)[t, labels[t]] - log_p
                loss = loss + config.kl_coefficient * (torch.exp(q) - 1 - q)
            tokens.append(loss)
        if tokens:
            total = torch.stack(tokens).sum()
            divisor = {"sequence": len(tokens) * len(batch.advantages), "token": count,
                       "constant": len(batch.advantages) * LastDigit().max_tokens}  # fmt: skip
            terms.append(total / divisor[config.loss_normalization])
    return torch.stack(terms).sum()


@pytest.mark.parametrize("microbatch_tokens", [1, 12, 10_000])
@pytest.mark.parametrize(
    "settings",
    [{"method": method} for method in METHODS]
    + [{"sampler_ratio_cap": 2.0}, {"kl_coefficient": 0.3}, {"temperature": 0.7}],
    ids=str,
)
def test_update_equals_the_formula(settings, microbatch_tokens):
    """One on-policy update: loss and gradient norm, however the batch is cut, zero-advantage rows included."""
    trainer = trainer_of(
        tiny_config(**settings, microbatch_tokens=microbatch_tokens),
        reference=tiny_model(1, dtype=torch.float64) if "kl_coefficient" in settings else None,
    )
    batch = fixed_batch(trainer.config)
    model = copy.deepcopy(trainer.model)
    old = trainer._log_probs(trainer.model, batch)
    record = trainer.train_on(batch)
    oracle = copy.copy(trainer)
    oracle.model = model
    expected = loss_by_loop(oracle, batch, old, trainer.reference)
    expected.backward()
    norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters() if p.grad is not None))
    assert record["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.parametrize("importance", ["grpo", "gspo", "cispo"])
def test_old_log_probs_stay_during_off_policy_updates(importance):
    """Two passes over one batch: the second update's ratio is against the weights from before the first."""
    config = tiny_config("grpo", importance=importance, cliprange=0.05, epochs_per_rollout=2)
    trainer, oracle = trainer_of(config), trainer_of(config)
    batch = fixed_batch(config)
    old = oracle._log_probs(oracle.model, batch)
    losses = []
    for _ in range(2):
        loss = loss_by_loop(oracle, batch, old)
        losses.append(loss.item())
        loss.backward()
        oracle.optimizer.param_groups[0]["lr"] = PLAIN.max_learning_rate
        oracle.optimizer.step()
        oracle.optimizer.zero_grad(set_to_none=True)
    record = trainer.train_on(batch)
    assert record["loss"] == pytest.approx(sum(losses) / 2, abs=1e-6)
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)
    for (name, p), q in zip(trainer.model.named_parameters(), oracle.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5, msg=name)


def test_minibatches_cover_every_rollout_once():
    trainer = trainer_of(tiny_config("grpo", importance="grpo", cliprange=0.2, minibatches=3))
    rows = [row for part in trainer._minibatches(16) for row in part.tolist()]
    assert sorted(rows) == list(range(16)) and rows != list(range(16))


def test_equal_rewards_change_nothing():
    class Same(LastDigit):
        def reward(self, response, answer):
            return {"format_reward": 1.0, "answer_reward": 1.0, "reward": 1.0}

    trainer = GrpoTrainer(tiny_model(), CharTokenizer(), Same(), tiny_config("grpo"))
    before = copy.deepcopy(trainer.model.state_dict())
    record = trainer.step()
    assert record["loss"] == 0 and record["zero_variance_groups"] == 1 and "grad_norm" not in record
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_nan_rewards_are_refused():
    class Broken(LastDigit):
        def reward(self, response, answer):
            return {"format_reward": 1.0, "answer_reward": float("nan"), "reward": float("nan")}

    with pytest.raises(ValueError, match="finite"):
        GrpoTrainer(tiny_model(), CharTokenizer(), Broken(), tiny_config("grpo")).step()


def test_learning_raises_the_reward():
    """From a model that knows nothing to one that mostly answers, by rewards alone; a coin teaches nothing."""
    found = {}
    for coin in (False, True):
        config = tiny_config(
            num_steps=25, prompts_per_step=8, group_size=16, random_reward=coin,
            optimizer=OptimizerConfig(max_learning_rate=2e-2, schedule="constant", warmup_steps=3, weight_decay=0.0),
        )  # fmt: skip
        trainer = GrpoTrainer(tiny_model(), CharTokenizer(), FormOnly(), config)
        rewards = [trainer.step()["mean_reward"] for _ in range(25)]
        found[coin] = (np.mean(rewards[:3]), np.mean(rewards[-3:]))
    assert found[False][1] > found[False][0] + 0.5, found
    assert found[True][1] < found[True][0] + 0.2, found


class FormOnly(LastDigit):
    """Right is any one digit: learnable without arithmetic."""

    def reward(self, response, answer):
        right = float(len(response) == 1 and response.isdigit())
        return {"format_reward": right, "answer_reward": right, "reward": right}


class Scripted:
    """A sampler whose responses are given: the n-th call gives the n-th text to every sample of every prompt."""

    def __init__(self, texts):
        self.texts, self.calls = texts, []

    def sync_weights(self, model):
        pass

    def generate(self, prompts, params):
        self.calls.append((list(prompts), params))
        text = self.texts[min(len(self.calls), len(self.texts)) - 1]
        one = [Rollout([1], [2], [-1.0], text(prompt, i), "stop") for prompt in prompts for i in range(params.n)]
        return [one[k * params.n : (k + 1) * params.n] for k in range(len(prompts))]


def test_dynamic_sampling_replaces_groups_without_spread():
    task, config = LastDigit(), tiny_config("dapo", prompts_per_step=6, group_size=2)
    answers = {e.prompt: e.answer for e in task.examples("rl", 0)}
    easy = {e.prompt for e in PromptStream(task.examples("rl", 0), 0).take(4)}
    sampler = Scripted([lambda prompt, i: answers[prompt] if i == 0 or prompt in easy else "x"])
    groups = collect_groups(sampler, task, PromptStream(task.examples("rl", 0), 0), config, eos_id=0, step=0)
    assert [len(prompts) for prompts, _ in sampler.calls] == [6, 4]
    assert len(groups) == 6 and all(group.has_spread for group in groups)
    assert len({params.seed for _, params in sampler.calls}) == 2, "a second round with the same seed repeats the first"


def test_dynamic_sampling_gives_up():
    task, config = LastDigit(), tiny_config("dapo", prompts_per_step=3, group_size=2)
    sampler = Scripted([lambda prompt, i: "x"])
    groups = collect_groups(sampler, task, PromptStream(task.examples("rl", 0), 0), config, eos_id=0, step=0)
    assert len(groups) == 3 and len(sampler.calls) == 1 + config.dynamic_sampling_rounds


def test_truncated_responses_can_be_left_out():
    config = tiny_config(mask_truncated=True, prompts_per_step=1, group_size=2)
    trainer = trainer_of(config)
    groups = collect_groups(Scripted([lambda p, i: "1"]), LastDigit(), trainer.prompts, config, eos_id=0, step=0)
    rollouts = [groups[0].rollouts[0], dataclasses.replace(groups[0].rollouts[1], finish_reason="length")]
    batch = make_batch([dataclasses.replace(groups[0], rollouts=rollouts)], config, trainer.text, trainer.device)
    assert batch.tokens["response_mask"].any(dim=1).tolist() == [True, False]
    assert batch.statistics["truncated"] == 0.5


def test_overlong_penalty():
    assert [overlong_penalty(n, 20, 5) for n in (10, 15, 16, 18, 20)] == pytest.approx([0, 0, 0.2, 0.6, 1.0])
    assert overlong_penalty(20, 20, 0) == 0


def test_prompt_stream_visits_all_before_it_repeats():
    examples = [Example(str(i), "") for i in range(7)]
    stream = PromptStream(examples, 3)
    first, second = ([e.prompt for e in stream.take(7)] for _ in range(2))
    assert sorted(first) == sorted(second) == [str(i) for i in range(7)] and first != second
    later = PromptStream(examples, 3)
    later.position = 5
    assert [e.prompt for e in later.take(4)] == [*first[5:], *second[:2]]


def run(directory, config, *, stop_after: int | None = None):
    trainer = GrpoTrainer(tiny_model(), CharTokenizer(), LastDigit(), config)
    if stop_after is not None:
        step, done = trainer.step, []

        def interrupted():
            if len(done) == stop_after:
                raise Interrupted("enough")
            done.append(step())
            return done[-1]

        trainer.step = interrupted  # type: ignore[method-assign]
    task = LastDigit()
    held_out = HeldOut(task, task.examples("test", 0), LockstepSampler(trainer.model, CharTokenizer()), 0)
    summary = run_training(
        trainer, directory, kind="grpo", config=config, held_out=held_out, progress=False,
        transcripts=lambda: [{"step": trainer.steps_done}],
    )  # fmt: skip
    return trainer.model.state_dict(), summary


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path):
    config = tiny_config(
        "grpo", importance="grpo", cliprange=0.2, minibatches=2, num_steps=6, checkpoint_every=2, sample_every=1
    )
    whole, expected = run(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", config, stop_after=3)
    resumed, summary = run(tmp_path / "cut", config)
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "cut")]  # fmt: skip
    timed = {"seconds_sampling", "seconds_training", "tokens_per_second"}
    assert [[{k: v for k, v in r.items() if k not in timed} for r in log] for log in logs][0] == [
        {k: v for k, v in r.items() if k not in timed} for r in logs[1]
    ]
    samples = [json.loads(line)["step"] for line in (tmp_path / "cut" / "samples.jsonl").read_text().splitlines()]
    assert samples == [1, 2, 3, 4, 5, 6], "transcripts of steps that were done again are not there twice"
    assert summary["accuracy_after"] == expected["accuracy_after"] and summary["seconds"] > 0
    assert run(tmp_path / "cut", config)[1] == summary, "a complete run returns its summary"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatches": 2}, "off policy"),
        ({"importance": "grpo"}, "cliprange goes with"),
        ({"group_size": 1, "advantage_normalizer": "std"}, "group_size=1"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"sampler_ratio_cap": 2.0, "top_k": 5}, "sampler_ratio_cap"),
        ({"minibatches": 5000, "importance": "noclip"}, "more than the"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GrpoConfig(**settings)


def test_divergence_needs_a_reference():
    with pytest.raises(ValueError, match="needs a reference"):
        trainer_of(tiny_config(kl_coefficient=0.1))
    trainer = trainer_of(tiny_config(kl_coefficient=0.1), reference=clone_model(tiny_model(dtype=torch.float64)))
    assert "kl" in trainer.step()
