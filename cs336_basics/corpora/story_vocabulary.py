"""The words and weights of the story corpus: who, what, where, why, and how often each kind of sentence comes.

A `StoryConfig` fixes a probability distribution over texts completely: the grammar in `story_grammar.py` reads nothing
else. All weights are whole numbers, so that every probability is a ratio of integers and the same on every machine.

Groups tie things to adjectives and feelings: an apple can be sweet but not soft, and one wants it because one is
hungry, thirsty or sad. Each group allows several feelings, so the noun alone does not give away why someone wants a
thing.

Manners ("slowly") and closings ("It was late") mean nothing to the state: they vary the text at a known price in nats.

Left out: mass nouns ("some milk"), places that need another preposition than "in the". Read next: `story_world.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ThingGroup:
    """Things that share adjectives and the feelings for which a person wants them."""

    adjectives: tuple[str, ...]
    feelings: tuple[str, ...]
    singular: tuple[str, ...]
    plural: tuple[str, ...]


@dataclass(frozen=True)
class ThingKind:
    """An adjective and a noun, such as "red ball"."""

    text: str
    plural: bool
    group: ThingGroup
    same_noun: slice  # the range of `StoryConfig.introductions` with this noun: a story has each noun once


@dataclass(frozen=True)
class EventWeights:
    """How often each family of sentences is chosen, relative to the families possible at that moment; 0 removes it."""

    # State changes: each carries new information.
    go: int = 12
    go_together: int = 1
    take: int = 16
    put_down: int = 7
    leave: int = 3
    give: int = 14
    want: int = 2
    # Lookups: their answers follow from what was told before.
    give_because: int = 30
    find_thing: int = 1
    find_person: int = 1
    where_thing: int = 10
    where_carried: int = 14
    where_person: int = 12
    who_holds: int = 6
    nobody_holds: int = 1
    why: int = 3
    ask_where_thing: int = 2
    ask_where_person: int = 2
    ask_who_holds: int = 9
    ask_why: int = 4


@dataclass(frozen=True)
class StoryConfig:
    """Everything that fixes the distribution of stories; hashable, so that tables derived from it are built once.

    Raises:
        ValueError: a word that is not plain ASCII letters, a word used twice, a name or a place that is a prefix of
            another (the text would no longer tell which was meant), a name that means something else, a group without
            adjectives, feelings or nouns, too few names or places, a count or weight out of range.
    """

    girls: tuple[str, ...]
    boys: tuple[str, ...]
    places: tuple[str, ...]
    groups: tuple[ThingGroup, ...]
    openings: tuple[str, ...] = (
        *("One day", "One morning", "One evening", "Once", "Long ago", "Last summer", "Last week", "On a sunny day"),
        *("On a rainy day", "On a windy day", "At noon", "At dawn"),
    )
    weathers: tuple[str, ...] = (  # two of them stand before the events
        *("It was warm", "It was cold", "The sky was blue", "The sky was grey", "The sun shone", "A bird sang"),
        *("The wind blew", "A dog barked", "Bells rang", "Snow fell", "Leaves fell", "All was quiet"),
    )
    # How somebody went, took or put down; "" stands for no word. Each as likely.
    manners: tuple[str, ...] = ("", "slowly", "quickly", "happily", "quietly", "early", "again", "singing", "at once")
    # What the narrator adds to a reminder.
    asides: tuple[str, ...] = ("", "of course", "as before", "I think", "you see", "they say", "if I remember")
    closings: tuple[str, ...] = (  # two of them end a story
        *("It was a good day", "Soon it was dark", "Then everybody slept", "Everybody was happy", "Nobody was sad"),
        *("The sun went down", "The stars came out", "That was all", "It was late", "Then it rained"),
    )
    num_things: int = 2  # introduced at the start of each story
    num_wants: int = 1  # people who want something from the start
    together_weight: int = 1  # the first two people start at one place ...
    apart_weight: int = 2  # ... or at two
    friend_weight: int = 1  # a third person comes in ...
    no_friend_weight: int = 3  # ... or does not
    new_place_weight: int = 1  # a place not mentioned so far, when someone goes or something lies somewhere
    known_place_weight: int = 1  # a place mentioned before
    wanted_place_weight: int = 6  # the place where the thing is that the person wants
    min_events: int = 4
    max_events: int = 14
    mean_extra_events: int = 2  # from min_events on, the story ends with probability 1 / (mean_extra_events + 1)
    weights: EventWeights = EventWeights()

    def __post_init__(self) -> None:
        """Check words and numbers."""
        _check_words(self)
        _check_numbers(self)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, girls first."""
        return self.girls + self.boys

    @property
    def feelings(self) -> tuple[str, ...]:
        """All feelings, each once, in the order of the groups."""
        return tuple(dict.fromkeys(feeling for group in self.groups for feeling in group.feelings))

    @functools.cached_property
    def introductions(self) -> tuple[list[str], list[ThingKind]]:
        """The texts that introduce things (" a red ball was in the"), and what each introduces."""
        texts: list[str] = []
        kinds: list[ThingKind] = []
        for group in self.groups:
            for noun in group.singular + group.plural:
                same_noun = slice(len(texts), len(texts) + len(group.adjectives))
                for adjective in group.adjectives:
                    plural = noun in group.plural
                    article = "some" if plural else "an" if adjective[0] in "aeiou" else "a"
                    texts.append(f" {article} {adjective} {noun} {'were' if plural else 'was'} in the")
                    kinds.append(ThingKind(f"{adjective} {noun}", noun in group.plural, group, same_noun))
        return texts, kinds

    def fingerprint(self) -> str:
        """Return the SHA-256 of the configuration; equal ones mean equal distributions (of one grammar version)."""
        canonical = json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


_RESERVED = frozenset(("He", "She", "Nobody"))


def _check_words(config: StoryConfig) -> None:
    """Names, openings and closings are capitalised, other words are not; none occurs twice or could be misread."""
    nouns = tuple(noun for group in config.groups for noun in group.singular + group.plural)
    adjectives = tuple(dict.fromkeys(word for group in config.groups for word in group.adjectives))
    for field, words, pattern in (
        ("girls and boys", config.names, r"[A-Z][a-z]+"),
        ("places", config.places, r"[a-z]+"),
        ("groups (things)", nouns, r"[a-z]+"),
        ("groups (adjectives)", adjectives, r"[a-z]+"),
        ("groups (feelings)", config.feelings, r"[a-z]+"),
        ("openings", config.openings, r"[A-Z][a-z]+( [a-z]+)*"),
        ("weathers", config.weathers, r"[A-Z][a-z]*( [a-z]+)*"),
        ("manners", config.manners, r"([a-z]+( [a-z]+)*)?"),
        ("asides", config.asides, r"([A-Za-z]+( [A-Za-z]+)*)?"),
        ("closings", config.closings, r"[A-Z][a-z]+( [a-z]+)*"),
    ):
        if not words:
            raise ValueError(f"StoryConfig.{field} is empty; give at least one word")
        for word in words:
            if not re.fullmatch(pattern, word):
                raise ValueError(f"StoryConfig.{field}: {word!r} does not match {pattern}; use plain ASCII words")
        ordered = sorted(words)
        open_ended = field in ("girls and boys", "places", "groups (things)")
        for first, second in zip(ordered, ordered[1:], strict=False):
            if second.startswith(first) and (first == second or open_ended):
                raise ValueError(
                    f"StoryConfig.{field}: {first!r} begins or repeats {second!r}; the text would be ambiguous"
                )
    reserved = sorted(_RESERVED.intersection(config.names))
    if reserved:
        raise ValueError(f"StoryConfig.girls and boys: {reserved} have a meaning of their own; choose other names")
    for group in config.groups:
        for words in (group.adjectives, group.feelings, group.singular + group.plural):
            if not words or len(set(words)) < len(words):
                raise ValueError(f"StoryConfig.groups: a group needs words of each kind, each once; got {words}")
    classes = (config.names, config.places, nouns, adjectives, config.feelings)
    everything = [word for words in classes for word in words]
    shared = sorted({word for word in everything if everything.count(word) > 1})
    if shared:
        raise ValueError(f"StoryConfig: {shared} stand in two kinds of words; each word needs one meaning")


def _check_numbers(config: StoryConfig) -> None:
    """Counts and weights must let every story begin, go on and end."""
    nouns = sum(len(group.singular) + len(group.plural) for group in config.groups)
    people = 3 if config.friend_weight else 2
    if len(config.names) < people or len(config.places) < people:
        counts = (len(config.names), len(config.places))
        raise ValueError(f"StoryConfig needs at least {people} names and {people} places; got {counts}")
    if config.num_wants not in (0, 1, 2):
        raise ValueError(
            f"StoryConfig.num_wants must be 0, 1 or 2 (there may be two people only); got {config.num_wants}"
        )
    if not 1 <= config.num_things <= nouns:
        raise ValueError(
            f"StoryConfig.num_things must be from 1 to the number of nouns, {nouns}; got {config.num_things}"
        )
    if not 1 <= config.min_events <= config.max_events:
        raise ValueError(
            f"StoryConfig needs 1 <= min_events <= max_events; got {config.min_events} and {config.max_events}"
        )
    positive = ("new_place_weight", "known_place_weight", "wanted_place_weight", "mean_extra_events")
    for field in positive:
        if getattr(config, field) < 1:
            raise ValueError(f"StoryConfig.{field} must be at least 1; got {getattr(config, field)}")
    for first, second in (("together_weight", "apart_weight"), ("friend_weight", "no_friend_weight")):
        pair = (getattr(config, first), getattr(config, second))
        if min(pair) < 0 or max(pair) == 0:
            raise ValueError(f"StoryConfig.{first} and {second} must not be negative, nor both 0; got {pair}")
    for field, weight in dataclasses.asdict(config.weights).items():
        if weight < 0 or (field in ("go", "take") and weight == 0):
            raise ValueError(f"EventWeights.{field} must be >= 0, and > 0 for go and take; got {weight}")


DEFAULT = StoryConfig(
    girls=("Mia", "Lily", "Anna", "Sue", "Emma", "Rose"),
    boys=("Tom", "Ben", "Max", "Sam", "Leo", "Jack"),
    places=(
        *("garden", "kitchen", "barn", "park", "forest", "attic"),
        *("cellar", "shed", "library", "orchard"),
    ),
    groups=(
        ThingGroup(
            adjectives=("big", "small", "fresh", "sweet", "enormous"),
            feelings=("hungry", "thirsty", "sad"),
            singular=("apple", "pear", "bun", "sandwich", "melon"),
            plural=("grapes", "berries", "cookies"),
        ),
        ThingGroup(
            adjectives=("red", "blue", "green", "yellow", "soft", "old"),
            feelings=("cold", "wet", "tired"),
            singular=("blanket", "scarf", "coat", "sweater", "towel"),
            plural=("mittens", "socks", "slippers"),
        ),
        ThingGroup(
            adjectives=("red", "blue", "green", "yellow", "orange", "new"),
            feelings=("bored", "lonely", "sad"),
            singular=("ball", "kite", "drum", "puppet", "robot", "train"),
            plural=("marbles", "blocks", "puzzles"),
        ),
        ThingGroup(
            adjectives=("big", "small", "bright", "old"),
            feelings=("scared", "curious", "lonely"),
            singular=("lamp", "lantern", "torch", "mirror"),
            plural=("candles", "sparklers"),
        ),
        ThingGroup(
            adjectives=("thin", "thick", "old", "new"),
            feelings=("curious", "bored", "tired"),
            singular=("book", "map", "letter", "diary"),
            plural=("comics", "stamps", "photos"),
        ),
    ),
)
