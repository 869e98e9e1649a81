"""The model sizes of the assignment's table, in all editions, by name.

The name "xl" changed its meaning: 48 layers of width 1600 in 2024 and 2025, and what was called "2.7B" in 2026. So a
size is asked for with its edition; `cs336_basics.model_config` makes any other shape.

    small 128.6M    medium 423.2M    large 969.4M    xl 1.998B (2026: 3.407B)    2.7B 3.407B    10B 12.83B

These are the parameters of our model (SwiGLU with three matrices, embedding and head apart, vocabulary 10,000). The
2024 edition's own model has a two-matrix GELU feed-forward, hence fewer: its "2.7B".

Handout: benchmarking_script, table 1. Read next: `benchmarking.py`.
"""

from __future__ import annotations

from cs336_basics.model_config import ModelConfig

VOCAB_SIZE = 10_000
_SHAPES = {  # d_model, d_ff, num_layers, num_heads
    "small": (768, 3072, 12, 12),
    "medium": (1024, 4096, 24, 16),
    "large": (1280, 5120, 36, 20),
    "xl-1600": (1600, 6400, 48, 25),
    "2.7B": (2560, 10240, 32, 32),
    "10B": (4608, 12288, 50, 36),
}
_EARLY = {"small": "small", "medium": "medium", "large": "large", "xl": "xl-1600", "2.7B": "2.7B"}
SIZES: dict[int, dict[str, str]] = {
    2024: _EARLY,
    2025: _EARLY,
    2026: {"small": "small", "medium": "medium", "large": "large", "xl": "2.7B", "10B": "10B"},
}
"""edition to the names of its table, each with the shape it means"""
DEFAULTS = {2024: (16, 128), 2025: (4, 128), 2026: (4, 512)}
"""edition to (batch size, context length)"""


def size_names(edition: int = 2026) -> tuple[str, ...]:
    """The names of an edition's table, smallest first.

    Raises:
        ValueError: no such edition.
    """
    if edition not in SIZES:
        raise ValueError(f"edition must be one of {', '.join(map(str, SIZES))}; got {edition}")
    return tuple(SIZES[edition])


def course_model(name: str, *, edition: int = 2026, context_length: int | None = None) -> ModelConfig:
    """The model that an edition's table calls `name`, with vocabulary 10,000.

    Args:
        name: one of `size_names(edition)`; "2.7B" and "10B" are understood in every edition.
        edition: 2024, 2025 or 2026.
        context_length: in tokens; the edition's default when None.

    Raises:
        ValueError: no such edition or size.
    """
    names = dict.fromkeys(size_names(edition)) | {"2.7B": None, "10B": None}
    if name not in names:
        raise ValueError(f"size must be one of {', '.join(names)} in edition {edition}; got {name!r}")
    d_model, d_ff, num_layers, num_heads = _SHAPES[SIZES[edition].get(name, name)]
    return ModelConfig(
        vocab_size=VOCAB_SIZE, context_length=DEFAULTS[edition][1] if context_length is None else context_length,
        d_model=d_model, num_layers=num_layers, num_heads=num_heads, d_ff=d_ff,
    )  # fmt: skip
