"""The executor without any runs: a stated law, for trying the service and its clients out.

    L = E + A / N^alpha + B / D^beta + c ln(lr / lr*)^2 + seed noise        lr* = 0.004 (N / 10^5)^-0.2

E, A, B, alpha, beta are those of the course's isoflops_curves.json; the learning-rate term and the noise (0.2 %,
decided by the request) are ours. Every answer says `law`. Read next: `answering.py`, `bank.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np

from cs336_scaling.executors.protocol import LossAnswer, LossRequest

E, A, B, ALPHA, BETA = 2.69, 1606.4, 3210.7, 0.34, 0.36
LEARNING_RATE_PENALTY, NOISE = 0.02, 0.002
FLOPS_PER_SECOND = 1e14


class StatedLaw:
    """A `LossSource` that computes."""

    def answer(self, request: LossRequest) -> LossAnswer:
        """The law's value; equal requests get equal answers."""
        size, tokens = request.non_embedding_parameters, request.tokens
        best = 0.004 * (size / 1e5) ** -0.2
        loss = E + A / size**ALPHA + B / tokens**BETA
        loss += LEARNING_RATE_PENALTY * math.log(request.learning_rate / best) ** 2
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(request), sort_keys=True).encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:8], "big")).normal()
        seconds = max(1.0, request.train_flops / FLOPS_PER_SECOND)
        return LossAnswer(loss * (1 + NOISE * float(noise)), "law", seconds)
