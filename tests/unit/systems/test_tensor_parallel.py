"""A cut model against the same model in a single process, and cut layers against uncut ones: 2 and 4 real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from cs336_basics.layers import Embedding, Linear
from cs336_basics.model import ModelConfig
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_systems.parallel.process_group import clip_sharded_gradients
from cs336_systems.parallel.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    check_can_cut,
    copy_to_group,
    gather_logits,
    gather_parameters,
    shard_dims,
    tensor_parallel,
)
from cs336_systems.parallel.vocab_parallel import VocabParallelEmbedding, vocab_parallel_cross_entropy
from tests.processes import run_processes
from tests.unit.systems.parallel_cases import TOLERANCE, single_process, tiny_batch, tiny_model

MODELS: list[dict[str, Any]] = [
    {},
    {"tie_embeddings": True, "positions": "learned", "ffn": "gelu", "norm": "post"},
    {"logit_softcap": 5.0, "positions": "none", "norm": "none", "ffn": "relu"},
]


def train_cut_models(rank: int) -> list[Any]:
    """Logits, loss, whole gradients, norm and weights after a step, for each model."""
    results = []
    for changes in MODELS:
        model = tensor_parallel(tiny_model(**changes))
        inputs, targets = tiny_batch()
        logits = model(inputs)
        loss = vocab_parallel_cross_entropy(logits, targets)
        loss.backward()
        optimizer = AdamW(model.parameters(), lr=0.01)
        grads, cut = gather_parameters(model, value=lambda p: p.grad), shard_dims(model)
        named = dict(model.named_parameters())
        norm = clip_sharded_gradients(
            [p for name, p in named.items() if name in cut], [p for name, p in named.items() if name not in cut], 1e9
        )
        optimizer.step()
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        results.append((gather_logits(logits).detach(), loss.detach(), grads, norm, gather_parameters(model), shapes))
    return results


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_cut_model_equals_a_single_process(world_size):
    for results in run_processes(train_cut_models, world_size):
        for changes, (logits, loss, grads, norm, weights, shapes) in zip(MODELS, results, strict=True):
            expected_logits, expected_loss, expected_grads = single_process(*tiny_batch(), **changes)
            torch.testing.assert_close(logits, expected_logits, **TOLERANCE)
            torch.testing.assert_close(loss, expected_loss, **TOLERANCE)
            assert grads.keys() == expected_grads.keys()
            for name, grad in expected_grads.items():
                torch.testing.assert_close(grads[name], grad, **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}")
            whole = tiny_model(**changes)
            for name, p in whole.named_parameters():
                p.grad = expected_grads[name].clone()
            expected_norm = torch.nn.utils.clip_grad_norm_(whole.parameters(), 1e9)
            torch.testing.assert_close(norm, expected_norm, **TOLERANCE)
            AdamW(whole.parameters(), lr=0.01).step()
            assert weights.keys() == whole.state_dict().keys()
            for name, weight in whole.state_dict().items():
                torch.testing.assert_close(weights[name], weight, rtol=1e-6, atol=1e-8)
            assert shapes["layers.0.attn.q_proj.weight"] == (16 // world_size, 16)
            assert shapes["layers.0.ffn.w2.weight"] == (16, 24 // world_size)
            assert shapes["token_embeddings.weight"] == (24 // world_size, 16)


def layers_alone(rank: int) -> dict[str, Any]:
    """Each layer by itself, with a bias where it may have one; gradients of the input and of the shards."""
    torch.manual_seed(3)
    n = dist.get_world_size()
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    column, row = (Linear(8, 12, dtype=torch.float64, bias=True), Linear(12, 8, dtype=torch.float64, bias=True))
    for layer in (column, row):
        torch.nn.init.normal_(layer.bias)
    upstream = torch.randn(2, 5, 8, dtype=torch.float64)
    expected = row(column(x).tanh())
    expected_grads = torch.autograd.grad((expected * upstream).sum(), [x, column.weight, row.weight, row.bias])
    cut_column, cut_row = ColumnParallelLinear(column), RowParallelLinear(row)
    y = cut_row(cut_column(x).tanh())
    grads = torch.autograd.grad((y * upstream).sum(), [x, cut_column.weight, cut_row.weight, cut_row.bias])
    own = slice(12 // n * rank, 12 // n * (rank + 1))
    expected_own = [expected_grads[0], expected_grads[1][own], expected_grads[2][:, own], expected_grads[3]]
    torch.testing.assert_close(y, expected, **TOLERANCE)
    torch.testing.assert_close(list(grads), expected_own, **TOLERANCE)
    # one rank's loss on a slice, copied in: the gradient is the sum over the ranks
    z = torch.ones(3, dtype=torch.float64, requires_grad=True)
    (copy_to_group(z).sum() * (rank + 1)).backward()
    torch.testing.assert_close(z.grad, torch.full((3,), n * (n + 1) / 2, dtype=torch.float64))
    vocabulary(rank)
    return refusals()


def vocabulary(rank: int) -> None:
    """Embedding and cross-entropy, with logits far from zero, against the uncut ones."""
    n = dist.get_world_size()
    own = slice(12 // n * rank, 12 // n * (rank + 1))
    table = Embedding(12, 4, dtype=torch.float64)
    ids = torch.tensor([[0, 11, 5], [5, 6, 2]])
    torch.testing.assert_close(VocabParallelEmbedding(table)(ids), table(ids), rtol=0, atol=0)
    for shift in (0.0, 1000.0, -1000.0):
        logits = 3 * torch.randn(2, 3, 12, dtype=torch.float64) + shift
        whole, part = logits.clone().requires_grad_(), logits[..., own].clone().requires_grad_()
        expected = cross_entropy(whole, ids)
        loss = vocab_parallel_cross_entropy(part, ids)
        torch.testing.assert_close(loss, expected, **TOLERANCE)
        expected.backward()
        loss.backward()
        torch.testing.assert_close(part.grad, whole.grad[..., own], **TOLERANCE)


def refusals() -> dict[str, str]:
    """What each wrong call says; none of them communicates."""
    table = VocabParallelEmbedding(Embedding(12, 4))
    calls = {
        "high id": lambda: table(torch.tensor([12])),
        "negative id": lambda: table(torch.tensor([-1])),
        "target": lambda: vocab_parallel_cross_entropy(torch.zeros(1, 6), torch.tensor([99])),
        "shape": lambda: vocab_parallel_cross_entropy(torch.zeros(1, 6), torch.tensor([[0]])),
        "odd": lambda: ColumnParallelLinear(Linear(4, 7)),
    }
    texts = {}
    for name, call in calls.items():
        try:
            call()
        except (IndexError, ValueError) as error:
            texts[name] = str(error)
    return texts


def test_layers_alone_and_what_they_refuse():
    for texts in run_processes(layers_alone, 2):
        assert "token ids must lie in [0, 12)" in texts["high id"] and "-1" in texts["negative id"]
        assert "targets must lie in [0, 12)" in texts["target"]
        assert "needs targets of shape (1,)" in texts["shape"]
        assert "7" in texts["odd"] and "2 ranks" in texts["odd"]


@pytest.mark.parametrize(
    ("changes", "n", "message"),
    [
        ({"num_heads": 3, "d_model": 12}, 2, "num_heads to be a multiple of 2; got 3; choose 4"),
        ({"d_ff": 25}, 2, "d_ff"),
        ({"vocab_size": 11}, 2, "vocab_size"),
        ({"attn_pdrop": 0.1}, 2, "dropout"),
        ({"num_kv_heads": 2}, 2, "attention variant"),
        ({"ffn": "geglu"}, 2, "feed-forward variant"),
        ({"smear": True}, 2, "stream"),
    ],
)
def test_models_that_cannot_be_cut(changes, n, message):
    sizes = {"vocab_size": 24, "d_model": 16, "num_layers": 1, "num_heads": 4, "d_ff": 24}
    with pytest.raises(ValueError, match=message):
        check_can_cut(ModelConfig(**{**sizes, **changes}), n)
