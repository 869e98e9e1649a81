"""Assignment 5, scoring: batches, log-probs, entropy, masked sums and the SFT step against float64 loops."""

from __future__ import annotations

from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, Case

from . import alignment_model as tiny
from .comparing import arrays, call, difference, part

Rng = np.random.Generator


def tokenize_prompt_and_output(rng: Rng) -> list[Case]:
    words = tiny.vocabulary(rng)
    ordinary = [word for word in words if word.isalpha()]

    def text(count: int) -> str:
        return " ".join(str(word) for word in rng.choice(ordinary, size=count))

    def case(
        id: str, property: str, prompts: list[str], outputs: list[str], special: dict[str, str] | None = None
    ) -> Case:
        spec = tiny.tokenizer(words, special=special)
        pad = words.index(spec["special"].get("pad_token", "<eos>"))
        inputs = {"prompts": prompts, "outputs": outputs, "tokenizer": spec}
        rows = [
            ([words.index(w) for w in p.split()], [words.index(w) for w in o.split()])
            for p, o in zip(prompts, outputs, strict=True)
        ]
        return Case(id, property, "tokenize_pairs", inputs, lambda answer: _judge_batch(rows, pad, answer))

    same, none = {**tiny.SPECIAL, "pad_token": "<eos>"}, {k: v for k, v in tiny.SPECIAL.items() if k != "pad_token"}
    lengths = [(int(p), int(o)) for p, o in rng.integers(1, 9, size=(5, 2))]
    prompts, outputs = [text(p) for p, _ in lengths], [text(o) for _, o in lengths]
    long_first = [text(9), text(2), text(4)], [text(3), text(1), text(6)]
    ends = [text(2), text(3), text(1)], [f"{text(2)} <eos>", text(7), f"<eos> {text(2)}"]
    return [
        case("equal", "inputs and labels are moved by one, the mask belongs to the labels", [text(3), text(3)], [text(4), text(4)]),
        case("unequal", "shorter rows are padded on the right", prompts, outputs),
        case("long-first", "one column is cut, not the last token of each row", *long_first),
        case("pad-is-eos", "the mask follows from lengths, not from ids", *ends, special=same),
        case("no-pad", "without a token for padding, the end of text pads", *ends, special=none),
        case("one", "a single pair", [text(1)], [text(5)]),
    ]  # fmt: skip


def _judge_batch(rows: list[tuple[list[int], list[int]]], pad: int, answer: Answer) -> str | None:
    if answer.get("names") != ["input_ids", "labels", "response_mask"]:
        return "the keys must be input_ids, labels and response_mask"
    if answer.get("kinds") != ["torch.int64", "torch.int64", "torch.bool"]:
        return "ids must be int64 and the mask bool"
    found, width = part(answer, "arrays", dict), max(len(p) + len(o) for p, o in rows)
    full = np.array([[*p, *o, *[pad] * (width - len(p) - len(o))] for p, o in rows])
    owned = np.array([[len(p) <= i < len(p) + len(o) for i in range(width)] for p, o in rows])
    wrong = difference(found.get("input_ids"), full[:, :-1], atol=0, rtol=0, what="input_ids")
    wrong = wrong or difference(found.get("labels"), full[:, 1:], atol=0, rtol=0, what="labels")
    return wrong or difference(found.get("response_mask"), owned[:, 1:], atol=0, rtol=0, what="response_mask")


def entropy_of(x: np.ndarray) -> np.ndarray:
    """In nats, over the last axis."""
    log_p = tiny.log_softmax(x.astype(np.float64))
    return -(np.exp(log_p) * log_p).sum(axis=-1)


def compute_entropy(rng: Rng) -> list[Case]:
    def case(id: str, property: str, x: np.ndarray) -> Case:
        x = x.astype(np.float32)
        return call(
            id,
            property,
            "run_compute_entropy",
            {"logits": x},
            lambda: entropy_of(x),
            atol=2e-5 + 2e-6 * float(np.abs(x).max()),
        )

    apart = rng.standard_normal((2, 4, 6)) + np.array([0, 300, -300, 900])[:, None]
    sure = np.where(np.arange(7) == rng.integers(0, 7, size=(2, 3, 1)), 40.0, 0.0)
    return [
        case("plain", "minus the sum of p log p over the vocabulary, in nats", rng.standard_normal((2, 5, 30))),
        case("large", "no overflow for large logits", 500 * rng.standard_normal((2, 3, 8))),
        case("apart", "the largest logit of each position is subtracted", apart),
        case("equal", "equal logits have the entropy log V", np.full((1, 4, 11), 3.0)),
        case("sure", "a sure prediction has none", sure),
        case("square", "over the last axis", rng.standard_normal((3, 6, 6)) * 3),
    ]


def get_response_log_probs(rng: Rng) -> list[Case]:
    def case(
        id: str, property: str, batch: int, seq: int, entropy: bool, training: bool = False, scale: float = 0.7
    ) -> Case:
        vocab = int(rng.integers(12, 30))
        model = tiny.weights(rng, vocab, scale=scale)
        ids, labels = rng.integers(0, vocab, size=(batch, seq)), rng.integers(0, vocab, size=(batch, seq))
        weight = rng.standard_normal((batch, seq)).astype(np.float32)
        inputs = {
            "weights": model,
            "input_ids": ids,
            "labels": labels,
            "entropy": entropy,
            "training": training,
            "weight": weight,
        }
        return Case(id, property, "response_log_probs", inputs, lambda answer: _judge_log_probs(inputs, answer))

    return [
        case("plain", "log p of each label, in nats, and nothing else", 3, 7, False),
        case("entropy", "the entropy too when it is asked for", 2, 6, True),
        case("training", "the mode of the model stays", 2, 5, False, training=True),
        case("sharp", "log-softmax of large logits", 2, 5, True, scale=4.0),
        case("one", "one token", 1, 1, True),
        case("square", "as many tokens as rows", 4, 4, False),
    ]  # fmt: skip


def _judge_log_probs(inputs: dict[str, Any], answer: Answer) -> str | None:
    if answer.get("names") != ["log_probs", *(["token_entropy"] if inputs["entropy"] else [])]:
        return "the keys must be log_probs and, only if it is asked for, token_entropy"
    if answer.get("training") is not inputs["training"]:
        return "the model is left in another mode than it came in"
    found, model, rows = (
        part(answer, "arrays", dict),
        inputs["weights"],
        list(zip(inputs["input_ids"], inputs["labels"], strict=True)),
    )
    expected = np.array([tiny.log_probs(model, ids, labels) for ids, labels in rows])
    wrong = difference(found.get("log_probs"), expected, atol=2e-4, rtol=1e-4, what="log_probs")
    if wrong is None and inputs["entropy"]:
        entropies = np.array([entropy_of(tiny.logits(model, ids)) for ids, _ in rows])
        wrong = difference(found.get("token_entropy"), entropies, atol=2e-4, rtol=1e-4, what="token_entropy")
    if wrong is not None:
        return wrong
    if answer.get("gradient") is None:
        return "log_probs carry no gradient"
    gradient = np.zeros(())
    for (ids, labels), weight in zip(rows, inputs["weight"].astype(np.float64), strict=True):
        p = np.exp(tiny.log_softmax(tiny.logits(model, ids)))
        errors = (np.eye(p.shape[1])[labels] - p) * weight[:, None]
        gradient = gradient + errors.T @ tiny.hidden(model, ids)
    return difference(answer["gradient"], gradient, atol=2e-3, rtol=1e-3, what="the gradient")


def _masked(rng: Rng) -> list[tuple[str, str, np.ndarray, np.ndarray, int | None]]:
    """Tensors with masks and axes."""

    def draw(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        mask = rng.random(shape) > 0.4
        mask.flat[0], mask.flat[-1] = True, False
        return rng.standard_normal(shape).astype(np.float32) + np.float32(1), mask

    empty, holes = draw(4, 6)
    holes[1] = holes[:, 2] = False
    everything, some = draw(3, 5)
    some[0], some[1, 1:] = True, False  # rows with five and with one
    return [
        ("all", "over all elements without dim", everything, some, None),
        ("rows", "over the last axis", *draw(4, 6), -1),
        ("columns", "over the first axis", *draw(5, 5), 0),
        ("middle", "over an axis in the middle", *draw(2, 3, 4), 1),
        ("empty-rows", "rows of which nothing is selected", empty, holes, 1),
        ("empty-columns", "columns of which nothing is selected", empty, holes, 0),
    ]


def masked_normalize(rng: Rng) -> list[Case]:
    def case(id: str, property: str, x: np.ndarray, mask: np.ndarray, dim: int | None, constant: float) -> Case:
        arguments = {"tensor": x, "mask": mask, "dim": dim, "normalize_constant": constant}
        return call(
            id,
            property,
            "run_masked_normalize",
            arguments,
            lambda: (x.astype(np.float64) * mask).sum(axis=dim) / constant,
        )

    cases = [case(*row, constant=float(rng.integers(2, 50))) for row in _masked(rng)]
    return [*cases, case("one", "a constant of 1", *_masked(rng)[1][2:], constant=1.0)]


def masked_mean(rng: Rng) -> list[Case]:
    def case(id: str, property: str, x: np.ndarray, mask: np.ndarray, dim: int | None) -> Case:
        def judge(answer: Answer) -> str | None:
            total, count = (x.astype(np.float64) * mask).sum(axis=dim), mask.sum(axis=dim)
            expected = np.where(count == 0, np.nan, total / np.maximum(count, 1))
            value = part(answer, "value", np.ndarray)
            if value.shape != expected.shape:
                return f"shape {value.shape}, expected {expected.shape}"
            if not np.array_equal(np.isnan(value), np.isnan(expected)):
                return "the mean of nothing is NaN, and only that"
            return difference(np.asarray(np.nan_to_num(value)), np.nan_to_num(expected), atol=1e-5, rtol=1e-4)

        inputs = {"function": "run_masked_mean", "arguments": {"tensor": x, "mask": mask, "dim": dim}}
        return Case(id, property, "call", inputs, judge)

    return [case(*row) for row in _masked(rng)]


def sft_microbatch_train_step(rng: Rng) -> list[Case]:
    def case(id: str, property: str, batch: int, seq: int, steps: int, constant: float, count: int = 1) -> Case:
        x, mask = (rng.standard_normal((batch, seq)) - 2).astype(np.float32), rng.random((batch, seq)) > 0.5
        mask[0, 0], mask[-1, -1], mask[-1, 0] = True, False, True
        arguments = {"response_mask": mask, "gradient_accumulation_steps": steps, "normalize_constant": constant}
        loss = -(x.astype(np.float64) * mask).sum() / constant / batch / steps
        return microbatch(
            id, property, "run_sft_microbatch_train_step", x, arguments, loss, -(mask / constant / batch / steps), count
        )

    return [
        case("plain", "sum over response tokens, mean over rows", 3, 6, 1, 1.0),
        case("steps", "divided by the accumulation steps", 2, 5, 4, 1.0),
        case("constant", "divided by the constant", 4, 7, 2, 17.0),
        case("one-row", "one row", 1, 5, 2, 3.0),
        case("several", "gradients of several microbatches add up", 2, 6, 3, 5.0, count=3),
    ]


def microbatch(id: str, property: str, function: str, x: np.ndarray, arguments: dict[str, Any], loss: float, gradient: np.ndarray,
               count: int) -> Case:  # fmt: skip
    """A case of a step that calls backward itself, `count` times on one leaf."""

    def judge(answer: Answer) -> str | None:
        found = part(answer, "gradients", list)
        for number, value in enumerate(arrays(answer, "losses")):
            wrong = difference(value, np.array(loss), atol=1e-6, rtol=1e-4, what="the loss returned")
            if wrong is None and (len(found) != count or found[number] is None):
                wrong = "backward was not called"
            wrong = wrong or difference(
                found[number], (number + 1) * gradient, atol=1e-6, rtol=1e-4, what=f"gradients after call {number + 1}"
            )
            if wrong:
                return wrong
        return None if len(found) == count else "another number of losses"

    inputs = {"function": function, "policy_log_probs": x, "arguments": arguments, "count": count}
    return Case(id, property, "microbatches", inputs, judge)
