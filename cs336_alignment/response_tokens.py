"""Prompts and responses as one padded batch, with a mask that says which labels the response owns.

    full        p0 p1 p2 r0 r1 <pad>
    input_ids   p0 p1 p2 r0 r1             all but the last column
    labels      p1 p2 r0 r1 <pad>          all but the first
    mask         0  0  1  1  0             the label is a token of the response

Prompt and response are tokenised apart and joined as they are, so that the border stays where it was; the mask follows
from lengths, never from ids (padding may be the end-of-text token itself). Padding stands on the right: with causal
attention it cannot be seen by what is scored.

Handout: tokenize_prompt_and_output. Read next: `response_log_probs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cs336_alignment.text_tokenizer import TextTokenizer


def tokenize_prompt_and_output(
    prompt_strs: Sequence[str], output_strs: Sequence[str], tokenizer: Any
) -> dict[str, Tensor]:
    """Tokenise pairs of texts into one batch.

    Args:
        prompt_strs, output_strs: as many of each; no special tokens are added, none appended.
        tokenizer: ours or one of Hugging Face.

    Returns:
        `input_ids`, `labels` (int64) and `response_mask` (bool), each (batch, longest pair - 1).

    Raises:
        ValueError: different numbers of prompts and outputs, or none.
    """
    if len(prompt_strs) != len(output_strs):
        raise ValueError(f"each prompt needs one output; got {len(prompt_strs)} prompts and {len(output_strs)} outputs")
    text = TextTokenizer(tokenizer)
    prompts, outputs = [text.encode(p) for p in prompt_strs], [text.encode(o) for o in output_strs]
    return pad_pairs(prompts, outputs, text.pad_id)


def pad_pairs(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, *, device: Any = None
) -> dict[str, Tensor]:
    """`tokenize_prompt_and_output` for ids that are known already, such as those that were sampled."""
    if not prompts:
        raise ValueError("a batch needs at least one prompt with its response; got none")
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    full = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        length = len(prompt) + len(response)
        full[row, :length] = torch.tensor([*prompt, *response], dtype=torch.int64)
        mask[row, len(prompt) : length] = True
    batch = {"input_ids": full[:, :-1], "labels": full[:, 1:], "response_mask": mask[:, 1:]}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def align_right_padded(values: Sequence[Sequence[float]], mask: Tensor) -> Tensor:
    """Numbers per response token, such as sampling log-probs, at the places where `mask` is True; zero elsewhere.

    Args:
        values: one list per row, as long as the row has True entries.
        mask: `response_mask` of the batch, (batch, seq).

    Raises:
        ValueError: a row with another number of values.
    """
    counts = mask.sum(dim=1).tolist()
    for row, (numbers, count) in enumerate(zip(values, counts, strict=True)):
        if len(numbers) != count:
            raise ValueError(f"row {row} has {count} response tokens but {len(numbers)} values; keep the sampled ids")
    aligned = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    flat = [number for numbers in values for number in numbers]
    aligned[mask] = torch.tensor(flat, dtype=torch.float32, device=mask.device)
    return aligned
