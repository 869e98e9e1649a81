"""How what people type becomes what the model reads.

    chat       a conversation with special tokens and turns; the model may use the calculator
    text       one text that person and model continue in turn: for models that were only pretrained
    question   every message stands alone, a line feed behind it, as the generated tasks are put
    NAME       the same within a prompt of the handout, or a file with {question} or {instruction}

What does not fit the context is left out from the beginning, and said. Read next: `replies.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cs336_alignment.chat_format import ChatFormat, checked_messages
from cs336_alignment.prompts import fill_prompt, load_prompt, placeholders
from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.tokenization.chat_tokens import has_chat_tokens
from cs336_basics.tokenization.tokenizer import Tokenizer

Pose = Callable[[str], str]
Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and what had to be left out of it."""

    ids: list[int]
    note: str = ""


class Style:
    """One way to put messages to a model.

    Args:
        name: auto (chat if the tokenizer has the tokens, else text), chat, text, question, or a prompt's name or file.
        tokenizer: of the model.
        context_length: tokens that the model can read.

    Raises:
        ValueError: chat without chat tokens, or a prompt without a place for the question.
        FileNotFoundError: no such prompt.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, context_length: int):
        if name == "auto":
            name = "chat" if has_chat_tokens(tokenizer) else "text"
        self.name, self.tokenizer, self.context_length = name, tokenizer, context_length
        self.chat = ChatFormat(tokenizer) if name == "chat" else None
        self._plain = Tokenizer(tokenizer.vocab, tokenizer.merges, [], pattern=tokenizer.pattern)
        self._pose: Pose | None = None
        if name == "question":
            self._pose = lambda text: f"{text.strip()}\n"
        elif name not in ("chat", "text"):
            self._pose = template_pose(name)
        ends = [END_OF_TEXT] if END_OF_TEXT in tokenizer.special_tokens else []
        self.stop_ids = tuple(tokenizer.special_id(end) for end in ends) + (self.chat.stop_ids if self.chat else ())

    def prompt(self, messages: Messages, *, reserve: int) -> Prompt:
        """The tokens after which the model writes.

        Args:
            messages: roles in turn, a system message first only in chats; the last is the user's.
            reserve: tokens to keep free for the answer, as far as the context allows.

        Raises:
            ValueError: no message, roles out of turn, or a last message that alone is too long.
        """
        room = self.context_length - min(reserve, self.context_length // 4)
        turns = checked_messages({"messages": messages})
        if turns[-1]["role"] != "user":
            raise ValueError("the last message must be the user's")
        if self.chat is not None:
            return self._fit_chat(list(messages), room)
        if self._pose is not None:
            return self._fit_question(str(turns[-1]["content"]), room)
        ids = self._plain.encode("".join(text_of(turn) for turn in turns)) or list(self.stop_ids[:1])
        if not ids:
            raise ValueError("there is nothing to continue; write something")
        note = f"the first {len(ids) - room:,} tokens of the text are outside the model's context"
        return Prompt(ids[-room:], note if len(ids) > room else "")

    def _fit_chat(self, messages: list[Mapping[str, Any]], room: int) -> Prompt:
        """Leave out the oldest questions with their answers until the rest fits; the system message stays."""
        assert self.chat is not None
        system = [message for message in messages[:1] if message["role"] == "system"]
        turns = messages[len(system) :]
        for first in range(0, len(turns), 2):
            ids = self.chat.render_for_completion({"messages": [*system, *turns[first:]]})
            if len(ids) <= room:
                note = f"the first {first} messages are outside the model's context"
                return Prompt(ids, note if first else "")
        raise ValueError(f"the message has {len(ids):,} tokens; the model has room for {room:,}; write a shorter one")

    def _fit_question(self, text: str, room: int) -> Prompt:
        """The question alone."""
        assert self._pose is not None
        ids = self._plain.encode(self._pose(text))
        if len(ids) > room:
            raise ValueError(
                f"the message has {len(ids):,} tokens; the model has room for {room:,}; write a shorter one"
            )
        return Prompt(ids)

    def rendered(self, messages: Messages) -> list[tuple[list[int], list[int]]]:
        """(ids, mask) of each message as the model reads it; mask 1 on what it writes itself."""
        turns = checked_messages({"messages": messages})
        if self.chat is None:
            parts = [text_of(turn) for turn in turns]
            if self._pose is not None:
                parts = [self._pose(p) if turn["role"] == "user" else p for p, turn in zip(parts, turns, strict=True)]
            encoded = [self._plain.encode(part) for part in parts]
            return [
                (ids, [int(turn["role"] == "assistant")] * len(ids)) for ids, turn in zip(encoded, turns, strict=True)
            ]
        spans, done = [], 0
        for last in range(1, len(turns) + 1):
            ids, mask = self.chat.render_conversation({"messages": turns[:last]})
            spans.append((ids[done:], mask[done:]))
            done = len(ids)
        return spans


def template_pose(name: str) -> Pose:
    """A prompt of `prompts/`, or a file, filled with the question.

    Raises:
        FileNotFoundError: no such prompt.
        ValueError: placeholders other than {question} or {instruction}, and {response}, which stays empty.
    """
    template = load_prompt(name)
    names = placeholders(template)
    if len(names & {"question", "instruction"}) != 1 or names - {"question", "instruction", "response"}:
        raise ValueError(
            f"the prompt {name} must have {{question}} or {{instruction}}, and perhaps {{response}}; it has the "
            f"placeholders {sorted(names)}"
        )

    def pose(prompt: str) -> str:
        values = {key: "" if key == "response" else prompt.strip() for key in names}
        return fill_prompt(template, **values)

    return pose


def text_of(message: Mapping[str, Any]) -> str:
    """A message's words without tool calls."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
