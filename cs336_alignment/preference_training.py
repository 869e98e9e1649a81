"""Training on pairs of a better and a worse response: DPO and its relatives (`dpo.py`), and where pairs come from.

    pairs from the model itself    sample G responses to a problem; a right one is chosen, a wrong one rejected
    pairs from HH                  single-turn conversations of Anthropic's helpful and harmless data

The log shows what the loss hides: preference accuracy (implicit reward and, as the handout has it, raw log-probs), the
margin, and the log-probs of both sides, which may both fall.

Handout (supplement): look_at_hh, dpo_training. Read next: `reward_model.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cs336_alignment.dpo import DpoLoss, dpo_loss
from cs336_alignment.grpo_step import update
from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.response_log_probs import score_responses
from cs336_alignment.response_tokens import pad_pairs
from cs336_alignment.rollouts import Rollout, Sampler, task_params
from cs336_alignment.sft import context_length_of, epoch_rows
from cs336_alignment.task import Example, Task
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.training_config import OptimizerConfig

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt; texts, or ids as they were sampled."""

    prompt: str
    chosen: str
    rejected: str
    source: str = ""
    """file or task the pair comes from"""


def dpo_optimizer() -> OptimizerConfig:
    """AdamW at a low constant rate; the handout has RMSprop at 1e-6 for 8 billion parameters."""
    return OptimizerConfig(
        max_learning_rate=1e-4, schedule="constant", warmup_steps=10, betas=(0.9, 0.95), weight_decay=0.0
    )


@dataclass(frozen=True)
class DpoConfig:
    """One run of preference optimisation."""

    num_steps: int = 60
    """updates"""
    batch_size: int = 32
    """pairs per update"""
    microbatch: int = 32
    """pairs per forward pass; changes memory, not the result"""
    beta: float = 0.1
    """strength of the pull to the reference"""
    kind: DpoLoss = "sigmoid"
    """sigmoid (DPO) or ipo"""
    length_normalized: bool = False
    """divide each log-prob by the number of its tokens"""
    nll_coefficient: float = 0.0
    """weight of the chosen response's negative log-likelihood per token, which keeps it from falling"""
    optimizer: OptimizerConfig = field(default_factory=dpo_optimizer)
    """see `cs336 train --help`"""
    eval_every: int = 20
    """steps between greedy evaluations on part of the test split"""
    eval_examples: int = 256
    """size of that part; the last evaluation takes all"""
    checkpoint_every: int = 50
    """steps between checkpoints"""
    seed: int = 0
    """of the order of the pairs"""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "microbatch", "eval_every", "eval_examples", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not self.beta > 0 or self.nll_coefficient < 0:
            raise ValueError(
                f"beta must be positive and nll_coefficient not negative; got {self.beta} and {self.nll_coefficient}"
            )


Row = tuple[list[int], list[int], list[int]]
"""ids of prompt, chosen and rejected response"""


class PairTrainer:
    """The loop over pairs that DPO and the reward model share; they say what a pair costs and what to log of it."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, parameters: Iterable[tuple[str, Tensor]], config: DpoConfig
    ):  # fmt: skip
        self.model, self.config, self.text = model, config, TextTokenizer(tokenizer)
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(config.optimizer, parameters)
        self.rows: list[Row] = []
        self.validation: list[Row] = []
        self.steps_done = 0

    def losses(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Loss of each pair, and what `describe` wants to know of each, (quantities, pairs) without a graph."""
        raise NotImplementedError

    def describe(self, found: Tensor) -> dict[str, float]:
        """What to log of these pairs."""
        raise NotImplementedError

    def step(self) -> dict[str, float]:
        """One update; returns what there is to log."""
        config = self.config
        self.model.train()
        chosen = epoch_rows(len(self.rows), config.batch_size, self.steps_done, config.seed)
        rate = config.optimizer.learning_rate(self.steps_done, config.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        found: list[Tensor] = []
        for start in range(0, len(chosen), config.microbatch):
            loss, details = self.losses([self.rows[i] for i in chosen[start : start + config.microbatch]])
            (loss.sum() / len(chosen)).backward()
            found.append(details)
        norm = update(self.model, self.optimizer, config.optimizer.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        record = self.describe(torch.cat(found, dim=1))
        record = {"step": self.steps_done, **record, "grad_norm": norm, "learning_rate": rate}
        if self.validation and (self.steps_done % config.eval_every == 0 or self.steps_done == config.num_steps):
            record |= {f"validation_{name}": value for name, value in self.evaluate_pairs().items()}
        return record

    @torch.no_grad()
    def evaluate_pairs(self) -> dict[str, float]:
        """What is logged of a step, on the validation pairs."""
        self.model.eval()
        size = self.config.microbatch
        found = [self.losses(self.validation[i : i + size])[1] for i in range(0, len(self.validation), size)]
        return self.describe(torch.cat(found, dim=1))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights."""
        return {"steps": self.steps_done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done = int(state["steps"])


class DpoTrainer(PairTrainer):
    """Trains a model against its own frozen beginning.

    Args:
        model: any causal model; reference: what h is measured from, usually a copy of it.
        tokenizer: ours or one of Hugging Face.
        pairs: what to train on; responses get the end-of-text token.
        config: see `DpoConfig`.
        validation: pairs to measure preference accuracy on (`evaluate_pairs`).

    Raises:
        ValueError: no pairs, or one that is longer than the model's context.
    """

    def __init__(
        self, model: nn.Module, reference: nn.Module, tokenizer: Any, pairs: Sequence[PreferencePair],
        config: DpoConfig, *, validation: Sequence[PreferencePair] = (),
    ):  # fmt: skip
        super().__init__(model, tokenizer, model.named_parameters(), config)
        self.reference = reference
        self.rows = encode_preferences(pairs, self.text, context_length=context_length_of(model))
        self.validation = encode_preferences(validation, self.text, context_length=None) if validation else []

    def losses(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Loss of each pair; loss, h of both sides and the log-probs of both."""
        both = [(p, c) for p, c, _ in rows] + [(p, r) for p, _, r in rows]
        batch = pad_pairs([p for p, _ in both], [r for _, r in both], self.text.pad_id, device=self.device)
        sums = score_responses(self.model, batch)["log_probs"].sum(dim=1)
        with torch.no_grad():
            reference = score_responses(self.reference, batch)["log_probs"].sum(dim=1)
        lengths = batch["response_mask"].sum(dim=1)
        ratio = (sums - reference) / lengths if self.config.length_normalized else sums - reference
        chosen, rejected = ratio.split(len(rows))
        loss = dpo_loss(chosen, rejected, self.config.beta, self.config.kind)
        loss = loss - self.config.nll_coefficient * (sums / lengths)[: len(rows)]
        return loss, torch.stack([x.detach() for x in (loss, chosen, rejected, *sums.split(len(rows)))])

    def describe(self, found: Tensor) -> dict[str, float]:
        """See `describe_pairs`."""
        return describe_pairs(found, self.config.beta)


def describe_pairs(values: Tensor, beta: float) -> dict[str, float]:
    """Means over pairs of (loss, h chosen, h rejected, log p chosen, log p rejected), (5, pairs)."""
    loss, chosen, rejected, log_chosen, log_rejected = values
    return {
        "loss": loss.mean().item(),
        "preference_accuracy": (chosen > rejected).float().mean().item(),
        "likelihood_accuracy": (log_chosen > log_rejected).float().mean().item(),
        "reward_margin": (beta * (chosen - rejected)).mean().item(),
        "log_prob_chosen": log_chosen.mean().item(),
        "log_prob_rejected": log_rejected.mean().item(),
    }


def encode_preferences(
    pairs: Sequence[PreferencePair], text: TextTokenizer, *, context_length: int | None
) -> list[Row]:
    """Ids of prompt, chosen and rejected response, each response with the end-of-text token.

    Raises:
        ValueError: no pairs, two equal responses, or more tokens than the model sees.
    """
    if not pairs:
        raise ValueError("there are no preference pairs; sample more responses per problem, or more problems")
    rows = []
    for number, pair in enumerate(pairs):
        if pair.chosen == pair.rejected:
            raise ValueError(f"pair {number} has the same response twice: {pair.chosen!r:.60}")
        prompt = text.encode(pair.prompt)
        chosen, rejected = ([*text.encode(side), text.eos_id] for side in (pair.chosen, pair.rejected))
        longest = len(prompt) + max(len(chosen), len(rejected)) - 1
        if context_length is not None and longest > context_length:
            raise ValueError(
                f"pair {number} has {longest} tokens and the model sees {context_length}; drop or shorten it"
            )
        rows.append((prompt, chosen, rejected))
    return rows


def sample_pairs(
    sampler: Sampler, task: Task, examples: Sequence[Example], eos_id: int, *, samples: int = 8, seed: int = 0,
    max_pairs_per_prompt: int = 1,
) -> list[PreferencePair]:  # fmt: skip
    """Right and wrong answers of the model itself to the same problems; problems with only one kind give none.

    Only responses that ended by themselves are taken: a cut one would teach to stop anywhere.
    """
    params = task_params(task, eos_id, n=samples, seed=seed, temperature=1.0)
    pairs: list[PreferencePair] = []
    for example, rollouts in zip(examples, sampler.generate([e.prompt for e in examples], params), strict=True):
        right, wrong = _split(task, example, rollouts)
        count = min(len(right), len(wrong), max_pairs_per_prompt)
        pairs += [PreferencePair(example.prompt, right[i], wrong[i], task.name) for i in range(count)]
    return pairs


def _split(task: Task, example: Example, rollouts: Iterable[Rollout]) -> tuple[list[str], list[str]]:
    """Different right and wrong texts in the order sampled."""
    texts = list(dict.fromkeys(rollout.text for rollout in rollouts if rollout.finish_reason == "stop"))
    right = [text for text in texts if task.reward(text, example.answer)["reward"] > 0]
    return right, [text for text in texts if text not in right]


def read_hh(paths: Sequence[str | os.PathLike[str]]) -> list[PreferencePair]:
    """Single-turn pairs of Anthropic's HH files (JSON Lines with `chosen` and `rejected`, perhaps gzipped).

    Conversations with more than one human message are passed over, and so are pairs whose prompts differ.

    Raises:
        ValueError: a malformed line; file and line are named.
    """
    pairs = []
    for path in paths:
        for _, item in read_json_lines(path, required=("chosen", "rejected")):
            sides = [_single_turn(item[side]) for side in ("chosen", "rejected")]
            if sides[0] and sides[1] and sides[0][0] == sides[1][0] and sides[0][1] != sides[1][1]:
                pairs.append(PreferencePair(sides[0][0], sides[0][1], sides[1][1], Path(path).name))
    return pairs


def _single_turn(conversation: str) -> tuple[str, str] | None:
    """Human message and answer; None if there are more turns, or others."""
    if conversation.count(HUMAN) != 1 or conversation.count(ASSISTANT) != 1 or not conversation.startswith(HUMAN):
        return None
    human, _, assistant = conversation.removeprefix(HUMAN).partition(ASSISTANT)
    return human.strip(), assistant.strip()
