"""Mixed precision in two small experiments: what accumulating in half precision loses, and what autocast casts.

Adding 0.01 a thousand times:

    accumulator float32, addend float32        10.000134
    accumulator float16, addend float16         9.953125     the sum's spacing near 10 is 2^-7: each addition rounds
    accumulator float32, addend float16        10.002136     only the addend's own rounding is left, 0.01 -> 0.010002

So sums belong in float32 even where products are made in half precision. Autocast follows that: matrix products in the
lower precision, normalisations and losses in float32, parameters and their gradients as they are.

Handout: mixed_precision_accumulation, benchmarking_mixed_precision. Left out: loss scaling, which float16 needs for
its short exponent and bfloat16 does not. Read next: `benchmarking.py` (--precision bfloat16).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def accumulate(
    accumulator: torch.dtype, addend: torch.dtype, *, value: float = 0.01, count: int = 1000, upcast: bool = False
) -> float:
    """Add `value` `count` times, one after another.

    Args:
        accumulator: dtype of the sum.
        addend: dtype to which `value` is rounded first.
        value: what is added; count: how often, at least 0.
        upcast: cast the addend to float32 explicitly before each addition; torch's type promotion does the same.

    Raises:
        ValueError: a negative count.
    """
    if count < 0:
        raise ValueError(f"count must not be negative; got {count}")
    total, term = torch.tensor(0, dtype=accumulator), torch.tensor(value, dtype=addend)
    for _ in range(count):
        total += term.float() if upcast else term
    return total.item()


def accumulation_results() -> dict[str, float]:
    """The handout's four cases, by name."""
    wide, half = torch.float32, torch.float16
    return {
        "float32 += float32": accumulate(wide, wide),
        "float16 += float16": accumulate(half, half),
        "float32 += float16": accumulate(wide, half),
        "float32 += float32(float16)": accumulate(wide, half, upcast=True),
    }


class ToyModel(nn.Module):
    """The handout's toy: fc1, ReLU, LayerNorm, fc2, made of torch's layers because autocast's rules are about these."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, 10, bias=False)
        self.ln = nn.LayerNorm(10)
        self.fc2 = nn.Linear(10, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.fc2(self.ln(torch.relu(self.fc1(x))))


def autocast_dtypes(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float16) -> dict[str, str]:
    """Dtypes of the toy's parts in a step under autocast, by name, as short strings such as "float32".

    Args:
        device: "cuda" gives the handout's answer; a CPU keeps LayerNorm's output in the lower precision.
        dtype: torch.float16 or torch.bfloat16.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"autocast takes torch.float16 or torch.bfloat16; got {dtype}")
    place = torch.device(device)
    model = ToyModel(4, 3).to(place)
    seen: dict[str, Tensor] = {"parameters": model.fc1.weight}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, layer in {"fc1 output": model.fc1, "LayerNorm output": model.ln, "logits": model.fc2}.items()
    ]
    with torch.autocast(place.type, dtype=dtype):
        logits = model(torch.ones(5, 4, device=place))
        loss = nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.long, device=place))
    loss.backward()
    for hook in hooks:
        hook.remove()
    assert model.fc1.weight.grad is not None
    seen |= {"loss": loss, "gradients": model.fc1.weight.grad}
    return {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in seen.items()}
