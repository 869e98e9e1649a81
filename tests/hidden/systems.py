"""Assignment 2: slug -> (points, generator of cases). Newest edition first, then what only 2024 and 2025 ask for.

Use `--only` for the problems of one edition.
"""

from __future__ import annotations

from . import kernels, parallel

PROBLEMS = {
    "flash_forward": (15, kernels.flash_forward),
    "flash_backward": (5, kernels.flash_backward),
    "naive_ddp": (5, parallel.naive_ddp),
    "ddp_overlap_individual_parameters": (5, parallel.ddp_overlap_individual_parameters),
    "optimizer_state_sharding": (15, parallel.optimizer_state_sharding),
    "fsdp": (15, parallel.fsdp),
    "ddp_overlap_bucketed": (10, parallel.ddp_overlap_bucketed),
    "triton_rmsnorm_forward": (6, kernels.triton_rmsnorm_forward),
    "rmsnorm_jvp_g": (4, kernels.rmsnorm_jvp_g),
    "rmsnorm_jvp_x": (8, kernels.rmsnorm_jvp_x),
    "triton_rmsnorm_backward": (4, kernels.triton_rmsnorm_backward),
}
