"""Assignment 1: slug -> (points of the 2025 handout, generator of cases)."""

from __future__ import annotations

from . import layers, tokenization, updates

PROBLEMS = {
    "train_bpe": (15, tokenization.train_bpe),
    "tokenizer": (15, tokenization.tokenizer),
    "linear": (1, layers.linear),
    "embedding": (1, layers.embedding),
    "rmsnorm": (1, layers.rmsnorm),
    "positionwise_feedforward": (2, layers.positionwise_feedforward),
    "rope": (2, layers.rope),
    "softmax": (1, layers.softmax),
    "scaled_dot_product_attention": (5, layers.scaled_dot_product_attention),
    "multihead_self_attention": (5, layers.multihead_self_attention),
    "transformer_block": (3, layers.transformer_block),
    "transformer_lm": (3, layers.transformer_lm),
    "cross_entropy": (1, layers.cross_entropy),
    "adamw": (2, updates.adamw),
    "learning_rate_schedule": (1, updates.learning_rate_schedule),
    "gradient_clipping": (1, updates.gradient_clipping),
    "data_loading": (2, updates.data_loading),
    "checkpointing": (1, updates.checkpointing),
}
