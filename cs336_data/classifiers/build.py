"""Makes our own models and their cards: generate, guard against overlap, train, calibrate, measure, write.

    models/nsfw.npz, toxic.npz, harm_card.json, harm_card.md
    models/quality.json, quality_card.json, quality_card.md

Two builds with one version of Python give the same files (the library's texts are part of the training data). The cards
hold the hash of the sources of the training data, so that a test notices a model older than its data. Read next:
`model_card.py`.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path

from cs336_data.classifiers.evaluation import Evaluation, evaluate, threshold_sweep
from cs336_data.classifiers.held_out import harm_items, quality_items
from cs336_data.classifiers.logistic_regression import calibrate, train
from cs336_data.classifiers.model_card import write_card
from cs336_data.classifiers.overlap_guard import shared_grams, word_grams
from cs336_data.classifiers.page_model import train_page_model
from cs336_data.training import harm_sentences, quality_pages

MODELS = Path(__file__).parents[1] / "models"
NUM_SENTENCES, NUM_VALIDATION, NUM_PAGES = 16_000, 4_000, 4_000
L2_CHOICES = (1e-6, 1e-5, 3e-5)
"""Penalties tried; the one with the best balanced accuracy on validation frames is taken, never on held-out items."""


def build_harm(folder: Path = MODELS, *, seed: int = 0, say: Callable[[str], None] = print) -> dict[str, Evaluation]:
    """Train and measure both harm models; returns their evaluations on the held-out sentences.

    Raises:
        ValueError: training and held-out sentences share five words in a row.
    """
    say(f"generating {NUM_SENTENCES} sentences")
    training = harm_sentences.sentences(NUM_SENTENCES, seed=seed)
    training += harm_sentences.library_texts(NUM_SENTENCES // 2, seed=seed)
    validation = harm_sentences.sentences(NUM_VALIDATION, seed=seed + 1, validation=True)
    validation += harm_sentences.library_texts(NUM_VALIDATION // 2, seed=seed, validation=True)
    held_out = harm_items()
    _refuse_overlap([s.text for s in (*training, *validation)], [text for text, _, _ in held_out])
    results, parts = {}, {}
    for column, kind in ((1, "nsfw"), (2, "toxic")):
        best, best_score, tried = None, -1.0, {}
        for l2 in L2_CHOICES:
            say(f"training {kind} with l2={l2}")
            model = train([s.text for s in training], [getattr(s, kind) for s in training], l2=l2, seed=seed)
            model = calibrate(model, [s.text for s in validation], [getattr(s, kind) for s in validation])
            on_validation = evaluate(
                [model.probability(s.text) for s in validation], [getattr(s, kind) for s in validation]
            )
            tried[str(l2)] = round(on_validation.balanced_accuracy, 4)
            if on_validation.balanced_accuracy > best_score:
                best, best_score = model, on_validation.balanced_accuracy
        assert best is not None
        best.save(folder / f"{kind}.npz")
        scores, labels = [best.probability(item[0]) for item in held_out], [bool(item[column]) for item in held_out]
        results[kind] = evaluate(scores, labels)
        parts[kind] = {
            "validation_balanced_accuracy_by_l2": tried, "held_out": results[kind].as_dict(),
            "sweep": threshold_sweep(scores, labels),
        }  # fmt: skip
    facts = {
        "seed": seed, "python": platform.python_version(), "training_texts": len(training),
        "validation_texts": len(validation),
    }  # fmt: skip
    write_card(folder, "harm", facts | {"training_sources_sha256": source_hash("harm")}, parts)
    return results


def build_quality(folder: Path = MODELS, *, seed: int = 0, say: Callable[[str], None] = print) -> Evaluation:
    """Train and measure the page model; returns its evaluation on the held-out pages."""
    say(f"generating {NUM_PAGES} pages")
    held_out = quality_items()
    generated, tested = (
        quality_pages.pages(NUM_PAGES, seed=seed),
        set().union(*(word_grams(text) for text, _ in held_out)),
    )
    # docstrings are not ours to change, so what shares wording with the held-out pages is left out
    training = [page for page in generated if word_grams(page.text).isdisjoint(tested)]
    say("training quality")
    model = train_page_model([page.text for page in training], [page.good for page in training])
    model.save(folder / "quality.json")
    scores, labels = [model.probability(text) for text, _ in held_out], [good for _, good in held_out]
    result = evaluate(scores, labels)
    facts = {
        "seed": seed, "training_pages": len(training), "left_out_for_overlap": len(generated) - len(training),
        "python": platform.python_version(),
        "docstring_paragraphs": len(quality_pages.docstring_paragraphs()),
        "training_sources_sha256": source_hash("quality"),
    }  # fmt: skip
    parts = {"quality": {"held_out": result.as_dict(), "sweep": threshold_sweep(scores, labels)}}
    write_card(folder, "quality", facts, parts)
    return result


def source_hash(name: str) -> str:
    """Hash of the files from which the training data of "harm" or "quality" are made."""
    folder = Path(harm_sentences.__file__).parent
    files = ["harm_sentences.py", "harm_words.toml"] if name == "harm" else ["quality_pages.py"]
    features = "hashed_ngrams.py" if name == "harm" else "page_features.py"
    paths = [*(folder / file for file in files), Path(__file__).with_name(features)]
    return hashlib.sha256(b"\0".join(path.read_bytes().replace(b"\r\n", b"\n") for path in paths)).hexdigest()


def _refuse_overlap(training: list[str], held_out: list[str]) -> None:
    """Stop when the two share wording."""
    shared = shared_grams(training, held_out)
    if shared:
        raise ValueError(
            f"training and held-out texts share {len(shared)} sequences of five words, such as {sorted(shared)[0]!r}; "
            "change the generator, not the held-out set"
        )
