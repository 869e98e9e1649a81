"""A conversation in the terminal: replies as they are written, and a few commands.

Ctrl-C stops a reply, and between replies ends the chat. Read next: `web.py`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cs336_alignment.chat.replies import ChatModel, End, Note, Token
from cs336_systems.inference.sampling import SamplingParams

if TYPE_CHECKING:  # importing rich draws from the global generator of random numbers: only when something is shown
    from rich.console import Console
    from rich.text import Text

COMMANDS = {
    "/regenerate": "another reply to the last message",
    "/new": "begin a new conversation",
    "/tokens": "the conversation as tokens: bold what the model wrote, coloured by its probability",
    "/set NAME VALUE": "change temperature, top_k, top_p, max_tokens or seed (VALUE none: off)",
    "/help": "this list",
    "/quit": "end (so does Ctrl-D)",
}
_REASONS = {"length": "reached max_tokens", "context": "the context is full: /new begins again"}
_SHADES = ("#d73027", "#e08a2e", "#c9b23c", "#7fae45", "#3a9a52")  # from surprising to expected


def answer_once(
    chat: ChatModel, message: str, params: SamplingParams, *, system: str = "", tokens: bool = False
) -> None:
    """Print the reply to one message.

    Raises:
        ValueError: the message is too long for the model.
    """
    from rich.console import Console

    conversation = _Conversation(chat, Console(highlight=False, soft_wrap=True), params, system, tokens)
    conversation.ask(message)


def talk(chat: ChatModel, params: SamplingParams, *, system: str = "", tokens: bool = False) -> None:
    """Read messages and print replies until the reader leaves."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    conversation = _Conversation(chat, console, params, system, tokens)
    style = {"chat": "a chat", "text": "it continues your text"}.get(chat.style.name, "every question stands alone")
    console.print(f"[bold]{chat.name}[/]: {style}. /help lists commands, Ctrl-C stops a reply, Ctrl-D ends.\n")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            line = console.input("[bold cyan]you[/] > ") if sys.stdin.isatty() else input()
            if line.strip() == "/quit":
                return
            try:
                conversation.obey(line)
            except ValueError as error:
                console.print(
                    f"[red]{error}[/]" if console.is_terminal else f"error: {error}", markup=console.is_terminal
                )


class _Conversation:
    """Messages so far, and what is done with a line."""

    def __init__(self, chat: ChatModel, console: Console, params: SamplingParams, system: str, tokens: bool):
        self.chat, self.console, self.params, self.system, self.tokens = chat, console, params, system, tokens
        self.messages: list[dict[str, Any]] = []
        self.replies = 0

    def obey(self, line: str) -> None:
        """A command or a message."""
        word, *rest = line.split() or [""]
        if word == "/regenerate":
            if not self.messages:
                raise ValueError("there is no reply to write again")
            self.ask(self.messages[-2]["content"], again=True)
        elif word == "/new":
            self.messages = []
            self.console.print("[dim]a new conversation[/]")
        elif word == "/tokens":
            for view in self.chat.token_view(self._all(self.messages)) if self.messages else []:
                self.console.print(token_text(view))
        elif word == "/set":
            self.params = changed_params(self.params, rest)
        elif word.startswith("/"):
            if word != "/help":
                self.console.print(f"unknown command {word}")
            self.console.print("\n".join(f"  {name:18} {meaning}" for name, meaning in COMMANDS.items()), markup=False)
        elif line.strip():
            self.ask(line)

    def ask(self, message: str, *, again: bool = False) -> None:
        """Print the reply to a message and remember both."""
        history = [*(self.messages[:-2] if again else self.messages), {"role": "user", "content": message}]
        params = replace(self.params, seed=self.params.seed + self.replies)
        self.replies += 1
        parts = self._print_reply(self.chat.reply(self._all(history), params))
        self.messages = [*history, {"role": "assistant", "content": parts}]

    def _all(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With the system message in front, where there is one."""
        return [{"role": "system", "content": self.system}, *messages] if self.system else messages

    def _print_reply(self, events: Any) -> list[dict[str, str]]:
        """Show a reply as it comes; return its parts. Ctrl-C ends it."""
        parts: list[dict[str, str]] = []
        shown: list[Token] = []
        try:
            for event in events:
                if isinstance(event, Note):
                    self.console.print(f"[dim]({event.text})[/]")
                elif isinstance(event, End):
                    reason = _REASONS.get(event.reason)
                    self.console.print(f" [dim]({reason})[/]" if reason else "")
                else:
                    shown.append(event)
                    _collect(parts, event)
                    self._print_token(event)
        except KeyboardInterrupt:
            events.close()
            self.console.print(" [dim](stopped)[/]")
        if self.tokens:
            self.console.print(token_text(shown))
        return parts

    def _print_token(self, token: Token) -> None:
        """One token of a reply."""
        from rich.text import Text

        if token.kind == "special":
            marks = {"<|python_start|>": " [", "<|output_start|>": " = ", "<|output_end|>": "] "}
            self.console.print(Text(marks.get(token.text, ""), style="cyan"), end="")
        else:
            self.console.print(Text(token.piece, style="" if token.kind == "text" else "cyan"), end="")


def _collect(parts: list[dict[str, str]], token: Token) -> None:
    """Add a token's words to the parts of a message."""
    if token.kind == "special":
        return
    if not parts or parts[-1]["type"] != token.kind:
        parts.append({"type": token.kind, "text": ""})
    parts[-1]["text"] += token.piece


def token_text(tokens: Iterable[Token]) -> Text:
    """Tokens between bars: bold what the model wrote, coloured from red (surprising) to green (expected)."""
    from rich.style import Style
    from rich.text import Text

    text = Text()
    for token in tokens:
        shade = None
        if token.probability is not None:
            shade = _SHADES[min(4, int(token.probability * 5))]
        style = Style(color=shade, bold=bool(token.mask), dim=not token.mask)
        text.append(token.text.replace("\n", "\\n\n"), style=style)
        text.append("|", style="dim")
    return text


def changed_params(params: SamplingParams, words: list[str]) -> SamplingParams:
    """`/set NAME VALUE`.

    Raises:
        ValueError: another form, an unknown name, or a value out of range.
    """
    kinds = {"temperature": float, "top_k": int, "top_p": float, "max_tokens": int, "seed": int}
    if len(words) != 2 or words[0] not in kinds:
        raise ValueError(f"write /set NAME VALUE with NAME one of {', '.join(kinds)}")
    name, text = words
    optional = name in ("top_k", "top_p") and text == "none"
    try:
        value: Any = None if optional else kinds[name](text)
    except ValueError as error:
        raise ValueError(f"{name} needs a number; got {text!r}") from error
    changed: dict[str, Any] = {name: value}
    return replace(params, **changed)
