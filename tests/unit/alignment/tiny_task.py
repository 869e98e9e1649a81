"""A task small enough to be solved by hand, a tokenizer of single characters, and a tiny Transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cs336_alignment.task import Example
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig

END = "<|endoftext|>"
ALPHABET = "0123456789+=#ab \n"


class CharTokenizer:
    """One id per character, like a Tokenizer of ours; 0 is the end of text."""

    def __init__(self) -> None:
        self.vocab = {0: END.encode()} | {i + 1: c.encode() for i, c in enumerate(ALPHABET)}
        self.vocab_size = len(self.vocab)

    def encode(self, text: str) -> list[int]:
        return [ALPHABET.index(c) + 1 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(ALPHABET[i - 1] for i in ids if i > 0)

    def special_id(self, token: str) -> int:
        assert token == END
        return 0


@dataclass(frozen=True)
class LastDigit:
    """ "3+4=" asks for "7": the last digit of a sum."""

    name: str = "last-digit"
    stop: tuple[str, ...] = ()
    max_tokens: int = 4

    def examples(self, split: str, seed: int) -> list[Example]:
        place = ("sft", "preference", "rl", "test").index(split)
        pairs = [(a, b) for a in range(10) for b in range(10) if (a + 3 * b) % 4 == place]
        return [Example(f"{a}+{b}=", str((a + b) % 10), str((a + b) % 10)) for a, b in pairs]

    def reward(self, response: str, answer: str) -> dict[str, float]:
        right = float(response == answer)
        return {"format_reward": float(len(response) == 1), "answer_reward": right, "reward": right}


def tiny_model(seed: int = 0, *, dtype: torch.dtype | None = None, **changes) -> TransformerLM:
    """Two layers of width 16 with weights of a fixed seed."""
    config = {"vocab_size": len(ALPHABET) + 1, "context_length": 32, "d_model": 16, "num_layers": 2, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TransformerLM(ModelConfig(**{**config, **changes}), dtype=dtype)
