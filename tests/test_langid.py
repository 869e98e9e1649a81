"""Problem language_identification: codes and scores."""

from __future__ import annotations

import pytest

TEXTS = {
    "en": "The ferry leaves every morning at seven and takes about an hour to reach the other side of the lake.",
    "zh": "\u8fd9\u6761\u6cb3\u6bcf\u5e74\u51ac\u5929\u90fd\u4f1a\u7ed3\u51b0\uff0c\u5b69\u5b50\u4eec\u5728\u4e0a\u9762\u6ed1\u51b0\u3002",
    "de": "Die F\u00e4hre f\u00e4hrt jeden Morgen um sieben Uhr ab und braucht etwa eine Stunde \u00fcber den See.",
    "fr": "Le bac part chaque matin \u00e0 sept heures et met environ une heure pour traverser le lac.",
    "ru": (
        "\u041f\u0430\u0440\u043e\u043c \u043e\u0442\u043f\u0440\u0430\u0432\u043b\u044f"
        "\u0435\u0442\u0441\u044f \u043a\u0430\u0436\u0434\u043e\u0435 \u0443\u0442"
        "\u0440\u043e \u0432 \u0441\u0435\u043c\u044c \u0447\u0430\u0441\u043e\u0432."
    ),
}


@pytest.mark.parametrize("language", TEXTS)
def test_identify_language(adapters, language):
    label, score = adapters.run_identify_language(TEXTS[language])
    assert label == language
    assert isinstance(score, float), f"the score must be a float (not numpy.float32); got {type(score)}"
    assert 0 < score <= 1


def test_identify_language_of_several_lines(adapters):
    """Line ends are no obstacle."""
    label, score = adapters.run_identify_language(TEXTS["en"].replace(" ", "\n"))
    assert label == "en" and 0 < score <= 1
