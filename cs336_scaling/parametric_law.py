"""The law L(N, D) = E + A / N^alpha + B / D^beta and the best split of a budget under it.

With C = 6 N D the loss is least at

    N = G (C/6)^(beta/(alpha+beta))      D = (C/6)^(alpha/(alpha+beta)) / G
    G = (alpha A / (beta B))^(1/(alpha+beta))

PUBLISHED holds the constants of papers, to compare with. Hoffmann's own rounded constants give 26 to 93 tokens per
parameter between 1e18 and 6e23 FLOPs and contradict their paper's table; Besiroglu's refit of the same data does not.

Papers: Hoffmann et al. 2022, section 3.3; Besiroglu et al. 2024. Handout: scaling_laws. Left out: fitting
(`parametric.py`). Read next: `parametric.py`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ParametricLaw:
    """Five positive numbers: the floor E, and a coefficient and an exponent for each of parameters and tokens."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name in ("A", "B", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if not self.E >= 0:
            raise ValueError(f"E must not be negative; got {self.E}")

    def loss(self, parameters: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
        """Loss in nats per token, elementwise."""
        n, d = np.asarray(parameters, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
        return np.asarray(self.E + self.A * n**-self.alpha + self.B * d**-self.beta)

    def allocation(self, flops: npt.ArrayLike) -> tuple[Floats, Floats]:
        """(parameters, tokens) with the least loss under 6 N D = flops, elementwise.

        Raises:
            ValueError: FLOPs that are not positive and finite.
        """
        product = np.asarray(flops, dtype=np.float64) / 6
        if not ((product > 0) & np.isfinite(product)).all():
            raise ValueError(f"a budget must be positive, finite FLOPs; got {flops!r}")
        together = self.alpha + self.beta
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / together)
        return np.asarray(ratio * product ** (self.beta / together)), np.asarray(
            product ** (self.alpha / together) / ratio
        )

    @property
    def parameter_exponent(self) -> float:
        """a of N proportional to C^a."""
        return self.beta / (self.alpha + self.beta)

    def as_tuple(self) -> tuple[float, float, float, float, float]:
        """(E, A, B, alpha, beta)."""
        return astuple(self)


PUBLISHED = {
    "Hoffmann et al. 2022": ParametricLaw(1.69, 406.4, 410.7, 0.34, 0.28),
    "Besiroglu et al. 2024": ParametricLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658),
}
