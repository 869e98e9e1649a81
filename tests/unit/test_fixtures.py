"""The committed fixture files are what their scripts make, so a reader can trust both."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ..assertions import assert_close
from ..fixtures import alignment_files, bpe_cases, grpo_steps, model_files
from ..fixtures.texts import END_OF_TEXT, documents, english_text, tokenizer_corpus
from ..fixtures.tokenizer_files import load_vocab_and_merges
from ..naive_bpe import naive_train_bpe


@pytest.mark.parametrize("name", model_files.NUM_LAYERS)
def test_model_files_are_reproducible(name):
    made = model_files.make(name)
    with np.load(model_files.FOLDER / f"{name}.npz") as stored:
        assert set(stored.files) == set(made)
        for key in stored.files:
            assert_close(
                stored[key], made[key], atol=1e-6, hint=f"{name}.npz holds another {key}; run its script again"
            )


def test_tokenizer_files_are_reproducible():
    """The first merges only: all of them take a minute."""
    _, merges = naive_train_bpe(tokenizer_corpus(), 256 + 1 + 25, [END_OF_TEXT])
    vocab, stored_merges = load_vocab_and_merges()
    assert stored_merges[: len(merges)] == merges
    assert list(vocab) == list(range(256 + len(stored_merges) + 1))
    assert [a + b for a, b in stored_merges] == [vocab[256 + rank] for rank in range(len(stored_merges))]


def test_bpe_cases_are_reproducible():
    assert json.loads(bpe_cases.FILE.read_text()) == bpe_cases.make()


def test_texts_do_not_change():
    """A few characters pin the generator; a change would silently move every corpus of the tests."""
    assert english_text(2_000, seed=1).startswith(
        "Quolling her breesheamness longomer pens noucktoomjeeng a the briing"
    )
    text = documents(50_000, seed=5)
    assert text.isascii() and text.endswith(f"\n{END_OF_TEXT}")
    assert len(text.replace(END_OF_TEXT, "")) <= 50_000


def test_alignment_files_are_reproducible():
    for name, content in alignment_files.make_files().items():
        path = alignment_files.FOLDER / name
        if isinstance(content, bytes):
            assert path.read_bytes() == content
            continue
        with np.load(path) as stored:
            assert set(stored.files) == set(content)
            for key in stored.files:
                assert_close(stored[key], content[key], atol=1e-6, hint=f"{name} holds another {key}; run its script")


def test_grpo_steps_are_reproducible():
    pytest.importorskip("transformers")
    stored, made = json.loads(grpo_steps.FILE.read_text()), grpo_steps.make()
    assert stored.keys() == made.keys()
    for name, step in made.items():
        assert_close(stored[name]["loss"], step["loss"], atol=1e-9, hint=name)
        for weight, numbers in step["weights"].items():
            assert_close(stored[name]["weights"][weight], numbers, atol=1e-9, hint=f"{name}, {weight}")
