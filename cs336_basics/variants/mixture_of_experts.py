"""Mixture of experts: many feed-forward networks, of which each token uses a few.

    p = softmax(W_r x)                                        (router, one probability per expert)
    S = indices of the top_k largest p_e + b_e                (b: selection bias, 0 unless bias_balancing)
    y = sum_{e in S} g_e SwiGLU_e(x)  +  SwiGLU_shared(x)     (the shared experts see every token)

Gates g: for top_k >= 2 the chosen probabilities divided by their sum, which is the softmax over the chosen logits
(Shazeer et al. 2017; Mixtral). For top_k = 1 that would be the constant 1 and the router would learn nothing from the
task, so the gate is p_e itself (Switch Transformer, Fedus et al. 2021).

Left alone, a router sends everything to a few experts. Three remedies, all optional:

    balance loss   alpha E sum_e f_e P_e     f: share of the assignments, P: mean probability; alpha at balance (Switch)
    z-loss         beta mean(logsumexp(W_r x)^2)       keeps the logits small (ST-MoE, Zoph et al. 2022)
    bias           b_e += rate sign(mean load - load_e)      after each step; changes who is chosen, never a gate or a
                   gradient (Wang et al. 2024; there with sigmoid scores; for the paper's form set balance_loss = 0)

Shared experts: DeepSeekMoE (Dai et al. 2024). Left out: capacity limits (no token is ever dropped), noise on the
logits, expert choice, experts on several devices. Read next: `state_space.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics.model import Linear, SwiGLU
from cs336_basics.nn_utils import logsumexp, softmax, upcast
from cs336_basics.variants.configs import MixtureOfExpertsConfig


def route(
    logits: Float[Tensor, "tokens experts"],
    top_k: int,
    *,
    selection_bias: Float[Tensor, " experts"] | None = None,
) -> tuple[Int[Tensor, "tokens top_k"], Float[Tensor, "tokens top_k"], Float[Tensor, "tokens experts"]]:
    """Choose the experts of each token.

    Args:
        logits: router scores, float32 or better.
        top_k: experts per token, in [1, experts].
        selection_bias: added to the probabilities for the choice alone.

    Returns:
        chosen experts (best first, the smaller index among equals), their gates, and all probabilities.
    """
    probabilities = softmax(logits, dim=-1)
    scores = probabilities.detach()
    if selection_bias is not None:
        scores = scores + selection_bias
    chosen = scores.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    if top_k == 1:
        return chosen, probabilities.gather(-1, chosen), probabilities
    return chosen, softmax(logits.gather(-1, chosen), dim=-1), probabilities


def load_balance_loss(
    probabilities: Float[Tensor, "tokens experts"], load: Float[Tensor, " experts"]
) -> Float[Tensor, ""]:
    """E sum_e f_e P_e with f = load / sum(load): 1 when all experts are equal, E when one takes everything.

    The gradient flows through P alone; the counts f have none.
    """
    return probabilities.shape[-1] * (load / load.sum() * probabilities.mean(dim=0)).sum()


def router_z_loss(logits: Float[Tensor, "tokens experts"]) -> Float[Tensor, ""]:
    """Mean over the tokens of logsumexp(logits)^2."""
    return logsumexp(logits, dim=-1).square().mean()


def dispatch(
    x: Float[Tensor, "tokens d_model"],
    chosen: Int[Tensor, "tokens top_k"],
    gates: Float[Tensor, "tokens top_k"],
    *,
    experts: Sequence[nn.Module],
) -> Float[Tensor, "tokens d_model"]:
    """sum_k gates_k expert_k(x) for each token, every expert run once on just the rows that chose it.

    Assignments are sorted by expert, cut into one run per expert, and brought back into token order. An expert without
    tokens runs on zero rows, so that its gradient is zero rather than missing.

    Numerics: the weighted sum is taken in the gates' dtype and rounded to that of `x` once.
    Complexity: tokens * top_k rows through an expert; one wait for the device to read the counts.
    """
    expert_of = chosen.flatten()
    order = expert_of.argsort(stable=True)
    counts = torch.bincount(expert_of, minlength=len(experts)).tolist()
    runs = x[order // chosen.shape[1]].split(counts)
    outputs = torch.cat([expert(run) for expert, run in zip(experts, runs, strict=True)])
    by_token = outputs[order.argsort()].unflatten(0, chosen.shape)
    return (gates.unsqueeze(-1) * by_token).sum(dim=1).to(x.dtype)


class MixtureOfExperts(nn.Module):
    """A feed-forward layer of routed and shared SwiGLU experts; see the module docstring.

    Args:
        d_model: width of the residual stream.
        d_ff: width of the dense feed-forward this layer stands for, and of an expert unless config.d_expert is set.
        config: experts and balancing.

    After a forward in training mode `auxiliary_loss` holds the weighted balance and z-losses of that forward, to be
    added to the training loss (None in evaluation mode), and `expert_statistics` describes it.

    Numerics: the router works in float32 whatever the dtype of the weights, under autocast too: rounding its logits to
    bfloat16 changes who is chosen. Its weight starts small, N(0, 0.1/d_model), so that routing begins near uniform.
    """

    selection_bias: Tensor | None
    tokens_per_expert: Tensor | None

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        config: MixtureOfExpertsConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        d_expert = config.d_expert or d_ff
        for name, value in (("d_model", d_model), ("d_ff", d_ff)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        self.router = Linear(d_model, config.num_experts, device, dtype)
        std = math.sqrt(0.1 / d_model)
        nn.init.trunc_normal_(self.router.weight, std=std, a=-3 * std, b=3 * std)
        self.experts = nn.ModuleList(SwiGLU(d_model, d_expert, device, dtype) for _ in range(config.num_experts))
        # The sum of several SwiGLU networks is one SwiGLU whose hidden layer is as wide as all of them together.
        width = config.num_shared_experts * d_expert
        self.shared = SwiGLU(d_model, width, device, dtype) if width else None
        bias = torch.zeros(config.num_experts, device=device) if config.bias_balancing else None
        counts = torch.zeros(config.num_experts, device=device, dtype=torch.int64) if config.bias_balancing else None
        self.register_buffer("selection_bias", bias)
        self.register_buffer("tokens_per_expert", counts, persistent=False)
        self.auxiliary_loss: Tensor | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Apply to each position alone."""
        tokens = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            logits = upcast(tokens) @ upcast(self.router.weight).T
            chosen, gates, probabilities = route(logits, self.config.top_k, selection_bias=self.selection_bias)
        self.auxiliary_loss = self._account(logits, chosen, probabilities) if self.training else None
        y = dispatch(tokens, chosen, gates, experts=list(self.experts))
        if self.shared is not None:
            y = y + self.shared(tokens)
        return y.reshape(x.shape)

    def _account(self, logits: Tensor, chosen: Tensor, probabilities: Tensor) -> Tensor:
        """The auxiliary loss of this forward; remembers its loads."""
        load = torch.bincount(chosen.flatten(), minlength=self.config.num_experts)
        self._last = load, probabilities.detach().mean(dim=0)
        if self.tokens_per_expert is not None:
            self.tokens_per_expert += load
        balance = load_balance_loss(probabilities, load.to(probabilities.dtype))
        return self.config.balance_loss * balance + self.config.z_loss * router_z_loss(logits)

    @torch.no_grad()
    def update_selection_bias(self, rate: float = 1e-3) -> None:
        """Raise the bias of the experts that got less than the mean since the last update, lower that of the others.

        Raises:
            ValueError: the layer was made without bias_balancing.
        """
        if self.selection_bias is None or self.tokens_per_expert is None:
            raise ValueError("this layer has no selection bias; make it with bias_balancing=True")
        load = self.tokens_per_expert.to(self.selection_bias.dtype)
        self.selection_bias += rate * torch.sign(load.mean() - load)
        self.tokens_per_expert.zero_()

    def expert_statistics(self) -> dict[str, float]:
        """Of the last forward in training mode, for logs; {} before the first.

        max_load, min_load: assignments of the busiest and the idlest expert over the mean (1 is balance); idle_experts:
        share of the experts without a token; entropy: of the mean probabilities, over its maximum (1 is uniform).
        """
        if self._last is None:
            return {}
        load, mean = self._last[0].double(), self._last[1].double()
        entropy = -(mean * mean.clamp(min=1e-30).log()).sum().item()
        return {
            "max_load": (load.max() / load.mean()).item(),
            "min_load": (load.min() / load.mean()).item(),
            "idle_experts": (load == 0).double().mean().item(),
            "entropy": entropy / math.log(len(mean)) if len(mean) > 1 else 1.0,
        }


def update_selection_biases(model: nn.Module, rate: float = 1e-3) -> None:
    """Move the selection bias of every mixture layer with bias_balancing inside `model`.

    The training loop calls this once per optimizer step, right after `optimizer.step()`: loads of several micro-batches
    add up in between. With data-parallel processes their `tokens_per_expert` must be summed over the processes first.

    Args:
        model: any module; layers without a bias are left alone.
        rate: size of one move, in units of probability; 1e-3 in the paper.
    """
    for module in model.modules():
        if isinstance(module, MixtureOfExperts) and module.selection_bias is not None:
            module.update_selection_bias(rate)
