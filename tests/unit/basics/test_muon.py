"""Muon: orthogonalisation against the singular value decomposition, groups, and AdamW on the rest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.optimizer import AdamW
from cs336_basics.optimizers.muon import COEFFICIENTS, Muon, muon_groups, orthogonalise


@pytest.mark.parametrize("shape", [(8, 8), (5, 16), (24, 6), (1, 7)])
def test_orthogonalise_keeps_the_singular_vectors_and_maps_the_values_by_the_polynomial(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / (np.sqrt((s**2).sum()) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    expected = u @ np.diag(s) @ vt
    np.testing.assert_allclose(orthogonalise(torch.from_numpy(matrix)).numpy(), expected, rtol=1e-6, atol=1e-9)


def test_singular_values_of_a_well_conditioned_matrix_end_near_one() -> None:
    matrix = torch.randn(64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.6 < values.min() and values.max() < 1.3


def test_orthogonalise_of_zero_is_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_groups_split_hidden_matrices_from_everything_else() -> None:
    model = TransformerLM(ModelConfig(vocab_size=20, context_length=8, d_model=16, num_layers=2, num_heads=2, d_ff=24))
    muon, rest = muon_groups(model.named_parameters())
    assert muon["muon"] and not rest["muon"]
    assert len(muon["params"]) == 2 * 7  # q, k, v, output, w1, w2, w3 in each of two layers
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names[id(p)] for p in rest["params"]) == [
        "layers.0.ln1.weight", "layers.0.ln2.weight", "layers.1.ln1.weight", "layers.1.ln2.weight", "lm_head.weight",
        "ln_final.weight", "token_embeddings.weight",
    ]  # fmt: skip


def test_update_equals_the_formula_by_hand_and_the_rest_equals_adamw() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.nn.Parameter(torch.randn(6, 10, generator=generator, dtype=torch.float64))
    vector = torch.nn.Parameter(torch.randn(10, generator=generator, dtype=torch.float64))
    twin = torch.nn.Parameter(vector.detach().clone())
    lr, decay, beta = 0.01, 0.1, 0.9
    groups = [{"params": [matrix], "muon": True}, {"params": [vector], "muon": False}]
    optimizer = Muon(groups, lr=lr, weight_decay=decay, momentum=beta)
    adamw = AdamW([twin], lr=lr, weight_decay=decay)
    expected, momentum = matrix.detach().clone(), torch.zeros(6, 10, dtype=torch.float64)
    for _ in range(4):
        matrix.grad = torch.randn(6, 10, generator=generator, dtype=torch.float64)
        vector.grad = torch.randn(10, generator=generator, dtype=torch.float64)
        twin.grad = vector.grad.clone()
        momentum = beta * momentum + (1 - beta) * matrix.grad
        update = orthogonalise((1 - beta) * matrix.grad + beta * momentum)
        expected = expected * (1 - lr * decay) - lr * 0.2 * math.sqrt(10) * update
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(matrix.detach(), expected)
    assert torch.equal(vector, twin)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"matrices only.*\(3,\)"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(3))], "muon": True}])
    with pytest.raises(ValueError, match="momentum must lie in"):
        Muon([torch.nn.Parameter(torch.zeros(3))], momentum=1.0)
