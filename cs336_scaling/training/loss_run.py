"""A run of the old API in a process of its own: `python -m cs336_scaling.training.loss_run FOLDER`

    tokens = train_flops / (6 * 12 * layers * d_model^2), in steps of batch_size windows of 128 tokens

Set up as the handout of 2025 says: LayerNorm, GELU feed-forward of 4 d_model, learned positions, AdamW with weight
decay 0.01, clipping at 1, a cosine to a tenth over all steps without warm-up, dropout 0.1. A run that diverges answers
with the loss of guessing, which is finite and high. FOLDER/request.json says what to train; answer.json is written
last. Read next: `../executors/local.py`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_scaling.executors.protocol import LossRequest

CONTEXT_LENGTH = 128
MAX_STEPS = 10_000_000


def loss_train_config(request: LossRequest, *, train_tokens: Path, valid_tokens: Path, vocab_size: int) -> Any:
    """The `TrainConfig` of cs336_basics for a request.

    Raises:
        ValueError: fewer tokens than one step.
    """
    from cs336_basics.model_config import ModelConfig
    from cs336_basics.training_config import OptimizerConfig, TrainConfig

    steps = int(request.tokens // (request.batch_size * CONTEXT_LENGTH))
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(
            f"{request.train_flops} FLOPs are {request.tokens:.0f} tokens for {request.non_embedding_parameters} "
            f"parameters, which is {steps} steps of {request.batch_size} x {CONTEXT_LENGTH}; at least 1 is needed"
        )
    return TrainConfig(
        model=ModelConfig(
            vocab_size=vocab_size, context_length=CONTEXT_LENGTH, d_model=request.d_model,
            num_layers=request.num_layers, num_heads=request.num_heads, d_ff=4 * request.d_model, ffn="gelu",
            norm_type="layernorm", positions="learned", attn_pdrop=0.1, residual_pdrop=0.1,
        ),
        optimizer=OptimizerConfig(
            max_learning_rate=request.learning_rate, warmup_steps=0, weight_decay=0.01, max_grad_norm=1.0
        ),
        train_tokens=train_tokens, valid_tokens=valid_tokens, num_steps=steps, batch_size=request.batch_size,
        eval_every=steps, checkpoint_every=max(1, steps // 10), log_every=max(1, steps // 100), seed=request.seed,
        precision="float32",
    )  # fmt: skip


def main(folder: Path) -> None:
    """Train what the folder asks for."""
    from cs336_basics.data import read_manifest
    from cs336_basics.training import Diverged, train

    asked = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    tokens = {name: Path(asked[name]) for name in ("train_tokens", "valid_tokens")}
    vocab_size = read_manifest(tokens["train_tokens"])["vocab_size"]
    config = loss_train_config(LossRequest(**asked["request"]), vocab_size=vocab_size, **tokens)
    try:
        summary = train(config, folder / "run", progress=False)
        answer = {"loss": summary["validation_loss"], "seconds": summary["seconds"]}
    except Diverged:
        answer = {"loss": math.log(vocab_size), "seconds": 0.0, "diverged": True}
    write_json(folder / "answer.json", answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
