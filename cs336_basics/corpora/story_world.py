"""The world of a story: who is where, who holds what, who wants what and why; and who tells it.

A `Narrator` receives every decision as a list of option texts with whole-number weights; the option it takes becomes
part of the text. Sampling a story, scoring one and enumerating all differ in the narrator only (see
`story_narrators.py`).

Left out: what people know; they answer as the narrator would. Read next: `story_events.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cs336_basics.corpora.story_vocabulary import StoryConfig, ThingGroup


class Narrator(Protocol):
    """What `tell` needs: a place to put text and someone to decide."""

    def choose(self, texts: Sequence[str], weights: Sequence[int]) -> int:
        """Emit one of `texts` (weight 0: impossible) and return its index."""
        ...

    def say(self, text: str) -> None:
        """Emit text that follows from what went before."""
        ...

    def answer(self, text: str, kind: str) -> None:
        """Emit the word that answers a lookup of this kind; certain like `say`, but worth remembering."""
        ...


@dataclass(slots=True, eq=False)
class Person:
    """Someone at a place; wants at most one thing, for one feeling."""

    name: str
    girl: bool
    place: str = ""
    wanted: Thing | None = None
    feeling: str = ""

    @property
    def she(self) -> str:
        """Subject pronoun."""
        return "she" if self.girl else "he"

    @property
    def capital_she(self) -> str:
        """Subject pronoun that begins a sentence."""
        return "She" if self.girl else "He"

    @property
    def her(self) -> str:
        """Object pronoun."""
        return "her" if self.girl else "him"


@dataclass(slots=True, eq=False)
class Thing:
    """Something that lies at a place or is held by a person."""

    text: str  # "red ball"
    plural: bool
    group: ThingGroup
    lies_at: str = ""
    holder: Person | None = None

    @property
    def place(self) -> str:
        """Where it is, wherever its holder has carried it."""
        return self.holder.place if self.holder else self.lies_at

    @property
    def it(self) -> str:
        """Object pronoun."""
        return "them" if self.plural else "it"


@dataclass(slots=True)
class World:
    """The state of one story."""

    narrator: Narrator
    config: StoryConfig
    place_texts: list[str] = field(init=False)
    manner_texts: list[str] = field(init=False)
    people: list[Person] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    known: set[str] = field(default_factory=set)  # places mentioned
    focus: Person | None = None  # whom the next sentence may call "she" or "he"
    recent: tuple[object, ...] = ()  # whom and what the last sentence was about: not worth a question
    handled: Thing | None = None  # the thing the last sentence moved: not moved again at once
    walker: Person | None = None  # the person the last sentence moved

    def __post_init__(self) -> None:
        """Prepare the option texts for places."""
        self.place_texts = [f" {place}" for place in self.config.places]
        self.manner_texts = [f" {manner}." if manner else "." for manner in self.config.manners]

    def name(self, person: Person) -> str:
        """Return the subject that begins a sentence: the pronoun right after a sentence about the same person."""
        return person.capital_she if person is self.focus else person.name

    def choose_place(self, special: dict[str, int], *, manners: bool = False) -> str:
        """Choose and emit a place, perhaps a manner, and the full stop.

        `special` overrides the weight of some places.
        """
        config, known = self.config, self.known
        weights = [config.new_place_weight] * len(config.places)
        for place in known:
            weights[config.places.index(place)] = config.known_place_weight
        for place, weight in special.items():
            weights[config.places.index(place)] = weight
        place = config.places[self.narrator.choose(self.place_texts, weights)]
        known.add(place)
        if manners:
            self.narrator.choose(self.manner_texts, [1] * len(self.manner_texts))
        else:
            self.narrator.say(".")
        return place

    def say_aside(self) -> None:
        """End a reminder, perhaps with an aside."""
        asides = self.config.asides
        self.narrator.choose([f", {aside}." if aside else "." for aside in asides], [1] * len(asides))

    def tempted(self, person: Person) -> bool:
        """Whether what the person wants lies at hand: then nobody walks away."""
        wanted = person.wanted
        return (
            wanted is not None
            and wanted.lies_at == person.place
            and wanted.holder is None
            and wanted is not self.handled
        )

    def companions(self, person: Person) -> list[Person]:
        """Return the others at the same place."""
        return [other for other in self.people if other is not person and other.place == person.place]
