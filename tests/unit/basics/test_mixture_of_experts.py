"""Mixture of experts against a per-token Python loop, Mixtral, the dense layer, and the laws of its balancing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from cs336_basics.model import SwiGLU
from cs336_basics.variants.mixture_of_experts import (
    MixtureOfExperts,
    MixtureOfExpertsConfig,
    dispatch,
    load_balance_loss,
    route,
    router_z_loss,
    update_selection_biases,
)

D_MODEL, D_FF = 6, 10


def layer(
    seed: int = 0, *, dtype: torch.dtype = torch.float64, router_scale: float = 4.0, **config
) -> MixtureOfExperts:
    torch.manual_seed(seed)
    moe = MixtureOfExperts(D_MODEL, D_FF, MixtureOfExpertsConfig(**config), dtype=dtype)
    moe.router.weight.data *= router_scale  # decided choices
    return moe


def tokens(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, D_MODEL, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def swiglu_by_hand(ffn: SwiGLU, x: Tensor) -> Tensor:
    a = ffn.w1.weight @ x
    return ffn.w2.weight @ (a / (1 + torch.exp(-a)) * (ffn.w3.weight @ x))


def loop(moe: MixtureOfExperts, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and auxiliary loss by the formulas, one token and one expert at a time."""
    config, rows = moe.config, x.reshape(-1, D_MODEL)
    bias = [0.0] * config.num_experts if moe.selection_bias is None else moe.selection_bias.tolist()
    outputs, load, mean, z = [], [0] * config.num_experts, [0.0] * config.num_experts, 0.0
    for row in rows:
        exps = [torch.exp(moe.router.weight[e] @ row) for e in range(config.num_experts)]
        p = [e / sum(exps) for e in exps]
        chosen = sorted(range(config.num_experts), key=lambda e: -p[e].item() - bias[e])[: config.top_k]
        norm = sum(p[e] for e in chosen) if config.top_k > 1 else 1.0
        y = sum(p[e] / norm * swiglu_by_hand(moe.experts[e], row) for e in chosen)
        outputs.append(y if moe.shared is None else y + swiglu_by_hand(moe.shared, row))
        for e in range(config.num_experts):
            load[e] += e in chosen
            mean[e] = mean[e] + p[e] / len(rows)
        z = z + torch.log(sum(exps)) ** 2 / len(rows)
    share = [n / (len(rows) * config.top_k) for n in load]
    balance = config.num_experts * sum(f * P for f, P in zip(share, mean, strict=True))
    return torch.stack(outputs).reshape(x.shape), config.balance_loss * balance + config.z_loss * z


CONFIGS = [
    {"num_experts": 4, "top_k": 2},
    {"num_experts": 4, "top_k": 1},
    {"num_experts": 3, "top_k": 3, "d_expert": 5},
    {"num_experts": 1, "top_k": 1},
    {"num_experts": 5, "top_k": 2, "num_shared_experts": 2, "d_expert": 3, "balance_loss": 0.3, "z_loss": 0.2},
    {"num_experts": 4, "top_k": 2, "bias_balancing": True},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_output_loss_and_all_gradients_against_the_loop(config: dict) -> None:
    moe, x = layer(**config), tokens(2, 9).requires_grad_()
    if moe.selection_bias is not None:
        moe.selection_bias += torch.tensor([0.3, -0.2, 0.1, 0.0])
    y, (expected, auxiliary) = moe(x), loop(moe, x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(moe.auxiliary_loss, auxiliary, rtol=1e-9, atol=1e-11)
    incoming = tokens(2, 9, seed=2)
    names = [name for name, _ in moe.named_parameters()]
    at = [x, *moe.parameters()]
    mine = torch.autograd.grad((y * incoming).sum() + moe.auxiliary_loss, at)
    theirs = torch.autograd.grad((expected * incoming).sum() + auxiliary, at, allow_unused=True)
    for name, a, b in zip(["x", *names], mine, theirs, strict=True):
        b = torch.zeros_like(a) if b is None else b
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_finite_differences() -> None:
    moe = layer(num_experts=3, top_k=2)

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        return moe(x), moe.auxiliary_loss

    assert gradcheck(total, tokens(4).requires_grad_())


def test_mixtral_with_the_same_weights() -> None:
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = pytest.importorskip("transformers").MixtralConfig(
        hidden_size=D_MODEL, intermediate_size=D_FF, num_local_experts=5, num_experts_per_tok=2
    )
    theirs, ours = mixtral.MixtralSparseMoeBlock(config).double(), layer(num_experts=5, top_k=2)
    state = {
        "gate.weight": ours.router.weight,
        "experts.gate_up_proj": torch.stack([torch.cat((e.w1.weight, e.w3.weight)) for e in ours.experts]),
        "experts.down_proj": torch.stack([e.w2.weight for e in ours.experts]),
    }
    if set(theirs.state_dict()) != set(state):
        pytest.skip("this version of transformers stores Mixtral's experts otherwise")
    theirs.load_state_dict(state)
    x = tokens(3, 8)  # Mixtral's router rounds its probabilities to float32
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [2, 4])
def test_equal_experts_are_one_dense_layer(top_k: int) -> None:
    moe, dense = layer(num_experts=4, top_k=top_k), SwiGLU(D_MODEL, D_FF, dtype=torch.float64)
    for expert in moe.experts:
        expert.load_state_dict(dense.state_dict())
    torch.testing.assert_close(moe(tokens(2, 7)), dense(tokens(2, 7)), rtol=1e-10, atol=1e-12)


def test_the_order_of_the_experts_does_not_matter() -> None:
    moe, order = layer(num_experts=5, top_k=2), [3, 0, 4, 1, 2]
    other = copy.deepcopy(moe)
    other.router.weight.data = moe.router.weight.data[order]
    for new, old in enumerate(order):
        other.experts[new].load_state_dict(moe.experts[old].state_dict())
    x = tokens(2, 11)
    torch.testing.assert_close(other(x), moe(x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(other.auxiliary_loss, moe.auxiliary_loss)


def test_tokens_do_not_see_each_other() -> None:
    moe, x = layer(num_experts=4, top_k=2), tokens(3, 8)
    alone = torch.stack([torch.stack([moe(row[None])[0] for row in sequence]) for sequence in x])
    torch.testing.assert_close(moe(x), alone, rtol=1e-10, atol=1e-12)


def count_rows(moe: MixtureOfExperts) -> dict[int, int]:
    """A dictionary that the next forward fills with the number of rows each expert gets."""
    seen: dict[int, int] = {}
    for index, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda _, args, __, index=index: seen.update({index: args[0].shape[0]}))
    return seen


def test_each_expert_computes_only_its_own_tokens() -> None:
    moe, x = layer(num_experts=4, top_k=2), tokens(50)
    seen = count_rows(moe)
    moe(x)
    top = torch.topk(x @ moe.router.weight.T, 2).indices
    assert seen == {e: int((top == e).sum()) for e in range(4)}


def test_one_expert_gets_everything_and_the_idle_ones_a_zero_gradient() -> None:
    moe = layer(num_experts=3, top_k=1)
    moe.router.weight.data = torch.tensor([[50.0], [0.0], [0.0]], dtype=torch.float64).expand(-1, D_MODEL).clone()
    moe(tokens(9).abs()).sum().backward()
    assert moe.experts[0].w1.weight.grad.abs().max() > 0
    assert all(p.grad is not None and not p.grad.any() for p in moe.experts[1].parameters())
    assert moe.expert_statistics()["max_load"] == 3.0
    assert moe.expert_statistics()["min_load"] == 0.0
    assert moe.expert_statistics()["idle_experts"] == pytest.approx(2 / 3)


def test_equal_scores_go_to_the_first_experts() -> None:
    chosen, gates, _ = route(torch.zeros(4, 40), 3)
    assert chosen.tolist() == [[0, 1, 2]] * 4
    torch.testing.assert_close(gates, torch.full((4, 3), 1 / 3))


def test_a_bias_changes_the_choice_and_neither_gate_nor_gradient() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    chosen, gates, _ = route(logits, 2, selection_bias=torch.tensor([0.0, -1.0, 1.0]))
    assert sorted(chosen[0].tolist()) == [0, 2]
    gate_of = dict(zip(chosen[0].tolist(), gates[0].tolist(), strict=True))
    assert gate_of[0] == pytest.approx(math.exp(2) / (math.exp(2) + 1))
    assert torch.autograd.grad(gates[0, 0], logits)[0][0, 1] == 0  # the expert that was pushed out


def test_gates_survive_an_expert_chosen_against_all_odds() -> None:
    """Probabilities of the chosen underflow to zero; their ratio does not."""
    logits = torch.tensor([[0.0, -200.0, -201.0]])
    _, gates, _ = route(logits, 2, selection_bias=torch.tensor([-3.0, 0.0, 0.0]))
    torch.testing.assert_close(gates, torch.softmax(torch.tensor([[0.0, -1.0]]), dim=-1))


def test_balance_loss_is_least_at_uniform() -> None:
    generator = torch.Generator().manual_seed(0)
    for experts in (2, 5, 8):
        uniform = torch.full((10, experts), 1 / experts, dtype=torch.float64)
        assert load_balance_loss(uniform, torch.full((experts,), 7.0)).item() == pytest.approx(1.0)
        for _ in range(20):
            p = torch.rand(experts, generator=generator, dtype=torch.float64) ** 3
            p /= p.sum()
            assert load_balance_loss(p.expand(10, -1), 1000 * p) > 1.0
        one = torch.eye(experts, dtype=torch.float64)[0]
        assert load_balance_loss(one.expand(10, -1), 20 * one).item() == pytest.approx(experts)


def test_z_loss_against_torch() -> None:
    logits = 30 * tokens(12)
    torch.testing.assert_close(router_z_loss(logits), torch.logsumexp(logits, dim=-1).square().mean())


def skewed_load(moe: MixtureOfExperts, steps: int, *, train) -> float:
    """Largest load over the mean on fresh tokens, after `steps` calls of `train`; all tokens lean towards expert 0."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps):
        moe(torch.randn(128, D_MODEL, generator=generator) + 1.0)
        train(moe)
    moe(torch.randn(4096, D_MODEL, generator=generator) + 1.0)
    return moe.expert_statistics()["max_load"]


def skewed(**config) -> MixtureOfExperts:
    moe = layer(num_experts=4, top_k=1, dtype=torch.float32, router_scale=0.3, **config)
    moe.router.weight.data[0] += 0.3
    return moe


def test_bias_balancing_evens_a_skewed_router_without_touching_its_weights() -> None:
    moe = skewed(bias_balancing=True)
    weight = moe.router.weight.detach().clone()
    assert skewed_load(moe, 0, train=None) > 2.5
    assert skewed_load(moe, 200, train=lambda m: update_selection_biases(m, 3e-3)) < 1.4
    assert torch.equal(moe.router.weight, weight)


def test_the_balance_loss_alone_evens_a_skewed_router() -> None:
    moe = skewed(balance_loss=1.0, z_loss=0.0)

    def train(moe: MixtureOfExperts) -> None:
        (gradient,) = torch.autograd.grad(moe.auxiliary_loss, moe.router.weight)
        moe.router.weight.data -= 0.02 * gradient

    assert skewed_load(moe, 0, train=None) > 2.5
    assert skewed_load(moe, 100, train=train) < 1.4


def test_the_bias_moves_by_the_load_of_all_micro_batches_since_the_last_update() -> None:
    moe = layer(num_experts=4, top_k=2, bias_balancing=True)
    batches = [tokens(20, seed=seed) for seed in range(3)]
    load = torch.zeros(4)
    for x in batches:
        moe(x)
        load += torch.bincount(torch.topk(x @ moe.router.weight.T, 2).indices.flatten(), minlength=4)
    moe.eval()(tokens(20, seed=9))  # evaluation does not count
    update_selection_biases(torch.nn.ModuleList([moe, torch.nn.Identity()]), 0.01)
    torch.testing.assert_close(moe.selection_bias, 0.01 * torch.sign(load.mean() - load))
    update_selection_biases(moe, 0.01)  # nothing since: the bias rests
    torch.testing.assert_close(moe.selection_bias, 0.01 * torch.sign(load.mean() - load))


def test_the_bias_is_saved_and_the_counts_are_not() -> None:
    moe = layer(num_experts=4, top_k=2, bias_balancing=True)
    extra = set(moe.state_dict()) - set(layer(num_experts=4, top_k=2).state_dict())
    assert extra == {"selection_bias"}
    assert not any(name == "selection_bias" for name, _ in moe.named_parameters())


def test_the_router_works_in_float32_under_bfloat16() -> None:
    """Choices and gates are those of float64 on the same rounded weights, where bfloat16 logits would choose others."""
    x = tokens(400, dtype=torch.bfloat16)
    for autocast in (False, True):
        moe = layer(num_experts=8, top_k=2, dtype=torch.float32 if autocast else torch.bfloat16)
        seen = count_rows(moe)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = moe(x)
            moe.auxiliary_loss.backward()
        assert y.dtype == torch.bfloat16
        assert moe.auxiliary_loss.dtype == torch.float32
        assert torch.isfinite(y).all()
        wide = moe.router.weight.double()
        top = torch.topk(x.double() @ wide.T, 2).indices
        assert seen == {e: int((top == e).sum()) for e in range(8)}
        rough = torch.topk(x @ moe.router.weight.bfloat16().T, 2).indices
        assert not torch.equal(rough.sort().values, top.sort().values)


def test_bfloat16_output_is_near_float64() -> None:
    moe = layer(num_experts=4, top_k=4)  # all experts: no choice that rounding could change
    x = tokens(2, 30)
    half = copy.deepcopy(moe).to(torch.bfloat16)(x.bfloat16())
    torch.testing.assert_close(half.double(), moe(x), rtol=5e-2, atol=5e-2)


def test_evaluation_sets_no_loss() -> None:
    moe = layer(num_experts=4, top_k=2)
    assert moe.auxiliary_loss is None
    assert moe.expert_statistics() == {}
    moe(tokens(5))
    assert moe.auxiliary_loss is not None
    moe.eval()(tokens(5))
    assert moe.auxiliary_loss is None


def test_statistics_of_a_balanced_layer() -> None:
    moe = layer(num_experts=4, top_k=4)
    moe.router.weight.data.zero_()
    moe(tokens(12))
    assert moe.expert_statistics() == pytest.approx({"max_load": 1, "min_load": 1, "idle_experts": 0, "entropy": 1})


def test_dispatch_takes_any_modules() -> None:
    x = tokens(4)
    chosen, gates = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0]]), torch.tensor([[0.25, 0.75]]).double().expand(4, -1)
    actual = dispatch(x, chosen, gates, experts=[torch.nn.Identity(), torch.nn.Hardtanh(-0.1, 0.1)])
    share = torch.tensor([0.25, 0.75, 0.25, 0.75]).double()[:, None]
    torch.testing.assert_close(actual, share * x + (1 - share) * x.clamp(-0.1, 0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 2, "top_k": 3}, "top_k.*top_k=3.*num_experts=2"),
        ({"top_k": 0}, "top_k"),
        ({"num_experts": 0, "top_k": 0}, "num_experts must be at least 1; got 0"),
        ({"num_shared_experts": -1}, "num_shared_experts"),
        ({"d_expert": 0}, "d_expert"),
        ({"balance_loss": -0.1}, "balance_loss"),
        ({"z_loss": math.nan}, "z_loss"),
    ],
)
def test_bad_configurations(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureOfExpertsConfig(**change)


def test_updating_a_bias_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="bias_balancing=True"):
        layer().update_selection_bias()
