"""nanochat's ways to draw the first weights, in place of the course's truncated normals.

    2025   matrices   N(0, min(1, sqrt(out/in)) / sqrt(in));  embeddings N(0, 1);  head and every projection back into
                      the stream 0, so that the model starts as the identity on its embeddings
    2026   matrices   uniform in +-sqrt(3/d_model), the feed-forward's first one * 0.4;  embeddings N(0, 0.8);  head
                      N(0, 0.001);  projections back 0;  residual scalars from 1.15 down to 1.05 and from 0.20 down to
                      0.05 over the layers;  value embeddings as the matrices

Numbers: nanochat's gpt.py of both years. Chosen by initialization. It draws from torch's global generator, as every
layer does when it is made. Read next: `../training.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cs336_basics.layers import Embedding, Linear
from cs336_basics.model import TransformerLM

PROJECTIONS_BACK = ("attn.output_proj", "ffn.w2")
"""the matrices of a block whose result is added to the stream"""


@torch.no_grad()
def initialize(model: TransformerLM) -> None:
    """Draw the weights of `model` again, in place, by the rules of model.config.initialization."""
    recent = model.config.initialization == "nanochat2026"
    for name, module in model.named_modules():
        if name.endswith(PROJECTIONS_BACK) and isinstance(module, Linear):
            nn.init.zeros_(module.weight)
        elif isinstance(module, Linear):
            _draw_matrix(module.weight, name, model.config.d_model, recent)
        elif isinstance(module, Embedding):
            _draw_table(module.weight, name, model.config.d_model, recent)
    _draw_head(model, recent)
    if recent and model.config.residual_scalars:
        for index in range(model.config.num_layers):
            done = index / max(model.config.num_layers - 1, 1)
            model.stream.stream_scale[index] = 1.15 - 0.10 * done
            model.stream.embedding_scale[index] = 0.20 - 0.15 * done


def _draw_matrix(weight: Tensor, name: str, d_model: int, recent: bool) -> None:
    rows, columns = weight.shape
    if recent:
        bound = math.sqrt(3 / d_model) * (0.4 if name.endswith("ffn.w1") else 1.0)
        nn.init.uniform_(weight, -bound, bound)
    else:
        nn.init.normal_(weight, std=min(1.0, math.sqrt(rows / columns)) / math.sqrt(columns))


def _draw_table(weight: Tensor, name: str, d_model: int, recent: bool) -> None:
    if recent and name.endswith("value_embedding.table"):
        bound = math.sqrt(3 / d_model)
        nn.init.uniform_(weight, -bound, bound)
    else:
        nn.init.normal_(weight, std=0.8 if recent else 1.0)


def _draw_head(model: TransformerLM, recent: bool) -> None:
    """A tied head keeps the embedding's draw."""
    if not model.config.tie_embeddings:
        nn.init.normal_(model.lm_head.weight, std=0.001) if recent else nn.init.zeros_(model.lm_head.weight)
