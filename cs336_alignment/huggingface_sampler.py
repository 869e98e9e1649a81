"""Rollouts from a model of Hugging Face by its own `generate`. Read next: `vllm_sampler.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cs336_alignment.response_log_probs import score_responses
from cs336_alignment.response_tokens import pad_pairs
from cs336_alignment.rollouts import FinishReason, Rollout, cut_at_stop
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_systems.inference import SamplingParams


class HuggingFaceSampler:
    """A Sampler over any causal model of transformers.

    Prompts of one length go into one call (no padding to get wrong), `rows` sequences at a time. Log-probs come from a
    forward pass over what was sampled. Stop texts are looked for after each token.

    Args:
        model: with `generate`; its mode is left as found.
        tokenizer: the model's own.
        rows: sequences per call.
    """

    def __init__(self, model: Any, tokenizer: Any, *, rows: int = 256):
        if not hasattr(model, "generate"):
            raise TypeError(
                f"{type(model).__name__} has no generate; give GrpoTrainer a sampler that can sample from it"
            )
        self.model, self.text, self.rows = model, TextTokenizer(tokenizer), rows

    def sync_weights(self, model: Any) -> None:
        """Sample with this model from now on."""
        self.model = model

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], params: SamplingParams) -> list[list[Rollout]]:
        """See `Sampler.generate`; torch's global generator is seeded for the call and put back."""
        ids = [self.text.encode(prompt) for prompt in prompts]
        results: list[list[Rollout]] = [[] for _ in prompts]
        by_length: dict[int, list[int]] = {}
        for k, prompt in enumerate(ids):
            by_length.setdefault(len(prompt), []).append(k)
        training = self.model.training
        self.model.eval()
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(params.seed)
            step = max(1, self.rows // params.n)
            for members in by_length.values():
                for start in range(0, len(members), step):
                    chosen = members[start : start + step]
                    for place, rollout in enumerate(self._batch([ids[k] for k in chosen], params)):
                        results[chosen[place // params.n]].append(rollout)
        self.model.train(training)
        return results

    def _batch(self, prompts: list[list[int]], params: SamplingParams) -> list[Rollout]:
        inputs = torch.tensor(prompts, device=self.model.device)
        choice: dict[str, Any] = {"do_sample": False}
        if params.temperature > 0:
            choice = {"do_sample": True, "temperature": params.temperature, "top_k": params.top_k or 0,
                      "top_p": params.top_p or 1.0}  # fmt: skip
        output = self.model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=params.max_tokens,
            num_return_sequences=params.n, eos_token_id=list(params.stop_ids) or None, pad_token_id=self.text.pad_id,
            stopping_criteria=[self._stop(inputs.shape[1], params)] if params.stop else None, **choice,
        )  # fmt: skip
        rows = [self._cut(row, params) for row in output[:, inputs.shape[1] :].tolist()]
        repeated = [prompt for prompt in prompts for _ in range(params.n)]
        batch = pad_pairs(repeated, [ids for ids, _, _ in rows], self.text.pad_id, device=self.model.device)
        scores, mask = score_responses(self.model, batch)["log_probs"], batch["response_mask"]
        return [
            Rollout(prompt, ids, scores[r][mask[r]].tolist(), text, reason)
            for r, (prompt, (ids, text, reason)) in enumerate(zip(repeated, rows, strict=True))
        ]

    def _stop(self, start: int, params: SamplingParams) -> Any:
        def criterion(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            done = [cut_at_stop(self.text.decode(row), params)[1] for row in input_ids[:, start:].tolist()]
            return torch.tensor(done, device=input_ids.device)

        return criterion

    def _cut(self, ids: list[int], params: SamplingParams) -> tuple[list[int], str, FinishReason]:
        """Ids up to the first stop token or the token that completed a stop text; the text; why it ended."""
        for end in range(1, len(ids) + 1):
            if ids[end - 1] in params.stop_ids:
                return ids[: end if params.include_stop else end - 1], self._text(ids[: end - 1], params), "stop"
            if params.stop and cut_at_stop(self.text.decode(ids[:end]), params)[1]:
                return ids[:end], self._text(ids[:end], params), "stop"
        return ids, self._text(ids, params), "length" if len(ids) == params.max_tokens else "context"

    def _text(self, ids: list[int], params: SamplingParams) -> str:
        return cut_at_stop(self.text.decode(ids), params)[0]
