"""Problems quality_classifier and gopher_quality_filters."""

from __future__ import annotations

import pytest

CHROME = (
    "Main page\nLog out\nMy profile\nWho is online: 3 guests\nReply\nQuote\nTop\nPosts: 311\nJoined: Nov 2006\n"
    "Page 2 of 9\nNext\nCopyright 2008. All rights reserved\nFAQ | Search | Members | Register | Login"
)
ESSAY = (
    "Glass is made by melting sand together with soda and lime. The soda lowers the melting point, while the lime "
    "makes the product durable. Window panes were blown and cut by hand until the nineteenth century; since 1959 most "
    "have been produced by floating the molten glass on a bath of tin, which gives two even surfaces.\n\n"
    "Because glass has no regular crystal structure, it does not melt at a definite temperature. It softens over a "
    "wide range instead, and this property allows it to be blown, drawn and pressed into many forms."
)
WORDS = "The ferry of the town leaves at seven and it has to be on time with all of the mail that people have sent"


@pytest.mark.parametrize(("text", "label"), [(CHROME, "cc"), (ESSAY, "wiki")])
def test_classify_quality(adapters, text, label):
    predicted, score = adapters.run_classify_quality(text)
    assert predicted == label
    assert isinstance(score, float), f"the score must be a float; got {type(score)}"
    assert 0 < score <= 1


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        (" ".join([WORDS] * 10), True),
        (" ".join(WORDS.split()[:12]), False),
        (" ".join([WORDS] * 2500), True),  # 57,500 words
        (" ".join([WORDS] * 25_000), False),  # 575,000
        (" ".join(["be to"] * 100), False),  # words of 2 letters
        (" ".join(["be that"] * 100), True),  # of 3 on average, the bound itself
        (" ".join(["characteristics the"] * 100), True),  # of 9
        (" ".join(["characteristically"] * 100), False),  # of 18
        ("\n".join([WORDS] * 30 + [WORDS + "..."] * 70), False),
        ("\n".join([WORDS] * 30 + [WORDS + "\u2026"] * 70), False),
        ("\n".join([WORDS] * 90 + [WORDS + "..."] * 10), True),
        (" ".join(["1234 of"] * 50), False),  # half of the words have a letter
        (" ".join(["1234 of the sea and of the wind"] * 10), True),
    ],
)
def test_gopher(adapters, text, keep):
    """Number of words, mean length, ellipses, words with letters: each beyond its bound alone."""
    assert adapters.run_gopher_quality_filter(text) is keep
