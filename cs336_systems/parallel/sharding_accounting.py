"""The 2025 edition's communication_accounting: an XXL model of feed-forward blocks on TPUs, from memory to batch size.

    parameters P = num_blocks * 2 D F;      float32 weights + gradients + Adam's two moments = 16 P bytes
    saved for backward, in bfloat16: the input of each linear map, num_blocks * (D + F) * 2 bytes per token

FSDP over X devices, tensor parallel over Y, N = XY, links of W bytes/s used along M_X and M_Y axes of the mesh:

    weights    4DF/(Y W M_X)  <= compute 4BDF/(N C)   <=>   B/X >= C/(W M_X)
    stream     4BD/(X W M_Y)  <= compute              <=>   F/Y >= C/(W M_Y)

With X free the longer of the two transfers is shortest, and both alike, at X = sqrt(B/F M_X/M_Y N); it hides from
B/N = (C/W)^2 / (M_X M_Y F) on.

Handout: communication_accounting (2025), after "How to Scale Your Model" (Austin et al. 2025), chapter 5. Two answers
to the batch size question are in use, X and Y fixed by the question or free; here are both. Read next:
`communication_accounting.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockStack:
    """`num_blocks` blocks of two linear maps, D x F and F x D; the defaults are the handout's XXL model."""

    d_model: int = 16384
    d_ff: int = 53248
    num_blocks: int = 126

    @property
    def num_parameters(self) -> int:
        """Weights of all blocks."""
        return self.num_blocks * 2 * self.d_model * self.d_ff

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and two moments in float32."""
        return 16 * self.num_parameters

    @property
    def saved_bytes_per_token(self) -> int:
        """Each linear map's input in bfloat16."""
        return 2 * self.num_blocks * (self.d_model + self.d_ff)

    def bytes_per_device(self, num_devices: int, *, tokens_per_device: float = 0.0) -> float:
        """16P/n + A/2 (1 + 1/n): the state and every second layer's activations are sharded over `num_devices`.

        `tokens_per_device` gives A; 0 counts the state alone.
        """
        if num_devices < 1:
            raise ValueError(f"num_devices must be at least 1; got {num_devices}")
        activations = self.saved_bytes_per_token * tokens_per_device
        return self.state_bytes / num_devices + activations / 2 * (1 + 1 / num_devices)

    def min_devices(self, device_bytes: float, *, tokens_per_device: float = 0.0) -> int:
        """Fewest devices of `device_bytes` each that hold the model.

        Raises:
            ValueError: the activations that are not sharded do not fit whatever the number.
        """
        activations = self.saved_bytes_per_token * tokens_per_device
        free = device_bytes - activations / 2
        if free <= 0:
            raise ValueError(
                f"half of the activations, {activations / 2:.3g} bytes, stay on each device and do not fit into "
                f"{device_bytes:.3g}; lower tokens_per_device (now {tokens_per_device})"
            )
        return math.ceil((self.state_bytes + activations / 2) / free)


@dataclass(frozen=True)
class Mesh:
    """Devices in a grid of X (FSDP) times Y (tensor parallel); the defaults are the handout's TPU v5p."""

    num_fsdp: int = 16
    num_tensor: int = 4
    fsdp_axes: int = 2
    """M_X: mesh axes whose links the FSDP traffic uses"""
    tensor_axes: int = 1
    """M_Y"""
    flops_per_s: float = 4.6e14
    bytes_per_s: float = 1.8e11
    """W of one axis, both directions"""

    @property
    def intensity(self) -> float:
        """C/W, the FLOPs a device does while it moves a byte."""
        return self.flops_per_s / self.bytes_per_s

    def min_tokens_per_device(self) -> float:
        """B/N from which the weights' traffic hides behind the compute, for this X and Y: C / (W M_X Y)."""
        return self.intensity / self.fsdp_axes / self.num_tensor

    def tensor_traffic_hides(self, d_ff: int) -> bool:
        """Whether F/Y >= C / (W M_Y), which no batch size changes."""
        return d_ff / self.num_tensor >= self.intensity / self.tensor_axes

    def min_tokens_per_device_best_split(self, d_ff: int) -> float:
        """B/N when X and Y may be chosen: (C/W)^2 / (M_X M_Y F)."""
        return self.intensity**2 / (self.fsdp_axes * self.tensor_axes * d_ff)
