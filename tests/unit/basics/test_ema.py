"""The weight average against closed forms over the whole history, and weights that are shown and put back."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from cs336_basics.ema import WeightAverage, averaging_rate, weights_replaced

HISTORY = np.random.default_rng(0).normal(size=(31, 5))


def closed_form(decay: float, start: str, steps: int) -> np.ndarray:
    """The average after `steps` updates as one weighted sum over the initial value and all later ones."""
    if start == "corrected":
        weights = decay ** np.arange(steps - 1, -1, -1.0)
        return weights @ HISTORY[1 : steps + 1] / weights.sum()
    decays = [min(decay, (1 + t) / (10 + t)) if start == "ramp" else decay for t in range(steps)]
    shares = [np.prod(decays)] + [(1 - decays[t]) * np.prod(decays[t + 1 :]) for t in range(steps)]
    return np.array(shares) @ HISTORY[: steps + 1]


@pytest.mark.parametrize("start", ["constant", "ramp", "corrected"])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.97])
def test_average_equals_the_weighted_sum(start, decay) -> None:
    p = torch.nn.Parameter(torch.from_numpy(HISTORY[0].copy()))
    ema = WeightAverage([("p", p)], decay=decay, start=start)
    for step in range(1, 31):
        with torch.no_grad():
            p.copy_(torch.from_numpy(HISTORY[step]))
        ema.update()
        actual = ema.evaluation_weights()[p].numpy()
        np.testing.assert_allclose(actual, closed_form(decay, start, step), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("start", ["constant", "ramp", "corrected"])
def test_rates_reach_the_constant_one(start) -> None:
    assert averaging_rate(10**6, 0.99, start) == pytest.approx(0.01)
    rates = [averaging_rate(step, 0.99, start) for step in range(1, 2000)]
    assert rates == sorted(rates, reverse=True) and max(rates) <= 1.0 and min(rates) > 0.01 - 1e-12


def test_state_survives_a_file_and_is_checked() -> None:
    p, q = (torch.nn.Parameter(torch.from_numpy(HISTORY[0].copy())) for _ in range(2))
    first, second = (WeightAverage([("p", weight)], decay=0.9) for weight in (p, q))
    for step in range(1, 21):
        with torch.no_grad():
            p.copy_(torch.from_numpy(HISTORY[step]))
            q.copy_(p)
        first.update()
        if step == 10:
            file = io.BytesIO()
            torch.save(first.state_dict(), file)
            second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        elif step > 10:
            second.update()
    assert torch.equal(first.average["p"], second.average["p"])
    with pytest.raises(ValueError, match="belongs to a model with other parameters"):
        first.load_state_dict({"step": 1, "average": {"q": torch.zeros(5)}})


def test_weights_are_put_back_bit_for_bit_even_after_an_error() -> None:
    p = torch.nn.Parameter(torch.from_numpy(HISTORY[0].astype(np.float32)))
    before, address = p.detach().clone(), p.data_ptr()
    with pytest.raises(KeyError), weights_replaced({p: torch.zeros(5)}):
        assert p.tolist() == [0.0] * 5 and p.data_ptr() == address
        raise KeyError
    assert torch.equal(p, before) and p.data_ptr() == address and p.requires_grad


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"decay of a moving average must lie in \[0, 1\); got 1.0"):
        WeightAverage([], decay=1.0)
    with pytest.raises(ValueError, match="start must be .*got 'late'"):
        WeightAverage([], decay=0.5, start="late")
