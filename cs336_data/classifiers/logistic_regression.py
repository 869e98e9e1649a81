"""Logistic regression over hashed n-grams: P(y = 1 | x) = sigmoid(b + sum of w_j / sqrt(n) over the n features of x).

Fitted by stochastic gradient steps with one learning rate per weight (AdaGrad, Duchi et al. 2011) on

    mean of  log(1 + exp(-y s))  +  l2 / 2 |w|^2 ,   y = +-1, s the score

in double precision, in one thread, from a seed: the same data give the same weights. Scores of such a model are too
sure of themselves away from its training data; `calibrate` fits P = sigmoid(slope s + offset) on texts held back (Platt
1999).

Left out: more than two classes. Read next: `evaluation.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cs336_basics.runs.atomic import atomic_write
from cs336_data.classifiers.hashed_ngrams import NUM_BUCKETS, feature_lists, features


@dataclass(frozen=True)
class LogisticModel:
    """A fitted model.

    Attributes:
        weights: float32 (NUM_BUCKETS,).
        bias: b.
        slope, offset: calibration of the score.
    """

    weights: np.ndarray
    bias: float
    slope: float = 1.0
    offset: float = 0.0

    def score(self, text: str) -> float:
        """b + w x, uncalibrated."""
        buckets = features(text)
        return self.bias + float(self.weights[buckets].sum()) / max(1, len(buckets)) ** 0.5

    def probability(self, text: str) -> float:
        """P(y = 1), calibrated."""
        return float(_sigmoid(self.slope * self.score(text) + self.offset))

    def save(self, path: Path) -> None:
        """Write an .npz file; weights are kept in half precision."""
        with atomic_write(path) as file:
            np.savez_compressed(
                file, weights=self.weights.astype(np.float16),
                numbers=np.array([self.bias, self.slope, self.offset], np.float64),
            )  # fmt: skip

    @staticmethod
    def load(path: Path) -> LogisticModel:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file. ValueError: no such model.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                weights, numbers = stored["weights"].astype(np.float32), stored["numbers"]
        except (KeyError, EOFError, OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path} is no model of this package ({error}); train it again") from error
        if weights.shape != (NUM_BUCKETS,) or numbers.shape != (3,):
            raise ValueError(f"{path} is a model of another size {weights.shape}; expected ({NUM_BUCKETS},)")
        return LogisticModel(weights, *map(float, numbers))


def train(
    texts: Sequence[str],
    labels: Sequence[bool],
    *,
    epochs: int = 12,
    learning_rate: float = 0.3,
    l2: float = 2e-6,
    seed: int,
) -> LogisticModel:
    """Fit a model, not yet calibrated.

    Args:
        texts: at least one of each class.
        labels: True for the class whose probability is wanted.
        epochs: passes over the texts in an order drawn anew.
        learning_rate: of the first step of each weight.
        l2: weight of the penalty.
        seed: of the orders.

    Raises:
        ValueError: lengths differ or a class is missing.
    """
    targets = np.where(np.asarray(labels, dtype=bool), 1.0, -1.0)
    if len(texts) != len(targets) or len(set(targets.tolist())) < 2:
        raise ValueError(
            f"need as many labels as texts, of both classes; got {len(texts)} texts, {len(targets)} labels"
        )
    buckets, starts = feature_lists(texts)
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(len(texts)) for _ in range(epochs)])
    weights, bias = _kernel()(buckets, starts, targets, orders, NUM_BUCKETS, learning_rate, l2)
    return LogisticModel(weights.astype(np.float32), float(bias))


def calibrate(model: LogisticModel, texts: Sequence[str], labels: Sequence[bool]) -> LogisticModel:
    """The same model with slope and offset fitted by Newton's method on texts it has not seen."""
    scores = np.array([model.score(text) for text in texts])
    # Platt's targets, which keep the fit finite when the classes can be separated
    wanted = np.asarray(labels, dtype=bool)
    targets = np.where(wanted, (wanted.sum() + 1) / (wanted.sum() + 2), 1 / ((~wanted).sum() + 2))
    design = np.stack([scores, np.ones_like(scores)], axis=1)
    solution = np.array([1.0, 0.0])
    for _ in range(50):
        p = _sigmoid(design @ solution)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (targets - p))
        solution = solution + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return LogisticModel(model.weights, model.bias, float(solution[0]), float(solution[1]))


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(x)))


@functools.cache
def _kernel() -> Callable[..., Any]:
    """The compiled training loop."""
    from cs336_basics.tokenization.compilation import stored
    from cs336_data.classifiers.compiled_ngrams import fit_logistic

    return stored(fit_logistic)
