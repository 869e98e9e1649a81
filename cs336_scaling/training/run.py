"""What a job is by default, and how one is really trained: by the loop of `cs336_basics.training`.

Every field of a `TrainingConfig` has its counterpart there, except two that the loop does not have and that this
module refuses to drop in silence: SGD, and an initial learning rate other than 0. eps_root (inside the root) is not
applied either; its default changes nothing that can be measured. Importing this module loads no torch. Read next:
`job.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cs336_scaling.training.model.basic_model import BasicTransformerConfig
from cs336_scaling.training.optimizer import AdamWConfig
from cs336_scaling.training.training_config import TrainingConfig


def default_training_config() -> TrainingConfig:
    """A small run of half a minute on the course's accelerator."""
    return TrainingConfig(
        architecture_config=BasicTransformerConfig(
            attention_bias=False, head_dim=64, hidden_size=448, intermediate_size=1280, num_attention_heads=7,
            num_hidden_layers=9, num_key_value_heads=7, rms_norm_eps=1e-6, rope_theta=1_000_000,
            tie_word_embeddings=False, dtype="bfloat16", vocab_size=32_000,
        ),
        optimizer_config=AdamWConfig(),
        train_batch_size=128, val_batch_size=32, n_evals=16, total_train_tokens=2**20, max_runtime_seconds=30,
        model_seed=0,
    )  # fmt: skip


def train_config(
    config: TrainingConfig, *, train_tokens: str | os.PathLike[str], valid_tokens: str | os.PathLike[str]
) -> Any:
    """The `TrainConfig` of cs336_basics that trains this job on these token files.

    Raises:
        ValueError: the loop cannot do what the job asks for.
    """
    from cs336_basics.model_config import ModelConfig
    from cs336_basics.training_config import OptimizerConfig, TrainConfig

    shape, optimizer, steps = config.architecture_config, config.optimizer_config, config.total_optimizer_steps
    schedule = optimizer.lr_scheduler
    if not isinstance(optimizer, AdamWConfig):
        raise ValueError("the training loop has no SGD; give the optimizer_config of AdamW")
    if schedule.init_value:
        raise ValueError(f"the training loop warms up from 0; set init_value to 0, got {schedule.init_value}")
    return TrainConfig(
        model=ModelConfig(
            vocab_size=shape.vocab_size, context_length=config.seq_len, d_model=shape.hidden_size,
            num_layers=shape.num_hidden_layers, num_heads=shape.num_attention_heads, d_ff=shape.intermediate_size,
            num_kv_heads=shape.num_key_value_heads, qkv_bias=shape.attention_bias, qk_norm=True,
            rope_theta=float(shape.rope_theta), rope_pairs="halves", norm_eps=shape.rms_norm_eps,
            tie_embeddings=shape.tie_word_embeddings,
        ),
        optimizer=OptimizerConfig(
            name="adamw", max_learning_rate=schedule.peak_value,
            min_learning_rate=schedule.peak_value * schedule.final_lr_frac,
            warmup_steps=min(int(steps * schedule.warmup_frac), steps - 1), betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps, weight_decay=optimizer.weight_decay,
            max_grad_norm=float("inf") if optimizer.grad_clip_norm is None else optimizer.grad_clip_norm,
        ),
        train_tokens=Path(train_tokens), valid_tokens=Path(valid_tokens), num_steps=steps,
        batch_size=config.train_batch_size, eval_every=config.optimizer_steps_per_eval,
        eval_tokens=config.n_val_tokens, checkpoint_every=config.optimizer_steps_per_eval, log_every=1,
        seed=config.model_seed, precision=shape.dtype,
    )  # fmt: skip
