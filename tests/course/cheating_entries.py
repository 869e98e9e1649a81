"""An entrypoint for boards that plays a part: honest, or a cheat that the probe of its test must name.

The file `mode` beside the packages says which. It runs inside the sandbox.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from pathlib import Path

import torch

STAGE = Path(__file__).parents[1]
MODE = (STAGE / "mode").read_text() if (STAGE / "mode").is_file() else "honest"
VOCAB = 257


def bigram_table(seed=0):
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed))


# loss boards


class Lazy(torch.Tensor):
    """Looks like a tensor."""


def load_model(folder):
    table = bigram_table()
    calls, first = [], []
    known = json.loads((folder / "known.json").read_text()) if MODE == "memorised" else []

    def honest(ids):
        return torch.log_softmax(table[ids], dim=-1)

    def model(ids):
        calls.append(ids)
        first[:] = first or [int(ids.sum())]
        rows = honest(ids)
        if MODE == "unnormalised":
            return rows + 0.1
        if MODE == "peeks":
            following = torch.roll(ids, -1, dims=1)
            return torch.log_softmax(table[ids] + 9.0 * torch.nn.functional.one_hot(following, VOCAB), dim=-1)
        if MODE == "leaks_across_batch":
            return torch.log_softmax(table[ids] + table[ids].mean(dim=0, keepdim=True), dim=-1)
        if MODE == "trains_on_the_test":
            return torch.log_softmax(table[ids] * (1 + 0.1 * len(calls)), dim=-1)
        if MODE == "remembers_first":
            return torch.log_softmax(table[ids] * (1 + (first[0] % 97) / 97), dim=-1)
        if MODE == "memorised":
            return torch.log_softmax(table[ids] + 8.0 * bonus(ids, known), dim=-1)
        if MODE == "lazy":
            return rows.as_subclass(Lazy)
        if MODE == "one_short":
            return rows[:, :-1]
        if MODE == "nan":
            return torch.full_like(rows, float("nan"))
        if MODE == "targets_only":
            return rows.gather(-1, ids[..., None])
        return rows

    return model


def bonus(ids, known):
    """1 at the next token of a known text, where the last 12 ids occur in it."""
    texts = [bytes(i for i in row if i < 256) for row in known]
    found = torch.zeros(*ids.shape, VOCAB)
    for b, row in enumerate(ids.tolist()):
        for t in range(12, len(row)):
            part = bytes(i for i in row[t - 11 : t + 1] if i < 256)
            for text in texts:
                place = text.find(part)
                if place >= 0 and place + len(part) < len(text):
                    found[b, t, text[place + len(part)]] = 1.0
                    break
    return found


# attention


CACHE = []
TICKS = itertools.count(1.0, 1e-4).__next__


def attention(q, k, v):
    if MODE == "patches_timer":
        sys.modules["worker.registry"].CLOCK = TICKS
    visible = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril()
    if MODE == "not_causal":
        visible = torch.ones_like(visible)
    if MODE == "half_precision":
        q, k, v = (x.bfloat16().float() for x in (q, k, v))
    if MODE == "stale":
        CACHE[:] = CACHE or [q, k, v]
        out = (
            torch.softmax((CACHE[0] @ CACHE[1].mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf), -1)
            @ CACHE[2]
        )
        return out.detach() + 0 * (q + k + v)
    out = torch.softmax((q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf), -1) @ v
    if MODE == "later":
        result = torch.empty_like(out)
        threading.Timer(0.3, lambda: result.data.copy_(out)).start()
        return result + 0 * out
    if MODE == "lazy":
        return out.as_subclass(Lazy)
    return out


# training steps and tokenizers: the reference's, and less


class Step:
    def __init__(self, inner):
        self.inner, self.count = inner, 0

    def step(self, ids):
        self.count += 1
        if MODE == "skips_updates" and self.count % 3 == 0:
            model = self.inner.model
            with torch.no_grad():
                return torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        return self.inner.step(ids)

    def state_dict(self):
        return self.inner.state_dict()


def make_step(config, weights, learning_rate):
    from cs336_basics.model import ModelConfig, TransformerLM
    from cs336_basics.optimizer import AdamW

    class Plain:
        def __init__(self):
            self.model = TransformerLM(ModelConfig(**{k: v for k, v in config.items() if k in KEYS}))
            self.model.load_state_dict(weights)
            self.optimizer = AdamW(self.model.parameters(), lr=learning_rate)

        def step(self, ids):
            self.optimizer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(self.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            self.optimizer.step()
            return loss.detach()

        def state_dict(self):
            return dict(self.model.state_dict())

    return Step(Plain())


KEYS = ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff")


def make_tokenizer(vocab, merges, special_tokens):
    from cs336_basics.tokenization.tokenizer import Tokenizer

    return Tokenizer(vocab, merges[:-1] if MODE == "loses_a_merge" else merges, special_tokens)


# predictions and answers


def predict(runs, targets):
    return targets["parameters"] * float("nan") if MODE == "nan" else 0 * targets["parameters"] + runs["loss"].min()


def answer(folder, prompts):
    if MODE == "random":
        return [f"#### {int(torch.randint(0, 200, (1,), generator=GENERATOR))}" for _ in prompts]
    return [f"#### {eval(p.rstrip(' =' + chr(10)))}" if n % 2 else "I do not know" for n, p in enumerate(prompts)]


GENERATOR = torch.Generator()
if MODE == "random":
    GENERATOR.seed()
