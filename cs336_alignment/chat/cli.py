"""`cs336 chat` and `cs336 alignment chat-sft`: talk with a model, and make one that can be talked with.

Read next: `terminal.py`, `web.py`, `training.py`.
"""

from __future__ import annotations

import dataclasses
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from cs336_alignment.sft import SftConfig
from cs336_basics.runs.command_line import parse, print_result

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Chat:
    """Talk with a trained model: in the terminal, or with --web on a page in the browser.

    A model trained on chats (its tokenizer has the nine chat tokens) answers in turns and may use a calculator. Any
    other model continues the text (--style text), or answers questions that stand alone (--style question).
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """run directory of `cs336 train`, or a folder with model.pt and model_config.json"""
    web: Switch = False
    """serve a page instead"""
    prompt: str | None = None
    """answer this one message and end"""
    system: str = ""
    """instructions for the whole conversation (chat models)"""
    style: str = "auto"
    """auto, chat, text, question, or a prompt's name such as r1_zero, or a file with {question} in it"""
    temperature: float = 0.7
    """0 always takes the likeliest token"""
    top_k: int | None = 50
    """choose among the k likeliest tokens; None for all"""
    top_p: float | None = None
    """choose among the likeliest tokens that together have this probability"""
    max_tokens: int = 256
    """longest reply"""
    seed: int | None = None
    """same seed, same replies; a new one each time by default"""
    tokens: Switch = False
    """show each reply as tokens, coloured by the probability the model gave them"""
    host: str = "127.0.0.1"
    """address of the page; 127.0.0.1 can be reached from this machine only"""
    port: int = 8336
    """port of the page; 0 for a free one"""
    tokenizer: Path | None = None
    """folder of the tokenizer; by default the one the model was trained with"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""


def chat(argv: list[str]) -> None:
    """`cs336 chat`."""
    o = parse(Chat, argv, "chat", example="chat runs/tour/pretraining --web")
    from cs336_alignment.chat.replies import ChatModel
    from cs336_basics.cli import load_model, load_tokenizer
    from cs336_systems.inference.sampling import SamplingParams

    seed = secrets.randbelow(2**31) if o.seed is None else o.seed
    params = SamplingParams(
        max_tokens=o.max_tokens, temperature=o.temperature, top_k=o.top_k, top_p=o.top_p, seed=seed
    )  # fmt: skip
    model, tokenizer = load_model(o.model, o.device), load_tokenizer(o.model, o.tokenizer)
    name = "/".join(o.model.resolve().parts[-2:])
    with ChatModel(model, tokenizer, style=o.style, name=name) as chat_model:
        if o.web:
            from cs336_alignment.chat.web import serve

            if o.host not in ("127.0.0.1", "localhost", "::1"):
                print(f"warning: everybody who can reach {o.host} can use this model", file=sys.stderr)
            serve(chat_model, host=o.host, port=o.port, announce=_announce)
            return
        from cs336_alignment.chat.terminal import answer_once, talk

        if o.prompt is not None:
            answer_once(chat_model, o.prompt, params, system=o.system, tokens=o.tokens)
        else:
            talk(chat_model, params, system=o.system, tokens=o.tokens)


def _announce(address: str) -> None:
    """Tell where the page is."""
    print(f"chat at {address}   (Ctrl-C ends it)", flush=True)


@dataclass(frozen=True)
class ChatSft:
    """Teach a model to chat: supervised fine-tuning on conversations, from files or from generated tasks."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """run directory of `cs336 train`, or a folder with model.pt and model_config.json"""
    conversations: tuple[Path, ...] = ()
    """files with one {"messages": [{"role": ..., "content": ...}, ...]} per line"""
    tasks: tuple[str, ...] = ()
    """generated tasks as questions and answers: word-problems, arithmetic, sorting, countdown, gsm8k"""
    tools: Switch = False
    """calculate the steps of the tasks with the calculator"""
    out: Path = Path("runs/chat")
    """directory of the run and of the chat model"""
    training: SftConfig = field(default_factory=lambda: SftConfig(num_steps=300))
    """how to train"""
    tokenizer: Path | None = None
    """folder of the tokenizer; by default the one the model was trained with"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    json: Switch = False
    """print the summary as JSON"""

    def __post_init__(self) -> None:
        if not self.conversations and not self.tasks:
            raise ValueError("nothing to learn from: name files with --conversations or tasks with --tasks")


def chat_sft(argv: list[str]) -> None:
    """`cs336 alignment chat-sft`."""
    example = "alignment chat-sft runs/tour/pretraining --tasks arithmetic --tools"
    o = parse(ChatSft, argv, "alignment chat-sft", example=example)
    from cs336_alignment.chat.conversations import encode_conversations
    from cs336_alignment.chat.training import gather_conversations, with_chat_tokens
    from cs336_alignment.chat_format import ChatFormat
    from cs336_alignment.sft import SftTrainer
    from cs336_alignment.training_run import run_training
    from cs336_basics.cli import load_model, load_tokenizer

    model, tokenizer = with_chat_tokens(load_model(o.model, o.device), load_tokenizer(o.model, o.tokenizer))
    found = gather_conversations(o.conversations, o.tasks, tools=o.tools, seed=o.training.seed)
    rows = encode_conversations(ChatFormat(tokenizer), found, context_length=model.config.context_length)
    trainer = SftTrainer(model, tokenizer, (), o.training, encoded=rows)
    stored = dataclasses.replace(o, json=False)
    summary = run_training(trainer, o.out, kind="chat sft", config=stored, tokenizer=tokenizer)
    print_result({**summary, "rows": len(rows), "talk to it": f"cs336 chat {o.out}"}, as_json=o.json)
