"""Logistic regression over the nineteen page features: small enough to be read, and to be kept as a JSON file.

    P(good) = sigmoid(b + sum of w_j (x_j - mean_j) / deviation_j)

Fitted by Newton's method with a ridge penalty l2/2 |w|^2; no seed is involved. Each weight says how the chance of being
good changes when a feature rises by one standard deviation. Read next: `cs336_data/quality_classifier.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cs336_basics.runs.atomic import write_json
from cs336_data.classifiers.page_features import NAMES, page_features


@dataclass(frozen=True)
class PageModel:
    """A fitted model; the arrays have one entry per feature."""

    means: np.ndarray
    deviations: np.ndarray
    weights: np.ndarray
    bias: float

    def probability(self, text: str) -> float:
        """P(good); 0 for a text without words."""
        x = page_features(text)
        if not x.any():
            return 0.0
        score = self.bias + float(self.weights @ ((x - self.means) / self.deviations))
        return float(0.5 * (1 + np.tanh(score / 2)))

    def save(self, path: Path) -> None:
        """Write JSON: one entry per feature, by name."""
        rows = zip(NAMES, self.means, self.deviations, self.weights, strict=True)
        write_json(path, {
            "bias": round(self.bias, 6),
            "features": [
                {"name": name, "mean": round(float(mean), 6), "deviation": round(float(deviation), 6),
                 "weight": round(float(weight), 6)}
                for name, mean, deviation, weight in rows
            ],
        })  # fmt: skip

    @staticmethod
    def load(path: Path) -> PageModel:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file. ValueError: no such model, or one with other features.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = stored["features"]
            if [row["name"] for row in rows] != list(NAMES):
                raise ValueError("its features are others than this version's")
            means, deviations, weights = (
                np.array([row[key] for row in rows], np.float64) for key in ("mean", "deviation", "weight")
            )
            return PageModel(means, deviations, weights, float(stored["bias"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no quality model of this version: {error}; train it again") from error


def train_page_model(texts: Sequence[str], labels: Sequence[bool], *, l2: float = 0.01) -> PageModel:
    """Fit a model.

    Args:
        texts: pages with words in them.
        labels: True for good ones; both classes must occur.
        l2: weight of the penalty.

    Raises:
        ValueError: lengths differ or a class is missing.
    """
    y = np.asarray(labels, np.float64)
    if len(texts) != len(y) or not 0 < y.sum() < len(y):
        raise ValueError(f"need as many labels as texts, of both classes; got {len(texts)} texts, {int(y.sum())} good")
    x = np.stack([page_features(text) for text in texts])
    means, deviations = x.mean(axis=0), x.std(axis=0) + 1e-6
    design = np.concatenate([(x - means) / deviations, np.ones((len(x), 1))], axis=1)
    penalty = l2 * np.diag([1.0] * len(NAMES) + [0.0])
    solution = np.zeros(len(NAMES) + 1)
    for _ in range(100):
        p = 0.5 * (1 + np.tanh(design @ solution / 2))
        gradient = design.T @ (p - y) / len(y) + penalty @ solution
        hessian = (design * (p * (1 - p))[:, None]).T @ design / len(y) + penalty + 1e-9 * np.eye(len(solution))
        step = np.linalg.solve(hessian, gradient)
        solution = solution - step
        if np.abs(step).max() < 1e-10:
            break
    return PageModel(means, deviations, solution[:-1], float(solution[-1]))
