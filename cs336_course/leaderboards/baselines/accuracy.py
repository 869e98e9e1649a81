"""Entrypoint of the reasoning board: greedy decoding by a small model, a token per byte.

    answer(folder, prompts) -> responses         one string per prompt; `folder` holds your artifacts

    train(folder, seed) -> {file name: bytes}       makes the model again, as folder/recipe.json says

The answer is what stands behind `####`. Prompts of one length are decoded together, so that nothing is padded.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.runs.config import config_from_dict

END = 256


def answer(folder: Path, prompts: list[str]) -> list[str]:
    """The model's responses."""
    config = config_from_dict(ModelConfig, json.loads((folder / "model_config.json").read_text()))
    model = TransformerLM(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt.encode())].append(number)
    responses = [""] * len(prompts)
    for members in by_length.values():
        rows = torch.tensor([[END, *prompts[i].encode()] for i in members])
        for number, text in zip(members, _decode(model, rows, config.context_length), strict=True):
            responses[number] = text
    return responses


@torch.no_grad()
def _decode(model: TransformerLM, ids: Tensor, context_length: int) -> list[str]:
    """Greedy continuations up to the end token."""
    start, ended = ids.shape[1], torch.zeros(len(ids), dtype=torch.bool)
    while ids.shape[1] < context_length and not bool(ended.all()):
        best = model(ids)[:, -1].argmax(dim=-1)
        best = torch.where(ended, END, best)
        ended |= best == END
        ids = torch.cat([ids, best[:, None]], dim=1)
    return [bytes(i for i in row if i < END).decode(errors="replace") for row in ids[:, start:].tolist()]


def train(folder: Path, seed: int, out: Path = Path("run")) -> dict[str, bytes]:
    """Train on worked solutions of the splits that are not held out, one after the other as plain text."""
    from safetensors.torch import save

    from cs336_alignment.tasks.arithmetic import Arithmetic
    from cs336_alignment.tasks.splits import SplitSizes
    from cs336_basics.checkpoint import load_state
    from cs336_basics.data import write_tokens
    from cs336_basics.training import train as run_training
    from cs336_basics.training_config import TrainConfig

    recipe = json.loads((folder / "recipe.json").read_text())
    task = Arithmetic(sizes=SplitSizes(sft=recipe["sft"], rl=recipe["rl"], preference=1, test=1))
    examples = [*task.examples("sft", recipe["seed"]), *task.examples("rl", recipe["seed"])]
    data = out.parent / "data"
    paths = {"train_tokens": data / "train.bin", "valid_tokens": data / "valid.bin"}
    held = max(1, len(examples) // 20)
    for path, part in zip(paths.values(), (examples[held:], examples[:held]), strict=True):
        ids = (i for example in part for i in (END, *(example.prompt + example.response).encode()))
        write_tokens(path, ids, vocab_size=END + 1)
    given = {**recipe["train"], **{name: str(path.resolve()) for name, path in paths.items()}}
    run_training(config_from_dict(TrainConfig, {**given, "seed": seed, "device": "cpu"}), out, progress=False)
    weights = {name: value.contiguous().clone() for name, value in load_state(out / "model.pt").items()}
    return {"model.safetensors": save(weights), "model_config.json": (out / "model_config.json").read_bytes()}
