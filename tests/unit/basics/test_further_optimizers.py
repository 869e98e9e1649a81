"""Lion, Adafactor, SOAP and schedule-free AdamW against float64 loops of their papers, torch, transformers."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cs336_basics.optimizer import AdamW
from cs336_basics.optimizers.adafactor import Adafactor
from cs336_basics.optimizers.lion import Lion
from cs336_basics.optimizers.muon import Muon
from cs336_basics.optimizers.schedule_free import ScheduleFreeAdamW
from cs336_basics.optimizers.soap import SOAP

STEPS = 25
Gradients = Callable[[int, np.ndarray], np.ndarray]


def start(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def gradient(step: int, theta: np.ndarray) -> np.ndarray:
    """Noise of changing size around a slope that depends on the weights, so that the place of evaluation matters."""
    generator = np.random.default_rng(step + 1)
    return generator.normal(size=theta.shape) * 10.0 ** generator.uniform(-3, 1) + 0.3 * theta


def learning_rate(step: int) -> float:
    return 0.02 / (1 + step / 10)


def run(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter, gradients: Gradients = gradient) -> np.ndarray:
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(step)
        p.grad = torch.from_numpy(np.asarray(gradients(step, p.detach().double().numpy()))).to(p.dtype)
        optimizer.step()
    return p.detach().numpy()


def parameter(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(np.asarray(start(shape))).to(dtype))


# Against loops of the papers


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lion_equals_algorithm_2_entry_by_entry(decay) -> None:
    beta1, beta2, p = 0.9, 0.97, parameter((3, 4))
    theta, m = start((3, 4)), np.zeros((3, 4))
    for step in range(STEPS):
        g, lr = gradient(step, theta), learning_rate(step)
        for i in np.ndindex(theta.shape):
            c = beta1 * m[i] + (1 - beta1) * g[i]
            theta[i] = theta[i] - lr * (int(c > 0) - int(c < 0) + decay * theta[i])
            m[i] = beta2 * m[i] + (1 - beta2) * g[i]
    actual = run(Lion([p], betas=(beta1, beta2), weight_decay=decay), p)
    np.testing.assert_allclose(actual, theta, rtol=1e-12, atol=1e-14)


def test_lion_leaves_weights_without_any_gradient_alone() -> None:
    p = parameter((3,))
    np.testing.assert_array_equal(run(Lion([p]), p, lambda step, theta: np.zeros_like(theta)), start((3,)))


def adafactor_reference(shape: tuple[int, ...], *, relative: bool, decay: float, clip: float) -> np.ndarray:
    """Algorithms 4 and 5 with sums over rows and columns, as the paper has them."""
    theta, eps1, eps2 = start(shape), 1e-30, 1e-3
    rows, columns, v = np.zeros(shape[:-1]), np.zeros(shape[:-2] + shape[-1:]), np.zeros(shape)
    for step in range(STEPS):
        g, lr, t = gradient(step, theta), learning_rate(step), step + 1
        beta2 = 1 - t**-0.8
        if len(shape) > 1:
            rows = beta2 * rows + (1 - beta2) * (g**2 + eps1).sum(axis=-1)
            columns = beta2 * columns + (1 - beta2) * (g**2 + eps1).sum(axis=-2)
            v = np.einsum("...i,...j->...ij", rows, columns) / rows.sum(axis=-1)[..., None, None]
        else:
            v = beta2 * v + (1 - beta2) * (g**2 + eps1)
        u = g / np.sqrt(v)
        u /= max(1.0, math.sqrt((u**2).mean()) / clip)
        alpha = min(lr, 1 / math.sqrt(t)) * max(eps2, math.sqrt((theta**2).mean())) if relative else lr
        theta = theta - lr * decay * theta - alpha * u
    return theta


@pytest.mark.parametrize("shape", [(4, 6), (7,), (), (2, 3, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("relative", [False, True])
def test_adafactor_equals_the_papers_algorithms(shape, relative) -> None:
    p = parameter(shape)
    actual = run(Adafactor([p], weight_decay=0.1, clip=0.8, relative_step=relative), p)
    expected = adafactor_reference(shape, relative=relative, decay=0.1, clip=0.8)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-13)


def test_adafactor_stores_rows_and_columns_only() -> None:
    p = parameter((30, 50))
    optimizer = Adafactor([p])
    run(optimizer, p)
    assert sum(value.numel() for value in optimizer.state[p].values() if torch.is_tensor(value)) == 80


@pytest.mark.parametrize("shape", [(4, 6), (7,), (2, 3, 5)], ids=str)
def test_adafactor_equals_torchs(shape) -> None:
    p, q = parameter(shape), parameter(shape)
    mine = run(Adafactor([p], weight_decay=0.2, relative_step=True), p)
    theirs = run(torch.optim.Adafactor([q], weight_decay=0.2, eps=(1e-30, 1e-3)), q)
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("relative", [False, True])
def test_adafactor_equals_transformers(relative) -> None:
    transformers = pytest.importorskip("transformers")
    p, q, lr = parameter((4, 6)), parameter((4, 6)), 1e-2
    theirs = transformers.Adafactor(
        [q], lr=None if relative else lr, relative_step=relative, scale_parameter=relative, warmup_init=False,
        weight_decay=0.0 if relative else 0.1,
    )  # fmt: skip
    mine = Adafactor([p], lr=lr, relative_step=relative, weight_decay=0.0 if relative else 0.1)
    for step in range(STEPS):
        for weight, optimizer in ((p, mine), (q, theirs)):
            weight.grad = torch.from_numpy(gradient(step, weight.detach().numpy()))
            optimizer.step()
    torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def soap_reference(shape: tuple[int, int], *, every: int, decay: float, longest: int) -> np.ndarray:
    """Algorithm 3, with explicit bases; the identity for a side that is too long."""
    theta, beta1, beta2, eps = start(shape), 0.9, 0.95, 1e-8
    m, v, grams, bases = np.zeros(shape), np.zeros(shape), [], []
    for step in range(STEPS):
        g, lr = gradient(step, theta), learning_rate(step)
        if step == 0:
            grams = [(1 - beta2) * g @ g.T, (1 - beta2) * g.T @ g]
            bases = [np.linalg.eigh(gram)[1][:, ::-1] if len(gram) <= longest else np.eye(len(gram)) for gram in grams]
            continue
        left, right = bases
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (left.T @ g @ right) ** 2
        n = (left.T @ m @ right) / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps)
        theta = theta - lr * decay * theta - lr * left @ n @ right.T
        grams = [beta2 * gram + (1 - beta2) * new for gram, new in zip(grams, (g @ g.T, g.T @ g), strict=True)]
        if step % every == 0:
            pairs = zip(grams, bases, strict=True)
            bases = [np.linalg.qr(s @ q)[0] if len(s) <= longest else q for s, q in pairs]
    return theta


@pytest.mark.parametrize(("shape", "longest"), [((5, 5), 9), ((4, 9), 5), ((9, 4), 5), ((1, 1), 9)], ids=str)
@pytest.mark.parametrize("every", [1, 4])
def test_soap_equals_algorithm_3(shape, longest, every) -> None:
    """Where one side is longer, its Gram matrix has no full rank and no unique eigenbasis, so it is left out here."""
    p = parameter(shape)
    optimizer = SOAP([p], betas=(0.9, 0.95), weight_decay=0.1, precondition_every=every, max_dimension=longest)
    expected = soap_reference(shape, every=every, decay=0.1, longest=longest)
    np.testing.assert_allclose(run(optimizer, p), expected, rtol=1e-6, atol=1e-9)


def test_soap_turns_with_the_problem() -> None:
    """Rotating rows and columns of weights and gradients rotates the result: what AdamW does not do."""
    generator = np.random.default_rng(5)
    u, w = (np.linalg.qr(generator.normal(size=(6, 6)))[0] for _ in range(2))
    results = {}
    for cls in (SOAP, AdamW):
        p, q = parameter((6, 6)), torch.nn.Parameter(torch.from_numpy(u @ start((6, 6)) @ w.T))
        plain = run(cls([p]), p)
        turned = run(cls([q]), q, lambda step, theta: u @ gradient(step, u.T @ theta @ w) @ w.T)
        results[cls] = np.abs(u @ plain @ w.T - turned).max()
    assert results[SOAP] < 1e-7 < 1e-2 < results[AdamW]


@pytest.mark.parametrize(("shape", "longest"), [((7,), 100), ((2, 3, 4), 100), ((8, 9), 7)], ids=str)
def test_soap_is_adamw_on_what_has_no_basis(shape, longest) -> None:
    p, q = parameter(shape), parameter(shape)
    np.testing.assert_array_equal(run(SOAP([p], max_dimension=longest), p), run(AdamW([q]), q))


def test_soaps_bases_stay_orthogonal_and_find_the_axes_of_the_gradients() -> None:
    """Gradients vary along fixed axes with sizes 3, 2, 1 on the rows' side: the basis must become those axes."""
    axes = np.linalg.qr(np.random.default_rng(8).normal(size=(3, 3)))[0]

    def stretched(step: int, theta: np.ndarray) -> np.ndarray:
        return axes @ np.diag([3.0, 2.0, 1.0]) @ np.random.default_rng(step).normal(size=(3, 400)) / 20

    p = parameter((3, 400))
    optimizer = SOAP([p], max_dimension=3, precondition_every=1, betas=(0.9, 0.9))
    run(optimizer, p, stretched)
    basis = optimizer.state[p]["basis_left"].numpy()
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-12)
    assert np.abs(np.diag(basis.T @ axes)).min() > 0.98


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_schedule_free_equals_algorithm_1(decay) -> None:
    beta1, beta2, eps, p = 0.9, 0.98, 1e-8, parameter((3, 4))
    x, z, v, total = start((3, 4)), start((3, 4)), np.zeros((3, 4)), 0.0
    optimizer = ScheduleFreeAdamW([p], betas=(beta1, beta2), eps=eps, weight_decay=decay)
    for step in range(STEPS):
        lr = 0.02 * min(1.0, (step + 1) / 5)
        y = (1 - beta1) * z + beta1 * x
        np.testing.assert_allclose(p.detach().numpy(), y, rtol=1e-10, atol=1e-13)
        g = gradient(step, y)
        v = beta2 * v + (1 - beta2) * g**2
        z = z - lr * g / (np.sqrt(v / (1 - beta2 ** (step + 1))) + eps) - lr * decay * y
        total += lr**2
        x = (1 - lr**2 / total) * x + lr**2 / total * z
        p.grad = torch.from_numpy(gradient(step, p.detach().numpy()))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        np.testing.assert_allclose(optimizer.evaluation_weights()[p].numpy(), x, rtol=1e-10, atol=1e-13)


def test_schedule_free_looks_change_nothing_and_unused_weights_are_left_out() -> None:
    p, q, idle = parameter((3, 4)), parameter((3, 4)), parameter((2,))
    looked_at, alone = ScheduleFreeAdamW([p, idle]), ScheduleFreeAdamW([q])
    assert looked_at.evaluation_weights() == {}
    for step in range(5):
        for weight, optimizer in ((p, looked_at), (q, alone)):
            weight.grad = torch.from_numpy(gradient(step, weight.detach().numpy()))
            optimizer.step()
        assert list(looked_at.evaluation_weights()) == [p]
    assert torch.equal(p, q)


def test_schedule_free_with_a_rate_of_zero_stands_still() -> None:
    p = parameter((3,))
    optimizer = ScheduleFreeAdamW([p], lr=0.0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    np.testing.assert_array_equal(p.detach().numpy(), start((3,)))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)], ids=str)
def test_muon_equals_torchs_up_to_its_bfloat16(shape) -> None:
    p, q = parameter(shape, torch.float32), parameter(shape, torch.float32)
    mine = run(Muon([{"params": [p], "muon": True}], weight_decay=0.1, momentum=0.9), p)
    theirs = run(torch.optim.Muon([q], weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"), q)
    moved = np.abs(theirs - start(shape)).max()
    assert np.abs(mine - theirs).max() < 0.03 * moved


# What all have in common

ALL = {
    "lion": Lion, "adafactor": Adafactor, "soap": SOAP, "schedule_free": ScheduleFreeAdamW,
    "relative": lambda params: Adafactor(params, relative_step=True),
    "muon": lambda params: Muon([{"params": params, "muon": True}]),
}  # fmt: skip


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_state_survives_a_file_that_holds_no_code(make, dtype) -> None:
    """13 steps, the state through a file read with weights_only, 12 more: bit for bit as 25 in one go."""
    p, q = parameter((4, 6), dtype), parameter((4, 6), dtype)
    first, file = make([p]), io.BytesIO()
    for step in range(STEPS):
        if step == 13:
            with torch.no_grad():
                q.copy_(p)
            torch.save(first.state_dict(), file)
            second = make([q])
            second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        for optimizer, weight in ((first, p), (second, q)) if step >= 13 else ((first, p),):
            weight.grad = torch.from_numpy(gradient(step, start((4, 6)))).to(dtype)
            optimizer.step()
    assert not np.array_equal(p.detach().double().numpy(), start((4, 6))) and torch.equal(p, q)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())
def test_a_quadratic_is_descended_and_missing_or_zero_gradients_do_no_harm(make) -> None:
    p, idle, flat = (parameter((4, 6), torch.float32) for _ in range(3))
    optimizer = make([p, idle, flat])
    flat.grad = torch.zeros_like(flat)
    before = p.square().sum().item()
    for _ in range(60):
        p.grad = p.detach().clone()
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 0.02, 0.0
        optimizer.step()
    assert p.square().sum().item() < 0.7 * before
    np.testing.assert_array_equal(idle.detach().numpy(), start((4, 6)).astype(np.float32))
    np.testing.assert_array_equal(flat.detach().numpy(), start((4, 6)).astype(np.float32))


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (Lion, {"lr": -1.0}, "lr must not be negative; got -1.0"),
        (Lion, {"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\)"),
        (Lion, {"weight_decay": math.nan}, "weight_decay must not be negative; got nan"),
        (Adafactor, {"eps": (-1.0, 1e-3)}, "eps1 must not be negative"),
        (Adafactor, {"clip": 0.0}, "clip must be positive; got 0.0; use inf"),
        (Adafactor, {"decay_rate": 0.8}, "decay_rate must be negative"),
        (SOAP, {"precondition_every": 0}, "precondition_every must be at least 1; got 0"),
        (SOAP, {"eps": -1.0}, "eps must not be negative"),
        (ScheduleFreeAdamW, {"betas": (0.0, 0.9)}, r"betas\[0\] must be above 0"),
        (ScheduleFreeAdamW, {"lr": -1.0}, "lr must not be negative"),
    ],
)
def test_hyperparameters_out_of_range(cls, settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        cls([torch.nn.Parameter(torch.ones(2, 2))], **settings)
