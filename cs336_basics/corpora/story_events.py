"""The sentences of a story: what can happen in a world, how it is told, and how it changes the world.

A family is a generator of options `(text, effect, arguments)`. The text runs up to the first word that is still open;
the effect then tells the rest and updates the world. Two sorts of families:

- state changes (go, take, put down, give, want): each tells something that could not have been known;
- lookups (where something was, who had it, why): the answer, marked with `narrator.answer`, follows from the state and
  costs no nats. Facts and lookups share a form, "Mia was in the garden", so that what a model learns of one serves for
  the other; only "Now" tells them apart. Of a carried thing the holder comes first, then the place: each word then
  needs one step, from the thing to its holder and from the holder to the place.

To keep texts unambiguous every option of one moment must differ from every other one before either ends; "Mia took the
ball." and "Mia took the ball because" do, "I am hungry" said by either of two people would not (hence "Tom, why do you
..."). Read next: `story_grammar.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from cs336_basics.corpora.story_world import Person, Thing, World

Option = tuple[str, Callable[..., None], tuple[Any, ...]]
ANSWER_KINDS = ("where_thing", "where_carried", "who_holds", "where_person", "why")


# State changes.


def go(world: World) -> Iterator[Option]:
    """Mia went to the garden. Or, with one of the manners: Mia went to the garden slowly."""
    for person in world.people:
        if person is not world.walker and not world.tempted(person):
            yield f" {person.name} went to the", _went, (person,)


def _went(world: World, person: Person) -> None:
    special = {}
    if person.wanted and person.wanted.holder is not person:
        special[person.wanted.place] = world.config.wanted_place_weight
    special[person.place] = 0
    person.place = world.choose_place(special, manners=True)
    world.focus = world.walker = person
    world.recent = (person,)


def go_together(world: World) -> Iterator[Option]:
    """Mia and Tom went to the garden (slowly)."""
    free = [person for person in world.people if person is not world.walker and not world.tempted(person)]
    for first, second in itertools.combinations(free, 2):
        if first.place == second.place:
            yield f" {first.name} and {second.name} went to the", _went_together, (first, second)


def _went_together(world: World, first: Person, second: Person) -> None:
    first.place = second.place = world.choose_place({first.place: 0}, manners=True)
    world.recent = (first, second)


def take(world: World) -> Iterator[Option]:
    """Mia took the red ball. Or with a manner, or the reason if it is what she wants: ... because she was bored."""
    for person, thing in _takeable(world):
        yield f" {world.name(person)} took the {thing.text}", _took, (person, thing)


def _takeable(world: World) -> Iterator[tuple[Person, Thing]]:
    for thing in world.things:
        if thing.holder is None and thing is not world.handled:
            for person in world.people:
                if person.place == thing.lies_at:
                    yield person, thing


def _took(world: World, person: Person, thing: Thing) -> None:
    texts, weights = world.manner_texts, [1] * len(world.manner_texts)
    if thing is person.wanted:
        texts, weights = [*texts, f" because {person.she} was"], [*weights, len(weights)]
    if world.narrator.choose(texts, weights) == len(world.manner_texts):
        world.narrator.answer(f" {person.feeling}", "why")
        world.narrator.say(".")
    thing.holder = person
    _moved(world, person, thing)


def _moved(world: World, person: Person, thing: Thing) -> None:
    """Remember that this person has just handled this thing."""
    world.focus, world.handled, world.recent = person, thing, (person, thing)


def put_down(world: World) -> Iterator[Option]:
    """Mia put down the red ball."""
    for holder, thing in _held(world):
        yield f" {world.name(holder)} put down the {thing.text}", _put_down, (holder, thing)


def _held(world: World) -> Iterator[tuple[Person, Thing]]:
    """Yield what people hold and may part with: not what they want for themselves, nor what they have just got."""
    for thing in world.things:
        if thing.holder is not None and thing.holder.wanted is not thing and thing is not world.handled:
            yield thing.holder, thing


def _put_down(world: World, person: Person, thing: Thing) -> None:
    world.narrator.choose(world.manner_texts, [1] * len(world.manner_texts))
    _put(world, person, thing)


def _put(world: World, person: Person, thing: Thing) -> None:
    thing.holder, thing.lies_at = None, person.place
    _moved(world, person, thing)


def leave(world: World) -> Iterator[Option]:
    """Mia left the red ball in the garden (a state change, but the place was known)."""
    for holder, thing in _held(world):
        yield f" {world.name(holder)} left the {thing.text} in the", _left, (holder, thing)


def _left(world: World, person: Person, thing: Thing) -> None:
    world.narrator.answer(f" {person.place}", "where_person")
    world.narrator.say(".")
    _put(world, person, thing)


def give(world: World) -> Iterator[Option]:
    """Mia gave the red ball to Tom."""
    for holder, thing in _held(world):
        for other in world.companions(holder):
            yield f" {world.name(holder)} gave the {thing.text} to {other.name}.", _gave, (holder, other, thing)


def _gave(world: World, giver: Person, other: Person, thing: Thing) -> None:
    thing.holder = other
    _moved(world, giver, thing)
    world.recent = (giver, other, thing)
    _keep_focus(world, giver, other)


def _keep_focus(world: World, person: Person, other: Person) -> None:
    """A pronoun may follow only where it cannot mean the other person."""
    world.focus = person if person.girl != other.girl else None


def want(world: World) -> Iterator[Option]:
    """Tom was hungry and wanted the small apple."""
    for person in world.people:
        if person.wanted is None or person.wanted.holder is person:
            things = [thing for thing in world.things if thing.holder is not person and thing is not world.handled]
            if things:
                yield f" {world.name(person)} was", _wanted, (person, things)


def _wanted(world: World, person: Person, things: list[Thing]) -> None:
    others = {other.feeling for other in world.people if other is not person}
    wants = [(feeling, thing) for thing in things for feeling in thing.group.feelings]
    wants = [(feeling, thing) for feeling, thing in wants if feeling not in others] or wants
    texts = [f" {feeling} and wanted the {thing.text}." for feeling, thing in wants]
    person.feeling, person.wanted = wants[world.narrator.choose(texts, [1] * len(texts))]
    world.focus, world.recent = person, (person,)


# Lookups on the way: something happens, and a part of the sentence was known before.


def give_because(world: World) -> Iterator[Option]:
    """Mia gave the small apple to Tom because he was hungry."""
    for holder, thing in _held(world):
        for other in world.companions(holder):
            if thing is other.wanted:
                text = f" {world.name(holder)} gave the {thing.text} to {other.name} because {other.she} was"
                yield text, _gave_because, (holder, other, thing)


def _gave_because(world: World, giver: Person, other: Person, thing: Thing) -> None:
    world.narrator.answer(f" {other.feeling}", "why")
    world.narrator.say(".")
    _gave(world, giver, other, thing)


def find_thing(world: World) -> Iterator[Option]:
    """Tom looked for the red ball. He found it in the garden. If it is held: He found it with Mia in the garden."""
    for person in world.people:
        if not world.tempted(person):
            things = [thing for thing in world.things if thing.place != person.place and thing not in world.recent]
            if things:
                yield f" {world.name(person)} looked for the", _found_thing, (person, things)


def _found_thing(world: World, person: Person, things: list[Thing]) -> None:
    texts = [f" {thing.text}. {person.capital_she} found {thing.it}" for thing in things]
    thing = things[world.narrator.choose(texts, [1] * len(texts))]
    tell_place(world, thing)
    world.narrator.say(".")
    _followed(world, person, thing.place)
    world.recent = (person, thing)
    if thing.holder is not None:
        _keep_focus(world, person, thing.holder)


def tell_place(world: World, thing: Thing) -> None:
    """Continue with " in the garden" or, if the thing is held, " with Mia in the garden"."""
    if thing.holder is None:
        world.narrator.say(" in the")
        world.narrator.answer(f" {thing.place}", "where_thing")
    else:
        world.narrator.say(" with")
        world.narrator.answer(f" {thing.holder.name}", "who_holds")
        world.narrator.say(" in the")
        world.narrator.answer(f" {thing.place}", "where_carried")


def _followed(world: World, person: Person, place: str) -> None:
    person.place = place
    world.focus = world.walker = person


def find_person(world: World) -> Iterator[Option]:
    """Tom looked for Mia. He found her in the garden."""
    for person in world.people:
        for other in world.people:
            if other.place != person.place and other not in world.recent:
                text = f" {world.name(person)} looked for {other.name}. {person.capital_she} found {other.her} in the"
                yield text, _found_person, (person, other)


def _found_person(world: World, person: Person, other: Person) -> None:
    world.narrator.answer(f" {other.place}", "where_person")
    world.narrator.say(".")
    _followed(world, person, other.place)
    world.recent = (person, other)
    _keep_focus(world, person, other)


# Lookups by the narrator.


def where_thing(world: World) -> Iterator[Option]:
    """Now the red ball was in the garden. Of several things: Now the socks were in the shed."""
    for thing in world.things:
        if thing.holder is None and thing not in world.recent:
            yield f" Now {the_thing(thing, 'was', 'were')}", _was_somewhere, (thing,)


def where_carried(world: World) -> Iterator[Option]:
    """Now the red ball was with Mia in the garden."""
    for thing in world.things:
        if thing.holder is not None and thing not in world.recent:
            yield f" Now {the_thing(thing, 'was', 'were')}", _was_somewhere, (thing,)


def the_thing(thing: Thing, singular: str, plural: str, *, capital: bool = False) -> str:
    """Return the thing and the verb that agrees with it, such as "the red ball was"."""
    return f"{'The' if capital else 'the'} {thing.text} {plural if thing.plural else singular}"


def _was_somewhere(world: World, thing: Thing) -> None:
    tell_place(world, thing)
    world.say_aside()
    world.recent = (thing,)


def where_person(world: World) -> Iterator[Option]:
    """Now Mia was in the garden."""
    for person in world.people:
        if person not in world.recent:
            yield f" Now {person.name} was in the", _person_was_somewhere, (person,)


def _person_was_somewhere(world: World, person: Person) -> None:
    world.narrator.answer(f" {person.place}", "where_person")
    world.say_aside()
    world.focus, world.recent = person, (person,)


def who_holds(world: World) -> Iterator[Option]:
    """Who had the red ball? Mia had it."""
    for thing in world.things:
        if thing.holder is not None and thing not in world.recent:
            yield f" Who had the {thing.text}?", _somebody_had, (thing, thing.holder.name)


def nobody_holds(world: World) -> Iterator[Option]:
    """Who had the red ball? Nobody had it."""
    for thing in world.things:
        if thing.holder is None and thing not in world.recent:
            yield f" Who had the {thing.text}?", _somebody_had, (thing, "Nobody")


def _somebody_had(world: World, thing: Thing, name: str) -> None:
    world.narrator.answer(f" {name}", "who_holds")
    world.narrator.say(f" had {thing.it}")
    world.say_aside()
    world.recent = (thing,)


def why(world: World) -> Iterator[Option]:
    """Why did Tom want the small apple? He was hungry."""
    for person in world.people:
        if person.wanted and person not in world.recent:
            text = f" Why did {person.name} want the {person.wanted.text}? {person.capital_she} was"
            yield text, _wanted_because, (person,)


def _wanted_because(world: World, person: Person) -> None:
    world.narrator.answer(f" {person.feeling}", "why")
    world.say_aside()
    world.focus, world.recent = person, (person,)


# Lookups that people ask each other; only those at one place can talk.


def ask_where_thing(world: World) -> Iterator[Option]:
    """ "Where is the red ball?" asked Tom. "The red ball is (with Ann) in the garden," said Mia."""
    for asker in world.people:
        if world.companions(asker):
            for thing in world.things:
                if thing.place != asker.place and thing not in world.recent:
                    are, reply = "are" if thing.plural else "is", the_thing(thing, "is", "are", capital=True)
                    text = f' "Where {are} the {thing.text}?" asked {asker.name}. "{reply}'
                    yield text, _replied_place, (asker, thing)


def _replied_place(world: World, asker: Person, thing: Thing) -> None:
    tell_place(world, thing)
    _said(world, asker)
    world.recent = (thing,)


def _said(world: World, asker: Person) -> None:
    """Close the quotation with one of those who heard the question."""
    speakers = world.companions(asker)
    world.narrator.choose([f'," said {speaker.name}.' for speaker in speakers], [1] * len(speakers))


def ask_where_person(world: World) -> Iterator[Option]:
    """ "Where is Ann?" asked Tom. "Ann is in the garden," said Mia."""
    for asker in world.people:
        if world.companions(asker):
            for person in world.people:
                if person.place != asker.place and person not in world.recent:
                    text = f' "Where is {person.name}?" asked {asker.name}. "{person.name} is in the'
                    yield text, _replied_person, (asker, person)


def _replied_person(world: World, asker: Person, person: Person) -> None:
    world.narrator.answer(f" {person.place}", "where_person")
    _said(world, asker)
    world.recent = (person,)


def ask_who_holds(world: World) -> Iterator[Option]:
    """ "Who has the red ball?" asked Tom. "I have it," said Mia. Of someone elsewhere: "It is with Ann," said Mia."""
    for thing in world.things:
        if thing.holder is not None and thing not in world.recent:
            for asker in world.people:
                if asker is not thing.holder and world.companions(asker):
                    here = asker.place == thing.holder.place
                    reply = f"I have {thing.it}" if here else "They are with" if thing.plural else "It is with"
                    text = f' "Who has the {thing.text}?" asked {asker.name}. "{reply}'
                    yield text, _replied_holder, (asker, thing, thing.holder)


def _replied_holder(world: World, asker: Person, thing: Thing, holder: Person) -> None:
    if asker.place == holder.place:
        world.narrator.say('," said')
        world.narrator.answer(f" {holder.name}", "who_holds")
        world.narrator.say(".")
    else:
        world.narrator.answer(f" {holder.name}", "who_holds")
        _said(world, asker)
    world.recent = (thing,)


def ask_why(world: World) -> Iterator[Option]:
    """ "Tom, why do you want the small apple?" asked Mia. "I am hungry," said Tom."""
    for person in world.people:
        if person.wanted and person.wanted.holder is not person and person not in world.recent:
            for asker in world.companions(person):
                text = f' "{person.name}, why do you want the {person.wanted.text}?" asked {asker.name}. "I am'
                yield text, _replied_why, (person,)


def _replied_why(world: World, person: Person) -> None:
    world.narrator.answer(f" {person.feeling}", "why")
    world.narrator.say(f'," said {person.name}.')
    world.focus, world.recent = person, (person,)
