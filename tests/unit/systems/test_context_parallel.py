"""Ring attention and the model around it against plain attention in a single process; 2 and 4 real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from cs336_basics.model import scaled_dot_product_attention
from cs336_basics.nn_utils import cross_entropy
from cs336_systems.parallel.context_parallel import attention_work, own_positions, pieces_of_rank, ring_attention
from cs336_systems.parallel.ddp import NaiveDDP
from cs336_systems.parallel.ring_transformer import (
    ContextParallelLM,
    gather_sequence,
    shard_sequence,
)
from tests.processes import run_processes
from tests.unit.systems.parallel_cases import TOLERANCE, single_process, tiny_batch, tiny_model

MODELS: list[dict[str, Any]] = [{}, {"positions": "learned", "logit_softcap": 5.0, "tie_embeddings": True}]


def attention_cases(rank: int) -> None:
    """Outputs and gradients, causal and not, both layouts, also with scores far from zero and a strided gradient."""
    torch.manual_seed(4)
    for layout in ("contiguous", "zigzag"):
        for causal in (True, False):
            for scale, atol in ((1.0, 1e-11), (40.0, 1e-8)):  # scores of thousands carry fewer digits into exp
                q, k = (scale * torch.randn(2, 3, 16, 4, dtype=torch.float64) for _ in range(2))
                v, d_out = torch.randn(2, 3, 16, 6, dtype=torch.float64), torch.randn(2, 16, 3, 6, dtype=torch.float64)
                whole = [x.clone().requires_grad_() for x in (q, k, v)]
                mask = torch.ones(16, 16, dtype=torch.bool).tril() if causal else None
                expected = scaled_dot_product_attention(*whole, mask)
                expected.backward(d_out.transpose(1, 2))
                own = own_positions(16, layout)
                part = [x[:, :, own].requires_grad_() for x in (q, k, v)]
                out = ring_attention(*part, causal=causal, layout=layout)
                out.backward(d_out[:, own].transpose(1, 2))
                torch.testing.assert_close(out, expected[:, :, own], rtol=1e-9, atol=atol)
                for x, y in zip(part, whole, strict=True):
                    torch.testing.assert_close(x.grad, y.grad[:, :, own], rtol=1e-9, atol=atol)
    half = [torch.randn(1, 4, 8).bfloat16() for _ in range(3)]
    assert ring_attention(*half).dtype == torch.bfloat16


def model_cases(rank: int) -> list[Any]:
    """Whole logits, mean loss and gradients by model and layout; and what goes round in a circle."""
    attention_cases(rank)
    results = []
    for changes in MODELS:
        for layout in ("contiguous", "zigzag"):
            model = ContextParallelLM(tiny_model(**changes), layout=layout)
            ddp = NaiveDDP(model)
            inputs, targets = tiny_batch(seq=16)
            logits = model(shard_sequence(inputs, layout))
            loss = cross_entropy(logits, shard_sequence(targets, layout))
            loss.backward()
            ddp.finish_gradient_synchronization()
            assert torch.equal(gather_sequence(shard_sequence(inputs, layout), layout), inputs)
            loss = loss.detach() / dist.get_world_size()
            dist.all_reduce(loss)
            grads = {name: p.grad for name, p in model.module.named_parameters(remove_duplicate=False)}
            results.append((changes, gather_sequence(logits, layout), loss, grads))
    return results


@pytest.mark.parametrize("world_size", [2, 4])
def test_ring_attention_and_model_equal_a_single_process(world_size):
    for results in run_processes(model_cases, world_size):
        for changes, logits, loss, grads in results:
            expected_logits, expected_loss, expected = single_process(*tiny_batch(seq=16), **changes)
            torch.testing.assert_close(logits, expected_logits, **TOLERANCE)
            torch.testing.assert_close(loss, expected_loss, **TOLERANCE)
            assert grads.keys() == expected.keys()
            for name, grad in expected.items():
                torch.testing.assert_close(grads[name], grad, **TOLERANCE, msg=lambda text, n=name: f"{n}: {text}")


def wrong_calls(rank: int) -> list[str]:
    x = torch.zeros(1, 3, 4)
    model = ContextParallelLM(tiny_model())
    calls = [
        lambda: ring_attention(x, x[:, :2], x),
        lambda: ring_attention(x, x, x, layout="zigzag"),
        lambda: model(torch.zeros(1, 10, dtype=torch.long)),
    ]
    texts = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            texts.append(str(error))
    return texts


def test_a_ring_of_one_and_wrong_calls():
    run_processes(attention_cases, 1)
    for texts in run_processes(wrong_calls, 2):
        lengths, cut, context = texts
        assert "same tokens" in lengths
        assert "4 equal pieces; got 6 tokens; use 8" in cut
        assert "got 20 over all ranks" in context


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_pieces_cover_the_sequence_once(layout):
    positions = [p for rank in range(4) for piece in pieces_of_rank(rank, 4, 32, layout) for p in piece]
    assert sorted(positions) == list(range(32))


def test_zigzag_balances_the_work():
    assert len(set(attention_work(4, 64, "zigzag"))) == 1
    contiguous = attention_work(4, 64, "contiguous")
    assert contiguous == [256, 512, 768, 1024]
    assert max(attention_work(4, 64, "zigzag")) < max(contiguous)


def test_unknown_layout():
    with pytest.raises(ValueError, match="contiguous"):
        pieces_of_rank(0, 2, 8, "striped")
