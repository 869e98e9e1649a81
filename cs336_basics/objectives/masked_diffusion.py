"""Masked diffusion: a language model that fills in all tokens in any order, with a bound on its likelihood.

Noise hides tokens: at time t each is replaced by [MASK] with probability t, independently, so t = 1 is all masks. The
network sees what is left, from both sides, and predicts the hidden ones. With L tokens to model,

    -log p(x) <= E_{t ~ U(0,1]} E_{mask | t}  1/t  sum over masked i of -log p(x_i | visible)          (training)
               = E_{k ~ U{1..L}} E_{mask of k}  L/k  sum over masked i of -log p(x_i | visible)        (evaluation)

The right side is what `diffusion_loss` and `diffusion_bound` estimate, in nats; the second form has less variance. It
is the mean over all orders of revealing tokens one by one of the chain rule's sum; so for true conditionals it is
-log p(x) itself, and for a network an upper bound of its code length: bits per byte are "at most". Compared with
BERT, all rates of masking are trained and weighted, which turns gap filling into a generative model. The first token
of a row is given.

Source: Sahoo et al. 2024 (MDLM, 2406.07524), section 3; Nie et al. 2025 (LLaDA, 2502.09992), section 2 and equation 14;
Ou et al. 2024 (2406.03736). Left out: other noise schedules (the bound does not depend on them), confidence-based
remasking, semi-autoregressive blocks. Read next: `comparison.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cs336_basics.nn_utils import softmax, token_losses

Denoiser = Callable[[Tensor], Tensor]
"""Ids (batch, seq), masks among them, to logits (batch, seq, vocab + 1); the last, the mask's, is never predicted."""


def draw_times(batch: int, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """Times in (0, 1], one in each of `batch` equal parts, so that a batch covers all rates of masking."""
    return (1 - torch.rand(1, generator=generator) + torch.arange(batch)) / batch


def mask_by_time(
    rows: Int[Tensor, "batch seq"], times: Float[Tensor, " batch"], *, generator: torch.Generator
) -> Bool[Tensor, "batch seq"]:
    """True at each place but the first with the probability that the row's time says."""
    masked = torch.rand(rows.shape, generator=generator) < times[:, None].cpu()
    masked[:, 0] = False
    return masked.to(rows.device)


def mask_by_count(
    rows: Int[Tensor, "batch seq"], counts: Int[Tensor, " batch"], *, generator: torch.Generator
) -> Bool[Tensor, "batch seq"]:
    """True at exactly `counts` places of each row, the first never among them, all such sets alike."""
    order = torch.rand(rows.shape[0], rows.shape[1] - 1, generator=generator).argsort(dim=-1).argsort(dim=-1)
    masked = torch.zeros(rows.shape, dtype=torch.bool)
    masked[:, 1:] = order < counts[:, None].cpu()
    return masked.to(rows.device)


def hidden_nats(
    denoise: Denoiser, rows: Int[Tensor, "batch seq"], masked: Bool[Tensor, "batch seq"], *, mask_id: int
) -> Float[Tensor, " batch"]:
    """Sum over the masked places of -log p(token | visible tokens), per row, in nats."""
    logits = denoise(rows.masked_fill(masked, mask_id))[..., :mask_id]
    return (token_losses(logits, rows) * masked).sum(dim=-1)


def diffusion_loss(
    denoise: Denoiser, rows: Int[Tensor, "batch row"], *, mask_id: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """One estimate of the bound per row at stratified random times; mean nats per token that is not given.

    Args:
        denoise: see `Denoiser`.
        rows: ids in [0, mask_id).
        mask_id: id of the mask, one past the last real token.
        generator: CPU generator.
    """
    times = draw_times(len(rows), generator=generator).to(rows.device)
    masked = mask_by_time(rows, times, generator=generator)
    return (hidden_nats(denoise, rows, masked, mask_id=mask_id) / times).mean() / (rows.shape[1] - 1)


@torch.no_grad()
def diffusion_bound(
    denoise: Denoiser, rows: Int[Tensor, "batch row"], *, mask_id: int, samples: int, generator: torch.Generator
) -> Float[Tensor, "samples batch"]:
    """Independent unbiased estimates of each row's bound on -log p(row | first token), in nats.

    In the sample s the numbers of masked places are spread evenly over the rows, from a random beginning.

    Raises:
        ValueError: samples is less than 1.
    """
    if samples < 1:
        raise ValueError(f"the bound needs at least 1 sample; got {samples}")
    batch, length = len(rows), rows.shape[1] - 1
    estimates = []
    for _ in range(samples):
        start = torch.rand(1, generator=generator, dtype=torch.float64)
        spread = (start + torch.randperm(batch, generator=generator) / batch) % 1
        counts = (spread * length).long().clamp(max=length - 1) + 1
        masked = mask_by_count(rows, counts, generator=generator)
        weight = length / counts.to(rows.device)
        estimates.append(hidden_nats(denoise, rows, masked, mask_id=mask_id) * weight)
    return torch.stack(estimates)


@torch.no_grad()
def generate_by_unmasking(
    denoise: Denoiser,
    given: Int[Tensor, "batch prompt"],
    num_new: int,
    *,
    mask_id: int,
    steps: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Int[Tensor, "batch row"]:
    """Draw rows: begin with masks after `given` and reveal them over `steps` equal steps of time from 1 to 0.

    From time t to s a masked token is revealed with probability (t - s) / t, drawn from the network's distribution at
    its place. Tokens revealed in one step do not see each other: few steps are fast and less coherent, num_new steps or
    more reveal about one at a time.

    Args:
        denoise: see `Denoiser`.
        given: the beginning of each row, kept.
        num_new: tokens to draw.
        mask_id: id of the mask, one past the last real token.
        steps: network calls.
        generator: source of randomness on the device of `given`.
        temperature: divides the logits; 0 takes the most likely token.

    Raises:
        ValueError: a count below 1, or a negative temperature.
    """
    if steps < 1 or num_new < 1 or temperature < 0:
        raise ValueError(f"needs steps >= 1, num_new >= 1, temperature >= 0; got {steps}, {num_new}, {temperature}")
    rows = torch.cat((given, torch.full((len(given), num_new), mask_id, device=given.device)), dim=1)
    for step in range(steps):
        logits = denoise(rows)[..., :mask_id]
        drawn = logits.argmax(dim=-1)
        if temperature > 0:
            probabilities = softmax(logits / temperature, dim=-1).flatten(0, 1)
            drawn = torch.multinomial(probabilities, 1, generator=generator).view(rows.shape)
        chance = torch.rand(rows.shape, generator=generator, device=rows.device)
        reveal = (rows == mask_id) & (chance < 1 / (steps - step))  # (t - s) / t for t = 1 - step / steps
        rows = torch.where(reveal, drawn, rows)
    return rows
