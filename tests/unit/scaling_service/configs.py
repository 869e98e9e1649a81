"""Small configurations for tests, of any size and time."""

from __future__ import annotations

from cs336_scaling.training.run import default_training_config
from cs336_scaling.training.training_config import TrainingConfig


def config_of(seconds: int = 30, *, hidden: int = 448, seed: int = 0, **changes: object) -> TrainingConfig:
    """The default with another limit, width (head_dim 2, one head of keys and values) and seed."""
    values = default_training_config().model_dump()
    values["architecture_config"] |= {
        "hidden_size": hidden, "head_dim": 2, "num_attention_heads": hidden // 2, "num_key_value_heads": 1
    }  # fmt: skip
    return TrainingConfig.model_validate({**values, "max_runtime_seconds": seconds, "model_seed": seed, **changes})


def body_of(seconds: int = 30, **changes: object) -> dict[str, object]:
    return config_of(seconds, **changes).model_dump(mode="json")  # type: ignore[arg-type]
