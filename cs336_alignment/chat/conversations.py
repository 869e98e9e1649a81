"""Conversations to learn from: files of them, and the generated tasks as questions and answers.

With tools, each step of a worked solution becomes a call of the calculator, whose output is given and not learnt:

    7 + 5 = <|python_start|>7 + 5<|python_end|><|output_start|>12<|output_end|>12. ...

Read next: `training.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from cs336_alignment.chat_format import ChatFormat, checked_messages
from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.task import Example

_STEP = re.compile(r"(\d+ [-+*/] \d+) = (\d+)")


def read_conversations(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Conversations of a file with one {"messages": [...]} per line (.gz too).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no conversation, or one without an answer to learn; the line is named.
    """
    conversations = []
    for number, record in read_json_lines(path):
        try:
            messages = checked_messages(record)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if len(messages) < 2:
            raise ValueError(f"{path}, line {number}: the conversation has no message by the assistant to learn from")
        conversations.append({"messages": record["messages"]})
    if not conversations:
        raise ValueError(f"{path} holds no conversation")
    return conversations


def task_conversation(example: Example, *, tools: bool) -> dict[str, Any]:
    """A problem as a question and its worked solution as the answer.

    Args:
        example: with a response.
        tools: calculate the steps with the calculator.
    """
    content: str | list[dict[str, str]] = tool_parts(example.response) if tools else example.response
    messages = [{"role": "user", "content": example.prompt.strip()}, {"role": "assistant", "content": content}]
    return {"messages": messages}


def tool_parts(solution: str) -> list[dict[str, str]]:
    """A worked solution with a tool call before each result.

    >>> [part["text"] for part in tool_parts("7 + 5 = 12.")]
    ['7 + 5 = ', '7 + 5', '12', '12.']
    """
    parts, done = [], 0
    for step in _STEP.finditer(solution):
        parts.append({"type": "text", "text": solution[done : step.start(2)]})
        parts.append({"type": "python", "text": step[1]})
        parts.append({"type": "python_output", "text": step[2]})
        done = step.start(2)
    return [*parts, {"type": "text", "text": solution[done:]}]


def learnt_stretches(chat: ChatFormat, conversation: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
    """(everything before, what is learnt) for each stretch of a conversation that the assistant writes."""
    ids, mask = chat.render_conversation(conversation)
    start = 0
    while 1 in mask[start:]:
        first = mask.index(1, start)
        end = mask.index(0, first) if 0 in mask[first:] else len(mask)
        yield ids[:first], ids[first:end]
        start = end


def encode_conversations(
    chat: ChatFormat, conversations: Sequence[dict[str, Any]], *, context_length: int
) -> list[tuple[list[int], list[int]]]:
    """All stretches to learn of all conversations.

    Raises:
        ValueError: a conversation that is longer than the model's context.
    """
    rows = []
    for number, conversation in enumerate(conversations):
        stretches = list(learnt_stretches(chat, conversation))
        longest = max((len(before) + len(learnt) for before, learnt in stretches), default=0)
        if longest - 1 > context_length:
            raise ValueError(
                f"conversation {number} has {longest:,} tokens and the model sees {context_length:,}; shorten it"
            )
        rows += stretches
    return rows
