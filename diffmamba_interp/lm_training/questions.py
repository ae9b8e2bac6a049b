"""Further questions about a story: its facts read back as events, and every question that they answer.

A story asks one question. To learn more from one context, training asks others after it: facts are looked
up among all sentences that the vocabularies can form (real bAbI stories use the same sentences), and the
answers follow from `needle.world`, by the same rule as the story's own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from diffmamba_interp.needle.stories import Story
from diffmamba_interp.needle.vocabulary import BABI, OWN, Vocabulary
from diffmamba_interp.needle.world import (
    Event,
    EventKind,
    find_gift,
    find_object,
    find_object_before,
    find_person,
    places_visited,
)
from diffmamba_interp.text.stable_random import StableRandom

Pair = tuple[str, str]
"""A question and its answer."""

Relation = tuple[str, str, str]
"""(subject, direction, other): the subject lies in that direction of the other."""

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def further_questions(story: Story, rng: StableRandom) -> list[Pair]:
    """Questions other than the story's own that its facts answer, in random order, each once.

    Raises ValueError for a story whose facts are in neither vocabulary.
    """
    words = vocabulary_of(story)
    sentences = _sentences(words.name)
    if story.task == "qa4":
        pairs = _relation_questions([_relations(words.name)[fact] for fact in story.facts], words, rng)
    else:
        events = [sentences[fact] for fact in story.facts]
        pairs = _ASK[story.task](events, words, rng)
    return rng.shuffled([pair for pair in dict(pairs).items() if pair[0] != story.question])


def vocabulary_of(story: Story) -> Vocabulary:
    """The vocabulary that all facts of the story are told in."""
    for words in (BABI, OWN):
        known = _relations(words.name) if story.task == "qa4" else _sentences(words.name)
        if all(fact in known for fact in story.facts):
            return words
    raise ValueError(f"the facts of the {story.task} story {story.facts[:3]} ... are in neither vocabulary.")


def _person_questions(events: list[Event], words: Vocabulary, rng: StableRandom) -> Iterator[Pair]:
    for who in sorted({event.who for event in events}):
        if answer := find_person(events, who):
            yield rng.pick(words.where_person).format(who=who), answer[0]


def _object_questions(events: list[Event], words: Vocabulary, rng: StableRandom) -> Iterator[Pair]:
    for thing in sorted({event.thing for event in events if event.thing}):
        if answer := find_object(events, thing):
            yield rng.pick(words.where_object).format(thing=thing), answer[0]


def _object_before_questions(events: list[Event], words: Vocabulary, rng: StableRandom) -> Iterator[Pair]:
    for thing in sorted({event.thing for event in events if event.thing}):
        for place in sorted(set(places_visited(events, thing)[1:])):
            if answer := find_object_before(events, thing, place):
                yield rng.pick(words.where_before).format(thing=thing, place=place), answer[0]


def _gift_questions(events: list[Event], words: Vocabulary, rng: StableRandom) -> Iterator[Pair]:
    forms = (
        (words.given_thing, ("who", "to"), "thing"),
        (words.giver_of, ("thing",), "who"),
        (words.giver_of_to, ("thing", "to"), "who"),
        (words.receiver_of, ("thing",), "to"),
        (words.receiver_of_from, ("who", "thing"), "to"),
    )
    for gift in (event for event in events if event.kind == "give"):
        for templates, fixed, asked in forms:
            slots = {slot: getattr(gift, slot) for slot in fixed}
            answer = find_gift(events, functools.partial(_has, slots))
            assert answer is not None
            yield rng.pick(templates).format(**slots), getattr(answer[0], asked)


def _has(slots: dict[str, str], event: Event) -> bool:
    return all(getattr(event, slot) == value for slot, value in slots.items())


_ASK = {
    "qa1": _person_questions,
    "qa2": _object_questions,
    "qa3": _object_before_questions,
    "qa5": _gift_questions,
}


def _relation_questions(facts: list[Relation], words: Vocabulary, rng: StableRandom) -> Iterator[Pair]:
    for subject, direction, other in facts:
        back = OPPOSITE[direction]
        yield rng.pick(words.what_lies).format(direction=direction, place=other), subject
        yield rng.pick(words.lies_of_what).format(direction=direction, place=subject), other
        yield rng.pick(words.what_lies).format(direction=back, place=subject), other
        yield rng.pick(words.lies_of_what).format(direction=back, place=other), subject


@functools.cache
def _sentences(name: str) -> dict[str, Event]:
    """Every sentence about an event that a vocabulary can form, with the event."""
    words = {"babi": BABI, "own": OWN}[name]
    people = sorted({*words.people, *words.givers})
    events = {}
    for who in people:
        for place in words.places:
            for template in words.move:
                events[template.format(who=who, place=place)] = Event("move", who, place=place)
        for thing in words.objects:
            handled: tuple[tuple[EventKind, tuple[str, ...]], ...] = (
                ("take", words.take),
                ("drop", words.drop),
            )
            for kind, templates in handled:
                for template in templates:
                    for there in ("", " there"):
                        events[template.format(who=who, thing=thing, there=there)] = Event(kind, who, thing=thing)
            for to in people:
                for template in words.give:
                    events[template.format(who=who, thing=thing, to=to)] = Event("give", who, thing=thing, to=to)
    return events


@functools.cache
def _relations(name: str) -> dict[str, Relation]:
    """Every sentence about a relation that a vocabulary can form, with the relation."""
    words = {"babi": BABI, "own": OWN}[name]
    return {
        template.format(place=place, direction=direction, other=other): (place, direction, other)
        for template in words.relation
        for place in words.places
        for direction in OPPOSITE
        for other in words.places
    }
