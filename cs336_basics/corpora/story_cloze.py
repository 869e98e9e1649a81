"""Cloze questions: the beginning of a story up to a word that follows from its state.

The prompts are prefixes of freshly drawn stories, so a model trained on the corpus meets nothing new; each comes with
four candidates of one kind (places, feelings, or names and sometimes "Nobody"), of which chance finds 1/4. Wrong
candidates come first from the same story, at least one of them always, so that recognising the mentioned words is not
enough; only if the story has too few are they drawn from the vocabulary. A model answers by the candidate with the
highest probability after the prompt.

Read next: `story_events.py`, where `answer` marks the words asked for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cs336_basics.corpora.story_events import ANSWER_KINDS
from cs336_basics.corpora.story_narrators import Answer, Story, generate_story
from cs336_basics.corpora.story_vocabulary import DEFAULT, StoryConfig

NUM_CANDIDATES = 4


@dataclass(frozen=True)
class ClozeQuestion:
    """A prompt and four continuations, each a word with its leading space."""

    prompt: str
    answer: str
    candidates: tuple[str, ...]
    kind: str


def cloze_questions(rng: random.Random, *, count: int, config: StoryConfig = DEFAULT) -> list[ClozeQuestion]:
    """Draw questions, one per story, the five kinds in turn.

    Args:
        rng: source of randomness; give it another seed than the training stories had.
        count: number of questions.
        config: words and weights; give the training stories' own.

    Raises:
        ValueError: count < 1, or too few words for four candidates, or a kind never comes up with a second word of
            its kind mentioned (its families have weight 0, or the stories are too short).
    """
    if count < 1:
        raise ValueError(f"count must be at least 1; got {count}")
    for words in (config.names, config.places, config.feelings):
        if len(words) < NUM_CANDIDATES:
            raise ValueError(f"cloze questions need at least {NUM_CANDIDATES} words of each kind; got only {words}")
    return [_draw_question(rng, ANSWER_KINDS[index % len(ANSWER_KINDS)], config) for index in range(count)]


def _draw_question(rng: random.Random, kind: str, config: StoryConfig) -> ClozeQuestion:
    """Draw stories until one has an answer of this kind; take one of them."""
    for _ in range(10_000):
        story = generate_story(rng, config=config)
        answers = [answer for answer in story.answers if answer.kind == kind and _mentioned(story, answer, config)]
        if answers:
            return _question(rng, story, answers[_below(rng, len(answers))], config)
    raise ValueError(f"no {kind!r} lookup in 10,000 stories; give its families a weight above 0 in EventWeights")


def _question(rng: random.Random, story: Story, answer: Answer, config: StoryConfig) -> ClozeQuestion:
    """Cut the story before the answer and choose the wrong candidates."""
    prompt, word = story.text[: answer.position], answer.text.strip()
    mentioned = _mentioned(story, answer, config)
    unmentioned = [other for other in _vocabulary(answer.kind, prompt, config) if other not in (word, *mentioned)]
    near, far = _shuffled(rng, mentioned), _shuffled(rng, unmentioned)
    candidates = _shuffled(rng, [word, *(near + far)[: NUM_CANDIDATES - 1]])
    return ClozeQuestion(prompt, answer.text, tuple(f" {candidate}" for candidate in candidates), answer.kind)


def _mentioned(story: Story, answer: Answer, config: StoryConfig) -> list[str]:
    """Return the wrong candidates that the story has mentioned; without any, a reader could answer by copying."""
    prompt, word = story.text[: answer.position], answer.text.strip()
    spoken = {"Nobody", *re.findall(r"[A-Za-z]+", prompt)}
    return [other for other in _vocabulary(answer.kind, prompt, config) if other in spoken and other != word]


def _vocabulary(kind: str, prompt: str, config: StoryConfig) -> tuple[str, ...]:
    """Return the words that can answer a lookup."""
    if kind == "why":
        return config.feelings
    if kind == "who_holds":
        return (*config.names, "Nobody") if prompt.endswith("?") else config.names
    return config.places


def _below(rng: random.Random, bound: int) -> int:
    """Return a whole number in [0, bound), from `random()` alone: the one method with a promised sequence."""
    return int(rng.random() * bound)


def _shuffled(rng: random.Random, items: Sequence[str]) -> list[str]:
    """Return the items in random order (Fisher-Yates)."""
    shuffled = list(items)
    for last in range(len(shuffled) - 1, 0, -1):
        other = _below(rng, last + 1)
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
    return shuffled
