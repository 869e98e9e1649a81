"""Conversations as tokens, with a mask that says which of them the model must learn to write.

    <|bos|> <|user_start|> What is 2 + 2? <|user_end|> <|assistant_start|> 4 <|assistant_end|>
       0          0               0            0               0           1         1

The mask is 1 on what the assistant writes and on the token that ends its turn, 0 on everything that is given to it.
Tool calls are the assistant's (mask 1), the tool's output is not (mask 0). A leading system message joins the first
user message, a blank line between. Special tokens are put in by id; their names inside a message are ordinary text, so
nobody can end a turn by writing `<|assistant_end|>`.

Source: nanochat's tokenizer. Read next: `calculator.py`, `chat/replies.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cs336_basics.tokenization.chat_tokens import CHAT_TOKENS
from cs336_basics.tokenization.tokenizer import Tokenizer

Message = Mapping[str, Any]
Conversation = Mapping[str, Any]
"""{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..." or parts}]}, each part
{"type": "text", "python" or "python_output", "text": "..."}"""
_PART_TOKENS = {
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}


class ChatFormat:
    """Renders conversations with one tokenizer.

    Args:
        tokenizer: has the nine chat tokens among its special tokens.

    Raises:
        ValueError: some of them are missing.
    """

    def __init__(self, tokenizer: Tokenizer):
        missing = [token for token in CHAT_TOKENS if token not in tokenizer.special_tokens]
        if missing:
            raise ValueError(
                f"the tokenizer lacks the chat tokens {', '.join(missing)}; add them with "
                "cs336_basics.tokenization.chat_tokens.add_chat_tokens and train the model with them"
            )
        self.tokenizer = tokenizer
        self._plain = Tokenizer(tokenizer.vocab, tokenizer.merges, [], pattern=tokenizer.pattern)
        self._ids = {token: tokenizer.special_id(token) for token in CHAT_TOKENS}

    def id(self, token: str) -> int:
        """The id of a chat token."""
        return self._ids[token]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end the assistant's turn."""
        return (self._ids["<|assistant_end|>"], self._ids["<|bos|>"])

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which no special token is recognised."""
        return self._plain.encode(text)

    def tool_output(self, text: str) -> list[int]:
        """The tokens that give a tool's output to the model."""
        return [self._ids["<|output_start|>"], *self.encode(text), self._ids["<|output_end|>"]]

    def render_conversation(
        self, conversation: Conversation, *, max_tokens: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Tokens of a whole conversation, for training.

        Args:
            conversation: see `Conversation`; roles take turns, the user first, perhaps a system message before.
            max_tokens: what is longer is cut off at the end.

        Returns:
            (ids, mask), equally long; mask 1 where the assistant writes.

        Raises:
            ValueError: no messages, roles out of turn, an unknown part, max_tokens below 1.
            TypeError: a message that is no mapping, or content of another type.
        """
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; got {max_tokens}")
        ids, mask = [self._ids["<|bos|>"]], [0]
        for index, message in enumerate(checked_messages(conversation)):
            for token_ids, learnt in self._turn(message, index):
                ids += token_ids
                mask += [learnt] * len(token_ids)
        return ids[:max_tokens], mask[:max_tokens]

    def render_for_completion(self, conversation: Conversation) -> list[int]:
        """Tokens after which the assistant writes: everything up to the last user message, and `<|assistant_start|>`.

        A last message by the assistant is left out: it is what shall be written anew. The conversation stays as it is.

        Raises:
            ValueError, TypeError: as `render_conversation`.
        """
        messages = list(_messages(conversation))
        if messages and isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant":
            messages.pop()
        ids, _ = self.render_conversation({"messages": messages})
        return [*ids, self._ids["<|assistant_start|>"]]

    def _turn(self, message: Message, index: int) -> Iterator[tuple[list[int], int]]:
        """(ids, mask) of the pieces of one message."""
        if message["role"] == "user":
            yield [self._ids["<|user_start|>"], *self.encode(message["content"]), self._ids["<|user_end|>"]], 0
            return
        yield [self._ids["<|assistant_start|>"]], 0
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            ids, learnt = self.encode(part["text"]), int(part["type"] != "python_output")
            if part["type"] != "text":
                start, end = _PART_TOKENS[part["type"]]
                ids = [self._ids[start], *ids, self._ids[end]]
            yield ids, learnt
        yield [self._ids["<|assistant_end|>"]], 1


def _messages(conversation: Conversation) -> Sequence[Message]:
    """The messages, if there are any."""
    messages = conversation.get("messages") if isinstance(conversation, Mapping) else None
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(
            f'a conversation is {{"messages": [...]}} with at least one message; got {conversation!r:.100}'
        )
    return messages


def checked_messages(conversation: Conversation) -> list[Message]:
    """The messages in turn, a system message joined to the first user message.

    Raises:
        ValueError, TypeError: as `ChatFormat.render_conversation`.
    """
    messages = list(_messages(conversation))
    for index, message in enumerate(messages):
        _check_message(message, index)
    if messages[0]["role"] == "system":
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise ValueError("message 0 is by the system; a message by the user must follow it")
        joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        messages[:2] = [{"role": "user", "content": joined}]
    for index, message in enumerate(messages):
        turn = ("user", "assistant")[index % 2]
        if message["role"] != turn:
            raise ValueError(
                f"user and assistant take turns: message {index} must be by {turn}; got {message['role']!r}"
            )
    return messages


def _check_message(message: Message, index: int) -> None:
    """Role and content of one message."""
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise TypeError(f"message {index} must be a mapping with role and content; got {message!r:.80}")
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"message {index}: role must be system, user or assistant; got {role!r}")
    if isinstance(content, str):
        return
    if role != "assistant" or not isinstance(content, Sequence):
        raise TypeError(f"message {index} by the {role}: content must be a text; got {type(content).__name__}")
    for part in content:
        kinds = ("text", *_PART_TOKENS)
        if not isinstance(part, Mapping) or part.get("type") not in kinds or not isinstance(part.get("text"), str):
            raise ValueError(f"message {index}: a part needs a type of {', '.join(kinds)} and a text; got {part!r:.80}")
