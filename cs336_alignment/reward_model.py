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
from cs336_alignment.preference_training import DpoConfig, PairTrainer, PreferencePair, Row, encode_preferences
from cs336_alignment.response_tokens import pad_pairs
from cs336_alignment.scalar_head import ScalarHead
from cs336_alignment.sft import context_length_of


class RewardTrainer(PairTrainer):
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
        model = ScalarHead(body)
        super().__init__(
            model, tokenizer, ((name, p) for name, p in model.named_parameters() if "lm_head" not in name), config
        )
        limit = context_length_of(body)
        self.rows = encode_preferences(pairs, self.text, context_length=limit)
        self.validation = encode_preferences(validation, self.text, context_length=limit) if validation else []

    def losses(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Bradley-Terry's, and the margins."""
        both = [[*p, *c] for p, c, _ in rows] + [[*p, *r] for p, _, r in rows]
        chosen, rejected = score_sequences(self.model, both, self.text.pad_id, self.device).split(len(rows))
        margins = chosen - rejected
        return bradley_terry_loss(margins), margins.detach().unsqueeze(0)

    def describe(self, found: Tensor) -> dict[str, float]:
        """Loss, accuracy and margin."""
        margins = found[0]
        return {
            "loss": bradley_terry_loss(margins).mean().item(),
            "preference_accuracy": (margins > 0).float().mean().item(),
            "reward_margin": margins.mean().item(),
        }

    @torch.no_grad()
    def score(self, prompt: str, response: str) -> float:
        """The reward of one response."""
        self.model.eval()
        ids = [*self.text.encode(prompt), *self.text.encode(response), self.text.eos_id]
        return score_sequences(self.model, [ids], self.text.pad_id, self.device).item()


def bradley_terry_loss(margins: Tensor) -> Tensor:
    """-log sigmoid of (score of the better - score of the worse), pair by pair."""
    return -log_sigmoid(margins)


def score_sequences(model: nn.Module, rows: Sequence[list[int]], pad_id: int, device: Any) -> Tensor:
    """The number behind the last token of each row, (rows,)."""
    batch = pad_pairs([row[:1] for row in rows], [[*row[1:], pad_id] for row in rows], pad_id, device=device)
    last = torch.tensor([len(row) - 1 for row in rows], device=device)
    return model(batch["input_ids"]).gather(1, last[:, None])[:, 0]
