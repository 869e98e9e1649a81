"""Estimators of KL(pi || pi_ref) from samples of pi.

With log q = log pi_ref - log pi of a sampled token:

    k1 = -log q              unbiased, of high variance, negative at times
    k2 = (log q)^2 / 2       biased, small variance; its gradient is that of the true divergence
    k3 = q - 1 - log q       unbiased and never negative; the term of GRPO (2402.03300, equation 4)

An unbiased value is not an unbiased gradient: differentiating k1 under the samples gives the score function, whose
expectation is zero. Source: Schulman 2020, "Approximating KL divergence". Read next: `grpo_step.py`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
KL_ESTIMATORS: tuple[str, ...] = ("k1", "k2", "k3")


def kl_divergence(
    policy_log_probs: Float[Tensor, "..."],
    reference_log_probs: Float[Tensor, "..."],
    estimator: KlEstimator = "k3",
) -> Float[Tensor, "..."]:
    """The estimate of each token, in nats, with gradient to the policy only.

    Raises:
        ValueError: different shapes or an unknown estimator.
    """
    if policy_log_probs.shape != reference_log_probs.shape:
        raise ValueError(
            f"policy and reference log-probs must have one shape; got {tuple(policy_log_probs.shape)} and "
            f"{tuple(reference_log_probs.shape)}"
        )
    log_q = reference_log_probs.detach() - policy_log_probs
    if estimator == "k1":
        return -log_q
    if estimator == "k2":
        return log_q.square() / 2
    if estimator == "k3":
        return torch.expm1(log_q) - log_q
    raise ValueError(f"the estimator must be one of {', '.join(KL_ESTIMATORS)}; got {estimator!r}")
