"""The chunked loss against torch's cross-entropy in float64, finite differences, and its own memory budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cs336_basics.chunked_loss import chunked_cross_entropy
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig

TOKENS, D_MODEL, VOCAB = 14, 6, 11


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, D_MODEL, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = 2 * torch.randn(VOCAB, D_MODEL, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCAB, (2, 7), generator=generator)
    return hidden, weight.to(dtype).requires_grad_(), targets


def plain(hidden, weight, targets, z_loss: float, softcap: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """From torch's own functions, all logits at once."""
    logits = torch.nn.functional.linear(hidden, weight)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    return loss + z_loss * torch.logsumexp(logits, dim=-1).square().mean(), loss


@pytest.mark.parametrize("chunk", [1, 3, 7, 14, 100])
@pytest.mark.parametrize(("z_loss", "softcap"), [(0.0, None), (0.1, None), (0.0, 2.5), (0.3, 2.5)])
def test_values_and_gradients_equal_the_plain_loss(chunk, z_loss, softcap) -> None:
    mine, theirs = inputs(), inputs()
    objective, loss = chunked_cross_entropy(*mine, chunk_tokens=chunk, z_loss=z_loss, softcap=softcap)
    expected_objective, expected_loss = plain(*theirs, z_loss, softcap)
    torch.testing.assert_close(objective, expected_objective, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)
    assert objective.requires_grad and not loss.requires_grad
    (0.7 * objective).backward()
    (0.7 * expected_objective).backward()
    for a, b in zip(mine[:2], theirs[:2], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradients_equal_finite_differences(softcap) -> None:
    hidden, weight, targets = inputs()
    torch.autograd.gradcheck(
        lambda h, w: chunked_cross_entropy(h, w, targets, chunk_tokens=4, z_loss=0.2, softcap=softcap)[0],
        (hidden, weight), eps=1e-6, atol=1e-7, rtol=1e-6,
    )  # fmt: skip


def test_huge_logits_do_not_overflow() -> None:
    hidden, weight, targets = inputs(torch.float32)
    objective, _ = chunked_cross_entropy(hidden * 1000, weight, targets, chunk_tokens=4)
    expected, _ = plain(hidden.double() * 1000, weight.double(), targets, 0.0, None)
    assert objective.item() == pytest.approx(expected.item(), rel=1e-5)


def test_float32_gradients_are_as_exact_as_the_plain_ones() -> None:
    exact, rough, chunked = inputs(), inputs(torch.float32), inputs(torch.float32)
    plain(*exact, 0.1, None)[0].backward()
    plain(*rough, 0.1, None)[0].backward()
    chunked_cross_entropy(*chunked, chunk_tokens=5, z_loss=0.1)[0].backward()
    for e, r, c in zip(exact[:2], rough[:2], chunked[:2], strict=True):
        error = (r.grad - e.grad).abs().max()
        assert (c.grad - e.grad).abs().max() < 4 * error + 1e-7


def test_autocast_is_as_exact_as_the_plain_loss_under_autocast() -> None:
    exact, rough, chunked = inputs(), inputs(torch.float32), inputs(torch.float32)
    plain(*exact, 0.1, None)[0].backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain(*rough, 0.1, None)[0].backward()
        objective, _ = chunked_cross_entropy(*chunked, chunk_tokens=5, z_loss=0.1)
    objective.backward()
    assert objective.dtype == torch.float32
    for e, r, c in zip(exact[:2], rough[:2], chunked[:2], strict=True):
        error = (r.grad - e.grad).abs().max()
        assert c.grad.dtype == torch.float32 and 0 < (c.grad - e.grad).abs().max() < 2 * error


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_only_what_is_asked_for_gets_a_gradient(frozen) -> None:
    hidden, weight, targets = inputs()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    objective, _ = chunked_cross_entropy(hidden, weight, targets, chunk_tokens=4)
    if frozen == "both":
        assert not objective.requires_grad
        return
    objective.backward()
    other = [t.detach().clone().requires_grad_(t.requires_grad) for t in (hidden, weight)]
    plain(*other, targets, 0.0, None)[0].backward()
    for a, b in zip((hidden, weight), other, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_model_gets_the_plain_gradients(tied) -> None:
    sizes = {"vocab_size": 30, "context_length": 12, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(**sizes, tie_embeddings=tied)).double()
    ids = torch.randint(30, (3, 13))
    torch.testing.assert_close(model(ids[:, :-1]), model.hidden_states(ids[:, :-1]) @ model.lm_head.weight.T)
    torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    hidden = model.hidden_states(ids[:, :-1])
    chunked_cross_entropy(hidden, model.lm_head.weight, ids[:, 1:], chunk_tokens=10)[0].backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-13)


def test_bad_arguments_are_named() -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(ValueError, match=r"targets \(2, 6\) must have shapes"):
        chunked_cross_entropy(hidden, weight, targets[:, :-1], chunk_tokens=4)
    with pytest.raises(ValueError, match="at least one token"):
        chunked_cross_entropy(hidden[:0], weight, targets[:0], chunk_tokens=4)
    with pytest.raises(ValueError, match="chunk_tokens must be at least 1; got 0"):
        chunked_cross_entropy(hidden, weight, targets, chunk_tokens=0)
    with pytest.raises(ValueError, match="softcap must be positive"):
        chunked_cross_entropy(hidden, weight, targets, chunk_tokens=4, softcap=0.0)
    with pytest.raises(RuntimeError, match="11"):
        chunked_cross_entropy(hidden, weight, targets + (targets == targets.max()) * VOCAB, chunk_tokens=4)


# Memory


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        self.numel = max([self.numel, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return result


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_no_tensor_is_larger_than_a_chunk_of_logits(softcap) -> None:
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(100, 4, requires_grad=True)
    with LargestTensor() as largest:
        objective, _ = chunked_cross_entropy(
            hidden, weight, torch.zeros(64, dtype=torch.int64), chunk_tokens=8, z_loss=0.1, softcap=softcap
        )
        objective.backward()
    assert largest.numel == 8 * 100
    with LargestTensor() as largest:
        plain(hidden, weight, torch.zeros(64, dtype=torch.int64), 0.1, softcap)[0].backward()
    assert largest.numel == 64 * 100, "the measurement sees the logits of the plain loss"


MEASURE = """
import json, re, torch
from cs336_basics.chunked_loss import chunked_cross_entropy
from cs336_basics.nn_utils import cross_entropy
def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
def run(tokens, loss):
    hidden, weight = torch.randn(tokens, 8, requires_grad=True), torch.randn(16384, 8, requires_grad=True)
    targets = torch.zeros(tokens, dtype=torch.int64)
    loss(hidden, weight, targets).backward()
chunked = lambda h, w, t: chunked_cross_entropy(h, w, t, chunk_tokens=64, z_loss=0.1)[0]
plain = lambda h, w, t: cross_entropy(h @ w.T, t)
run(64, plain), run(64, chunked)  # load what is loaded once
peaks = [peak_mb()]
for loss in (chunked, plain):
    run(2048, loss)
    peaks.append(peak_mb())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_of_a_process() -> None:
    """All logits are 128 MB; a chunk's are 4 MB. Chunked first, since the peak of a process never falls."""
    root = str(Path(__file__).resolve().parents[3])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env=environment, cwd=root, capture_output=True, text=True, check=True
    )
    before, chunked, plain_peak = json.loads(done.stdout)
    assert chunked - before < 40 and plain_peak - before > 200
