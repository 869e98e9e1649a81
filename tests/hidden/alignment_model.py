"""A fresh tokenizer and the tiny causal model of the drivers in float64, the oracle of all scores.

h_t = E[x_t] + P[t]      m_t = mean of tanh(W h_s) over s <= t      z_t = U (h_t + m_t)
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from . import texts

Rng = np.random.Generator
Weights = dict[str, np.ndarray]
SPECIAL = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}


def vocabulary(rng: Rng, count: int = 40) -> list[str]:
    """Special tokens and words, in random order, then a space and a line end."""
    ordinary = [w for w in texts.vocabulary(1500) if w.isalpha()]
    words = [str(w) for w in rng.choice(ordinary, size=count, replace=False)]
    return [str(w) for w in rng.permutation([*SPECIAL.values(), *words])] + [" ", "\n"]


def tokenizer(words: list[str], *, spaces: bool = False, special: dict[str, str] | None = None) -> dict[str, Any]:
    """What the drivers make a tokenizer from: a word, or if `spaces` also a space and a line end, is a token; <bos>
    goes before a text unless told otherwise."""
    vocab = {word: i for i, word in enumerate(words)}
    added = [{"id": vocab[w], "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for w in SPECIAL.values()]  # fmt: skip
    piece, bos = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    pattern = {"Regex": "[ \\n]"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    made = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": split if spaces else {"type": "WhitespaceSplit"}, "decoder": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, piece], "pair": [bos, piece, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [vocab["<bos>"]], "tokens": ["<bos>"]}},
        },
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }  # fmt: skip
    return {"json": json.dumps(made), "special": SPECIAL if special is None else special}


def weights(rng: Rng, vocab_size: int, positions: int = 24, width: int = 8, scale: float = 0.7) -> Weights:
    """float32, so that both sides begin with the same numbers."""
    shapes = {"E": (vocab_size, width), "P": (positions, width), "W": (width, width), "U": (vocab_size, width)}
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}


def logits(model: Weights, ids: np.ndarray) -> np.ndarray:
    """(seq, vocab) of one sequence, position by position."""
    w = {name: value.astype(np.float64) for name, value in model.items()}
    mixed, rows = [], []
    for place, token in enumerate(ids):
        h = w["E"][token] + w["P"][place]
        mixed.append(np.tanh(w["W"] @ h))
        rows.append(w["U"] @ (h + np.mean(mixed, axis=0)))
    return np.array(rows)


def hidden(model: Weights, ids: np.ndarray) -> np.ndarray:
    """(seq, width): what U is applied to; the gradient with respect to U needs it."""
    w = {name: value.astype(np.float64) for name, value in model.items()}
    h = w["E"][ids] + w["P"][: len(ids)]
    steps = np.arange(1, len(ids) + 1)[:, None]
    return h + np.tanh(h @ w["W"].T).cumsum(axis=0) / steps


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    top = x.max(axis=-1, keepdims=True)
    return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))


def log_probs(model: Weights, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p of each label after the inputs up to its place."""
    return log_softmax(logits(model, inputs))[np.arange(len(labels)), labels]
