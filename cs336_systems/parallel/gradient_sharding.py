"""ZeRO stage 2: the mean of a gradient is kept only by the process that updates its parameter.

    backward:   a bucket of gradients with one owner is ready -> reduce to the owner -> all others drop theirs
    step:       as in stage 1

Gradients and moments together shrink from 12 bytes per float32 parameter to 12/N. Buckets are those of `ddp.py` with
one owner each; a reduce to one process costs half of an all-reduce, the broadcast after the update the other half.

Source: Rajbhandari et al. 2019 (ZeRO), P_os+g. Left out: dropping gradients between the backward passes of one
accumulated batch (they add up in full until the last). Read next: `fsdp.py`.
"""

from __future__ import annotations

from torch import nn

from cs336_systems.parallel.ddp import DataParallel, fill_buckets
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer


class GradientShardedDDP(DataParallel):
    """Data parallel whose gradients end at the owners that `optimizer` has given the parameters.

    After `finish_gradient_synchronization` a parameter has a gradient on its owner alone. Clip with
    `process_group.clip_sharded_gradients`, as no process sees the whole gradient.

    Raises:
        KeyError: a trainable parameter that the optimizer does not have.
    """

    def __init__(self, module: nn.Module, optimizer: ShardedOptimizer, *, bucket_size_mb: float = 25.0):
        if not bucket_size_mb > 0:
            raise ValueError(f"bucket_size_mb must be above 0; got {bucket_size_mb}")
        limit = bucket_size_mb * 1e6
        super().__init__(module, lambda ps: fill_buckets(ps, bucket_bytes=limit, owner=optimizer.owner), overlap=True)
