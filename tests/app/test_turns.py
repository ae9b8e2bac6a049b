"""A long run gives way to pages that are made meanwhile, and is not stopped by them."""

from collections.abc import Iterator
from threading import Event, Thread

import pytest

from app.shell import turns


@pytest.fixture(autouse=True)
def known_session(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What Streamlit keeps of the session, which has had a page."""
    kept: dict[str, object] = {turns._KNOWN: True}
    monkeypatch.setattr(turns, "_waited_for", {})
    monkeypatch.setattr(turns.st, "session_state", kept)
    return kept


@pytest.fixture
def other() -> Iterator[tuple[Event, Event]]:
    """Another session, which begins with the first event and is done with its page after the second."""
    begun, done = Event(), Event()

    def session() -> None:
        with turns.page():
            begun.set()
            done.wait(60)

    thread = Thread(target=session)
    thread.start()
    yield begun, done
    done.set()
    thread.join()


def test_a_run_waits_until_the_other_sessions_page_is_made(
    other: tuple[Event, Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = other
    assert begun.wait(60)
    slept = []

    def sleep(_: float) -> None:
        slept.append(done.is_set())
        done.set()
        while turns._waited_for:
            pass

    monkeypatch.setattr(turns, "MOST_S", 60.0)
    monkeypatch.setattr(turns.time, "sleep", sleep)
    with turns.page():
        turns.give_way()
    assert slept == [False]


def test_a_run_goes_on_beside_a_page_that_is_never_done_and_beside_other_runs(
    other: tuple[Event, Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, _ = other
    assert begun.wait(60)
    monkeypatch.setattr(turns, "MOST_S", 0.01)
    with turns.page():
        turns.give_way()
    assert len(turns._waited_for) == 1


def test_nobody_waits_for_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns.time, "sleep", lambda _: pytest.fail("waits for itself"))
    with turns.page():
        turns.give_way()
        assert not turns._waited_for


def test_a_new_sessions_browser_has_time_to_draw(
    known_session: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(turns.time, "sleep", sleep)
    known_session.clear()

    def session() -> None:
        with turns.page():
            pass

    for waits in (turns.DRAWN_S, 0):
        thread = Thread(target=session)
        thread.start()
        thread.join()
        began = now[0]
        turns.give_way()
        assert now[0] - began == pytest.approx(waits, abs=2 * turns.LOOK_S)


def test_a_run_that_was_cancelled_while_it_waits_ends_at_once(
    other: tuple[Event, Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, _ = other
    assert begun.wait(60)

    class Cancelled(dict[str, object]):
        def get(self, *_: object) -> object:
            raise KeyboardInterrupt

    monkeypatch.setattr(turns.st, "session_state", Cancelled())
    with pytest.raises(KeyboardInterrupt):
        turns.give_way()


@pytest.mark.parametrize(
    ("age", "lead"),
    [(None, turns.LEAD_S), (0.9 * turns.LONG_S, turns.LEAD_S), (1.1 * turns.LONG_S, turns.LEAD_BESIDE_S)],
)
def test_a_new_sessions_browser_begins_before_its_page_is_made_and_longer_beside_a_long_run(
    known_session: dict[str, object], monkeypatch: pytest.MonkeyPatch, age: float | None, lead: float
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(turns.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(turns, "_begun", {} if age is None else {0: 100.0 - age})
    monkeypatch.setattr(turns.time, "sleep", lambda seconds: slept.append(seconds) if turns._waited_for else None)
    for is_new, leads in ((True, False), (True, True), (False, True)):
        if is_new:
            known_session.clear()
        with turns.page(leads=leads):
            pass
    assert slept == [lead]


def test_a_page_is_long_once_it_has_been_made_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])
    assert not turns.is_long()
    with turns.page():
        assert not turns.is_long()
        now[0] += turns.LONG_S
        assert turns.is_long()
    assert not turns.is_long()
