"""Supervised fine-tuning: imitate worked solutions.

    loss = - sum over response tokens of log p(y_t | x, y_<t) / their number in the batch

The end-of-text token is appended to each response by its id and learnt like the rest: a model that never learnt to stop
cannot be scored. The prompt is masked by default; `mask_prompt=False` trains on all tokens. `packed` cuts one row of
documents into pieces of equal length instead (`packed_dataset.py`), without padding and without a mask.

The loss does not depend on the number of microbatches: each is divided by the tokens of the whole batch.

Handout: sft_experiment, sft_script, sft. Read next: `training_run.py`, `dpo.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from cs336_alignment.grpo_step import update
from cs336_alignment.response_log_probs import score_responses
from cs336_alignment.response_tokens import pad_pairs
from cs336_alignment.task import Example
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.optimizers.build import build_optimizer
from cs336_basics.training_config import OptimizerConfig


def sft_optimizer() -> OptimizerConfig:
    """AdamW with a cosine to zero, as the supplement has it, at a rate for small models."""
    return OptimizerConfig(
        max_learning_rate=2e-3, min_learning_rate=0.0, warmup_steps=30, betas=(0.9, 0.95), weight_decay=0.0
    )


@dataclass(frozen=True)
class SftConfig:
    """One run of supervised fine-tuning."""

    num_steps: int = 120
    """updates"""
    batch_size: int = 64
    """pairs, or packed pieces, per update"""
    gradient_accumulation: int = 1
    """microbatches per update; changes memory, not the result"""
    mask_prompt: bool = True
    """train on the response only"""
    packed: int | None = None
    """cut all documents into pieces of so many tokens, without a mask, instead of padding pairs"""
    optimizer: OptimizerConfig = field(default_factory=sft_optimizer)
    """see `cs336 train --help`"""
    eval_every: int = 50
    """steps between greedy evaluations on part of the test split"""
    eval_examples: int = 256
    """size of that part; the last evaluation takes all"""
    checkpoint_every: int = 100
    """steps between checkpoints"""
    seed: int = 0
    """of the order of the pairs"""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "gradient_accumulation", "eval_every", "eval_examples",
                     "checkpoint_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"gradient_accumulation={self.gradient_accumulation} microbatches need at least as many rows; "
                f"batch_size is {self.batch_size}"
            )
        if self.packed is not None and self.packed < 1:
            raise ValueError(f"packed must be at least 1 token; got {self.packed}")


class SftTrainer:
    """Trains on prompt and response pairs.

    Args:
        model: any causal model on the device where it is to be trained.
        tokenizer: ours or one of Hugging Face.
        pairs: examples with `response`.
        config: see `SftConfig`.
        encoded: ids of (what is given, what is learnt) instead of pairs, such as the turns of chats.

    Raises:
        ValueError: no pairs, one without a response, or one that is longer than the model's context.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, pairs: Sequence[Example], config: SftConfig, *,
        encoded: Sequence[tuple[list[int], list[int]]] = (),
    ):  # fmt: skip
        self.model, self.config, self.text = model, config, TextTokenizer(tokenizer)
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(config.optimizer, model.named_parameters())
        context = context_length_of(model)
        self.rows = list(encoded) or encode_pairs(
            pairs, self.text, context_length=context, mask_prompt=config.mask_prompt
        )  # fmt: skip
        if config.packed is not None:
            self.rows = pack_rows(self.rows, config.packed)
        self.steps_done = 0

    def step(self) -> dict[str, float]:
        """One update; returns what there is to log."""
        config = self.config
        self.model.train()
        chosen = epoch_rows(len(self.rows), config.batch_size, self.steps_done, config.seed)
        batch = [self.rows[i] for i in chosen]
        rate = config.optimizer.learning_rate(self.steps_done, config.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, tokens = self._backward(batch)
        norm = update(self.model, self.optimizer, config.optimizer.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        return {
            "step": self.steps_done, "loss": loss, "learning_rate": rate, "grad_norm": norm, "response_tokens": tokens
        }  # fmt: skip

    def _backward(self, batch: Sequence[tuple[list[int], list[int]]]) -> tuple[float, int]:
        size = -(-len(batch) // self.config.gradient_accumulation)
        parts = [
            pad_pairs([p for p, _ in batch[at : at + size]], [r for _, r in batch[at : at + size]], self.text.pad_id,
                      device=self.device)
            for at in range(0, len(batch), size)
        ]  # fmt: skip
        tokens = sum(int(part["response_mask"].sum()) for part in parts)
        total = 0.0
        for part in parts:
            loss = sft_loss(self.model, part, tokens)
            loss.backward()
            total += loss.item()
        return total, tokens

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights."""
        return {"steps": self.steps_done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done = int(state["steps"])


def sft_loss(model: nn.Module, batch: dict[str, Tensor], tokens: float) -> Tensor:
    """Negative log-likelihood of a padded batch's response tokens, divided by `tokens`."""
    return -score_responses(model, batch)["log_probs"].sum() / tokens


def encode_pairs(
    pairs: Sequence[Example], text: TextTokenizer, *, context_length: int | None, mask_prompt: bool = True
) -> list[tuple[list[int], list[int]]]:
    """Ids of prompts and responses, EOS behind each response; without a mask the prompt counts as response.

    Raises:
        ValueError: no pairs, one without a response, or one that is longer than the model's context.
    """
    if not pairs:
        raise ValueError("there is nothing to imitate: the list of pairs is empty")
    rows = []
    for number, pair in enumerate(pairs):
        if not pair.response:
            raise ValueError(f"pair {number} has no response to imitate; its prompt is {pair.prompt!r:.60}")
        prompt, response = text.encode(pair.prompt), [*text.encode(pair.response), text.eos_id]
        if context_length is not None and len(prompt) + len(response) - 1 > context_length:
            raise ValueError(
                f"pair {number} has {len(prompt) + len(response)} tokens and the model sees {context_length}; drop or "
                "shorten it"
            )
        rows.append((prompt, response) if mask_prompt else ([], prompt + response))
    return rows


def pack_rows(rows: Sequence[tuple[list[int], list[int]]], length: int) -> list[tuple[list[int], list[int]]]:
    """All rows after one another, cut into pieces with `length` labels each; what is too short for one is dropped.

    Raises:
        ValueError: too few tokens for one piece.
    """
    ids = [token for prompt, response in rows for token in (*prompt, *response)]
    pieces: list[tuple[list[int], list[int]]] = [
        (ids[at : at + 1], ids[at + 1 : at + length + 1]) for at in range(0, len(ids) - length, length)
    ]
    if not pieces:
        raise ValueError(f"all pairs together have {len(ids)} tokens, too few for one piece of {length} labels")
    return pieces


def epoch_rows(count: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Indices of the batch of a step: epochs in orders of their own, the last batch of each filled from the next."""
    found: list[int] = []
    position = step * batch_size
    while len(found) < batch_size:
        epoch, place = divmod(position + len(found), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        found += order[place : place + batch_size - len(found)].tolist()
    return found


def context_length_of(model: Any) -> int | None:
    """The longest input of a model, where its config tells."""
    config = getattr(model, "config", None)
    for name in ("context_length", "max_position_embeddings", "n_positions"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    return None


def clone_model(model: nn.Module) -> nn.Module:
    """A frozen copy, for a reference."""
    reference = copy.deepcopy(model).eval()
    return reference.requires_grad_(False)
