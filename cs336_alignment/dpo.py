"""Direct preference optimisation: the policy itself as a reward model, trained on pairs of responses.

With h(y) = log pi(y|x) - log pi_ref(y|x), chosen y_w and rejected y_l:

    DPO                  -log sigmoid(beta (h(y_w) - h(y_l)))          Rafailov et al. 2023 (2305.18290)
    IPO                  (h(y_w) - h(y_l) - 1 / (2 beta))^2            Azar et al. 2023 (2310.12036): the margin has an end
    length-normalised    DPO with each log-prob divided by its number of tokens          Lambert et al. 2024 (2411.15124)
    + NLL                - coefficient * log pi(y_w|x) / |y_w|         Pang et al. 2024 (2404.19733)

DPO only asks for a margin: both log-probs may fall, the rejected one faster, and with them what the model can do. So
preference accuracy alone proves nothing: `train_dpo` logs the log-probs of both sides, and the tour measures the task
beside it. The NLL term or a lower learning rate holds the chosen response up. beta h is the implicit reward.

Handout (supplement): dpo_loss, dpo_training. Read next: `preference_training.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cs336_alignment.prompts import fill_prompt, load_prompt
from cs336_alignment.response_log_probs import get_response_log_probs
from cs336_alignment.text_tokenizer import TextTokenizer

DpoLoss = Literal["sigmoid", "ipo"]


def log_sigmoid(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """log(1 / (1 + exp(-x))) without overflow on either side, with the gradient 1/2 at 0."""
    return -torch.logaddexp(torch.zeros_like(x), -x)


def dpo_loss(
    chosen_log_ratio: Float[Tensor, " pairs"],
    rejected_log_ratio: Float[Tensor, " pairs"],
    beta: float,
    kind: DpoLoss = "sigmoid",
) -> Float[Tensor, " pairs"]:
    """Loss of each pair from h of the chosen and the rejected response.

    Raises:
        ValueError: beta not positive, or an unknown kind.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive; got {beta}")
    margin = chosen_log_ratio - rejected_log_ratio
    if kind == "sigmoid":
        return -log_sigmoid(beta * margin)
    if kind == "ipo":
        return (margin - 1 / (2 * beta)).square()
    raise ValueError(f"kind must be 'sigmoid' or 'ipo'; got {kind!r}")


def sequence_log_probs(
    model: nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    labels: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
) -> Float[Tensor, " batch"]:
    """Sum of the log-probs of the labels that `mask` selects."""
    log_probs = get_response_log_probs(model, input_ids, labels)["log_probs"]
    return torch.where(mask, log_probs, 0.0).sum(dim=1)


def compute_per_instance_dpo_loss(
    lm: nn.Module,
    lm_ref: nn.Module,
    tokenizer: Any,
    beta: float,
    prompt: str,
    response_chosen: str,
    response_rejected: str,
) -> Float[Tensor, ""]:
    """The DPO loss of one pair in the Alpaca template, each text with EOS directly after its response.

    Args:
        lm: the model in training; lm_ref: the one it began as, on any device. Modes are left as they are.
        beta: strength of the pull to the reference.

    Returns:
        0-dimensional tensor on lm's device, with gradient to lm only. Log-probs are summed over the whole text: the
        prompt's part is the same on both sides and cancels.
    """
    device, reference_device = next(lm.parameters()).device, next(lm_ref.parameters()).device
    text, template = TextTokenizer(tokenizer), load_prompt("alpaca_sft")
    ratios = []
    for response in (response_chosen, response_rejected):
        document = fill_prompt(template, instruction=prompt, response=response)
        ids = torch.tensor([[*text.encode_document(document), text.eos_id]])
        everything = torch.ones_like(ids[:, 1:], dtype=torch.bool)
        with torch.no_grad():
            batch = (tensor.to(reference_device) for tensor in (ids[:, :-1], ids[:, 1:], everything))
            reference = sequence_log_probs(lm_ref, *batch).to(device)
        batch = (tensor.to(device) for tensor in (ids[:, :-1], ids[:, 1:], everything))
        ratios.append(sequence_log_probs(lm, *batch) - reference)
    return dpo_loss(ratios[0], ratios[1], beta)[0]
