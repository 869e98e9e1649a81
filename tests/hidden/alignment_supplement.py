"""Assignment 5, supplement: packed data, the DPO loss, and reading answers out of free text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cs336_course.grading.suite import Answer, BadAnswer, Case

from . import alignment_model as tiny
from .comparing import arrays, difference

Rng = np.random.Generator
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n{}"
)


def _words(rng: Rng) -> list[str]:
    """A vocabulary that holds the template's words."""
    words = tiny.vocabulary(rng, 24)
    template = dict.fromkeys(ALPACA.replace("{}", " ").split())
    return [*words, *(word for word in template if word not in words)]


def _encode(words: list[str], text: str) -> list[int]:
    """<bos>, then words, spaces and line ends."""
    place, found, start = {word: i for i, word in enumerate(words)}, [words.index("<bos>")], 0
    for i, character in enumerate(text + " "):
        if character in " \n":
            found += [place[text[start:i]]] if text[start:i] else []
            found += [place[character]] if i < len(text) else []
            start = i + 1
    return found


def _text(rng: Rng, words: list[str], count: int) -> str:
    ordinary = [word for word in words[:28] if word.isalpha()]
    return " ".join(str(word) for word in rng.choice(ordinary, size=count))


def data_loading(rng: Rng) -> list[Case]:
    words = _words(rng)
    eos = words.index("<eos>")

    def case(
        id: str,
        property: str,
        count: int,
        seq_length: int,
        batch_size: int = 0,
        shuffle: bool = False,
        rest: int | None = None,
    ) -> Case:
        pairs = [
            [_text(rng, words, int(rng.integers(1, 6))), _text(rng, words, int(rng.integers(1, 9)))]
            for _ in range(count)
        ]
        documents = [[*_encode(words, ALPACA.format(p, r)), eos] for p, r in pairs]
        stream = [token for document in documents for token in document]
        if rest is not None:  # lengthen the last response until so many tokens are left over
            while len(stream) % seq_length != rest:
                pairs[-1][1] += " " + _text(rng, words, 1)
                documents[-1] = [*_encode(words, ALPACA.format(*pairs[-1])), eos]
                stream = [token for document in documents for token in document]
        inputs = {"pairs": pairs, "tokenizer": tiny.tokenizer(words, spaces=True), "seq_length": seq_length, "shuffle": shuffle,
                  "batch_size": batch_size}  # fmt: skip
        judge = _judge_shuffled if shuffle else _judge_packed
        return Case(id, property, "packed", inputs, lambda answer: judge(documents, seq_length, batch_size, answer))

    return [
        case("plain", "template, response and <eos> of all documents in a row, in equal pieces", 5, 16),
        case("long", "a piece may hold several documents", 6, 111),
        case("short", "a document may fill several pieces", 3, 7),
        case("full", "a last piece without its last label is left out", 4, 13, rest=0),
        case("just-full", "one that has it is not", 4, 13, rest=1),
        case("batches", "all items in order, the last batch short", 5, 16, batch_size=4),
        case("shuffled", "shuffle changes the order of documents and loses none", 12, 9, batch_size=5, shuffle=True),
    ]  # fmt: skip


def _judge_packed(documents: list[list[int]], m: int, batch_size: int, answer: Answer) -> str | None:
    stream = [token for document in documents for token in document]
    count = (len(stream) - 1) // m
    if answer.get("kind") != "torch.int64":
        return "ids must be int64"
    if answer.get("length") != count:
        return "another number of items than (tokens - 1) // seq_length"
    for name, shift in (("input_ids", 0), ("labels", 1)):
        expected = np.array(stream[shift : shift + count * m]).reshape(count, m)
        rows = arrays(answer, name)
        if len(rows) != count or any(row.shape != (m,) for row in rows):
            return f"{name} must have seq_length tokens in each item"
        if wrong := difference(np.stack(rows), expected, atol=0, rtol=0, what=name):
            return wrong
    if answer.get("ends") is not True:
        return "an item past the end must raise IndexError"
    return _judge_batches(arrays(answer, "input_ids"), batch_size, answer, in_order=True) if batch_size else None


def _judge_batches(items: list[np.ndarray], batch_size: int, answer: Answer, *, in_order: bool) -> str | None:
    sizes = [min(batch_size, len(items) - start) for start in range(0, len(items), batch_size)]
    batches = arrays(answer, "batches")
    if answer.get("num_batches") != len(sizes) or [len(batch) for batch in batches] != sizes:
        return "batches must hold batch_size items each, and the last what is left"
    found, expected = (
        [tuple(row) for batch in batches for row in batch.tolist()],
        [tuple(item.tolist()) for item in items],
    )
    if sorted(found) != sorted(expected):
        return "batches must hold each item once"
    return "batches must be in order" if in_order and found != expected else None


def _judge_shuffled(documents: list[list[int]], m: int, batch_size: int, answer: Answer) -> str | None:
    """The order is free, so documents are looked for in what comes out."""
    stream = [token for document in documents for token in document]
    items = arrays(answer, "input_ids")
    if answer.get("length") != (len(stream) - 1) // m or not items:
        return "another number of items than (tokens - 1) // seq_length"
    found = np.concatenate(items).tolist()
    if found == stream[: len(found)]:
        return "the documents are in the order of the file"
    starts = {tuple(document): place for document in documents if (place := _find(found, document[:-1])) is not None}
    if len(starts) < len(documents) - 2:  # the last may be cut
        return "documents are cut or lost when they are shuffled"
    return _judge_batches(items, batch_size, answer, in_order=False)


def _find(stream: list[int], part: list[int]) -> int | None:
    return next((i for i in range(len(stream)) if stream[i : i + len(part)] == part), None)


def dpo_loss(rng: Rng) -> list[Case]:
    words = _words(rng)

    def draw(lengths: tuple[int, int], beta: float, same: bool, scale: float) -> dict[str, Any]:
        prompt, chosen, rejected = (_text(rng, words, n) for n in (int(rng.integers(1, 6)), *lengths))
        policy = tiny.weights(rng, len(words), positions=96, scale=scale)
        reference = policy if same else tiny.weights(rng, len(words), positions=96, scale=scale)
        arguments = {"beta": beta, "prompt": prompt, "response_chosen": chosen, "response_rejected": rejected}
        return {
            "policy": policy,
            "reference": reference,
            "tokenizer": tiny.tokenizer(words, spaces=True),
            "arguments": arguments,
        }

    def case(id: str, property: str, beta: float, lengths: tuple[int, int], *, same: bool = False, scale: float = 0.5,
             below: float = math.inf) -> Case:  # fmt: skip
        inputs = draw(lengths, beta, same, scale)
        while beta * _margin(words, inputs) >= below:
            inputs = draw(lengths, beta, same, scale)
        return Case(id, property, "dpo", inputs, lambda answer: _judge_dpo(words, inputs, answer))

    return [
        case("plain", "-log sigmoid(beta (h(chosen) - h(rejected))) with the log-probs of template, response and <eos>", 0.5, (4, 4)),
        case("small-beta", "beta is inside the sigmoid", 0.1, (3, 5)),
        case("lengths", "log-probs are summed, not averaged", 0.3, (2, 8)),
        case("same", "a model equal to its reference has the loss log 2", 0.5, (3, 4), same=True),
        case("large", "no overflow for large margins", 40.0, (6, 6), scale=1.0, below=-100.0),
    ]  # fmt: skip


def _documents(words: list[str], inputs: dict[str, Any]) -> list[np.ndarray]:
    """Ids of template, response and <eos>, of the chosen and the rejected one."""
    given, eos = inputs["arguments"], words.index("<eos>")
    texts = (ALPACA.format(given["prompt"], given[f"response_{name}"]) for name in ("chosen", "rejected"))
    return [np.array([*_encode(words, text), eos]) for text in texts]


def _margin(words: list[str], inputs: dict[str, Any]) -> float:
    """h(chosen) - h(rejected)."""
    ratios = []
    for ids in _documents(words, inputs):
        policy, reference = (tiny.log_probs(inputs[name], ids[:-1], ids[1:]).sum() for name in ("policy", "reference"))
        ratios.append(float(policy - reference))
    return ratios[0] - ratios[1]


def _judge_dpo(words: list[str], inputs: dict[str, Any], answer: Answer) -> str | None:
    beta = inputs["arguments"]["beta"]
    z = beta * _margin(words, inputs)
    loss = math.log1p(math.exp(-abs(z))) + max(-z, 0.0)
    if wrong := difference(answer.get("loss"), np.array(loss), atol=2e-3 * beta + 1e-5, rtol=1e-4, what="the loss"):
        return wrong
    if answer.get("reference_gradient") is not False:
        return "the reference gets a gradient: it is frozen"
    if answer.get("gradient") is None:
        return "the loss carries no gradient to the model"
    sides = []
    for ids in _documents(words, inputs):
        p = np.exp(tiny.log_softmax(tiny.logits(inputs["policy"], ids[:-1])))
        sides.append((np.eye(len(words))[ids[1:]] - p).T @ tiny.hidden(inputs["policy"], ids[:-1]))
    slope = -beta / (1 + math.exp(min(z, 700.0)))
    gradient = slope * (sides[0] - sides[1])
    return difference(answer["gradient"], gradient, atol=1e-3 * (1 + beta), rtol=2e-2, what="the gradient")


def _parser(id: str, property: str, function: str, items: list[tuple[list[Any], str | None]]) -> Case:
    """A case of outputs with what is to be read in them."""

    def judge(answer: Answer) -> str | None:
        found = answer.get("values")
        if (
            type(found) is not list
            or len(found) != len(items)
            or any(v is not None and type(v) is not str for v in found)
        ):
            raise BadAnswer("an answer must be a str or None")
        for value, (_, expected) in zip(found, items, strict=True):
            if (value or None) != expected:
                return (
                    "an answer is read where none is"
                    if expected is None
                    else "another answer is read than the one given"
                )
        return None

    return Case(id, property, "each", {"function": function, "items": [arguments for arguments, _ in items]}, judge)


def parse_mmlu_response(rng: Rng) -> list[Case]:
    options = [str(n) for n in rng.choice(np.arange(20, 90), size=4, replace=False)]
    example = {"subject": "arithmetic", "question": "How many are left?", "options": options, "answer": "A"}

    def case(id: str, property: str, *outputs: tuple[str, str | None]) -> Case:
        return _parser(id, property, "run_parse_mmlu_response", [([example, text], letter) for text, letter in outputs])

    a, b, c, d = (str(letter) for letter in rng.permutation(list("ABCD")))
    return [
        case("sentence", "the letter after `the correct answer is`", *((f"The correct answer is {x}.", x) for x in (a, b, c, d))),
        case("later", "also with other letters before it", (f"{a} looks right at first, but the correct answer is {b}.", b),
             (f"Not {c}. So the correct answer is {d}", d)),
        case("reason", "what comes after it does not count", (f"The correct answer is {a}. Option {b} is too small, and {c} is odd.", a)),
        case("marks", "colon, brackets and asterisks around it", (f"The correct answer is: {b}", b), (f"The correct answer is ({c}).", c), (f"The correct answer is **{d}**.", d)),
        case("letter", "a letter alone, or at the beginning", (d, d), (f"{a}.", a), (f"({b}) {options[0]}", b), (f"{c}. {options[1]}", c)),
        case("none", "no letter, no answer", ("I cannot say.", None), ("", None), ("It must be a large number.", None), (f"The correct answer is {options[2]}.", None)),
        case("words", "a capital that begins a word is no letter", ("The correct answer is Brazil.", None), ("A number is missing here.", None),
             ("The correct answer is Duluth, I think", None)),
    ]  # fmt: skip


def parse_gsm8k_response(rng: Rng) -> list[Case]:
    def case(id: str, property: str, *outputs: tuple[str, str | None]) -> Case:
        return _parser(id, property, "run_parse_gsm8k_response", [([text], number) for text, number in outputs])

    n = [int(i) for i in rng.integers(10, 900, size=12)]
    thousands, cents = f"{n[0]},{n[1] + 100:03d}", f"{n[2]}.{n[3] % 90 + 10}"
    return [
        case("last", "the last number", (f"{n[4]} and {n[5]} make {n[4] + n[5]} in all", str(n[4] + n[5])), (f"{n[6]}", str(n[6]))),
        case("period", "the period of the sentence is no part of it", (f"The answer is {n[7]}.", str(n[7])), (f"It was {n[8]}!", str(n[8]))),
        case("commas", "commas between thousands are left out", (f"He has {thousands} sheep", thousands.replace(",", "")),
             (f"from {n[4]} to 4,{n[5] + 100:03d},000 then", f"4{n[5] + 100:03d}000")),
        case("decimals", "decimals", (f"She pays {cents} for it", cents)),
        case("currency", "a currency sign is no part of it", (f"It costs ${n[9]} today", str(n[9])), (f"She paid ${cents}", cents)),
        case("negative", "a minus sign before it", (f"The change is -{n[10]} degrees", f"-{n[10]}")),
        case("difference", "a minus sign between two numbers is a difference", (f"That is {n[10] + 900}-{n[11]}", str(n[11]))),
        case("none", "no number, no answer", ("I do not know.", None), ("", None)),
    ]  # fmt: skip
