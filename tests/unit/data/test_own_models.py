"""The models that come with the package: fresh, measured on held-out texts, blind to every test, and named in answers."""

from __future__ import annotations

import ast
import json
import pickle
import random
from pathlib import Path

import pytest

from cs336_data import quality_classifier, toxicity
from cs336_data.classifiers.build import MODELS, source_hash
from cs336_data.classifiers.evaluation import evaluate
from cs336_data.classifiers.held_out import harm_items, quality_items
from cs336_data.classifiers.overlap_guard import shared_grams, word_grams
from cs336_data.document import Document
from cs336_data.quality_classifier import QualityClassifier, QualityFilter, train_quality
from cs336_data.toxicity import HarmClassifier, HarmFilter, windows
from cs336_data.training import harm_sentences, quality_pages

TESTS = Path(__file__).parents[2]
PUBLIC = ("test_toxicity.py", "test_quality.py", "test_extract.py", "test_langid.py", "test_pii.py")


def test_held_out_sets_are_large_and_balanced():
    harm, quality = harm_items(), quality_items()
    assert len(harm) >= 300 and len(quality) >= 300
    assert len({text for text, *_ in harm}) == len(harm) and len({text for text, _ in quality}) == len(quality)
    for column in (1, 2):
        assert 100 <= sum(item[column] for item in harm) <= len(harm) - 100
    assert 140 <= sum(good for _, good in quality) <= len(quality) - 140


@pytest.mark.parametrize(("kind", "column"), [("nsfw", 1), ("toxic", 2)])
def test_harm_on_the_held_out_set(kind, column, tmp_path):
    """Balanced accuracy, and its interval's lower end, above 0.85; the card says the same."""
    classifier = HarmClassifier(kind, assets=tmp_path)
    assert classifier.model_name == f"cs336-{kind}-ngrams"
    result = evaluate(
        [classifier.probability(item[0]) for item in harm_items()], [bool(item[column]) for item in harm_items()]
    )
    assert result.balanced_accuracy_interval[0] > 0.85, result
    assert result.calibration_error < 0.12, result
    card = json.loads((MODELS / "harm_card.json").read_text())[kind]["held_out"]
    assert card["balanced_accuracy"] == pytest.approx(result.balanced_accuracy, abs=0.01)


def test_quality_on_the_held_out_set(tmp_path):
    classifier = QualityClassifier(assets=tmp_path)
    assert classifier.model_name == "cs336-quality-pages"
    result = evaluate([classifier.score(text) for text, _ in quality_items()], [good for _, good in quality_items()])
    assert result.balanced_accuracy_interval[0] > 0.85, result
    card = json.loads((MODELS / "quality_card.json").read_text())["quality"]["held_out"]
    assert card["balanced_accuracy"] == pytest.approx(result.balanced_accuracy, abs=0.01)


@pytest.mark.parametrize("name", ["harm", "quality"])
def test_models_are_not_older_than_their_data(name):
    card = json.loads((MODELS / f"{name}_card.json").read_text())
    assert card["training_sources_sha256"] == source_hash(name), "run: cs336 data build-models --out cs336_data/models"


def strings_of_tests() -> list[str]:
    """Every string in the public tests that is long enough to be a text."""
    trees = [ast.parse((TESTS / name).read_text()) for name in PUBLIC]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and len(n.value) > 20]


def test_training_data_know_neither_tests_nor_held_out_texts():
    """No five words in a row of any text of the public tests or the held-out sets occur in the harm sentences or frames of pages."""
    sentences = harm_sentences.sentences(3000, seed=0) + harm_sentences.sentences(1000, seed=1, validation=True)
    texts = [sentence.text for sentence in sentences]
    assert len(strings_of_tests()) > 30
    assert shared_grams(texts, strings_of_tests()) == set()
    assert shared_grams(texts, [text for text, *_ in harm_items()]) == set()
    frames = [
        *quality_pages._FRAMES,
        *quality_pages._ADS,
        *quality_pages._CHAT,
        *quality_pages._FORUM,
        *quality_pages._FORM,
    ]
    assert shared_grams(frames, strings_of_tests()) == set()


def test_sentences_are_reproducible_and_validation_uses_other_frames():
    one, two = harm_sentences.sentences(200, seed=7), harm_sentences.sentences(200, seed=7)
    assert one == two != harm_sentences.sentences(200, seed=8)
    assert {(s.nsfw, s.toxic) for s in one} == {(a, b) for a in (True, False) for b in (True, False)}
    assert not any("{" in s.text or "}" in s.text for s in one)


def test_obfuscation_does_not_hide():
    """The same abuse in plain and in disguise is found by the same model."""
    classifier = HarmClassifier("nsfw")
    for text in ("fuck off", "f*ck off", "F*CK OFF", "f u c k off", "fuuuuck off"):
        assert classifier.classify(text)[0] == "nsfw", text


@pytest.mark.parametrize("text", ["", " ", "\0", "12345", "\ud800", "\u4f60\u597d", "a" * 100_000, "x\n" * 50_000])
def test_strange_texts_get_a_label(text):
    for kind in ("nsfw", "toxic"):
        classifier = HarmClassifier(kind)
        label, score = classifier.classify(text)
        assert label in (kind, f"non-{kind}") and type(score) is float and 0 < score <= 1
        page = classifier.judge_page(text)
        assert 0 <= page.mean <= page.highest <= 1
    label, score = QualityClassifier().classify(text)
    assert label in ("wiki", "cc") and type(score) is float and 0 <= score <= 1


def test_windows_cover_the_page():
    rng = random.Random(0)
    lines = [" ".join(["word"] * rng.randrange(0, 400)) for _ in range(40)] + ["x" * 2500]
    pieces = windows("\n".join(lines))
    assert sum(piece.count("word") for piece in pieces) == sum(line.count("word") for line in lines)
    assert sum(piece.count("x") for piece in pieces) == 2500
    assert all(len(piece) <= 1000 for piece in pieces)


def test_one_bad_line_in_a_long_page_is_found():
    clean = "\n".join(
        f"The {n}th chapter describes the harbour and its trade in the years before the war." for n in range(60)
    )
    bad = clean.replace("The 30th chapter", "You are a worthless fucking idiot and I hope you die.\nThe 30th chapter")
    for kind in ("nsfw", "toxic"):
        check = pickle.loads(pickle.dumps(HarmFilter(kind)))
        assert check(Document("1", "", clean)) is None
        document = Document("2", "", bad)
        assert check(document) == kind
        assert document.metadata[f"{kind}_score"] > 0.9 > 0.5 > document.metadata[f"{kind}_mean"]
        assert document.metadata[f"{kind}_model"] == f"cs336-{kind}-ngrams"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="'nsfw' or 'toxic'"):
        HarmClassifier("rude")
    with pytest.raises(ValueError, match="probability"):
        HarmFilter("nsfw", maximum=90)
    with pytest.raises(ValueError, match="probability"):
        QualityFilter(minimum=-1)
    with pytest.raises(FileNotFoundError, match="train-quality"):
        QualityClassifier(Path("none.bin"))


def test_quality_filter():
    check = pickle.loads(pickle.dumps(QualityFilter(minimum=0.5)))
    menu = Document("1", "", "Home\nLog in\nCart (0)\nBuy now!!\nContact us")
    assert check(menu) == "low_quality" and menu.metadata["quality_model"] == "cs336-quality-pages"
    assert menu.metadata["quality_score"] < 0.5


def test_page_model_trained_on_given_pages(tmp_path):
    made = quality_pages.pages(300, seed=5)
    good, other = [p.text for p in made if p.good], [p.text for p in made if not p.good]
    trained = train_quality(good, other, tmp_path / "m.json", kind="pages")
    assert trained.evaluation.balanced_accuracy > 0.9
    assert 0 < trained.evaluation.items < 0.4 * len(made) and trained.num_training + trained.evaluation.items == len(
        made
    )
    assert [row.recall for row in trained.sweep] == sorted((row.recall for row in trained.sweep), reverse=True)
    classifier = QualityClassifier(tmp_path / "m.json")
    assert classifier.classify(good[0])[0] == "wiki" and classifier.model_name == "m.json"


def test_fasttext_trained_on_given_pages(tmp_path):
    """The course's way: separable pages are told apart, the same seed gives the same file."""
    pytest.importorskip("floret")
    rng = random.Random(0)
    good = [
        " ".join(rng.choices("river century although province species theorem between".split(), k=30))
        for _ in range(150)
    ]
    other = [" ".join(rng.choices("login cart buy click reply posts cheap free".split(), k=30)) for _ in range(150)]
    first = train_quality(good, other, tmp_path / "a.bin", seed=1, epochs=10)
    train_quality(good, other, tmp_path / "b.bin", seed=1, epochs=10)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert first.evaluation.balanced_accuracy > 0.95
    classifier = pickle.loads(pickle.dumps(QualityClassifier(tmp_path / "a.bin")))
    assert classifier.classify("species of the river province")[0] == "wiki"
    assert 0 <= classifier.score("cart\nlogin \0 buy") < 0.5


def test_training_refuses_too_little_and_wrong_names(tmp_path):
    with pytest.raises(ValueError, match="too few"):
        train_quality(["a"], ["b"], tmp_path / "m.json", kind="pages")
    with pytest.raises(ValueError, match=r"\.bin file"):
        train_quality(["a"], ["b"], tmp_path / "m.json")
    with pytest.raises(ValueError, match="held_out"):
        train_quality(["a"], ["b"], tmp_path / "m.bin", held_out=1.0)


def test_official_models_answer_when_they_are_there(tmp_path):
    """A fastText file under the official name is used, and said to be."""
    pytest.importorskip("floret")
    from cs336_data.fasttext_model import train_fasttext

    examples = [("alpha beta gamma", "nsfw"), ("delta epsilon zeta", "non-nsfw")] * 60
    train_fasttext(examples, tmp_path / toxicity.OFFICIAL["nsfw"][0], epochs=20)
    examples = [("alpha beta gamma", "wiki"), ("delta epsilon zeta", "cc")] * 60
    train_fasttext(examples, tmp_path / quality_classifier.OFFICIAL[0], epochs=20)
    harm = HarmClassifier("nsfw", assets=tmp_path)
    assert harm.model_name == toxicity.OFFICIAL["nsfw"][0]
    assert harm.classify("beta gamma")[0] == "nsfw" and harm.classify("epsilon zeta")[0] == "non-nsfw"
    assert HarmClassifier("toxic", assets=tmp_path).model_name == "cs336-toxic-ngrams", (
        "each falls back by itself, visibly"
    )
    assert QualityClassifier(assets=tmp_path).model_name == quality_classifier.OFFICIAL[0]


def test_docstrings_are_prose():
    prose = quality_pages.docstring_paragraphs()
    assert len(prose) > 500 and all(120 < len(text) < 900 and text.endswith(".") for text in prose)
    assert len(set().union(*(word_grams(text) for text in prose[:100]))) > 500
