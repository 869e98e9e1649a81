"""Canon layers and ALiBi as a coordinate, against sums written out."""

import pytest
import torch

from cs336_basics.model import ATTENTION_FUNCTIONS, ModelConfig, TransformerLM
from cs336_basics.variants.alibi import alibi_slopes, with_bias_coordinate
from cs336_basics.variants.canon_layer import CanonLayer


def _canon(d_model: int, width: int, seed: int) -> CanonLayer:
    layer = CanonLayer(d_model, width, dtype=torch.float64)
    layer.weight.data.normal_(generator=torch.Generator().manual_seed(seed))
    return layer


def _by_loop(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    for t in range(x.shape[-2]):
        for distance in range(1, len(weight) + 1):
            if t >= distance:
                y[..., t, :] += weight[distance - 1] * x[..., t - distance, :]
    return y


@pytest.mark.parametrize(("seq", "width"), [(1, 4), (3, 7), (9, 2), (12, 4)])
def test_output_and_gradients_are_those_of_the_sum(seq: int, width: int) -> None:
    layer = _canon(5, width, seed=0)
    x = torch.randn(2, seq, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    torch.testing.assert_close(layer(x), _by_loop(x, layer.weight))
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, (x,)), (x, layer.weight)
    )


def test_starts_as_the_identity() -> None:
    x = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(CanonLayer(4, 5)(x), x)


@pytest.mark.parametrize("attention", ["plain", "blocked"])
def test_pieces_through_the_cache_equal_the_whole(attention: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(50, 64, 48, 2, 8, positions="alibi", canon_width=5, attention=attention)
    model = TransformerLM(config).double()
    for name, weight in model.named_parameters():
        if "canon" in name:
            weight.data.normal_()
    ids = torch.randint(0, 50, (2, 64))
    whole, cache, pieces, start = model(ids), model.new_cache(2, 64), [], 0
    for size in (1, 5, 2, 30, 1, 25):
        pieces.append(model(ids[:, start : start + size], cache, start))
        start += size
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("queries", [1, 7, 40])
def test_the_bias_coordinate_gives_the_scores_of_alibi(queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, queries, 8, generator=generator)
    k, v = torch.randn(2, 6, 40, 8, generator=generator), torch.randn(2, 6, 40, 8, generator=generator)
    slopes = alibi_slopes(6)
    scores = (q.double() @ k.double().transpose(-2, -1)) / 8**0.5
    for i in range(queries):
        for j in range(40):
            distance = i + 40 - queries - j
            scores[..., i, j] = scores[..., i, j] - slopes * distance if distance >= 0 else -torch.inf
    expected = torch.softmax(scores, dim=-1) @ v.double()
    heads = ATTENTION_FUNCTIONS["plain"](*with_bias_coordinate(q, k, slopes), v, 0.0)
    torch.testing.assert_close(heads.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_width_below_two_is_refused() -> None:
    with pytest.raises(ValueError, match="canon_width must span at least 2"):
        ModelConfig(10, canon_width=1)
