"""Log-probabilities of responses, the entropy beside them, and sums and means under a mask.

    log p(y_t | x, y_<t) = z_t[y_t] - logsumexp(z_t)          entropy_t = logsumexp(z_t) - sum_v p_v z_v

Everything is computed in float32 from half-precision logits. Handout: get_response_log_probs, compute_entropy,
masked_normalize, masked_mean. Read next: `policy_gradient.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import softcap, token_losses, upcast

_ENTROPY_ELEMENTS = 1 << 22


def logits_of(model: nn.Module | Any, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
    """Logits of any causal model: ours returns them, Hugging Face's in an object with `.logits`."""
    output = model(input_ids)
    return output if isinstance(output, Tensor) else output.logits


def compute_entropy(logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "..."]:
    """Entropy in nats of the distribution softmax(logits) over the last axis: log Z - sum_v e_v s_v / Z.

    Numerics: s is the logits less their maximum, e = exp(s) and Z = sum e, so that nothing overflows. Below -1e4 exp is
    zero in every dtype; cut there, a token of logit -inf has no share instead of 0 times infinity.
    """
    logits = upcast(logits)
    shifted = (logits - logits.amax(dim=-1, keepdim=True)).clamp(min=-1e4)
    exps = shifted.exp()
    total = exps.sum(dim=-1)
    return total.log() - (exps * shifted).sum(dim=-1) / total


def get_response_log_probs(
    model: nn.Module | Any,
    input_ids: Int[Tensor, "batch seq"],
    labels: Int[Tensor, "batch seq"],
    return_token_entropy: bool = False,
    *,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Log-probability of each label after the inputs up to its own position.

    Args:
        model: gives logits for (batch, seq) ids; its training mode is left as it is.
        input_ids, labels: as `tokenize_prompt_and_output` makes them; labels are shifted already.
        return_token_entropy: add the entropy of each position, for logs: without a graph, a part at a time.
        temperature: divide the logits by it, as the sampler did; 1 scores under the model itself.

    Returns:
        `log_probs` and, if asked for, `token_entropy`, each (batch, seq) float32; nothing is masked.
    """
    logits = logits_of(model, input_ids)
    if temperature != 1.0:
        logits = logits / temperature
    scores = {"log_probs": -token_losses(logits, labels)}
    if return_token_entropy:
        scores["token_entropy"] = _entropy_in_parts(logits.detach())
    return scores


def _entropy_in_parts(logits: Tensor) -> Tensor:
    """`compute_entropy` of (batch, seq, vocab) logits without a second tensor of their size."""
    flat = logits.reshape(-1, logits.shape[-1])
    rows = max(1, _ENTROPY_ELEMENTS // flat.shape[-1])
    parts = [compute_entropy(part) for part in flat.split(rows)] if len(flat) else [flat.sum(dim=-1)]
    return torch.cat(parts).view(logits.shape[:-1])


def masked_normalize(
    tensor: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."],
    dim: int | None = None,
    normalize_constant: float = 1.0,
) -> Float[Tensor, "..."]:
    """Sum of the selected elements over `dim` (all axes by default), divided by a constant; an empty sum is 0."""
    return _masked_sum(tensor, mask, dim) / normalize_constant


def masked_mean(tensor: Float[Tensor, "..."], mask: Bool[Tensor, "..."], dim: int | None = None) -> Tensor:
    """Mean of the selected elements over `dim` (all axes by default); NaN where nothing is selected.

    The NaN is meant: a mean of nothing has no value, and one that passed for 0 would hide an empty response.
    """
    count = mask.sum() if dim is None else mask.sum(dim=dim)
    return _masked_sum(tensor, mask, dim) / count


def _masked_sum(tensor: Tensor, mask: Tensor, dim: int | None) -> Tensor:
    """Sum under the mask; what is not selected may be anything, NaN and infinity too."""
    selected = torch.where(mask.bool(), tensor, torch.zeros_like(tensor))
    return selected.sum() if dim is None else selected.sum(dim=dim)


def score_responses(
    model: nn.Module | Any,
    batch: dict[str, Tensor],
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> dict[str, Float[Tensor, "batch seq"]]:
    """`get_response_log_probs` of the response tokens alone: zero elsewhere, and no logits are made there.

    With our TransformerLM the head runs on the selected positions only, which saves most of its work where prompts are
    long.

    Args:
        batch: `input_ids`, `labels` and `response_mask`, each (batch, seq).
        temperature: as the sampler had it.
        with_entropy: add `token_entropy`, without a graph.
    """
    mask = batch["response_mask"]
    if isinstance(model, TransformerLM):
        logits = model.lm_head(model.hidden_states(batch["input_ids"])[mask])
        cap = model.config.logit_softcap
        logits = logits if cap is None else softcap(logits, cap)
    else:
        logits = logits_of(model, batch["input_ids"])[mask]
    if temperature != 1.0:
        logits = logits / temperature
    found = {"log_probs": -token_losses(logits, batch["labels"][mask])}
    if with_entropy:
        found["token_entropy"] = _entropy_in_parts(logits.detach())
    zeros = torch.zeros(mask.shape, dtype=found["log_probs"].dtype, device=mask.device)
    return {name: zeros.masked_scatter(mask, values) for name, values in found.items()}
