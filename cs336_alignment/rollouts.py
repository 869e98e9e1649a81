"""Rollouts: responses that a policy samples, with the ids and log-probs that training needs.

One protocol, several ways to do the work:

    LockstepSampler      any TransformerLM of ours, whole groups side by side: the default (`lockstep.py`)
    EngineSampler        the inference engine of cs336_systems: rows join and leave, pages are shared
    HuggingFaceSampler   any causal model of transformers                      (`huggingface_sampler.py`)
    VllmSampler          vLLM in this process, on a GPU                        (`vllm_sampler.py`)

Training uses the sampled ids, not the text: encoding the text again may give other ids, which were never sampled. A
prompt is sent once with n = group size; to send it n times with one seed would give n equal responses and no gradient.

Read next: `lockstep.py`, `grpo.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from cs336_alignment.task import Example, Task
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.model import TransformerLM
from cs336_systems.inference import Engine, SamplingParams

FinishReason = Literal["stop", "length", "context"]


@dataclass(frozen=True)
class Rollout:
    """One response."""

    prompt_ids: list[int]
    ids: list[int]
    """sampled tokens; the end-of-text token is among them if it was drawn"""
    logprobs: list[float]
    """of each, under the model that sampled (nats, temperature 1, nothing filtered)"""
    text: str
    """without end-of-text; cut after the stop text"""
    finish_reason: FinishReason
    """a stop token or text, max_tokens, or the end of the model's context"""


@runtime_checkable
class Sampler(Protocol):
    """What samples."""

    def generate(self, prompts: Sequence[str], params: SamplingParams) -> list[list[Rollout]]:
        """params.n rollouts of each prompt; repeatable from params.seed."""
        ...

    def sync_weights(self, model: Any) -> None:
        """Sample with this model's present weights from now on."""
        ...


class EngineSampler:
    """The inference engine of cs336_systems as a Sampler; best where responses have very different lengths."""

    def __init__(self, model: TransformerLM, tokenizer: Any, **options: Any):
        self.text = TextTokenizer(tokenizer)
        self.engine = Engine(model, self.text.tokenizer, **options)

    def sync_weights(self, model: TransformerLM) -> None:
        """Take the model's present weights."""
        self.engine.load_weights(model)

    def generate(self, prompts: Sequence[str], params: SamplingParams) -> list[list[Rollout]]:
        """See `Sampler.generate`."""
        ids = [self.text.encode(prompt) for prompt in prompts]
        rollouts = [
            Rollout(ids[c.request], c.ids, c.logprobs, self._text(c.ids, params), _reason(c.finish_reason))
            for c in self.engine.generate(ids, params)
        ]
        return [rollouts[k * params.n : (k + 1) * params.n] for k in range(len(prompts))]

    def _text(self, ids: list[int], params: SamplingParams) -> str:
        return cut_at_stop(self.text.decode(ids), params)[0]


def _reason(reason: str) -> FinishReason:
    assert reason in ("stop", "length", "context"), reason
    return reason  # type: ignore[return-value]


def cut_at_stop(text: str, params: SamplingParams) -> tuple[str, bool]:
    """`text` up to the stop text that is complete first (with it if include_stop), and whether there was one."""
    found = [(at + len(stop), at) for stop in params.stop if (at := text.find(stop)) >= 0]
    if not found:
        return text, False
    end, start = min(found)
    return text[: end if params.include_stop else start], True


def task_params(task: Task, eos_id: int, **changes: Any) -> SamplingParams:
    """How to sample responses to a task: its stop texts and length, ending at `eos_id`, which is kept and trained on."""
    options: dict[str, Any] = {"max_tokens": task.max_tokens, "stop": task.stop, "stop_ids": (eos_id,)}
    return SamplingParams(**{**options, "include_stop": True, **changes})


def greedy_rewards(
    sampler: Sampler, task: Task, examples: Sequence[Example], eos_id: int, *, batch: int = 512, **changes: Any
) -> list[dict[str, float]]:
    """Rewards of one response per example, greedy unless `changes` say otherwise: held-out accuracy, one by one."""
    params = task_params(task, eos_id, **{"temperature": 0.0, **changes})
    return [
        task.reward(rollouts[0].text, example.answer)
        for part in _parts(examples, batch)
        for example, rollouts in zip(part, sampler.generate([e.prompt for e in part], params), strict=True)
    ]


def _parts(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    return (examples[start : start + size] for start in range(0, len(examples), size))
