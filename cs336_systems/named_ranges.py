"""Named ranges: names for parts of a program that a profiler shows, attention's steps among them.

    with named_range("forward_pass"): ...        torch.profiler's table and trace, and NVTX for Nsight Systems

`annotated_attention` replaces `cs336_basics.model.scaled_dot_product_attention` by the same mathematics in three named
ranges, as the handout has students do: the model looks the function up by that name each time it is called.

    nsys profile --trace=cuda,nvtx --pytorch=autograd-nvtx -o step cs336 systems profile --size small

Handout: nsys_profile. Left out: ranges inside the backward pass, whose operations carry their forward's sequence number
in the trace. Read next: `profiling.py`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cs336_basics import model as basics_model
from cs336_basics.nn_utils import softmax

ATTENTION_RANGES = ("attention/scores", "attention/softmax", "attention/values")


@contextlib.contextmanager
def named_range(name: str) -> Iterator[None]:
    """Call what runs inside `name`, in torch.profiler and, where there is a CUDA GPU, in NVTX."""
    nvtx = torch.cuda.nvtx.range(name) if torch.cuda.is_available() else contextlib.nullcontext()
    with torch.profiler.record_function(name), nvtx:
        yield


def attention_in_named_ranges(
    Q: Float[Tensor, "... queries d_k"],
    K: Float[Tensor, "... keys d_k"],
    V: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
    pdrop: float = 0.0,
) -> Float[Tensor, "... queries d_v"]:
    """`cs336_basics.model.scaled_dot_product_attention` with its three steps named; see there for the arguments."""
    with named_range(ATTENTION_RANGES[0]):
        scores = (Q / math.sqrt(Q.shape[-1])) @ K.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
    with named_range(ATTENTION_RANGES[1]):
        weights = basics_model.dropout(softmax(scores, dim=-1), pdrop, training=True)
    with named_range(ATTENTION_RANGES[2]):
        return weights @ V


@contextlib.contextmanager
def annotated_attention() -> Iterator[None]:
    """Inside, plain attention runs in named ranges; afterwards the function is what it was."""
    before = basics_model.scaled_dot_product_attention
    basics_model.scaled_dot_product_attention = attention_in_named_ranges
    try:
        yield
    finally:
        basics_model.scaled_dot_product_attention = before
