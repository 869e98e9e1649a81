"""A reward model: a score for a response, learnt from pairs (Bradley-Terry).

    P(y_w better than y_l) = sigmoid(r(x, y_w) - r(x, y_l))        loss = -log of it

The score is read behind the response's end-of-text token. Only differences are learnt: the level of the scores means
nothing, and far from the training pairs the score need not either, which is why a policy trained on it drifts into
what the model overrates (Gao et al. 2022, 2210.10760) and is held by a divergence.

Source: Ouyang et al. 2022 (2203.02155), section 3.5. Read next: `ppo.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cs336_alignment.dpo import log_sigmoid
from cs336_alignment.grpo_step import update
from cs336_alignment.preference_training import DpoConfig, PreferencePair, encode_preferences
from cs336_alignment.response_tokens import pad_pairs
from cs336_alignment.scalar_head import ScalarHead
from cs336_alignment.sft import context_length_of, epoch_rows
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.optimizers.build import build_optimizer


class RewardTrainer:
    """Trains a ScalarHead on pairs; of `DpoConfig` it takes what is not about the policy (steps, batch, optimizer).

    Args:
        body: the model to begin from; it is trained too.
        tokenizer: ours or one of Hugging Face.
        pairs: what to train on; validation: what to measure on.
    """

    def __init__(
        self, body: nn.Module, tokenizer: Any, pairs: Sequence[PreferencePair], config: DpoConfig, *,
        validation: Sequence[PreferencePair] = (),
    ):  # fmt: skip
        self.model, self.config, self.text = ScalarHead(body), config, TextTokenizer(tokenizer)
        self.device = next(body.parameters()).device
        named = [(name, p) for name, p in self.model.named_parameters() if "lm_head" not in name]
        self.optimizer = build_optimizer(config.optimizer, named)
        limit = context_length_of(body)
        self.rows = encode_preferences(pairs, self.text, context_length=limit)
        self.validation = encode_preferences(validation, self.text, context_length=limit) if validation else []
        self.steps_done = 0

    def step(self) -> dict[str, float]:
        """One update; returns what there is to log."""
        config = self.config
        self.model.train()
        chosen = epoch_rows(len(self.rows), config.batch_size, self.steps_done, config.seed)
        rate = config.optimizer.learning_rate(self.steps_done, config.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        margins = []
        for start in range(0, len(chosen), config.microbatch):
            margin = self._margins([self.rows[i] for i in chosen[start : start + config.microbatch]])
            (bradley_terry_loss(margin).sum() / len(chosen)).backward()
            margins.append(margin.detach())
        norm = update(self.model, self.optimizer, config.optimizer.max_grad_norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.steps_done += 1
        record = {"step": self.steps_done, **_describe(torch.cat(margins)), "grad_norm": norm, "learning_rate": rate}
        if self.validation and (self.steps_done % config.eval_every == 0 or self.steps_done == config.num_steps):
            record |= {f"validation_{name}": value for name, value in self.evaluate_pairs().items()}
        return record

    @torch.no_grad()
    def evaluate_pairs(self) -> dict[str, float]:
        """Loss and accuracy on the validation pairs."""
        self.model.eval()
        size = self.config.microbatch
        parts = [self._margins(self.validation[start : start + size]) for start in range(0, len(self.validation), size)]
        return _describe(torch.cat(parts))

    def _margins(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> Tensor:
        both = [[*p, *c] for p, c, _ in rows] + [[*p, *r] for p, _, r in rows]
        chosen, rejected = score_sequences(self.model, both, self.text.pad_id, self.device).split(len(rows))
        return chosen - rejected

    @torch.no_grad()
    def score(self, prompt: str, response: str) -> float:
        """The reward of one response."""
        self.model.eval()
        ids = [*self.text.encode(prompt), *self.text.encode(response), self.text.eos_id]
        return score_sequences(self.model, [ids], self.text.pad_id, self.device).item()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the weights."""
        return {"steps": self.steps_done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.steps_done = int(state["steps"])


def bradley_terry_loss(margins: Tensor) -> Tensor:
    """-log sigmoid of (score of the better - score of the worse), pair by pair."""
    return -log_sigmoid(margins)


def score_sequences(model: nn.Module, rows: Sequence[list[int]], pad_id: int, device: Any) -> Tensor:
    """The number behind the last token of each row, (rows,)."""
    batch = pad_pairs([row[:1] for row in rows], [[*row[1:], pad_id] for row in rows], pad_id, device=device)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    return model(batch["input_ids"]).gather(1, last[:, None])[:, 0]


def _describe(margins: Tensor) -> dict[str, float]:
    return {
        "loss": bradley_terry_loss(margins).mean().item(),
        "preference_accuracy": (margins > 0).float().mean().item(),
        "reward_margin": margins.mean().item(),
    }
