"""What the training loop minimises: the one place to add an objective.

    objective = cross-entropy + z_loss * mean logsumexp^2 + the model's own auxiliary loss

The auxiliary loss belongs to models that need one, such as mixtures of experts (balance between the experts): a model
with a method `auxiliary_loss()` is asked for it after each forward pass (None counts as nothing). The loop trains on
the objective and reports the cross-entropy as the training loss, so that runs with and without the extra terms can be
compared.

To train on something else than the next token, give `TrainingLoss` another `__call__`: it turns inputs and targets
into a `Loss`, and nothing else in the loop knows what they mean. Read next: `training.py`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics.chunked_loss import chunked_cross_entropy
from cs336_basics.masked_forward import masked_logits
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import token_losses_and_normalizers, z_loss
from cs336_basics.packing.document_mask import document_ids, document_mask, document_positions


class Loss(NamedTuple):
    """The number to minimise, and the cross-entropy in it, without gradient."""

    objective: Float[Tensor, ""]
    cross_entropy: Float[Tensor, ""]


class TrainingLoss:
    """Inputs and targets to a `Loss`, by way of the model.

    Args:
        model: the language model.
        module: what the loop calls, the model or what a strategy has wrapped around it; the model by default.
        z_loss: coefficient of the mean squared logsumexp.
        chunk_tokens: tokens whose logits exist at one time; 0 for all.
        compile: use torch.compile.
        end_of_text: id of the separator at whose borders attention ends, so that packed documents do not see each
            other; None lets attention see the whole row.
        precision: makes the context in which the loss is computed, such as an autocast; nothing special by default.

    Raises:
        ValueError: chunks are asked for, but the module offers no hidden states and head; or attention is to end at
            documents' borders, but the module is wrapped or the loss is chunked.
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module | None = None,
        *,
        z_loss: float = 0.0,
        chunk_tokens: int = 0,
        compile: bool = False,
        end_of_text: int | None = None,
        precision: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ):
        module = model if module is None else module
        if chunk_tokens and not (hasattr(module, "hidden_states") and hasattr(module, "lm_head")):
            raise ValueError(
                f"chunked_loss={chunk_tokens} needs a model with hidden_states() and lm_head, which "
                f"{type(module).__name__} does not offer; set chunked_loss=0"
            )
        self.module, self.z_loss, self.chunk_tokens, self.precision = module, z_loss, chunk_tokens, precision
        forward: Callable[..., Any] = module.hidden_states if chunk_tokens else module  # type: ignore[assignment]
        if end_of_text is not None:
            if chunk_tokens or not isinstance(module, TransformerLM):
                raise ValueError(
                    "document_mask needs the bare model and all logits; set chunked_loss=0 and use one process"
                )
            forward = functools.partial(_logits_within_documents, module, end_of_text)
        self.forward = torch.compile(forward) if compile else forward
        self.softcap: float | None = getattr(getattr(model, "config", None), "logit_softcap", None)
        self.auxiliary_loss: Callable[[], Tensor | None] = getattr(model, "auxiliary_loss", lambda: None)

    def __call__(self, inputs: Int[Tensor, "batch seq"], targets: Int[Tensor, "batch seq"]) -> Loss:
        """One forward pass; the mean over all tokens."""
        with self.precision():
            loss = self._next_token_loss(inputs, targets)
            extra = self.auxiliary_loss()
            return loss if extra is None else loss._replace(objective=loss.objective + extra)

    def _next_token_loss(self, inputs: Tensor, targets: Tensor) -> Loss:
        if self.chunk_tokens:
            weight: Any = self.module.lm_head.weight  # type: ignore[union-attr]
            options: dict[str, Any] = {"chunk_tokens": self.chunk_tokens, "softcap": self.softcap}
            return Loss(*chunked_cross_entropy(self.forward(inputs), weight, targets, z_loss=self.z_loss, **options))
        losses, normalizers = token_losses_and_normalizers(self.forward(inputs), targets)
        cross_entropy = losses.mean()
        objective = cross_entropy + self.z_loss * z_loss(normalizers) if self.z_loss else cross_entropy
        return Loss(objective, cross_entropy.detach())


def _logits_within_documents(model: TransformerLM, end_of_text: int, inputs: Tensor) -> Tensor:
    documents = document_ids(inputs, end_of_text)
    return masked_logits(model, inputs, document_mask(documents), document_positions(documents))
