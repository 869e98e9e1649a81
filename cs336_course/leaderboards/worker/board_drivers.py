"""Inside the sandbox: question a participant's entrypoint, one case at a time.

The judge writes the inputs of a case to a file only when the answer to the case before has arrived, so nothing can be
computed ahead, and the time between two answers, which another process takes, bounds what is claimed in here:

    wait for box/N.frame -> fresh tensors -> saved clock -> participant's function -> copy of the result -> saved clock

What an entrypoint may define (`tests/adapters.py` in the stage, entry.py for its author): `load_model(folder)`,
`attention(q, k, v)`, `make_step(config, weights, learning_rate)`, `make_tokenizer(vocab, merges, special_tokens)`,
`predict(runs, targets)`, `answer(folder, prompts)`.

This file is copied into the sandbox as `registry.py` and takes the grader's place of that name: no module of ours, no
expected value. Read next: `../conversation.py`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CLOCK, SLEEP = time.perf_counter, time.sleep  # saved before any code of a participant is imported
WAIT_S = 600
Inputs = dict[str, Any]


class SchemaError(TypeError):
    """An entrypoint returned something of another kind than it should."""


def prepare() -> None:
    """Import what entries use once in the server, from which every process is forked."""
    for name in ("einops", "jaxtyping", "regex", "safetensors.torch"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run(driver: str, entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Wait for the case's inputs, then answer it."""
    import torch

    inputs = _delivered(Path(entry.__file__).parents[1] / "box" / f"{inputs['box']}.frame")
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    return DRIVERS[driver](entry, inputs)


def _delivered(path: Path) -> Inputs:
    """The inputs, as soon as the judge has put them there."""
    deadline = CLOCK() + WAIT_S
    while not os.path.exists(path):
        if CLOCK() > deadline:
            raise TimeoutError("the judge sent no inputs")
        SLEEP(0.0005)
    inputs: Inputs = importlib.import_module("worker.wire").unpack(path.read_bytes())
    return inputs


def ready(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Import only."""
    return {"has": sorted(name for name in inputs["names"] if callable(getattr(entry, name, None)))}


def log_probs(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Log-probabilities of every next token after every position, (batch, seq, vocab)."""
    import torch

    model = _model(entry)
    with torch.no_grad():
        return {"value": _array(model(torch.from_numpy(inputs["ids"].astype(np.int64))))}


def attention(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Output and gradients of one causal attention, and the seconds by the clock in here."""
    import torch

    q, k, v, d_o = (torch.from_numpy(inputs[name].copy()) for name in ("q", "k", "v", "d_o"))
    for tensor in (q, k, v):
        tensor.requires_grad_()
    _poison(4, q.shape)
    start = CLOCK()
    output = entry.attention(q, k, v)
    if type(output) is not torch.Tensor:
        raise SchemaError(f"attention must return a plain torch.Tensor; got {type(output).__name__}")
    gradients = torch.autograd.grad(output, (q, k, v), d_o)
    arrays = [_array(x) for x in (output, *gradients)]
    return {"seconds": CLOCK() - start, "o": arrays[0], "dq": arrays[1], "dk": arrays[2], "dv": arrays[3]}


def start_steps(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Build the participant's trainer from given first weights."""
    import torch

    weights = {name: torch.from_numpy(value.copy()) for name, value in inputs["weights"].items()}
    entry.current_trainer = entry.make_step(inputs["config"], weights, inputs["learning_rate"])
    return {}


def one_step(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """One update on fresh ids: the loss before it, and the seconds by the clock in here."""
    import torch

    ids = torch.from_numpy(inputs["ids"].astype(np.int64))
    _poison(2, (ids.numel() * 64,))
    start = CLOCK()
    loss = float(_array(entry.current_trainer.step(ids)))
    return {"seconds": CLOCK() - start, "loss": loss}


def step_weights(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """All weights after the last update."""
    return {"weights": {str(name): _array(value) for name, value in entry.current_trainer.state_dict().items()}}


def start_tokenizer(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Build the participant's tokenizer from a given vocabulary."""
    merges = [(left, right) for left, right in inputs["merges"]]
    entry.current_tokenizer = entry.make_tokenizer(dict(enumerate(inputs["vocab"])), merges, list(inputs["specials"]))
    return {}


def encode(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Ids of a text, and the seconds by the clock in here."""
    text = inputs["text"]
    start = CLOCK()
    ids = np.array(entry.current_tokenizer.encode(text), dtype=np.int64)
    return {"seconds": CLOCK() - start, "ids": ids}


def predict(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Predicted losses of target runs from finished ones."""
    return {"value": _array(entry.predict(inputs["runs"], inputs["targets"])).astype(np.float64)}


def answer(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """A response to each prompt."""
    responses = entry.answer(_artifacts(entry), list(inputs["prompts"]))
    if not isinstance(responses, list) or not all(type(response) is str for response in responses):
        raise SchemaError("answer must return a list of str")
    return {"responses": responses}


def retrain(entry: Any, inputs: Inputs) -> dict[str, Any]:
    """Train again from another seed; the files that make the model."""
    files = entry.train(_artifacts(entry), inputs["seed"])
    return {"files": {str(name): np.frombuffer(bytes(content), dtype=np.uint8) for name, content in files.items()}}


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        ready, log_probs, attention, start_steps, one_step, step_weights, start_tokenizer, encode, predict, answer, retrain
    )
}  # fmt: skip


def _artifacts(entry: Any) -> Path:
    """The folder of the participant's files."""
    return Path(entry.__file__).parents[1] / "artifacts"


@functools.cache
def _model(entry: Any) -> Any:
    """The participant's model, loaded once per process."""
    return entry.load_model(_artifacts(entry))


def _poison(count: int, shape: tuple[int, ...]) -> None:
    """Leave NaN in the memory that is handed out next: what nothing writes does not look right by chance."""
    import torch

    del [torch.full(tuple(shape), float("nan")) for _ in range(count)][:]


def _array(value: Any) -> np.ndarray:
    """A plain tensor or number as an array; a subclass, which might compute later or lie, is refused."""
    import torch

    if type(value) in (torch.Tensor, torch.nn.Parameter):
        plain = value.detach()
        return (plain.float() if plain.dtype in (torch.bfloat16, torch.float16) else plain).cpu().numpy().copy()
    if type(value) in (int, float):
        return np.array(value)
    if type(value) is np.ndarray:
        return value.copy()
    raise SchemaError(f"expected a plain torch.Tensor; got {type(value).__name__}")
