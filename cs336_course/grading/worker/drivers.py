"""Drives the adapters of a submission through one case and returns plain arrays: one function per kind of problem.

    call(adapters, {"function": "run_softmax", "arguments": {...}}) -> {"value": array}

Inputs come from the judge, outputs go to it; nothing here knows what is right. The judge uses the same drivers on the
misconceptions, where it wants to know what a wrong implementation would have answered.

This file is copied into the sandbox beside `serve.py`: standard library, numpy and torch only. Read next:
`tests/hidden/` (where the inputs come from), `../judge.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Inputs = dict[str, Any]


class SchemaError(TypeError):
    """An adapter returned something of another kind than its signature says."""


def call(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """One adapter called by keyword; arrays become tensors, in `dtype` if the case names one."""
    arguments = {name: _tensors(value, inputs.get("dtype")) for name, value in inputs["arguments"].items()}
    result = getattr(adapters, inputs["function"])(**arguments)
    return {"value": _array(result), "dtype": str(getattr(result, "dtype", type(result).__name__))}


def gradient(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """As `call`, and the gradient of sum(result * weight) with respect to the argument `wrt`."""
    arguments = {name: _tensors(value, None) for name, value in inputs["arguments"].items()}
    leaf = arguments[inputs["wrt"]].requires_grad_()
    result = getattr(adapters, inputs["function"])(**arguments)
    (result * _tensors(inputs["weight"], None)).sum().backward()
    return {"value": _array(leaf.grad)}


def schedule(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Learning rates of the given steps."""
    rates = [adapters.run_get_lr_cosine_schedule(it, **inputs["arguments"]) for it in inputs["steps"]]
    return {"value": np.array([float(rate) for rate in rates])}


def clip(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Gradients after clipping; None stands for a parameter without one."""
    import torch

    parameters = []
    for grad in inputs["gradients"]:
        parameter = torch.nn.Parameter(torch.zeros(3 if grad is None else grad.shape))
        parameter.grad = None if grad is None else torch.from_numpy(grad.copy())
        parameters.append(parameter)
    given: Any = (p for p in parameters) if inputs["as_generator"] else parameters
    adapters.run_gradient_clipping(given, inputs["max_l2_norm"])
    return {"gradients": [None if p.grad is None else _array(p.grad) for p in parameters]}


def adamw(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Parameters after each step of given gradients; optionally new learning rates, or a reload before one step."""
    import torch

    parameters = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start in inputs["start"]]
    settings = {**inputs["settings"], "betas": tuple(inputs["settings"]["betas"])}
    make = adapters.get_adamw_cls()
    optimizer, after = make(parameters, **settings), []
    for step, gradients in enumerate(inputs["gradients"]):
        if inputs.get("rates"):
            for group in optimizer.param_groups:
                group["lr"] = inputs["rates"][step]
        if step == inputs.get("reload_before"):
            state, optimizer = optimizer.state_dict(), make(parameters, **settings)
            optimizer.load_state_dict(state)
        for parameter, grad in zip(parameters, gradients, strict=True):
            parameter.grad = None if grad is None else torch.from_numpy(grad.copy())
        optimizer.step()
        after.append([_array(parameter) for parameter in parameters])
    return {"after": after}


def batches(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Many batches in one array of inputs and one of targets, and the kind of the first."""
    made = [
        adapters.run_get_batch(
            dataset=inputs["dataset"],
            batch_size=inputs["batch_size"],
            context_length=inputs["context_length"],
            device="cpu",
        )
        for _ in range(inputs["count"])
    ]
    kinds = [str(made[0][0].dtype), str(made[0][1].dtype), str(made[0][0].device)]
    x, y = (np.stack([_array(pair[side]) for pair in made]) for side in (0, 1))
    return {"x": x, "y": y, "kinds": kinds}


def bad_device(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Which exception a device that cannot exist brings up."""
    try:
        adapters.run_get_batch(dataset=inputs["dataset"], batch_size=2, context_length=3, device="cuda:99")
    except Exception as error:
        return {"raised": type(error).__name__}
    return {"raised": None}


def checkpoint(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Train, save, load into fresh objects, go on with both: weights along the way, and the iteration returned."""
    import torch

    def fresh(fill: float | None) -> tuple[Any, Any]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                value = inputs["start"][number] if fill is None else np.full(parameter.shape, fill, np.float32)
                parameter.copy_(torch.from_numpy(value))
        return model, torch.optim.Adam(model.parameters(), lr=0.05, betas=(0.8, 0.9))

    def advance(model: Any, optimizer: Any, rows: np.ndarray) -> None:
        for row in rows:
            optimizer.zero_grad()
            model(torch.from_numpy(row)).square().sum().backward()
            optimizer.step()

    def weights(model: Any) -> list[np.ndarray]:
        return [_array(parameter) for parameter in model.parameters()]

    half = len(inputs["rows"]) // 2
    model, optimizer = fresh(None)
    advance(model, optimizer, inputs["rows"][:half])
    saved, target = weights(model), io.BytesIO() if inputs["to_file_object"] else "checkpoint.pt"
    adapters.run_save_checkpoint(model, optimizer, inputs["iteration"], target)
    if isinstance(target, io.BytesIO):
        target.seek(0)
    again, optimizer_again = fresh(0.5)
    for group in optimizer_again.param_groups:
        group["lr"] = 1.0
    iteration = adapters.run_load_checkpoint(target, again, optimizer_again)
    loaded = weights(again)
    advance(model, optimizer, inputs["rows"][half:])
    advance(again, optimizer_again, inputs["rows"][half:])
    return {
        "iteration": iteration if type(iteration) is int else str(type(iteration)),
        "saved": saved,
        "loaded": loaded,
        "without_break": weights(model),
        "resumed": weights(again),
    }


def tokenize(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Ids of each text, the text they decode to, and the ids from the text in pieces."""
    tokenizer = _tokenizer(adapters, inputs)
    ids = [_ints(tokenizer.encode(text)) for text in inputs["texts"]]
    decoded = [tokenizer.decode(list(row)) for row in ids]
    streamed = [_ints(tokenizer.encode_iterable(iter(pieces))) for pieces in inputs["pieces"]]
    return {"ids": ids, "decoded": decoded, "streamed": streamed}


def decode(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """The texts of given ids."""
    tokenizer = _tokenizer(adapters, inputs)
    return {"decoded": [tokenizer.decode(list(map(int, row))) for row in inputs["ids"]]}


def laziness(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """How many lines encode_iterable has read when it gives its first ids."""
    tokenizer, read = _tokenizer(adapters, inputs), 0

    def lines() -> Iterator[str]:
        nonlocal read
        for _ in range(inputs["lines"]):
            read += 1
            yield inputs["line"]

    ids = iter(tokenizer.encode_iterable(lines()))
    for _ in range(inputs["first"]):
        next(ids)
    return {"read": read}


def train_bpe(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Vocabulary and merges learned from a text."""
    with open("corpus.txt", "w", encoding="utf-8", newline="") as file:
        file.write(inputs["text"])
    vocab, merges = adapters.run_train_bpe(
        input_path="corpus.txt", vocab_size=inputs["vocab_size"], special_tokens=list(inputs["special_tokens"])
    )
    if not all(type(key) is int for key in vocab):
        raise SchemaError("the keys of the vocabulary must be int")
    ids = sorted(vocab)
    return {
        "ids": np.array(ids, dtype=np.int64),
        "tokens": [_bytes(vocab[i]) for i in ids],
        "merges": [[_bytes(left), _bytes(right)] for left, right in merges],
    }


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        call, gradient, schedule, clip, adamw, batches, bad_device, checkpoint, tokenize, decode, laziness, train_bpe
    )
}  # fmt: skip


def _tokenizer(adapters: Any, inputs: Inputs) -> Any:
    specials = inputs["special_tokens"]
    return adapters.get_tokenizer(
        vocab=dict(enumerate(inputs["vocab"])),
        merges=[(left, right) for left, right in inputs["merges"]],
        special_tokens=None if specials is None else list(specials),
    )


def _tensors(value: Any, dtype: str | None) -> Any:
    """Arrays as fresh tensors, inside dicts too; floating ones in `dtype`."""
    import torch

    if isinstance(value, dict):
        return {name: _tensors(item, dtype) for name, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(value.copy())
    return tensor.to(getattr(torch, dtype)) if dtype and tensor.is_floating_point() else tensor


def _array(value: Any) -> np.ndarray:
    """A plain tensor or number as an array; anything that only looks like one is refused."""
    import torch

    if type(value) in (torch.Tensor, torch.nn.Parameter):
        plain = value.detach()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).cpu().numpy().copy()
    if type(value) in (int, float):
        return np.array(value)
    if type(value) is np.ndarray or isinstance(value, np.number):
        return np.array(value)
    raise SchemaError(f"expected a plain torch.Tensor; got {type(value).__name__}")


def _ints(ids: Any) -> np.ndarray:
    row = list(ids)
    if any(type(i) is not int and not isinstance(i, np.integer) for i in row):
        raise SchemaError("token ids must be int")
    return np.array(row, dtype=np.int64)


def _bytes(token: Any) -> bytes:
    if type(token) is not bytes:
        raise SchemaError(f"tokens must be bytes; got {type(token).__name__}")
    return token
