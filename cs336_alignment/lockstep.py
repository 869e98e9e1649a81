"""Sample whole groups in lockstep: all rows stand at the same position, so any TransformerLM decodes them in one batch.

    prompts      A B C D E         the first L tokens of all prompts, L the shortest prompt's length, are one
                 F G H             forward pass, one row per prompt; then each row is repeated for its group
    step 1       A B C d           a row whose prompt is longer takes the prompt's next token, the others draw
    step 2       A B C D e         ... until every row has ended; rows that have are dropped when half are

There is neither padding nor a mask: position, cache and variant (rotary, ALiBi, convolutions, states) are those of a
single sequence. Prompts are sorted by length and cut into batches of similar ones. Weights are read from the model
itself at each call, so there is nothing to copy after an update.

A small model's step is mostly the cost of calling a hundred operations on 64 rows. A plain model therefore takes all
steps but the first in compiled code (`cs336_basics/compiled_decoding.py`).

A sample depends on (seed, index of its prompt, its number) and on its neighbours by rounding only. Left out: rows that
join later (`EngineSampler`), a minimum length. Read next: `grpo.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cs336_alignment.cache_rows import select_rows
from cs336_alignment.rollouts import FinishReason, Rollout, cut_at_stop
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.compiled_decoding import CompiledStep, Engine, PackedModel, takes_compiled_steps
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import softcap, token_losses
from cs336_systems.inference import SamplingParams
from cs336_systems.inference.sampling import invert, sampling_probabilities

MIN_COMPILED_WORK = 1e8
"""weights times tokens of a call from which "auto" compiles; a run makes many such calls, and loading the compiled code
takes about a second (making it, once after an installation, some fifteen)"""


class LockstepSampler:
    """The default Sampler.

    Args:
        model: any TransformerLM; its mode is left as found.
        tokenizer: ours or one of Hugging Face.
        max_rows: rows decoded side by side.
        max_spread: difference of prompt lengths within a batch, in tokens.
        engine: "plain" for the model's own modules, "compiled" for compiled steps; "auto" compiles for a plain model
            and calls of some size.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Any,
        *,
        max_rows: int = 1024,
        max_spread: int = 24,
        engine: Engine = "auto",
    ):
        if max_rows < 1 or max_spread < 0:
            raise ValueError(f"max_rows must be at least 1 and max_spread 0; got {max_rows} and {max_spread}")
        self.model, self.text = model, TextTokenizer(tokenizer)
        self.max_rows, self.max_spread, self.engine = max_rows, max_spread, engine

    def sync_weights(self, model: TransformerLM) -> None:
        """Sample with this model from now on; its weights are read at each call."""
        self.model = model

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], params: SamplingParams) -> list[list[Rollout]]:
        """See `Sampler.generate`.

        Raises:
            ValueError: an empty prompt, or one that leaves no room in the model's context.
        """
        ids = [self.text.encode(prompt) for prompt in prompts]
        self._check(ids)
        rows = len(prompts) * params.n
        uniforms = np.random.default_rng([params.seed]).random((rows, params.max_tokens))
        results: list[list[Rollout]] = [[] for _ in prompts]
        work = rows * params.max_tokens * self.model.get_num_params(non_embedding=True)
        compiled = takes_compiled_steps(self.model, self.engine, work=work, least=MIN_COMPILED_WORK)
        packed = PackedModel(self.model) if compiled else None
        training = self.model.training
        self.model.eval()
        for chosen in self._batches(ids, params.n):
            numbers = torch.from_numpy(uniforms.reshape(len(prompts), params.n, -1)[chosen]).flatten(0, 1)
            batch = _Batch(self.model, self.text, [ids[k] for k in chosen], params, numbers, packed)
            for place, rollout in enumerate(batch.run()):
                results[chosen[place // params.n]].append(rollout)
        self.model.train(training)
        return results

    def _check(self, ids: list[list[int]]) -> None:
        context = self.model.config.context_length
        for number, prompt in enumerate(ids):
            if not prompt:
                raise ValueError(f"prompt {number} is empty; begin it with the end-of-text or BOS token")
            if len(prompt) >= context:
                raise ValueError(
                    f"prompt {number} has {len(prompt)} tokens, which leaves no room for a response in the model's "
                    f"context_length={context}; shorten it"
                )

    def _batches(self, ids: list[list[int]], n: int) -> list[list[int]]:
        """Indices of prompts that are decoded together."""
        batches: list[list[int]] = []
        for k in sorted(range(len(ids)), key=lambda k: len(ids[k])):
            fits = batches and (len(batches[-1]) + 1) * n <= self.max_rows
            if fits and len(ids[k]) - len(ids[batches[-1][0]]) <= self.max_spread:
                batches[-1].append(k)
            else:
                batches.append([k])
        return batches


class _Batch:
    """Rows in lockstep: row r is sample r % n of prompt r // n; `alive` lists the rows that the cache still holds."""

    def __init__(
        self,
        model: TransformerLM,
        text: TextTokenizer,
        prompts: list[list[int]],
        params: SamplingParams,
        uniforms: Tensor,
        packed: PackedModel | None,
    ):
        self.model, self.text, self.params, self.prompts, self.packed = model, text, params, prompts, packed
        self.device = model.token_embeddings.weight.device
        self.uniforms = uniforms.to(self.device)
        lengths = [len(prompt) for prompt in prompts for _ in range(params.n)]
        self.starts = torch.tensor(lengths, device=self.device)
        self.end = min(model.config.context_length, max(lengths) + params.max_tokens)
        self.tokens = torch.zeros(len(lengths), self.end, dtype=torch.int64, device=self.device)
        for row, length in enumerate(lengths):
            self.tokens[row, :length] = torch.tensor(prompts[row // params.n], device=self.device)
        self.logprobs = torch.zeros(len(lengths), self.end, device=self.device)
        self.lengths = self.end - self.starts
        self.stopped = torch.zeros_like(self.starts, dtype=torch.bool)
        self.done, self.running = torch.zeros_like(self.stopped), len(lengths)
        self.can_stop = self._tokens_that_can_stop()

    def run(self) -> list[Rollout]:
        """Decode to the end."""
        first = int(self.starts.min())
        cache = self.model.new_cache(len(self.prompts), self.end)
        logits = self._forward(self.tokens[:: self.params.n, :first], cache, 0)
        groups = torch.arange(len(self.prompts), device=self.device).repeat_interleave(self.params.n)
        cache, logits = select_rows(cache, groups), logits[groups]
        step = self._stepper(cache)
        alive = torch.arange(len(self.starts), device=self.device)
        for position in range(first, self.end):
            self._take(alive, logits, position)
            if not self.running:
                break
            if self.running <= len(alive) // 2:
                kept = (~self.done[alive]).nonzero().flatten()
                cache, alive = select_rows(cache, kept), alive[kept]
                step = self._stepper(cache)
            if position + 1 < self.end:
                logits = step(self.tokens[alive, position], position)
        return [self._rollout(row) for row in range(len(self.starts))]

    def _stepper(self, cache: list[Any]) -> Callable[[Tensor, int], Tensor]:
        """The function from the next token of each row in the cache, and its position, to the logits behind it."""
        if self.packed is None:
            return lambda token, position: self._forward(token[:, None], cache, position)
        compiled = CompiledStep(self.packed, cache)
        return lambda token, position: compiled(token)

    def _forward(self, ids: Tensor, cache: list[Any], start: int) -> Tensor:
        """Logits (rows, vocab) behind the last of `ids`."""
        logits = self.model.lm_head(self.model.hidden_states(ids, cache, start)[:, -1])
        cap = self.model.config.logit_softcap
        return logits if cap is None else softcap(logits, cap)

    def _take(self, alive: Tensor, logits: Tensor, position: int) -> None:
        """Every row's next token: its prompt's, or a draw. Rows that have ended draw too; nobody reads what."""
        step = position - self.starts[alive]
        logits, last = logits.float(), self.params.max_tokens - 1
        drawn = draw_tokens(logits, self.uniforms[alive, step.clamp(0, last)], self.params)
        tokens = torch.where(step < 0, self.tokens[alive, position], drawn)
        self.tokens[alive, position] = tokens
        self.logprobs[alive, position] = -token_losses(logits, tokens)
        maybe = (self.can_stop[tokens] | (step == last)) & (step >= 0) & ~self.done[alive]
        for row, token, number in zip(*(x[maybe].tolist() for x in (alive, tokens, step)), strict=True):
            self.stopped[row] = token in self.params.stop_ids or self._stop_text_is_complete(row, position)
            if self.stopped[row] or number == last:
                self.done[row], self.lengths[row] = True, number + 1
                self.running -= 1

    def _tokens_that_can_stop(self) -> Tensor:
        """True for stop tokens, and for tokens that hold the last byte of a stop text (all, if bytes are unknown)."""
        vocab_size = self.model.config.vocab_size
        can = torch.zeros(vocab_size, dtype=torch.bool, device=self.device)
        can[[i for i in self.params.stop_ids if i < vocab_size]] = True
        if not self.params.stop:
            return can
        if self.text.is_huggingface:
            return torch.ones_like(can)
        last = {stop.encode("utf-8")[-1] for stop in self.params.stop}
        can[[i for i, token in self.text.vocab.items() if i < vocab_size and last & set(token)]] = True
        return can

    def _stop_text_is_complete(self, row: int, position: int) -> bool:
        if not self.params.stop:
            return False
        ids = self.tokens[row, self.starts[row] : position + 1].tolist()
        return cut_at_stop(self.text.decode(ids), self.params)[1]

    def _rollout(self, row: int) -> Rollout:
        start, length = int(self.starts[row]), int(self.lengths[row])
        ids = self.tokens[row, start : start + length].tolist()
        stopped = bool(self.stopped[row])
        reason: FinishReason = "stop" if stopped else "length" if length == self.params.max_tokens else "context"
        text = cut_at_stop(self.text.decode(ids), self.params)[0]
        logprobs = self.logprobs[row, start : start + length].tolist()
        if stopped and not self.params.include_stop and ids[-1] in self.params.stop_ids:
            ids, logprobs = ids[:-1], logprobs[:-1]
        return Rollout(self.prompts[row // self.params.n], ids, logprobs, text, reason)


def draw_tokens(logits: Tensor, uniforms: Tensor, params: SamplingParams) -> Tensor:
    """One token per row of (rows, vocab) logits, by inverting the cumulated probabilities at `uniforms` (rows,)."""
    if params.temperature == 0:
        return logits.argmax(dim=-1)
    return invert(sampling_probabilities(logits, params), uniforms)
