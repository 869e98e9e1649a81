"""Problem harmful_content: labels and scores on plain cases."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Shut your fucking mouth, you dirty whore", "nsfw"),
        ("XXX porn clips and nude cams, free all night", "nsfw"),
        ("The bridge was repaired last summer and is open again.", "non-nsfw"),
        ("Doctors advise a yearly breast examination.", "non-nsfw"),
    ],
)
def test_classify_nsfw(adapters, text, label):
    _check(adapters.run_classify_nsfw(text), label)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("You are a pathetic liar and a fool, nobody wants you here.", "toxic"),
        ("Get lost, you worthless idiot.", "toxic"),
        ("Thank you for the kind words about our garden.", "non-toxic"),
        ("The train was late again, so I missed the concert.", "non-toxic"),
    ],
)
def test_classify_toxic_speech(adapters, text, label):
    _check(adapters.run_classify_toxic_speech(text), label)


def _check(answer, label):
    predicted, score = answer
    assert predicted == label
    assert isinstance(score, float), f"the score must be a float; got {type(score)}"
    assert 0 < score <= 1
