"""The product with int8 weights, compiled: a quarter of the bytes of float32 arrive, and are widened in a register.

    y_ro = scale_o sum_i x_ri q_oi

The kernel is that of the float32 weights (`linear` in `cs336_basics/decoding_kernels.py`), so each row's products are
added in the same order whatever rows stand beside it.

Read next: `fused_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

import torch
from torch import Tensor

from cs336_basics.compiled_decoding import PackedLinear
from cs336_systems.inference.quantization import quantize_rows


class PackedInt8(PackedLinear):
    """Matrices side by side as int8 with a scale per output."""

    def __init__(self, parts: Ordered[Tensor]):
        quantized, scales = quantize_rows(torch.cat([part.detach() for part in parts]))
        super().__init__([quantized])
        self.scales = scales.numpy()
        self.num_bytes += self.scales.nbytes
