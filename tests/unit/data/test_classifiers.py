"""Our classifiers: features, training, calibration and measures against plain recomputation."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from cs336_data.classifiers.evaluation import evaluate, threshold_sweep
from cs336_data.classifiers.hashed_ngrams import NUM_BUCKETS, feature_lists, features, normalize
from cs336_data.classifiers.logistic_regression import LogisticModel, calibrate, train
from cs336_data.classifiers.overlap_guard import shared_grams
from cs336_data.classifiers.page_features import NAMES, _counts, counts_reference, page_features
from cs336_data.classifiers.page_model import PageModel, train_page_model

M64 = (1 << 64) - 1
PRIME = 0x100000001B3


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Hello,  World!", "hello world"),
        ("sh1t a$$ b1tch", "shit ass bitch"),
        ("f*ck f**k F***", "f*ck f**k f***"),
        ("what the f.u.c.k", "what the fuck"),
        ("f u c k this", "fuck this"),
        ("oh f-u-c-k", "oh fuck"),
        ("loooool", "lool"),
        ("don\u2019t", "don't"),
        ("\uff21\uff22", "ab"),
        ("it costs $5.00, 100%", "it costs 5 00 100"),
        ("what?! now!!!", "what now"),
        ("", ""),
    ],
)
def test_normalize(text, plain):
    assert normalize(text) == plain


def hash_of(letters: bytes, start: int) -> int:
    value = start
    for letter in letters:
        value = ((value ^ letter) * PRIME) & M64
    return value


def plain_features(text: str) -> set[int]:
    """The same features by slices of strings."""
    found, last, before = set(), 0, 0
    for word in normalize(text).encode().split():
        number = hash_of(word, 0xCBF29CE484222325)
        for value in (number, ((last * 31 + number) * PRIME) & M64, ((before * 127 + number + 1) * PRIME) & M64):
            found.add((value ^ (value >> 31)) & (NUM_BUCKETS - 1))
        marked = b" " + word + b" "
        for size in (3, 4, 5):
            for i in range(len(marked) - size + 1):
                value = hash_of(marked[i : i + size], 0x9E3779B97F4A7C15)
                found.add((value ^ (value >> 29)) & (NUM_BUCKETS - 1))
        last, before = number, last
    return found


@pytest.mark.parametrize(
    "text", ["", "a", "you are a fool", "F*CK this caf\u00e9", "\u4f60\u597d hi", "x " * 500, "\ud800 y"]
)
def test_features_agree_with_slices(text):
    if "\ud800" in text:
        assert len(features(text)) > 0
    else:
        assert set(features(text).tolist()) == plain_features(text)


def sample(count: int, *, seed: int) -> tuple[list[str], list[bool]]:
    """Sentences about two subjects that share words."""
    rng = random.Random(seed)
    words = {True: "harbour ship sail mast anchor".split(), False: "field plough barn corn ox".split()}
    shared = "the old new big small and of near".split()
    texts, labels = [], []
    for _ in range(count):
        label = rng.random() < 0.4
        texts.append(" ".join(rng.choice(words[label] if rng.random() < 0.3 else shared) for _ in range(12)))
        labels.append(label)
    return texts, labels


def test_training_lowers_the_loss_and_repeats_exactly():
    texts, labels = sample(400, seed=0)
    model, again = (train(texts, labels, epochs=5, seed=3) for _ in range(2))
    assert np.array_equal(model.weights, again.weights) and model.bias == again.bias
    other = train(texts, labels, epochs=5, seed=4)
    assert not np.array_equal(model.weights, other.weights)
    test_texts, test_labels = sample(300, seed=1)
    assert np.mean([(model.score(t) > 0) == y for t, y in zip(test_texts, test_labels, strict=True)]) > 0.9


def test_first_training_step_agrees_with_the_formula():
    """One text, one epoch: AdaGrad's step from zero by hand."""
    model = train(["ship", "barn"], [True, False], epochs=1, learning_rate=0.3, l2=0.0, seed=0)
    order = np.random.default_rng(0).permutation(2)
    weights, squares, bias, bias_square = {}, {}, 0.0, 1e-2
    for index in order:
        text, y = ("ship", 1.0) if index == 0 else ("barn", -1.0)
        buckets = sorted(plain_features(text))
        scale = 1 / math.sqrt(len(buckets))
        score = bias + sum(weights.get(b, 0.0) * scale for b in buckets)
        slope = -y / (1 + math.exp(y * score))
        bias_square += slope**2
        bias -= 0.3 * slope / math.sqrt(bias_square)
        for b in buckets:
            squares[b] = squares.get(b, 1e-2) + (slope * scale) ** 2
            weights[b] = weights.get(b, 0.0) - 0.3 * slope * scale / math.sqrt(squares[b])
    assert model.bias == pytest.approx(bias, rel=1e-12)
    for b, w in weights.items():
        assert model.weights[b] == pytest.approx(w, rel=1e-6)
    assert np.count_nonzero(model.weights) == len(weights)


def test_calibration_finds_the_slope():
    """Labels drawn from sigmoid(2 s - 1) of a known score s: the fit finds 2 and -1, and lowers the log loss."""
    weights = np.zeros(NUM_BUCKETS, np.float32)
    rng = np.random.default_rng(0)
    texts = [f"w{i}" for i in range(4000)]
    scores = rng.normal(size=len(texts))
    model = LogisticModel(weights, 0.0)
    known = iter(scores)
    object.__setattr__(model, "score", lambda text: next(known))
    labels = rng.random(len(texts)) < 1 / (1 + np.exp(-(2 * scores - 1)))
    fitted = calibrate(model, texts, labels)
    assert fitted.slope == pytest.approx(2, abs=0.2) and fitted.offset == pytest.approx(-1, abs=0.15)


def test_models_survive_saving(tmp_path):
    texts, labels = sample(100, seed=0)
    model = calibrate(train(texts, labels, seed=0), *sample(100, seed=2))
    model.save(tmp_path / "m.npz")
    loaded = LogisticModel.load(tmp_path / "m.npz")
    assert [loaded.probability(t) for t in texts] == pytest.approx([model.probability(t) for t in texts], abs=2e-3)


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_broken_model_files(tmp_path, content):
    path = tmp_path / "m.npz"
    if content is None:
        with pytest.raises(FileNotFoundError):
            LogisticModel.load(path)
        return
    path.write_bytes(content)
    with pytest.raises(ValueError, match="train it again"):
        LogisticModel.load(path)
    path.with_suffix(".json").write_bytes(content)
    with pytest.raises(ValueError, match="train it again"):
        PageModel.load(path.with_suffix(".json"))


def test_training_needs_both_classes():
    with pytest.raises(ValueError, match="both classes"):
        train(["a", "b"], [True, True], seed=0)
    with pytest.raises(ValueError, match="both classes"):
        train_page_model(["a b", "c d"], [False, False])


def test_feature_lists():
    buckets, starts = feature_lists(["a b", "", "c"])
    assert starts[0] == 0 and starts[-1] == len(buckets)
    assert set(buckets[starts[0] : starts[1]].tolist()) == plain_features("a b") and starts[1] == starts[2]


def test_page_model_is_at_the_minimum_of_its_loss(tmp_path):
    """The gradient, by differences, vanishes at the fitted weights."""
    rng = random.Random(0)
    texts = [
        " ".join(rng.choice(["Menu", "buy", "the", "of", "river.", "lol", "since"]) for _ in range(20))
        for _ in range(60)
    ]
    labels = [rng.random() < 0.5 for _ in texts]
    model = train_page_model(texts, labels, l2=0.01)
    x = (np.stack([page_features(t) for t in texts]) - model.means) / model.deviations
    y = np.array(labels, float)

    def loss(weights, bias):
        s = x @ weights + bias
        return np.mean(np.logaddexp(0, s) - y * s) + 0.005 * (weights**2).sum()

    for j in range(len(NAMES)):
        step = np.eye(len(NAMES))[j] * 1e-5
        slope = (loss(model.weights + step, model.bias) - loss(model.weights - step, model.bias)) / 2e-5
        assert abs(slope) < 1e-6
    model.save(tmp_path / "p.json")
    loaded = PageModel.load(tmp_path / "p.json")
    assert loaded.probability(texts[0]) == pytest.approx(model.probability(texts[0]), abs=1e-4)


def test_page_features_by_hand():
    text = "The river rises in May.\nBUY now!! 50% off"
    values = dict(zip(NAMES, page_features(text), strict=True))
    words = ["the", "river", "rises", "in", "may", "buy", "now", "off"]
    assert values["lines ending in . ! ?"] == 0.5 and values["lines under 30 characters"] == 1.0
    assert values["stop words"] == 2 / 8 and values["mean word length"] == sum(map(len, words)) / 8
    assert values["digits"] == 2 / 40 and values["other symbols"] == 1 / 40
    assert values["capitalized words"] == 3 / 8 and values["words of menus and shops"] == 2 / 8
    assert values["exclamation and question marks per sentence"] == 2 / 2
    assert not page_features("12 34 !!").any() and not page_features("").any()


def test_characters_are_counted_as_one_by_one():
    text = "\u0130stanbul \u00c9t\u00e9 \u0663 1\u00b2 \U0001f600\U0001f600 (x) \u4f60; $5 \ud800 \u2167" * 3
    values = dict(zip(NAMES, page_features(text), strict=True))
    assert values["upper-case letters"] == sum(c.isupper() for c in text) / sum(c.isalpha() for c in text)
    assert values["digits"] == sum(c.isdigit() for c in text) / len(text)
    other = [c for c in text if not (c.isalnum() or c.isspace() or c in ".,;:'\"()-?!")]
    assert values["other symbols"] == len(other) / len(text)


def test_compiled_counts_agree_with_the_readable_form():
    """Apostrophes, marks, digits that are letters to a pattern, capital letters without a simple lower-case form."""
    rng = random.Random(0)
    pieces = [*"the The YOU lol don't don\u2019t a'b'c You\u2019 ' \u2019 \u00c9 \u00e9 \u4f60 \u2167 ... ?! \u00b2 \u0663 \ud800".split(),
              *"K1_x.!?,;(-\U0001f600\n\u2028\u00a0"]  # fmt: skip
    strange = ["\u0130", "\u03a3", "\u212a", "\u01c4", "\u03a3a"]
    for turn in range(400):
        letters = pieces + strange * (turn % 4 == 0)
        text = "".join(
            rng.choice(letters) + rng.choice(["", " "]) for _ in range(rng.randrange(700 if turn % 9 == 0 else 60))
        )
        assert _counts(text) == counts_reference(text), text


def test_length_is_no_feature():
    """A text twice in a row (as new lines) has the same features, but for repetition and vocabulary."""
    text = "The river rises in May, when the snow melts.\nIt floods the lower fields.\n"
    one, two = page_features(text), page_features(text + text.upper().lower().capitalize())
    assert abs(one - two)[[1, 2, 4, 6, 7, 11, 13, 16]].max() < 0.12


def test_evaluation_by_hand():
    p = [0.9, 0.8, 0.4, 0.6, 0.2, 0.1, 0.55, 0.3]
    y = [True, True, True, False, False, False, False, False]
    result = evaluate(p, y)
    assert (result.items, result.positives) == (8, 3)
    assert result.recall == 2 / 3 and result.specificity == 3 / 5 and result.precision == 2 / 4
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert result.brier == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, y, strict=True)) / 8)
    by_hand = sum(abs(a - b) for a, b in zip(p, y, strict=True) if round(a * 10) != 6) + abs(0.6 - 0)
    by_hand += 0.55
    assert result.calibration_error == pytest.approx(by_hand / 8, abs=0.02)
    low, high = result.balanced_accuracy_interval
    assert low < result.balanced_accuracy < high


def test_interval_covers_the_truth():
    """Of 120 test sets drawn at a known balanced accuracy, about 95 % have it in their interval."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(120):
        y = np.arange(120) < 40
        right = rng.random(120) < np.where(y, 0.9, 0.8)
        low, high = evaluate(np.where(right == y, 0.9, 0.1), y).balanced_accuracy_interval
        inside += low <= 0.85 <= high
    assert 0.89 <= inside / 120 <= 0.995


def test_threshold_sweep_by_hand():
    rows = threshold_sweep([0.9, 0.6, 0.6, 0.1], [True, True, False, False], thresholds=[0.5, 0.6, 0.95])
    assert [(r.kept, r.precision, r.recall) for r in rows] == [(0.75, 2 / 3, 1.0), (0.75, 2 / 3, 1.0), (0.0, None, 0.0)]


@pytest.mark.parametrize(("p", "y"), [([0.5], [True]), ([0.5, 0.5], [True]), ([1.5, 0.1], [True, False]), ([], [])])
def test_evaluation_refuses_nonsense(p, y):
    with pytest.raises(ValueError, match="both classes|\\[0, 1\\]"):
        evaluate(p, y)


def test_overlap_guard():
    test = ["The quick brown fox jumps over it.", "f u c k all of this now"]
    assert shared_grams(["a QUICK brown, fox jumps; high"], test) == set()
    assert shared_grams(["so the QUICK brown, fox jumps"], test) == {"the quick brown fox jumps"}
    assert shared_grams(["f*ck all of this now"], test) == set()
    assert shared_grams(["fuck all of this now"], test) == {"fuck all of this now"}, "spelled apart is no disguise"
