"""A model's reply, token by token, with its tool calls carried out on the way.

    the model writes ... <|python_start|> 48/2 <|python_end|>        sampled, mask 1
    the calculator adds    <|output_start|> 24 <|output_end|>        given, mask 0
    and the model goes on until <|assistant_end|>

Each token carries the probability that the model gave it (temperature 1, nothing filtered), which is what the token
views colour. Read next: `terminal.py`, `web.py`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from cs336_alignment.calculator import Calculator
from cs336_alignment.chat.engine_thread import EngineThread
from cs336_alignment.chat.styles import Messages, Style
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import log_softmax
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams

Kind = Literal["text", "python", "python_output", "special"]
MAX_TOOL_CALLS = 8  # of one reply
_BRACKETS: dict[str, Kind] = {
    "<|python_start|>": "python", "<|python_end|>": "text",
    "<|output_start|>": "python_output", "<|output_end|>": "text",
}  # fmt: skip


@dataclass(frozen=True)
class Token:
    """One token of a reply."""

    id: int
    text: str
    """of the token by itself; bytes of an incomplete character as U+FFFD"""
    piece: str
    """what it adds to the words: whole characters, nothing for special tokens"""
    kind: Kind
    mask: int
    """1 if the model wrote it"""
    probability: float | None
    """None for tokens that were given"""


@dataclass(frozen=True)
class Note:
    """Something the reader should know before the reply."""

    text: str


@dataclass(frozen=True)
class End:
    """Why the reply ended: a stop token, max_tokens, or the end of the context."""

    reason: str


class ChatModel:
    """A model that answers, for any number of threads at once.

    Args:
        model: with its tokenizer.
        style: see `Style`.
        name: for people.
        max_batch: replies that run at the same time; further ones wait.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer,
        *,
        style: str = "auto",
        name: str = "model",
        max_batch: int = 8,
    ):
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.style = Style(style, tokenizer, model.config.context_length)
        self.calculator = Calculator()
        self.engine = EngineThread(Engine(model, max_batch=max_batch))

    def __enter__(self) -> ChatModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine's thread and the calculator."""
        self.engine.close()
        self.calculator.close()

    def reply(self, messages: Messages, params: SamplingParams) -> Iterator[Token | Note | End]:
        """The reply to the last message; closing the iterator stops the model.

        Args:
            messages: see `Style.prompt`.
            params: stop_ids and n are set here.

        Raises:
            ValueError: see `Style.prompt`.
        """
        prompt = self.style.prompt(messages, reserve=params.max_tokens)
        return self._reply(prompt.ids, prompt.note, params)

    def _reply(self, ids: list[int], note: str, params: SamplingParams) -> Iterator[Token | Note | End]:
        if note:
            yield Note(note)
        words = _Words(self.tokenizer)
        chat = self.style.chat
        call_ends = None if chat is None else chat.id("<|python_end|>")
        stop_ids = self.style.stop_ids + (() if call_ends is None else (call_ends,))
        for calls in range(MAX_TOOL_CALLS + 1):
            code: list[int] = []
            request = _changed(params, stop_ids=stop_ids, n=1, include_stop=True, stop=())
            reason, left = "stop", params.max_tokens
            for event in self.engine.stream(ids, request, stream=calls):
                if event.token is not None:
                    token = words.token(event.token, event.logprob)
                    left -= 1
                    ids = [*ids, event.token]
                    if token.kind == "python":
                        code.append(event.token)
                    if event.token not in self.style.stop_ids:
                        yield token
                reason = event.finish_reason or reason
            if ids[-1] != call_ends or left < 1 or calls == MAX_TOOL_CALLS:
                break
            assert chat is not None
            output = chat.tool_output(self.calculator.evaluate(self.tokenizer.decode(code)))
            if len(ids) + len(output) >= self.model.config.context_length:
                reason = "context"
                break
            yield from (words.token(token_id, None) for token_id in output)
            ids, params = [*ids, *output], _changed(params, max_tokens=left)
        yield End(reason)

    @torch.no_grad()
    def token_view(self, messages: Messages) -> list[list[Token]]:
        """Every message as the model reads it, with the probability of every token after those before it."""
        spans = self.style.rendered(messages)
        ids = [token_id for span, _ in spans for token_id in span]
        probabilities = self._probabilities(ids)
        views, at = [], 0
        for span, mask in spans:
            words = _Words(self.tokenizer)
            tokens = [words.token(token_id, None) for token_id in span]
            views.append([
                Token(t.id, t.text, t.piece, t.kind, bit, probabilities[at + k])
                for k, (t, bit) in enumerate(zip(tokens, mask, strict=True))
            ])  # fmt: skip
            at += len(span)
        return views

    def _probabilities(self, ids: list[int]) -> list[float | None]:
        """Of each token; None for the first and for those outside the last context."""
        kept = ids[-self.model.config.context_length :]
        device = next(self.model.parameters()).device
        logits = self.model(torch.tensor([kept], device=device))[0, :-1].float()
        targets = torch.tensor(kept[1:], device=device)[:, None]
        found = log_softmax(logits, dim=-1).gather(-1, targets)[:, 0].exp().tolist()
        return [None] * (len(ids) - len(found)) + found


def _changed(params: SamplingParams, **values: object) -> SamplingParams:
    """The parameters with some values replaced."""
    return SamplingParams(**{**vars(params), **values})


class _Words:
    """Tokens to text, one by one: which part of the reply they belong to, and whole characters only."""

    def __init__(self, tokenizer: Tokenizer):
        self.vocab = tokenizer.vocab
        self.special = {tokenizer.special_id(token): token for token in tokenizer.special_tokens}
        self.kind: Kind = "text"
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def token(self, token_id: int, logprob: float | None) -> Token:
        """The next token; `logprob` None for one that was given."""
        data = self.vocab.get(token_id, b"")
        text = data.decode("utf-8", errors="replace")
        probability = None if logprob is None else float(np.exp(logprob))
        mask = int(logprob is not None)
        if token_id in self.special:
            self.kind = _BRACKETS.get(self.special[token_id], self.kind)
            return Token(token_id, text, "", "special", mask, probability)
        return Token(token_id, text, self.decoder.decode(data), self.kind, mask, probability)
