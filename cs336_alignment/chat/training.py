"""A chat model from any model: nine new tokens, and conversations to imitate.

The new tokens get the mean of the old ones' embeddings, so that the model is at first indifferent to them. Each learnt
stretch of a conversation is a row of its own with everything before it as context: a conversation of several turns is
read several times, which is exact and, for short chats, cheap.

Read next: `cs336_alignment/sft.py`, which does the training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from cs336_alignment.sft import SftConfig
from cs336_basics.model import TransformerLM
from cs336_basics.runs.command_line import parse, print_result
from cs336_basics.tokenization.chat_tokens import add_chat_tokens
from cs336_basics.tokenization.tokenizer import Tokenizer

Switch = tyro.conf.FlagCreatePairsOff[bool]


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
    from cs336_alignment.chat_format import ChatFormat
    from cs336_alignment.sft import SftTrainer
    from cs336_alignment.training_run import run_training
    from cs336_basics.cli import load_model, load_tokenizer

    model, tokenizer = with_chat_tokens(load_model(o.model, o.device), load_tokenizer(o.model, o.tokenizer))
    rows = encode_conversations(ChatFormat(tokenizer), gather(o), context_length=model.config.context_length)
    trainer = SftTrainer(model, tokenizer, (), o.training, encoded=rows)
    stored = dataclasses.replace(o, json=False)
    summary = run_training(trainer, o.out, kind="chat sft", config=stored, tokenizer=tokenizer)
    print_result({**summary, "rows": len(rows), "talk to it": f"cs336 chat {o.out}"}, as_json=o.json)


def gather(options: ChatSft) -> list[dict[str, Any]]:
    """The conversations of all files and tasks.

    Raises:
        ValueError: an unknown task, or a broken file.
    """
    from cs336_alignment.chat.conversations import read_conversations, task_conversation
    from cs336_alignment.tasks.catalogue import TASKS

    conversations = [c for path in options.conversations for c in read_conversations(path)]
    for name in options.tasks:
        if name not in TASKS:
            raise ValueError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
        examples = TASKS[name]().examples("sft", options.training.seed)
        conversations += [task_conversation(example, tools=options.tools) for example in examples]
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
