"""Narrators: the same grammar writes stories and reads them.

A `Writer` draws each option with its probability; a `Reader` follows a given text. Both add up, over the choices they
meet,

    log p(text) = sum of log(weight of the option chosen / sum of the weights)

The writer also adds up each choice's entropy, given what came before. By the chain rule both sums have the same
expectation, the entropy of a story; the second varies less from story to story. Read next: `story_cloze.py`.
"""

from __future__ import annotations

import functools
import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from cs336_basics.corpora.story_grammar import tell
from cs336_basics.corpora.story_vocabulary import DEFAULT, StoryConfig


@dataclass(frozen=True)
class Answer:
    """One word of a story that answers a lookup."""

    position: int  # of its first character (a space) in the story's text
    text: str
    kind: str


@dataclass(frozen=True)
class Story:
    """A story and what is known about it."""

    text: str
    log_probability: float  # nats, <= 0
    entropy: float  # nats, summed over the choices met; same expectation as -log_probability, less noise
    num_events: int
    answers: tuple[Answer, ...]


class Writer:
    """A narrator that draws each option with its probability.

    Only `rng.random()` is used, whose sequence Python promises to keep for a given seed across versions and platforms.
    """

    def __init__(self, rng: random.Random) -> None:
        self.pieces: list[str] = []
        self.answers: list[Answer] = []
        self.log_probability = 0.0
        self.entropy = 0.0
        self._length = 0
        self._random = rng.random

    def choose(self, texts: Sequence[str], weights: Sequence[int]) -> int:
        """Draw an option and emit it."""
        cumulative = list(accumulate(weights))
        total = cumulative[-1]
        index = bisect_right(cumulative, int(self._random() * total))
        log_total = math.log(total)
        self.log_probability += math.log(weights[index]) - log_total
        self.entropy += log_total - sum(map(_weight_log_weight, weights)) / total
        self.say(texts[index])
        return index

    def say(self, text: str) -> None:
        """Emit text."""
        self.pieces.append(text)
        self._length += len(text)

    def answer(self, text: str, kind: str) -> None:
        """Emit the answer of a lookup and remember where it stands."""
        self.answers.append(Answer(self._length, text, kind))
        self.say(text)


@functools.lru_cache(maxsize=4096)
def _weight_log_weight(weight: int) -> float:
    """Return w ln w, the summand of an entropy before normalisation."""
    return weight * math.log(weight) if weight else 0.0


class Reader:
    """A narrator that follows a given text and adds up its log-probability."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.log_probability = 0.0

    def choose(self, texts: Sequence[str], weights: Sequence[int]) -> int:
        """Find the option with which the text goes on."""
        for index, option in enumerate(texts):
            if weights[index] and self.text.startswith(option, self.position):
                self.position += len(option)
                self.log_probability += math.log(weights[index]) - math.log(sum(weights))
                return index
        raise self._refuse(f"one of {len(texts)} continuations such as {texts[0]!r}")

    def say(self, text: str) -> None:
        """Check that the text goes on with what must follow."""
        if not self.text.startswith(text, self.position):
            raise self._refuse(repr(text))
        self.position += len(text)

    def answer(self, text: str, kind: str) -> None:
        """Check an answer."""
        self.say(text)

    def finish(self) -> None:
        """Check that nothing follows the story."""
        if self.position != len(self.text):
            raise self._refuse("the end of the text")

    def _refuse(self, expected: str) -> ValueError:
        found = self.text[self.position : self.position + 30]
        return ValueError(
            f"not a story (probability 0): at character {self.position} expected {expected}, found {found!r}; "
            "pass one whole document, with its final line feed and without the end-of-text token"
        )


def generate_story(rng: random.Random, *, config: StoryConfig = DEFAULT) -> Story:
    """Draw one story.

    Args:
        rng: source of randomness; advanced by one `random()` per choice.
        config: words and weights.
    """
    writer = Writer(rng)
    num_events = tell(writer, config)
    return Story("".join(writer.pieces), writer.log_probability, writer.entropy, num_events, tuple(writer.answers))


def log_probability(text: str, *, config: StoryConfig = DEFAULT) -> float:
    """Return the exact natural logarithm of the probability of a document.

    Args:
        text: one story with its final line feed.
        config: words and weights of the distribution.

    Raises:
        ValueError: the grammar cannot produce the text (its probability is 0); names the character where it leaves it.

    Numerics: a sum of about 30 float64 logarithms; the error is below 1e-12.
    """
    reader = Reader(text)
    tell(reader, config)
    reader.finish()
    return reader.log_probability
