"""How long collectives take beside the arithmetic they serve, and how many devices pay before communication dominates.

    ring reduce-scatter = ring all-gather = (n-1)/n S/W       all-reduce = 2 (n-1)/n S/W       alternate ring (n-1) S/W

S bytes in all, W bytes/s out of each of n devices. The example throughout is one gated feed-forward y = (f(x W1) *
(x W2)) W3 with W1, W2 of D x F and W3 of F x D, two bytes per number, a batch of B tokens over all devices, C FLOP/s
per device. On n devices the forward pass takes 6BDF/(nC), the backward pass twice that, however the work is cut:

    data parallel     fwd no communication             bwd all-reduce of 6DF                        n-1 <= BW/C
    FSDP              fwd all-gather of 6DF            bwd all-gather + reduce-scatter of 6DF       n-1 <= BW/C
    tensor parallel   fwd all-reduce of y, 2BD         bwd all-reduce of dx, 2BD                    n-1 <= 1.5 FW/C

(the right column: communication no longer than compute in the forward pass, for data parallel in the backward pass).
FSDP x tensor: forward 6DF(nf-1)/(nf nt W) and 4BD(nt-1)/(nf nt W), at the same time or one after the other.

Handout: communication_accounting (2025); alternate_ring_all_reduce, data_parallel_calcs, fsdp_calcs, tp_calcs,
fsdp_tp_calcs (2026). Left out: latency, and links slower than others. Read next: `sharding_accounting.py` for the
2025 edition's XXL model, `ring_all_reduce.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def ring_all_gather_s(size_bytes: float, num_devices: int, bytes_per_s: float) -> float:
    """Seconds of a ring all-gather, or of a reduce-scatter, of a tensor of `size_bytes` in all."""
    return _positive(num_devices, "num_devices", -1) / num_devices * size_bytes / bytes_per_s


def ring_all_reduce_s(size_bytes: float, num_devices: int, bytes_per_s: float) -> float:
    """Seconds of a ring all-reduce of a tensor of `size_bytes`: a reduce-scatter and an all-gather."""
    return 2 * ring_all_gather_s(size_bytes, num_devices, bytes_per_s)


def alternate_ring_all_reduce_s(size_bytes: float, num_devices: int, bytes_per_s: float) -> float:
    """Seconds when whole tensors travel round the ring: num_devices / 2 times those of `ring_all_reduce_s`."""
    return _positive(num_devices, "num_devices", -1) * size_bytes / bytes_per_s


@dataclass(frozen=True)
class FeedForwardWork:
    """One gated feed-forward layer on some hardware.

    Raises:
        ValueError: a field that is not positive.
    """

    batch_tokens: int
    """B, tokens over all devices"""
    d_model: int
    """D"""
    d_ff: int
    """F"""
    flops_per_s: float
    """C of one device"""
    bytes_per_s: float
    """W out of one device"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            _positive(value, name)

    @property
    def weight_bytes(self) -> int:
        """Three matrices, two bytes per number: 6DF."""
        return 6 * self.d_model * self.d_ff

    @property
    def activation_bytes(self) -> int:
        """The layer's input or output, 2BD."""
        return 2 * self.batch_tokens * self.d_model

    @property
    def forward_s(self) -> float:
        """Compute on a single device, 6BDF/C."""
        return 6 * self.batch_tokens * self.d_model * self.d_ff / self.flops_per_s


@dataclass(frozen=True)
class StepTimes:
    """Seconds of compute and of communication, forward and backward, of one way to spread the work."""

    forward_compute_s: float
    forward_communication_s: float
    backward_compute_s: float
    backward_communication_s: float

    @property
    def is_compute_bound(self) -> bool:
        """Whether communication, run beside the compute, can hide behind it in both passes."""
        forward = self.forward_communication_s <= self.forward_compute_s
        return forward and self.backward_communication_s <= self.backward_compute_s


def data_parallel_calcs(work: FeedForwardWork, num_devices: int) -> StepTimes:
    """Batch cut, weights whole: gradients are all-reduced."""
    compute = work.forward_s / _positive(num_devices, "num_devices")
    return StepTimes(compute, 0.0, 2 * compute, ring_all_reduce_s(work.weight_bytes, num_devices, work.bytes_per_s))


def fsdp_calcs(work: FeedForwardWork, num_devices: int) -> StepTimes:
    """Batch and weights cut: weights are gathered in both passes, gradients reduce-scattered."""
    compute = work.forward_s / _positive(num_devices, "num_devices")
    gather = ring_all_gather_s(work.weight_bytes, num_devices, work.bytes_per_s)
    return StepTimes(compute, gather, 2 * compute, 2 * gather)


def tp_calcs(work: FeedForwardWork, num_devices: int) -> StepTimes:
    """F cut, batch whole: the output is all-reduced in forward, the input's gradient in backward."""
    compute = work.forward_s / _positive(num_devices, "num_devices")
    reduce = ring_all_reduce_s(work.activation_bytes, num_devices, work.bytes_per_s)
    return StepTimes(compute, reduce, 2 * compute, reduce)


@dataclass(frozen=True)
class ForwardTimes2D:
    """Seconds of a forward pass on a grid of FSDP x tensor-parallel devices."""

    compute_s: float
    fsdp_s: float
    tensor_s: float

    def is_compute_bound(self, *, overlapped: bool) -> bool:
        """Whether both communications fit behind the compute; `overlapped`: the two use the links at the same time."""
        busy = max(self.fsdp_s, self.tensor_s) if overlapped else self.fsdp_s + self.tensor_s
        return busy <= self.compute_s


def fsdp_tp_calcs(work: FeedForwardWork, num_fsdp: int, num_tensor: int) -> ForwardTimes2D:
    """Weights cut both ways, batch over `num_fsdp` groups of `num_tensor` devices each."""
    compute = work.forward_s / (_positive(num_fsdp, "num_fsdp") * _positive(num_tensor, "num_tensor"))
    gather = ring_all_gather_s(work.weight_bytes / num_tensor, num_fsdp, work.bytes_per_s)
    reduce = ring_all_reduce_s(work.activation_bytes / num_fsdp, num_tensor, work.bytes_per_s)
    return ForwardTimes2D(compute, gather, reduce)


def max_data_parallel_devices(work: FeedForwardWork) -> float:
    """1 + BW/C, for data parallel and for FSDP, in either pass."""
    return 1 + work.batch_tokens * work.bytes_per_s / work.flops_per_s


def max_tensor_parallel_devices(work: FeedForwardWork) -> float:
    """1 + 1.5 FW/C, the forward pass's limit; the backward pass computes twice as long and allows 1 + 3 FW/C."""
    return 1 + 1.5 * work.d_ff * work.bytes_per_s / work.flops_per_s


def max_fsdp_tp_devices(work: FeedForwardWork, *, overlapped: bool) -> float:
    """Most devices of a grid that stays compute-bound in forward; real numbers, so an upper bound for whole grids.

    Overlapped, each axis has its own limit: (1 + BW/C)(1 + 1.5 FW/C). Else a (nf-1) + b (nt-1) <= c with a = 6DF/W,
    b = 4BD/W, c = 6BDF/C, and nf nt is largest where a nf = b nt = (a+b+c)/2: (a+b+c)^2 / (4ab), for large B and F
    about (3/8) BF W^2/C^2. Where that has less than one device on an axis, the other axis alone is
    best.
    """
    if overlapped:
        return max_data_parallel_devices(work) * max_tensor_parallel_devices(work)
    a, b = work.weight_bytes / work.bytes_per_s, 2 * work.activation_bytes / work.bytes_per_s
    total = a + b + work.forward_s
    if total < 2 * max(a, b):
        return 1 + work.forward_s / min(a, b)
    return math.prod((total / (2 * a), total / (2 * b)))


def _positive(value: int | float, name: str, offset: int = 0) -> int | float:
    """`value + offset`, or a ValueError unless value > 0."""
    if not value > 0:
        raise ValueError(f"{name} must be positive; got {value}")
    return value + offset
