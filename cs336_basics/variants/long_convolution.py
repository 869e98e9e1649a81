"""Hyena: gated convolutions as long as the sequence, whose filters are written by a small network.

    v, x_1, ..., x_N = short_convolution(W_in x)                               (N = order)
    z <- v;   z <- x_n * (h_n conv z + skip_n z)   for n = 1 .. N;   out = W_out z
    h_n(t) = window(t) * MLP([t/L, cos(2 pi k t/L), sin(2 pi k t/L)])          L = max_seq_len, sine activations

The convolutions carry information over any distance, the gates x_n make the map depend on the data. A filter is a
function of the position ("implicit"), so its number of weights does not grow with its length. Each channel's window
decays exponentially, some within a third of L, some slower than L, which biases filters towards the recent past.

By FFT a convolution costs T log T. A product of two spectra of length n is a circular convolution, so both sides are
padded with zeros to n >= 2 T: nothing wraps round from the future. Decoding has no such short cut: each new token takes
a dot product with all earlier inputs, t * d_model per filter, so T tokens cost T^2 and the cache grows with T as
attention's does (without its keys).

Source: Poli et al. 2023 (2302.10866), definition 3.1, sections 3.3-3.4. Left out: filters shared by channels, a
learned sine frequency, distillation into a recurrence for faster decoding. Read next: `value_residual.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cs336_basics.model import Linear
from cs336_basics.nn_utils import upcast
from cs336_basics.variants.configs import LongConvolutionConfig
from cs336_basics.variants.short_convolution import ShortConvolution

D_CONV = 3
"""width of the short convolution"""
NUM_FREQUENCIES = 8
"""cosines and sines of the position that the filter network sees"""
SINE_FREQUENCY = 10.0
"""steepness of the filter network's sines: filters may oscillate within a few tokens"""


def fft_convolution(
    x: Float[Tensor, "batch seq channels"], filters: Float[Tensor, "seq channels"]
) -> Float[Tensor, "batch seq channels"]:
    """y_t = sum_{s <= t} filters_{t-s} x_s for each channel.

    Numerics: float32 or better inside, dtype of `x` outside; the error of an FFT is relative to the largest value in
    the sequence, so a tiny output next to huge ones is less exact than a direct sum would be.
    Complexity: seq log seq per channel.
    """
    seq = x.shape[1]
    n = 2 ** math.ceil(math.log2(2 * seq))
    with torch.autocast(x.device.type, enabled=False):
        spectrum = torch.fft.rfft(upcast(x), n, dim=1) * torch.fft.rfft(upcast(filters), n, dim=0)
        return torch.fft.irfft(spectrum, n, dim=1)[:, :seq].to(x.dtype)


def convolution_step(
    past: Float[Tensor, "batch seq channels"], filters: Float[Tensor, "seq channels"]
) -> Float[Tensor, "batch channels"]:
    """The last output of `fft_convolution` alone, by its definition: the newest input meets filters_0."""
    return (upcast(past) * upcast(filters).flip(0)).sum(dim=1).to(past.dtype)


class ImplicitFilter(nn.Module):
    """Filters of up to `max_seq_len` taps for `channels` channels, as a function of the position.

    The window exp(-rate t/L) falls to 1/100 after 0.3 L in the first channel and after 1.5 L in the last, and is scaled
    to unit energy, so that a convolution's output begins about as large as its input whatever L.

    Numerics: float32 or better throughout, under autocast and with half-precision weights too: the phase of a steep
    sine, or a position among thousands, does not fit into bfloat16.
    """

    def __init__(
        self,
        channels: int,
        max_seq_len: int,
        filter_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.max_seq_len = max_seq_len
        self.input_proj = Linear(1 + 2 * NUM_FREQUENCIES, filter_dim, device, dtype)
        self.hidden_proj = Linear(filter_dim, filter_dim, device, dtype)
        self.output_proj = Linear(filter_dim, channels, device, dtype)
        phases = torch.empty(2, filter_dim, device=device, dtype=dtype)
        self.phases = nn.Parameter(nn.init.uniform_(phases, -math.pi, math.pi))

    def forward(self, seq: int) -> Float[Tensor, "seq channels"]:
        """The first `seq` taps; a longer filter begins with a shorter one's taps."""
        phases = upcast(self.phases)
        with torch.autocast(phases.device.type, enabled=False):
            t = torch.arange(seq, device=phases.device, dtype=phases.dtype)[:, None] / self.max_seq_len
            angle = 2 * math.pi * t * torch.arange(1, NUM_FREQUENCIES + 1, device=t.device)
            hidden = torch.cat((t, angle.cos(), angle.sin()), dim=-1)
            for layer, phase in zip((self.input_proj, self.hidden_proj), phases, strict=True):
                hidden = torch.sin(SINE_FREQUENCY * (hidden @ upcast(layer.weight).T) + phase)
            return hidden @ upcast(self.output_proj.weight).T * self._window(t)

    def _window(self, t: Tensor) -> Tensor:
        """Decay of each channel at the times t (seq, 1), in units of L."""
        channels = self.output_proj.weight.shape[0]
        rate = math.log(100) / torch.linspace(0.3, 1.5, channels, device=t.device, dtype=t.dtype)
        energy = torch.expm1(-2 * rate) / torch.expm1(-2 * rate / self.max_seq_len)  # geometric series over all L taps
        return torch.exp(-rate * t) / energy.sqrt()


@dataclass
class LongConvolutionCache:
    """One layer's memory of the tokens so far; it has room for `capacity`."""

    tail: Tensor
    """last inputs of the short convolution, (batch, D_CONV - 1, channels)"""
    filters: Tensor
    """taps of all filters, computed once, (capacity, order * d_model)"""
    inputs: Tensor
    """what each long convolution has read, (order, batch, capacity, d_model), filled from the left"""
    length: int = 0
    """tokens so far"""

    @property
    def capacity(self) -> int:
        """Most tokens the cache can hold."""
        return self.filters.shape[0]


class HyenaMixer(nn.Module):
    """Hyena operator as a mixer: the place of attention; see the module docstring.

    Args:
        d_model: width of the residual stream.
        max_seq_len: longest sequence, and length of the filters.
        config: order and width of the filter network.
    """

    def __init__(
        self,
        d_model: int,
        max_seq_len: int,
        config: LongConvolutionConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if max_seq_len < 1:
            raise ValueError(f"max_seq_len must be at least 1; got {max_seq_len}")
        self.config, self.max_seq_len = config, max_seq_len
        channels = config.order * d_model
        self.in_proj = Linear(d_model, channels + d_model, device, dtype)
        self.conv = ShortConvolution(channels + d_model, D_CONV, device, dtype)
        self.filter = ImplicitFilter(channels, max_seq_len, config.filter_dim, device=device, dtype=dtype)
        self.skip = nn.Parameter(torch.ones(config.order, d_model, device=device, dtype=dtype))
        self.out_proj = Linear(d_model, d_model, device, dtype)

    def new_cache(self, batch: int, capacity: int) -> LongConvolutionCache:
        """A cache for `capacity` tokens, before the first; it keeps today's filters, so make it anew after training.

        Raises:
            ValueError: capacity above max_seq_len.
        """
        self._check_length(capacity)
        inputs = self.skip.new_zeros(self.config.order, batch, capacity, self.skip.shape[1])
        return LongConvolutionCache(self.conv.new_tail(batch), self.filter(capacity), inputs)

    def _check_length(self, length: int) -> None:
        if length > self.max_seq_len:
            raise ValueError(
                f"the filters have max_seq_len={self.max_seq_len} taps; got {length} tokens; shorten the sequence or "
                "make the model with a longer context"
            )

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Tensor | None = None,
        cache: LongConvolutionCache | None = None,
        shared: object | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Mix each token with those before it, in `x` and in the cache, which then holds these tokens too.

        Positions and `shared` are ignored: filters depend on the distance between tokens alone.

        Raises:
            ValueError: more tokens than max_seq_len, or than the cache's capacity.
        """
        rows = x.reshape(-1, *x.shape[-2:])
        batch, seq, d_model = rows.shape
        if cache is None:
            self._check_length(seq)
            tail, filters = self.conv.new_tail(batch), self.filter(seq)
        else:
            if cache.length + seq > cache.capacity:
                raise ValueError(f"the cache holds {cache.capacity} tokens; got {cache.length + seq}; make it longer")
            tail, filters = cache.tail, cache.filters
        mixed, tail = self.conv(self.in_proj(rows), tail)
        z, *gates = mixed.split(d_model, dim=-1)
        for n, (gate, h) in enumerate(zip(gates, filters.split(d_model, dim=-1), strict=True)):
            z = gate * (_convolve(z, h, cache, n) + self.skip[n] * z)
        if cache is not None:
            cache.tail, cache.length = tail, cache.length + seq
        return self.out_proj(z).reshape(x.shape)


def _convolve(z: Tensor, h: Tensor, cache: LongConvolutionCache | None, n: int) -> Tensor:
    """Outputs for the new inputs `z` of the n-th convolution, after those in the cache."""
    if cache is None:
        return fft_convolution(z, h)
    end = cache.length + z.shape[1]
    cache.inputs[n, :, cache.length : end] = z
    past, h = cache.inputs[n, :, :end], h[:end]
    if z.shape[1] == 1:
        return convolution_step(past, h).unsqueeze(1).to(z.dtype)
    return fft_convolution(past, h)[:, -z.shape[1] :].to(z.dtype)
