"""What the chat tests share: a tokenizer of bytes, a tiny random model, an engine that reads from a script."""

from __future__ import annotations

import time

import torch

from cs336_alignment.chat.replies import ChatModel
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.tokenization.chat_tokens import add_chat_tokens
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_systems.inference.completion import Event

END = "<|endoftext|>"


def byte_tokenizer(*, chat: bool = True) -> Tokenizer:
    """256 bytes, the end-of-text token, and perhaps the nine chat tokens."""
    plain = Tokenizer({i: bytes([i]) for i in range(256)}, [], [END])
    return add_chat_tokens(plain) if chat else plain


def tiny_model(tokenizer: Tokenizer, *, context_length: int = 256, seed: int = 0) -> TransformerLM:
    """Random weights; the same for a seed."""
    torch.manual_seed(seed)
    return TransformerLM(ModelConfig(tokenizer.vocab_size, context_length, 16, 1, 2, 32)).eval()


def tiny_chat(*, chat: bool = True) -> ChatModel:
    """A chat with random weights."""
    tokenizer = byte_tokenizer(chat=chat)
    return ChatModel(tiny_model(tokenizer), tokenizer, name="tiny")


def endless_chat(*, delay_s: float) -> ChatModel:
    """A chat that writes a letter every `delay_s` and never ends of itself, so that it can be watched and stopped."""
    tokenizer = byte_tokenizer()
    weights = tiny_model(tokenizer, context_length=512)
    with torch.no_grad():
        weights.lm_head.weight *= 6  # clear preferences, as a trained model has
    model = ChatModel(weights, tokenizer, name="tiny")
    forward = model.engine.engine.runner.forward

    def slow_letters(rows, tokens):
        time.sleep(delay_s)
        found = [logits.clone() for logits in forward(rows, tokens)]
        for logits in found:
            logits[..., : ord("a")] = logits[..., ord("z") + 1 :] = -torch.inf
        return found

    model.engine.engine.runner.forward = slow_letters
    return model


class ScriptedEngine:
    """An engine whose k-th request writes the k-th line of a script, whatever the prompt."""

    def __init__(self, script: list[list[int]]):
        self.script, self.prompts, self.params = script, [], []
        self.left: dict[int, list[int]] = {}

    @property
    def has_work(self) -> bool:
        return bool(self.left)

    def submit(self, prompt, params, *, stream=0) -> int:
        number = len(self.prompts)
        self.prompts.append(list(prompt))
        self.params.append(params)
        self.left[number] = list(self.script[number])
        return number

    def step(self) -> list[Event]:
        events = []
        for number, tokens in list(self.left.items()):
            token = tokens.pop(0)
            reason = None if tokens else "stop"
            events.append(Event(number, 0, token, -0.5, "", reason))
        return events

    def cancel(self, number: int) -> list[Event]:
        return []

    def take_results(self, number: int) -> list:
        del self.left[number]
        return []
