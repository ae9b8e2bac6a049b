import itertools

from diffmamba_interp.needle.world import (
    Event,
    World,
    find_gift,
    find_object,
    find_object_before,
    find_person,
    places_visited,
)
from diffmamba_interp.text.stable_random import StableRandom

PEOPLE, PLACES, OBJECTS = ("Ann", "Bob", "Cid"), ("attic", "barn", "cellar", "den"), ("cup", "key")


def move(who: str, place: str) -> Event:
    return Event("move", who, place=place)


def take(who: str, thing: str) -> Event:
    return Event("take", who, thing=thing)


def drop(who: str, thing: str) -> Event:
    return Event("drop", who, thing=thing)


def give(who: str, thing: str, to: str) -> Event:
    return Event("give", who, thing=thing, to=to)


def worlds(n: int) -> list[tuple[World, list[Event]]]:
    weights = {"take": 0.3, "drop": 0.15, "give": 0.2}
    made = []
    for seed in range(n):
        world = World(PEOPLE, PLACES, OBJECTS, weights, StableRandom("world", seed))
        made.append((world, [world.step() for _ in range(30)]))
    return made


def test_what_the_events_tell_is_what_is_so() -> None:
    n_found = 0
    for world, events in worlds(100):
        for who in PEOPLE:
            found = find_person(events, who)
            assert found is None or found[0] == world.place_of_person[who]
        for thing in OBJECTS:
            holder = world.holder[thing]
            place = world.place_of_person[holder] if holder else world.place_of_object[thing]
            found = find_object(events, thing)
            assert found is None or found[0] == place
            n_found += found is not None
    assert n_found > 150


def test_the_supporting_events_alone_give_the_same_answer() -> None:
    for _, events in worlds(100):
        for who in PEOPLE:
            if found := find_person(events, who):
                assert find_person([events[i] for i in found[1]], who) == (found[0], (0,))
        for thing in OBJECTS:
            if found := find_object(events, thing):
                alone = find_object([events[i] for i in found[1]], thing)
                assert alone is not None
                assert alone[0] == found[0]


def test_only_possible_events_happen() -> None:
    for world, _ in worlds(30):
        for _ in range(40):
            places, holders = dict(world.place_of_person), dict(world.holder)
            lying = dict(world.place_of_object)
            event = world.step()
            if event.kind == "move":
                assert places[event.who] != event.place
            elif event.kind == "take":
                assert holders[event.thing] is None
                assert lying[event.thing] == places[event.who]
            else:
                assert holders[event.thing] == event.who
            if event.kind == "give":
                assert event.to != event.who
                assert places[event.to] == places[event.who]


def test_an_object_is_where_it_was_dropped_or_carried_to() -> None:
    events = [move("Ann", "attic"), take("Ann", "cup"), move("Ann", "barn"), drop("Ann", "cup")]
    events += [move("Ann", "den")]
    assert find_object(events[:2], "cup") == ("attic", (0, 1))
    assert find_object(events[:3], "cup") == ("barn", (1, 2))
    assert find_object(events, "cup") == ("barn", (2, 3))
    assert find_object(events, "key") is None


def test_an_object_given_away_goes_with_its_new_holder() -> None:
    events = [move("Ann", "attic"), take("Ann", "cup"), give("Ann", "cup", "Bob"), move("Bob", "den")]
    events += [move("Ann", "barn")]
    assert find_object(events, "cup") == ("den", (2, 3))


def test_the_place_before_is_that_before_the_latest_arrival() -> None:
    moves = [move("Ann", place) for place in ("attic", "barn", "cellar", "barn", "den")]
    events = [moves[0], take("Ann", "cup"), *moves[1:]]
    assert places_visited(events, "cup") == ["attic", "barn", "cellar", "barn", "den"]
    assert find_object_before(events, "cup", "barn") == ("cellar", (1, 3, 4))
    assert find_object_before(events, "cup", "attic") is None


def test_an_object_whose_place_is_not_told_is_not_found() -> None:
    events = [take("Ann", "cup"), drop("Ann", "cup"), move("Ann", "barn")]
    assert find_object(events, "cup") is None


def test_the_latest_fitting_gift_is_found() -> None:
    events = [give("Ann", "cup", "Bob"), give("Bob", "cup", "Ann"), give("Ann", "key", "Bob")]
    assert find_gift(events, lambda event: event.thing == "cup") == (events[1], 1)
    assert find_gift(events, lambda event: event.who == "Ann" and event.to == "Bob") == (events[2], 2)
    assert find_gift(events, lambda event: event.to == "Cid") is None


def test_places_visited_change_every_time() -> None:
    for _, events in worlds(50):
        for thing in OBJECTS:
            assert all(a != b for a, b in itertools.pairwise(places_visited(events, thing)))
