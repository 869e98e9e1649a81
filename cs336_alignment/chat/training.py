"""A chat model from any model: nine new tokens, and conversations to imitate.

The new tokens get the mean of the old ones' embeddings, so that the model is at first indifferent to them. Each learnt
stretch of a conversation is a row of its own with everything before it as context: a conversation of several turns is
read several times, which is exact and, for short chats, cheap.

Read next: `cs336_alignment/sft.py`, which does the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_alignment.chat.conversations import read_conversations, task_conversation
from cs336_alignment.tasks.catalogue import TASKS
from cs336_basics.model import TransformerLM
from cs336_basics.tokenization.chat_tokens import add_chat_tokens
from cs336_basics.tokenization.tokenizer import Tokenizer


def gather_conversations(
    paths: Sequence[Path], tasks: Sequence[str], *, tools: bool, seed: int
) -> list[dict[str, Any]]:
    """The conversations of all files, and the worked solutions of all tasks.

    Args:
        paths: see `read_conversations`.
        tasks: names in `TASKS`.
        tools: calculate the steps of the solutions with the calculator.
        seed: of the tasks' problems.

    Raises:
        ValueError: an unknown task, or a broken file.
    """
    conversations = [conversation for path in paths for conversation in read_conversations(path)]
    for name in tasks:
        if name not in TASKS:
            raise ValueError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
        examples = TASKS[name]().examples("sft", seed)
        conversations += [task_conversation(example, tools=tools) for example in examples]
    return conversations


def with_chat_tokens(model: TransformerLM, tokenizer: Tokenizer) -> tuple[TransformerLM, Tokenizer]:
    """The model with rows for the chat tokens, and the tokenizer with them; unchanged where they are there already.

    Raises:
        ValueError: the tokenizer has some of the tokens, but not as the last nine ids.
    """
    import torch

    extended = add_chat_tokens(tokenizer)
    rows = model.config.vocab_size
    if extended.vocab_size <= rows:
        return model, extended
    device = next(model.parameters()).device
    larger = TransformerLM(dataclasses.replace(model.config, vocab_size=extended.vocab_size)).to(device)
    old = model.state_dict()
    with torch.no_grad():
        for name, value in larger.state_dict().items():
            if value.shape == old[name].shape:
                value.copy_(old[name])
            else:  # the embedding and the head
                value[:rows].copy_(old[name])
                value[rows:] = old[name].mean(dim=0)
    return larger.eval(), extended
