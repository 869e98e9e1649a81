"""What the engine tells of its requests (Completion, Event) and what it remembers of them until then.

Read next: `engine.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from cs336_systems.inference.model_runner import Row
from cs336_systems.inference.sampling import SamplingParams
from cs336_systems.inference.text_stop import TextStream

FinishReason = Literal["stop", "length", "context", "cancelled"]


@dataclass(frozen=True)
class Completion:
    """One finished sample."""

    ids: list[int]
    """new tokens; the stop token is among them if include_stop, tokens that spelt a stop text always are"""
    logprobs: list[float]
    """of each token under the model (nats, temperature 1, unfiltered)"""
    finish_reason: FinishReason
    """a stop token or text, max_tokens, the end of the model's context, or `cancel`"""
    text: str | None
    """None without a tokenizer; ends before a stop text unless include_stop"""
    request: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Event:
    """What a step did to one sample: a token, the text that became certain with it, and perhaps the end."""

    request: int
    sample: int
    token: int | None
    """None when the sample ended without a token of its own (an excluded stop token, `cancel`)"""
    logprob: float | None
    text: str
    finish_reason: FinishReason | None = None


@dataclass(eq=False)
class RequestState:
    """A submitted prompt; `template` holds its pages while samples are still to start."""

    number: int
    prompt: list[int]
    params: SamplingParams
    stream: int
    started: int = 0
    """samples that have a row or had one"""
    template: Row | None = None
    logits: Tensor | None = None
    done: list[Completion] = field(default_factory=list)


@dataclass(eq=False)
class SampleState:
    """A running sample; `logits` are those behind its last token."""

    request: RequestState
    number: int
    row: Row
    generator: np.random.Generator
    text: TextStream | None
    logits: Tensor
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
