"""The story grammar: one program that writes stories and reads them.

`tell(narrator, config)` hands every decision to the narrator as a list of option texts with whole-number weights. No
option text is a prefix of another one of the same choice, therefore a text has at most one derivation and

    log p(text) = sum over choices of log(weight of the option chosen / sum of the weights)

exactly. A story has four parts:

    opening      One day, Mia was in the barn. Tom was in the park. Meanwhile, a red ball was in the park. And some ...
    events       drawn from those possible in the current world (`story_events.py`): first a family by its weight,
                 evenly among the family's sentences
    summing-up   In the end, Mia was in the barn and Tom was in the park. The red ball was with Mia in the barn. ...
    closing      It was a good day.

The summing-up follows from the state, so it costs no nats, but a model has to know the whole state to write it. Read
next: `story_narrators.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from cs336_basics.corpora import story_events
from cs336_basics.corpora.story_events import Option
from cs336_basics.corpora.story_vocabulary import EventWeights, StoryConfig
from cs336_basics.corpora.story_world import Narrator, Person, Thing, World

GRAMMAR_VERSION = 1
ENDING = " In the end"
_SHARE = 2520  # divisible by 1..10: a family's weight divides evenly among up to ten sentences

Family = Callable[[World], Iterator[Option]]


def tell(narrator: Narrator, config: StoryConfig) -> int:
    """Tell one story; return its number of events (the opening, the wants at the start and the end are none).

    The text ends with a line feed, which occurs nowhere else, so that what follows a story is certain.
    """
    world = World(narrator, config)
    _introduce_people(world)
    _introduce_things(world)
    _say_two(narrator, [f" {weather}." for weather in config.weathers])
    for _ in range(config.num_wants):
        _happen(world, [(1, story_events.want)])
    families = _families(config.weights)
    events = 0
    while _happen(world, families, may_end=events >= config.min_events, must_end=events == config.max_events):
        events += 1
    _sum_up(world)
    _say_two(narrator, [f" {closing}." for closing in config.closings])
    narrator.say("\n")
    return events


def _say_two(narrator: Narrator, texts: Sequence[str]) -> None:
    """Emit two different ones of the texts."""
    first = narrator.choose(texts, [1] * len(texts))
    narrator.choose(texts, [int(index != first) for index in range(len(texts))])


def _sum_up(world: World) -> None:
    """Say where everybody and everything was, in the order of their introduction; "In the end" has been said."""
    for number, person in enumerate(world.people):
        world.narrator.say(f"{' and' if number else ','} {person.name} was in the")
        world.narrator.answer(f" {person.place}", "where_person")
    world.narrator.say(".")
    for thing in world.things:
        world.narrator.say(f" {story_events.the_thing(thing, 'was', 'were', capital=True)}")
        story_events.tell_place(world, thing)
        world.narrator.say(".")


_NAMES = tuple(field.name for field in dataclasses.fields(EventWeights))


def _families(weights: EventWeights) -> list[tuple[int, Family]]:
    """Pair each weight above 0 with its family, the generator of the same name."""
    return [(getattr(weights, name), getattr(story_events, name)) for name in _NAMES if getattr(weights, name)]


def _happen(
    world: World, families: Sequence[tuple[int, Family]], *, may_end: bool = False, must_end: bool = False
) -> bool:
    """Let one sentence of the families happen; False when "In the end" came instead, by chance or because it must."""
    if must_end:
        world.narrator.say(ENDING)
        return False
    weights: list[int] = []
    options: list[Option] = []
    for weight, family in families:
        possible = list(family(world))
        if possible:
            options += possible
            weights += [weight * _SHARE // len(possible)] * len(possible)
    texts = [option[0] for option in options]
    if may_end:
        texts.append(ENDING)
        weights.append(sum(weights) // world.config.mean_extra_events)
    index = world.narrator.choose(texts, weights)
    if index == len(options):
        return False
    _, effect, arguments = options[index]
    world.focus, world.recent, world.handled, world.walker = None, (), None, None
    effect(world, *arguments)
    return True


def _introduce_people(world: World) -> None:
    """Two people at one place or two; perhaps their friend at another one."""
    narrator, config = world.narrator, world.config
    narrator.choose([f"{opening}, " for opening in config.openings], [1] * len(config.openings))
    first = _new_person(world)
    if narrator.choose((" was in the", " and "), (config.apart_weight, config.together_weight)):
        second = _new_person(world)
        narrator.say(" were in the")
        first.place = second.place = world.choose_place({})
    else:
        first.place = world.choose_place({})
        narrator.say(" ")
        _new_person_somewhere(world)
    if not narrator.choose((" Their friend ", " Meanwhile,"), (config.friend_weight, config.no_friend_weight)):
        _new_person_somewhere(world)
        narrator.say(" Meanwhile,")


def _new_person(world: World) -> Person:
    """Choose a name not yet used."""
    names, used = world.config.names, {person.name for person in world.people}
    index = world.narrator.choose(names, [int(name not in used) for name in names])
    person = Person(names[index], girl=index < len(world.config.girls))
    world.people.append(person)
    return person


def _new_person_somewhere(world: World) -> None:
    """Introduce a person at a place where nobody is."""
    taken = dict.fromkeys((other.place for other in world.people), 0)
    person = _new_person(world)
    world.narrator.say(" was in the")
    person.place = world.choose_place(taken)


def _introduce_things(world: World) -> None:
    """Say what lies where ("Meanwhile, a red ball was in the park. And some ..."); "Meanwhile," has been said."""
    texts, kinds = world.config.introductions
    weights = [1] * len(texts)
    for count in range(world.config.num_things):
        if count:
            world.narrator.say(" And")
        kind = kinds[world.narrator.choose(texts, weights)]
        weights[kind.same_noun] = [0] * (kind.same_noun.stop - kind.same_noun.start)
        world.things.append(Thing(kind.text, kind.plural, kind.group, lies_at=world.choose_place({})))
