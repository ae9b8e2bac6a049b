"""A small world of people, places and objects, and what follows from the events told about it.

The simulation knows where everything is and lets only possible events happen: an object is taken where it
lies, given to somebody in the same place. The three `find_` functions know only the events told, as a reader
does, and return an answer with the indices of the events that it follows from, or `None` where the events
do not tell. A question always asks about the latest event that fits it, as in bAbI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffmamba_interp.text.stable_random import StableRandom

EventKind = Literal["move", "take", "drop", "give"]
Finding = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Event:
    """`who` moves to `place`; takes or drops `thing`; or gives `thing` to `to`."""

    kind: EventKind
    who: str
    place: str = ""
    thing: str = ""
    to: str = ""


class World:
    """The true state, moved on by random events.

    weights: how often each kind of event is tried; one that nobody can do becomes a move.
    """

    def __init__(
        self,
        people: Sequence[str],
        places: Sequence[str],
        objects: Sequence[str],
        weights: Mapping[EventKind, float],
        rng: StableRandom,
    ) -> None:
        self.people, self.places = tuple(people), tuple(places)
        self.weights = tuple(weights.items())
        self.rng = rng
        self.place_of_person = {who: rng.pick(self.places) for who in people}
        self.place_of_object = {thing: rng.pick(self.places) for thing in objects}
        self.holder: dict[str, str | None] = dict.fromkeys(objects)

    def step(self) -> Event:
        """One more event, drawn and carried out."""
        kind = self._draw_kind()
        if kind != "move":
            possible = self._possible(kind)
            if possible:
                return self._carry_out(self.rng.pick(possible))
        who = self.rng.pick(self.people)
        elsewhere = [place for place in self.places if place != self.place_of_person[who]]
        return self._carry_out(Event("move", who, place=self.rng.pick(elsewhere)))

    def _draw_kind(self) -> EventKind:
        u = self.rng.uniform()
        for kind, weight in self.weights:
            u -= weight
            if u < 0:
                return kind
        return "move"

    def _possible(self, kind: EventKind) -> list[Event]:
        held = [(thing, who) for thing, who in self.holder.items() if who is not None]
        if kind == "drop":
            return [Event("drop", who, thing=thing) for thing, who in held]
        if kind == "give":
            return [
                Event("give", who, thing=thing, to=to)
                for thing, who in held
                for to in self.people
                if to != who and self.place_of_person[to] == self.place_of_person[who]
            ]
        return [
            Event("take", who, thing=thing)
            for thing, holder in self.holder.items()
            for who in self.people
            if holder is None and self.place_of_person[who] == self.place_of_object[thing]
        ]

    def _carry_out(self, event: Event) -> Event:
        if event.kind == "move":
            self.place_of_person[event.who] = event.place
        elif event.kind == "take":
            self.holder[event.thing] = event.who
        elif event.kind == "give":
            self.holder[event.thing] = event.to
        else:
            self.holder[event.thing] = None
            self.place_of_object[event.thing] = self.place_of_person[event.who]
        return event


def find_person(events: Sequence[Event], who: str) -> Finding | None:
    """Where `who` is: the place of the last move."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].kind == "move" and events[index].who == who:
            return events[index].place, (index,)
    return None


def find_object(events: Sequence[Event], thing: str) -> Finding | None:
    """Where `thing` is: where the one who last touched it was then, or has carried it since."""
    stations = _stations(events, thing)
    return (stations[-1].place, stations[-1].supporting) if stations else None


def find_object_before(events: Sequence[Event], thing: str, place: str) -> Finding | None:
    """Where `thing` was before it last came to `place`.

    Supported by the touch that let it be carried there and the moves that brought it to both places.
    """
    stations = _stations(events, thing)
    for index in range(len(stations) - 1, 0, -1):
        here, before = stations[index], stations[index - 1]
        if here.place == place:
            return before.place, tuple(sorted({*here.arrival, before.move}))
    return None


def find_gift(events: Sequence[Event], fits: Callable[[Event], bool]) -> tuple[Event, int] | None:
    """The last event of giving that `fits`, and its index."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].kind == "give" and fits(events[index]):
            return events[index], index
    return None


def places_visited(events: Sequence[Event], thing: str) -> list[str]:
    """The places where `thing` is known to have been, in order, none twice in a row."""
    return [station.place for station in _stations(events, thing)]


@dataclass(slots=True)
class _Station:
    """A stay of an object: `arrival` tells how it got here, `supporting` why it is here at the end.

    move: index of the move that told which place this is.
    """

    place: str
    move: int
    arrival: tuple[int, ...]
    supporting: tuple[int, ...]


def _stations(events: Sequence[Event], thing: str) -> list[_Station]:
    last_move: dict[str, int] = {}
    holder, touch = "", -1
    stations: list[_Station] = []
    for index, event in enumerate(events):
        if event.kind == "move":
            last_move[event.who] = index
            if event.who == holder:
                proof = (touch, index)
                stations.append(_Station(event.place, index, proof, proof))
        elif event.thing == thing:
            holder = {"take": event.who, "give": event.to, "drop": ""}[event.kind]
            touch = index
            if event.who not in last_move:
                continue
            move = last_move[event.who]
            proof = (min(index, move), max(index, move))
            if stations:
                stations[-1].supporting = proof
            else:
                stations.append(_Station(events[move].place, move, proof, proof))
    return stations
