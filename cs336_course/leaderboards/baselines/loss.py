"""Entrypoint of loss boards: load the model that training left, answer with log-probabilities.

    load_model(folder) -> function of ids (batch, seq), giving (batch, seq, vocab) log-probabilities
    train(folder, seed) -> {file name: bytes}        what `cs336 leaderboard verify --rerun` calls, under the budget

`folder` holds your artifacts: model.safetensors, model_config.json, tokenizer/. Position t must depend on ids up to t
only. Copy this file, change what you need, and name it with `cs336 leaderboard submit --entrypoint`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.nn_utils import log_softmax
from cs336_basics.runs.config import config_from_dict

if TYPE_CHECKING:
    from cs336_basics.tokenization.tokenizer import Tokenizer

TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens.json")


def load_model(folder: Path) -> Callable[[Tensor], Tensor]:
    """The trained model."""
    config = config_from_dict(ModelConfig, json.loads((folder / "model_config.json").read_text()))
    model = TransformerLM(config)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()

    def log_probs(ids: Tensor) -> Tensor:
        return log_softmax(model(ids).float(), dim=-1)

    return log_probs


# What follows is imported only to train: every question of the judge's imports this file anew.


def train(folder: Path, seed: int, out: Path = Path("run")) -> dict[str, bytes]:
    """Make text, tokenizer and model as folder/recipe.json says; the files that `load_model` needs.

    The recipe: source ("stories" or "stdlib"), documents or max_bytes of training text, vocab_size, and `train`, the
    fields of TrainConfig.
    """
    from safetensors.torch import save

    from cs336_basics.checkpoint import load_state
    from cs336_basics.corpora.corpus_files import known_nats
    from cs336_basics.corpora.stdlib_source import write_stdlib
    from cs336_basics.corpora.stories import write_stories
    from cs336_basics.data import encode_file
    from cs336_basics.training import train as run_training
    from cs336_basics.training_config import TrainConfig

    recipe = json.loads((folder / "recipe.json").read_text())
    data, tokenizer = out.parent / "data", out.parent / "tokenizer"
    if recipe["source"] == "stories":
        write_stories(data, num_train=recipe["documents"], num_valid=100, seed=recipe["seed"], num_cloze=1)
    else:
        write_stdlib(data, max_bytes=recipe["max_bytes"])
    learnt = _learn_tokenizer(data, recipe)
    learnt.save(tokenizer)
    for split in ("train", "valid"):
        nats = known_nats(data / f"{split}.txt")
        facts: dict[str, Any] = {} if nats is None else {"nats": nats}
        encode_file(learnt, data / f"{split}.txt", data / f"{split}.bin", **facts)
    given = {"train_tokens": data / "train.bin", "valid_tokens": data / "valid.bin", "tokenizer": tokenizer}
    paths = {name: str(path.resolve()) for name, path in given.items()}
    run_training(
        config_from_dict(TrainConfig, {**recipe["train"], **paths, "seed": seed, "device": "cpu"}), out, progress=False
    )
    weights = {name: value.contiguous().clone() for name, value in load_state(out / "model.pt").items()}
    files = {f"tokenizer/{name}": (tokenizer / name).read_bytes() for name in TOKENIZER_FILES}
    return {**files, "model.safetensors": save(weights), "model_config.json": (out / "model_config.json").read_bytes()}


def _learn_tokenizer(data: Path, recipe: dict[str, Any]) -> Tokenizer:
    """A byte-pair tokenizer from the beginning of the training text."""
    from cs336_basics.corpora.corpus_files import END_OF_TEXT
    from cs336_basics.tokenization.bpe import train_bpe
    from cs336_basics.tokenization.tokenizer import Tokenizer

    sample = data / "sample.txt"
    text = (data / "train.txt").read_text(encoding="utf-8")[: recipe["tokenizer_chars"]]
    sample.write_text(text, encoding="utf-8")
    vocab, merges = train_bpe(sample, recipe["vocab_size"], [END_OF_TEXT])
    return Tokenizer(vocab, merges, [END_OF_TEXT])
