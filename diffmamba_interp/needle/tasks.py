"""Five retrieval tasks after the kinds of bAbI qa1-qa5, without end and from a seed.

    qa1  where is a person                            one supporting fact
    qa2  where is an object                           two: who touched it last, where they went
    qa3  where was an object before it came to P      three: the touch, and both moves
    qa4  what lies north (south, east, west) of P     one, a two-argument relation
    qa5  who gave what to whom                        one, a three-argument relation

Story `index` of a seed depends on nothing but its arguments, so any part of the sequence can be made again.
Every answer follows from the facts alone and is unique under one rule: a question asks about the latest
event that fits it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence, Set

from diffmamba_interp.argument_checks import Natural, checked
from diffmamba_interp.needle.stories import TASKS, Story
from diffmamba_interp.needle.vocabulary import Vocabulary, VocabularyName, vocabulary_named
from diffmamba_interp.needle.world import (
    Event,
    EventKind,
    World,
    find_gift,
    find_object,
    find_object_before,
    find_person,
    places_visited,
)
from diffmamba_interp.text.documents import SPLIT_SHARES, Split
from diffmamba_interp.text.stable_random import StableRandom

MAX_FACTS = 10_000
"""Facts of a story at most: its world is simulated fact by fact."""

# Fewest and most facts by default, about the range that holds 95 of 100 bAbI stories.
DEFAULT_N_FACTS = {"qa1": (2, 10), "qa2": (2, 36), "qa3": (4, 110), "qa5": (2, 40)}
RELATION_N_FACTS = {"babi": (2, 2), "own": (2, 4)}
# bAbI has more short stories than long ones; its quartiles are met by a draw of about this power.
_LENGTH_POWER = {"qa1": 1.0, "qa2": 1.5, "qa3": 1.5, "qa5": 1.5}

_WEIGHTS: dict[str, dict[EventKind, float]] = {
    "qa1": {},
    "qa2": {"take": 0.35, "drop": 0.17},
    "qa3": {"take": 0.35, "drop": 0.19},
    "qa5": {"give": 0.35, "take": 0.25, "drop": 0.10},
}
# How often bAbI adds " there" to an event of taking or dropping.
_SAYS_THERE = {"qa2": (1.0, 0.2), "qa3": (0.2, 0.2), "qa5": (1.0, 0.2)}
# A question about the latest station or gift is as frequent as in bAbI, the rest reach further back.
_ASKS_LATEST = 0.75

_DIRECTIONS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
# The share of bAbI-like relation questions whose answer is the subject of the supporting fact: bAbI has 1.
_ANSWER_IS_SUBJECT = 0.75

# Draws in a row without a new story after which a split counts as empty, over the share of the split.
_PATIENCE = 500


@checked
def generate_story(
    task: str,
    *,
    seed: int,
    index: Natural,
    vocabulary: str = "babi",
    n_facts: tuple[int, int] | None = None,
) -> Story:
    """Story number `index` of a seed.

    task: "qa1" to "qa5".
    vocabulary: "babi" (the words and forms of bAbI), "own" (others) or "mixed" (half of each).
    n_facts: fewest and most facts; `None` takes a range like bAbI's. A story goes on past the number that
        was drawn until its question can be answered.
    Raises ValueError for an unknown task or vocabulary, or a range that no story fits.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: it must be one of {', '.join(TASKS)}.")
    rng = StableRandom("story", task, vocabulary, n_facts, seed, index)
    words = vocabulary_named(vocabulary, rng).cast(rng)
    if task == "qa4":
        return _relation_story(words, n_facts or RELATION_N_FACTS[words.name], rng)
    n_wanted = _draw_n_facts(n_facts or DEFAULT_N_FACTS[task], _LENGTH_POWER[task], rng)
    people = words.givers if task == "qa5" else words.people
    world = World(people, words.places, words.objects, _WEIGHTS[task], rng)
    events = [world.step() for _ in range(n_wanted)]
    while (asked := _ASK[task](events, words, rng)) is None:
        events.append(world.step())
    question, answer, supporting = asked
    labels = (*people, *words.objects) if task == "qa5" else words.places
    return Story(
        task=task,
        facts=tuple(_tell(event, task, words, rng) for event in events),
        question=question,
        answer=answer,
        labels=tuple(sorted(labels)),
        supporting=supporting,
        source=f"generated/{words.name}",
    )


@checked
def iterate_stories(
    task: str,
    *,
    seed: int = 0,
    split: Split | None = None,
    vocabulary: VocabularyName = "babi",
    n_facts: tuple[int, int] | None = None,
    exclude: Set[str] = frozenset(),
    distinct: bool = False,
    start: Natural = 0,
) -> Iterator[Story]:
    """Stories of one task without end, from number `start` of the seed on.

    split: only those whose hash falls into it; `None` for all.
    exclude: story hashes to leave out, such as those of held-out bAbI stories.
    distinct: no story twice.
    Raises ValueError when a split seems to hold no further story (possible with `distinct`, in qa4).
    """
    patience = int(_PATIENCE / (SPLIT_SHARES[split] if split else 1.0))
    seen: set[str] = set()
    misses = 0
    for index in itertools.count(start):
        story = generate_story(task, seed=seed, index=index, vocabulary=vocabulary, n_facts=n_facts)
        wrong_split = split is not None and story.split != split
        if wrong_split or story.hash in exclude or story.hash in seen:
            misses += 1
            if misses > patience:
                raise ValueError(
                    f"{task} with vocabulary {vocabulary!r} and n_facts {n_facts} gave no new story of split "
                    f"{split!r} in {misses} draws, after {len(seen)} different ones: ask for fewer, allow "
                    "more facts, or take vocabulary 'own'."
                )
            continue
        misses = 0
        if distinct:
            seen.add(story.hash)
        yield story


@checked
def generate_stories(
    task: str,
    *,
    n: Natural,
    seed: int = 0,
    split: Split | None = None,
    vocabulary: VocabularyName = "babi",
    n_facts: tuple[int, int] | None = None,
    exclude: Set[str] = frozenset(),
) -> list[Story]:
    """The first `n` different stories of `iterate_stories`."""
    stories = iterate_stories(
        task, seed=seed, split=split, vocabulary=vocabulary, n_facts=n_facts, exclude=exclude, distinct=True
    )
    return list(itertools.islice(stories, n))


def _draw_n_facts(n_facts: tuple[int, int], power: float, rng: StableRandom) -> int:
    fewest, most = n_facts
    if not 1 <= fewest <= most <= MAX_FACTS:
        raise ValueError(f"n_facts is {n_facts}: give (fewest, most) with 1 <= fewest <= most <= {MAX_FACTS:,}.")
    return fewest + int((most - fewest + 1) * rng.uniform() ** power)


def _tell(event: Event, task: str, words: Vocabulary, rng: StableRandom) -> str:
    templates = {"move": words.move, "take": words.take, "drop": words.drop, "give": words.give}[event.kind]
    there = ""
    if event.kind in ("take", "drop"):
        take, drop = _SAYS_THERE[task]
        there = " there" if rng.uniform() < (take if event.kind == "take" else drop) else ""
    template = rng.pick(templates)
    return template.format(who=event.who, to=event.to, thing=event.thing, place=event.place, there=there)


Asked = tuple[str, str, tuple[int, ...]]


def _ask_person(events: Sequence[Event], words: Vocabulary, rng: StableRandom) -> Asked | None:
    known = sorted({event.who for event in events})
    if not known:
        return None
    who = rng.pick(known)
    finding = find_person(events, who)
    return finding and (rng.pick(words.where_person).format(who=who), *finding)


def _ask_object(events: Sequence[Event], words: Vocabulary, rng: StableRandom) -> Asked | None:
    findings = {thing: find_object(events, thing) for thing in words.objects}
    known = [(thing, finding) for thing, finding in findings.items() if finding is not None]
    if not known:
        return None
    thing, finding = rng.pick(known)
    return rng.pick(words.where_object).format(thing=thing), *finding


def _ask_object_before(events: Sequence[Event], words: Vocabulary, rng: StableRandom) -> Asked | None:
    visited = {thing: places_visited(events, thing) for thing in words.objects}
    known = [(thing, places) for thing, places in visited.items() if len(places) > 1]
    if not known:
        return None
    thing, places = rng.pick(known)
    place = places[-1] if rng.uniform() < _ASKS_LATEST else rng.pick(places[1:])
    finding = find_object_before(events, thing, place)
    return finding and (rng.pick(words.where_before).format(thing=thing, place=place), *finding)


def _ask_gift(events: Sequence[Event], words: Vocabulary, rng: StableRandom) -> Asked | None:
    gifts = [event for event in events if event.kind == "give"]
    if not gifts:
        return None
    about = gifts[-1] if rng.uniform() < _ASKS_LATEST else rng.pick(gifts)
    # Each form: its templates, the slots that the question fixes, and the slot that it asks for.
    templates, fixed, asked = rng.pick(
        (
            (words.given_thing, ("who", "to"), "thing"),
            (words.given_thing, ("who", "to"), "thing"),
            (words.giver_of, ("thing",), "who"),
            (words.giver_of_to, ("thing", "to"), "who"),
            (words.receiver_of, ("thing",), "to"),
            (words.receiver_of_from, ("who", "thing"), "to"),
        )
    )
    slots = {slot: getattr(about, slot) for slot in fixed}
    finding = find_gift(events, lambda event: all(getattr(event, slot) == slots[slot] for slot in fixed))
    if finding is None:
        return None
    event, index = finding
    return rng.pick(templates).format(**slots), getattr(event, asked), (index,)


_ASK: dict[str, Callable[[Sequence[Event], Vocabulary, StableRandom], Asked | None]] = {
    "qa1": _ask_person,
    "qa2": _ask_object,
    "qa3": _ask_object_before,
    "qa5": _ask_gift,
}


def _relation_story(words: Vocabulary, n_facts: tuple[int, int], rng: StableRandom) -> Story:
    """Places on a walk over a grid, one fact per step; the question asks about one step.

    With bAbI's words the walk is a straight line, as there. No two places share a cell, so in each
    direction at most one place is next to another.
    """
    fewest, most = n_facts
    if most >= len(words.places):
        raise ValueError(f"n_facts is {n_facts}: qa4 has {len(words.places)} places, so at most 5 facts.")
    n_steps = _draw_n_facts((fewest, most), 1.0, rng)
    steps = _walk(n_steps, straight=words.name == "babi", rng=rng)
    facts = []
    for index, direction in enumerate(steps):
        here, there = words.places[index], words.places[index + 1]
        stated = (there, direction, here) if rng.uniform() < 0.5 else (here, _OPPOSITE[direction], there)
        facts.append(stated)
    facts = rng.shuffled(facts)
    supporting = rng.integer(n_steps)
    subject, direction, other = facts[supporting]
    subject_share = _ANSWER_IS_SUBJECT if words.name == "babi" else 0.5
    if rng.uniform() < subject_share:
        answer, place = subject, other
    else:
        answer, place, direction = other, subject, _OPPOSITE[direction]
    # The answer lies `direction` of the place; the second form says it the other way round.
    if rng.uniform() < 0.5:
        question = rng.pick(words.what_lies).format(direction=direction, place=place)
    else:
        question = rng.pick(words.lies_of_what).format(direction=_OPPOSITE[direction], place=place)
    return Story(
        task="qa4",
        facts=tuple(
            rng.pick(words.relation).format(place=place, direction=direction, other=other)
            for place, direction, other in facts
        ),
        question=question,
        answer=answer,
        labels=tuple(sorted(words.places)),
        supporting=(supporting,),
        source=f"generated/{words.name}",
    )


def _walk(n_steps: int, *, straight: bool, rng: StableRandom) -> list[str]:
    """Directions of a walk over a grid that never returns to a cell."""
    if straight:
        return [rng.pick(tuple(_DIRECTIONS))] * n_steps
    steps: list[str] = []
    position, visited = (0, 0), {(0, 0)}
    for _ in range(n_steps):
        free = {}
        for direction, (right, up) in _DIRECTIONS.items():
            cell = (position[0] + right, position[1] + up)
            if cell not in visited:
                free[direction] = cell
        direction = rng.pick(tuple(free))
        steps.append(direction)
        position = free[direction]
        visited.add(position)
    return steps
