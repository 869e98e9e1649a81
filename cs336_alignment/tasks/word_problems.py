"""Chained word problems in the world of the stories: each sentence changes a number that the next one builds on.

    Mia had 7 marbles. Tom gave Mia 5 marbles. Mia lost 3 marbles in the park. How many marbles did Mia have?
    7 + 5 = 12. 12 - 3 = 9.
    #### 9

People, places and things are those of `cs336_basics/corpora/stories.py`, so a model trained on the stories knows the
words. The chain may move on to another person ("Tom had 4 more marbles than Mia."), and a sentence about somebody
else's marbles may stand in the way. With `terse`, part of the solutions to imitate give the answer without its working:
such a teacher leaves it open whether to work a problem out, and practice can show that it pays. Two problems with the
same chain of numbers share a split, whatever the words.

Left out: fractions, more than one unit. Read next: `sorting.py`, `gsm8k.py` for the real thing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cs336_alignment.task import Example, Split
from cs336_alignment.tasks.final_answer import judge, same_number
from cs336_alignment.tasks.splits import SplitSizes, below, between, choose, draw_examples
from cs336_basics.corpora.stories import DEFAULT, StoryConfig


@dataclass(frozen=True)
class WordProblems:
    """Stories of who has how many.

    Raises:
        ValueError: steps or sizes out of range, a probability outside [0, 1].
    """

    min_steps: int = 1
    """sentences that change the number, at least"""
    max_steps: int = 2
    """and at most"""
    largest: int = 20
    """no number in a problem or on the way to its answer is larger"""
    distraction: float = 0.0
    """probability of a sentence about somebody else"""
    terse: float = 0.0
    """share of the sft split's solutions that are the answer alone"""
    sizes: SplitSizes = SplitSizes()
    """problems of each split"""
    stories: StoryConfig = field(default=DEFAULT, repr=False)
    """where names, places and things come from"""

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps <= 20:
            raise ValueError(f"need 1 <= min_steps <= max_steps <= 20; got {self.min_steps} and {self.max_steps}")
        if not 8 <= self.largest <= 10**9:
            raise ValueError(f"largest must lie in 8..10**9; got {self.largest}")
        if not 0 <= self.distraction <= 1:
            raise ValueError(f"distraction is a probability in [0, 1]; got {self.distraction}")
        if not 0 <= self.terse <= 1:
            raise ValueError(f"terse is a share in [0, 1]; got {self.terse}")

    name = "word-problems"
    stop = ()

    @property
    def max_tokens(self) -> int:
        """Enough for every worked solution, a token per byte."""
        digits = len(str(self.largest))
        return self.max_steps * (3 * digits + len(" +  = . ")) + len("\n#### ") + digits + 1

    def examples(self, split: Split, seed: int) -> list[Example]:
        """The problems of a split; see `splits.py`."""
        count = getattr(self.sizes, split, 0)
        found = draw_examples(self._draw, name=self.name, split=split, count=count, seed=seed)
        if split != "sft" or not self.terse:
            return found
        rng = random.Random(f"{self.name} terse {seed}")
        return [replace(e, response=f"#### {e.answer}") if rng.random() < self.terse else e for e in found]

    def reward(self, response: str, answer: str) -> dict[str, float]:
        """1 for the right number behind `####`."""
        return judge(response, answer, same_number)

    def _draw(self, rng: random.Random) -> tuple[str, Example]:
        story = _Story(rng, self.stories, self.largest)
        steps = between(rng, self.min_steps, self.max_steps)
        distracted = below(rng, steps) if rng.random() < self.distraction else None
        for step in range(steps):
            if step == distracted:
                story.distract()
            story.change()
        things, name = story.things, story.person
        prompt = f"{' '.join(story.sentences)} How many {things} did {name} have?\n"
        response = f"{' '.join(story.lines)}\n#### {story.count}"
        return " ".join(story.chain), Example(prompt, str(story.count), response)


class _Story:
    """What has been told so far: sentences, and the working that goes with them."""

    def __init__(self, rng: random.Random, words: StoryConfig, largest: int):
        self.rng, self.words, self.largest = rng, words, largest
        self.things = choose(rng, [noun for group in words.groups for noun in group.plural])
        self.person = choose(rng, words.names)
        self.count = between(rng, 2, largest)
        self.sentences = [f"{self.person} had {self.count} {self.things}."]
        self.chain = [str(self.count)]
        self.lines: list[str] = []
        self.mentioned = {self.person}

    def change(self) -> None:
        """One step of a kind that is possible now."""
        kinds: list[Callable[[], None]] = []
        if self.count >= 2:
            kinds += [self._lose, self._give, self._compare_fewer]
        if self.largest - self.count >= 2:
            kinds += [self._find, self._receive, self._compare_more]
        if 2 <= self.count <= self.largest // 2:
            kinds.append(self._double)
        if self.count >= 4 and self.count % 2 == 0:
            kinds.append(self._give_half)
        choose(self.rng, kinds)()

    def distract(self) -> None:
        """Somebody new, if there is anybody, has things too, which is of no importance."""
        if len(self.mentioned) == len(self.words.names):
            return
        other = self._new_person()
        self.mentioned.add(other)
        self.sentences.append(f"{other} had {between(self.rng, 2, self.largest)} {self.things}.")

    def _step(self, operation: str, number: int, sentence: str, result: int) -> None:
        self.sentences.append(sentence)
        self.lines.append(f"{self.count} {operation} {number} = {result}.")
        self.chain.append(f"{operation}{number}")
        self.count = result

    def _new_person(self) -> str:
        return choose(self.rng, [name for name in self.words.names if name not in self.mentioned])

    def _other(self) -> str:
        return choose(self.rng, [name for name in self.words.names if name != self.person])

    def _place(self) -> str:
        return f"in the {choose(self.rng, self.words.places)}"

    def _less(self) -> int:
        return between(self.rng, 2, self.count)

    def _more(self) -> int:
        return between(self.rng, 2, self.largest - self.count)

    def _lose(self) -> None:
        number = self._less()
        sentence = f"{self.person} lost {number} {self.things} {self._place()}."
        self._step("-", number, sentence, self.count - number)

    def _give(self) -> None:
        number = self._less()
        sentence = f"{self.person} gave {self._other()} {number} {self.things}."
        self._step("-", number, sentence, self.count - number)

    def _find(self) -> None:
        number = self._more()
        sentence = f"{self.person} found {number} {self.things} {self._place()}."
        self._step("+", number, sentence, self.count + number)

    def _receive(self) -> None:
        number = self._more()
        sentence = f"{self._other()} gave {self.person} {number} {self.things}."
        self._step("+", number, sentence, self.count + number)

    def _double(self) -> None:
        sentence = f"Then {self.person} got as many {self.things} again."
        self._step("*", 2, sentence, self.count * 2)

    def _give_half(self) -> None:
        sentence = f"{self.person} gave {self._other()} half of the {self.things}."
        self._step("/", 2, sentence, self.count // 2)

    def _compare_more(self) -> None:
        self._compare("+", self._more(), "more")

    def _compare_fewer(self) -> None:
        self._compare("-", self._less(), "fewer")

    def _compare(self, operation: str, number: int, word: str) -> None:
        """The chain goes on with somebody new; without anybody new left, the person finds or loses things instead."""
        if len(self.mentioned) == len(self.words.names):
            (self._find if operation == "+" else self._lose)()
            return
        other = self._new_person()
        self.mentioned.add(other)
        sentence = f"{other} had {number} {word} {self.things} than {self.person}."
        self._step(operation, number, sentence, self.count + number if operation == "+" else self.count - number)
        self.person = other
