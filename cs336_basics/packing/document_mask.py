"""Attention that stays inside a document: ids, masks and positions for rows that hold several.

    document of a token     how many separators have been read up to it, its own included: a separator BEGINS a document
    mask[q, k]              True where k <= q and both belong to one document: blocks along the diagonal
    position                distance from the beginning of the token's document

With the mask and these positions, a packed row gives each document the logits it would get alone; without, a model
reads whatever stood before as if it belonged together (and mostly learns not to). The first tokens of a row cut from
a stream, before any separator, are document 0. Masks say True = may attend, as everywhere in this library. Source:
"intra-document causal masking", Zhao et al. 2024 (2402.13991); Llama 3, section 3.2. Left out: attention that skips
the masked blocks (`cs336_systems`). Read next: `../model.py`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def document_ids(token_ids: Int[Tensor, "... seq"], end_of_text: int) -> Int[Tensor, "... seq"]:
    """Number of the document each token belongs to, counted from the left of the row.

    Args:
        token_ids: rows of ids.
        end_of_text: id of the separator; it belongs to the document that follows it.

    Returns:
        int64, never falling along a row; 0 before the first separator, 1 from the first on, and so forth.
    """
    return (token_ids == end_of_text).long().cumsum(dim=-1)


def document_mask(documents: Int[Tensor, "... seq"]) -> Bool[Tensor, "... seq seq"]:
    """True where a query (second to last axis) may attend to a key (last axis): the same document, and not later."""
    seq = documents.shape[-1]
    same = documents.unsqueeze(-1) == documents.unsqueeze(-2)
    return same & torch.ones(seq, seq, dtype=torch.bool, device=documents.device).tril()


def document_positions(documents: Int[Tensor, "... seq"]) -> Int[Tensor, "... seq"]:
    """Position of each token in its document, from 0; what RoPE and learned positions should be given.

    Args:
        documents: ids as from `document_ids`: equal ids stand side by side.
    """
    place = torch.arange(documents.shape[-1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[..., 1:] = documents[..., 1:] != documents[..., :-1]
    return place - torch.where(begins, place, torch.zeros_like(place)).cummax(dim=-1).values
