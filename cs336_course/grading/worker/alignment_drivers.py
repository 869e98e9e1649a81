"""Drivers of assignment 5: a tokenizer and a tiny causal model are built here from what the judge sends.

The tokenizer is one of Hugging Face's, as in the course, made from its JSON. The model is no Transformer, but causal and
with a gradient everywhere:

    h_t = E[x_t] + P[t]      m_t = mean of tanh(W h_s) over s <= t      z_t = U (h_t + m_t)

Read next: `tests/hidden/alignment.py` (where the inputs come from, and the same model in NumPy).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from .drivers import SchemaError, _array, _tensors

Inputs = dict[str, Any]


class TinyModel(torch.nn.Module):
    """See the module docstring; like Hugging Face's models it returns an object with `logits`."""

    E: torch.Tensor
    P: torch.Tensor
    W: torch.Tensor
    U: torch.Tensor

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        for name, value in weights.items():
            setattr(self, name, torch.nn.Parameter(torch.from_numpy(value.copy())))
        self.config = SimpleNamespace(vocab_size=len(weights["E"]))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.E.device

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        """Logits (batch, seq, vocab)."""
        length = input_ids.shape[1]
        h = self.E[input_ids] + self.P[:length]
        steps = torch.arange(1, length + 1, dtype=h.dtype)[:, None]
        m = torch.tanh(h @ self.W.T).cumsum(dim=1) / steps
        return SimpleNamespace(logits=(h + m) @ self.U.T)


class PlainDescent:
    """Gradient descent with the face of a torch optimizer, whose own first use imports torch's compiler (ten seconds)."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), "lr": lr}]
        self.state: dict[torch.nn.Parameter, Any] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step down."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None if set_to_none or parameter.grad is None else torch.zeros_like(parameter)


def make_tokenizer(spec: Inputs) -> Any:
    """A tokenizer of Hugging Face from its JSON and the names of its special tokens."""
    return _tokenizer_of(spec["json"], tuple(spec["special"].items()))


@functools.lru_cache(maxsize=8)
def _tokenizer_of(text: str, special: tuple[tuple[str, str], ...]) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer.from_str(text)
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **dict(special))


def tokenize_pairs(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """The batch made of prompts and outputs, with the kind of each tensor."""
    batch = adapters.run_tokenize_prompt_and_output(
        prompt_strs=list(inputs["prompts"]), output_strs=list(inputs["outputs"]), tokenizer=make_tokenizer(inputs["tokenizer"])
    )  # fmt: skip
    return {"names": sorted(map(str, batch)), "kinds": [str(getattr(batch[name], "dtype", "")) for name in sorted(batch)],
            "arrays": {str(name): _array(value) for name, value in batch.items()}}  # fmt: skip


def response_log_probs(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """What is returned for a model and a batch, the gradient that it carries, and the mode the model is left in."""
    model = TinyModel(inputs["weights"]).train(inputs["training"])
    found = adapters.run_get_response_log_probs(
        model=model, input_ids=torch.from_numpy(inputs["input_ids"]), labels=torch.from_numpy(inputs["labels"]),
        return_token_entropy=inputs["entropy"],
    )  # fmt: skip
    log_probs = found["log_probs"]
    if log_probs.requires_grad:
        (log_probs * torch.from_numpy(inputs["weight"])).sum().backward()
    return {
        "names": sorted(map(str, found)), "arrays": {str(name): _array(value) for name, value in found.items()},
        "gradient": None if model.U.grad is None else _array(model.U.grad), "training": model.training,
    }  # fmt: skip


def microbatches(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """A microbatch step called several times on one leaf: the losses returned and the gradient after each."""
    leaf = torch.from_numpy(inputs["policy_log_probs"].copy()).requires_grad_()
    losses, gradients = [], []
    for _ in range(inputs["count"]):
        arguments = {name: _tensors(value, None) for name, value in inputs["arguments"].items()}
        loss, _metadata = getattr(adapters, inputs["function"])(policy_log_probs=leaf, **arguments)
        losses.append(_array(loss))
        gradients.append(None if leaf.grad is None else _array(leaf.grad))
    return {"losses": losses, "gradients": gradients}


def surrogate(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """A loss per token, alone or with metadata, and the gradient of its weighted sum."""
    leaf = torch.from_numpy(inputs["policy_log_probs"].copy()).requires_grad_()
    arguments = {name: _tensors(value, None) for name, value in inputs["arguments"].items()}
    found = getattr(adapters, inputs["function"])(policy_log_probs=leaf, **arguments)
    if inputs["with_metadata"]:
        if type(found) is not tuple or len(found) != 2:
            raise SchemaError("expected (loss, metadata)")
        found = found[0]
    if found.requires_grad:
        weight = torch.from_numpy(inputs["weight"])
        (found * weight if found.shape == weight.shape else found).sum().backward()
    return {"value": _array(found), "gradient": None if leaf.grad is None else _array(leaf.grad)}


def group_rewards(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Edition 2025: advantages and raw rewards of responses whose rewards stand in a table."""
    advantages, raw, _metadata = adapters.run_compute_group_normalized_rewards(
        reward_fn=_reward_function(inputs["table"]), rollout_responses=[row[0] for row in inputs["table"]],
        repeated_ground_truths=[row[1] for row in inputs["table"]], **inputs["settings"],
    )  # fmt: skip
    return {"advantages": _array(advantages), "raw": _array(raw)}


def rollout_rewards(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Edition 2026: raw rewards of responses whose rewards stand in a table."""
    table = inputs["table"]
    found = adapters.run_compute_rollout_rewards(
        reward_fn=_reward_function(table), rollout_responses=[row[0] for row in table],
        repeated_ground_truths=[row[1] for row in table],
    )  # fmt: skip
    return {"value": _array(_first(found))}


def advantages(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Edition 2026: advantages of given rewards."""
    rewards = torch.from_numpy(inputs["raw_rewards"].copy())
    return {
        "value": _array(
            _first(adapters.run_compute_group_normalized_rewards(raw_rewards=rewards, **inputs["settings"]))
        )
    }


def grpo_step(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Edition 2026: one train step by plain gradient descent: loss, weights after it, whether gradients are left."""
    model, table = TinyModel(inputs["weights"]), inputs["table"]
    optimizer = PlainDescent(model.parameters(), inputs["lr"])
    settings = {name: _tensors(value, None) for name, value in inputs["settings"].items()}
    found = adapters.run_grpo_train_step(
        model=model, tokenizer=make_tokenizer(inputs["tokenizer"]), optimizer=optimizer, reward_fn=_reward_function(table),
        repeated_prompts=list(inputs["prompts"]), rollout_responses=[row[0] for row in table],
        repeated_ground_truths=[row[1] for row in table], **settings,
    )  # fmt: skip
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    left = "none" if not gradients else "some" if any(bool(gradient.any()) for gradient in gradients) else "zero"
    return {
        "loss": _array(_first(found)),
        "weights": {n: _array(p) for n, p in model.named_parameters()},
        "gradients": left,
    }


def _first(found: Any) -> Any:
    """The tensor of (tensor, metadata)."""
    if type(found) is not tuple or len(found) != 2:
        raise SchemaError("expected two values, the second of which is metadata")
    return found[0]


def _reward_function(table: list[list[Any]]) -> Callable[[str, str], dict[str, float]]:
    """A reward function that knows the rewards of the table's (response, truth)."""
    scores = {(response, truth): (reward, form) for response, truth, reward, form in table}

    def reward_fn(response: str, truth: str) -> dict[str, float]:
        reward, form = scores[response, truth]
        return {"reward": reward, "format_reward": form, "answer_reward": reward}

    return reward_fn


def packed(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """A packed data set: its length, its items, whether it ends, and its items in batches."""
    with open("pairs.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in inputs["pairs"])
    dataset = adapters.get_packed_sft_dataset(
        tokenizer=make_tokenizer(inputs["tokenizer"]), dataset_path="pairs.jsonl", seq_length=inputs["seq_length"],
        shuffle=inputs["shuffle"],
    )  # fmt: skip
    length = len(dataset)
    items = [dataset[i] for i in range(length)]
    try:
        dataset[length]
        ends = False
    except IndexError:
        ends = True
    found = {"length": length, "ends": ends, "kind": str(items[0]["input_ids"].dtype) if items else ""}
    found |= {name: [_array(item[name]) for item in items] for name in ("input_ids", "labels")}
    if inputs["batch_size"]:
        loader = adapters.run_iterate_batches(
            dataset=dataset, batch_size=inputs["batch_size"], shuffle=inputs["shuffle"]
        )
        found["batches"] = [_array(batch["input_ids"]) for batch in loader]
        found["num_batches"] = len(loader)
    return found


def dpo(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """The loss of one pair of responses, and which of the two models it gives gradients."""
    models = [TinyModel(inputs[name]) for name in ("policy", "reference")]
    loss = adapters.run_compute_per_instance_dpo_loss(
        lm=models[0], lm_ref=models[1], tokenizer=make_tokenizer(inputs["tokenizer"]), **inputs["arguments"]
    )
    if loss.requires_grad:
        loss.backward()
    gradients = [None if model.U.grad is None else _array(model.U.grad) for model in models]
    return {"loss": _array(loss), "gradient": gradients[0], "reference_gradient": gradients[1] is not None}


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {
    function.__name__: function
    for function in (
        tokenize_pairs, response_log_probs, microbatches, surrogate, group_rewards, rollout_rewards, advantages, grpo_step,
        packed, dpo,
    )
}  # fmt: skip
