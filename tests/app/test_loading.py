"""The cache: each value made once, within the budget, and safe when several sessions ask at a time."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread, get_ident

import pytest

from app.shell import loading, turns
from app.shell.loading import BudgetedCache
from tests.app.conftest import IDS, MODEL, OpenApp, block_tables, complaint
from tests.app.test_interventions import ANSWER


def size(value: object) -> int:
    return 10


def test_the_least_recently_used_goes_first() -> None:
    cache = BudgetedCache(25)
    made = []
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: made.append(key), size)
    assert made == ["a", "b", "c", "b"]
    assert cache.used_bytes == 20


def test_a_value_beyond_the_budget_is_given_and_is_the_only_one_held() -> None:
    cache = BudgetedCache(5)
    cache.get("a", lambda: 1, size)
    assert cache.get("b", lambda: 2, size) == 2
    assert cache.used_bytes == 10


def test_sessions_that_ask_together_wait_for_one_value() -> None:
    cache, together, made = BudgetedCache(100), Barrier(4), []

    def make() -> int:
        made.append(1)
        return len(made)

    def ask(_: int) -> int:
        together.wait()
        return cache.get("key", make, size)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [1, 1, 1, 1]
    assert len(made) == 1


def test_a_failure_is_not_kept() -> None:
    cache = BudgetedCache(100)
    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 // 0, size)
    assert cache.get("key", lambda: 2, size) == 2


def test_a_model_beyond_the_budget_is_refused_before_it_is_loaded(open_app: OpenApp) -> None:
    app = open_app("attention", memory_gib=1e-4)
    assert "more than the budget" in complaint(app)
    assert "bfloat16" in complaint(app)


def test_a_replaced_checkpoint_is_read_again(open_app: OpenApp, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "models", tmp_path / "models")
    app = open_app(at_root=tmp_path)
    assert list(block_tables(app)[0]["kind"]) == ["differential", "plain"] * 2
    shutil.copytree(root / "models" / "all", tmp_path / MODEL, dirs_exist_ok=True)
    app.run()
    assert set(block_tables(app)[0]["kind"]) == {"differential"}


def test_others_use_a_model_between_two_steps_of_a_long_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, used, told = BudgetedCache(100), Event(), []
    monkeypatch.setattr(loading, "cache", lambda: cache)
    monkeypatch.setattr(loading, "model", lambda key: key)
    monkeypatch.setattr(turns, "is_long", lambda: True)
    others: list[Thread] = []

    def give_way() -> None:
        others.append(Thread(target=loading.use, args=("key", lambda _: used.set())))
        others[0].start()
        told.append(used.wait(20))

    monkeypatch.setattr(turns, "give_way", give_way)

    def sweep(_: object) -> None:
        loading.giving_way("key", told.append)(3)

    loading.use("key", sweep)
    others[0].join()
    assert told == [3, True]


@pytest.mark.parametrize(
    ("page", "asked"),
    [
        ("overview", {}),
        ("evidence", {"model": "bundled:diff-mamba2"}),
        ("graph", {"ids": IDS, "token": "8"}),
        ("interventions", {**ANSWER, "swept": "lambda"}),
        ("interventions", {**ANSWER, "patched": "mixer_out"}),
        ("interventions", {**ANSWER, "faithful": "True"}),
    ],
)
def test_what_may_take_long_gives_way_on_every_page(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, page: str, asked: dict[str, str]
) -> None:
    gave_way: list[None] = []
    monkeypatch.setattr(turns, "is_long", lambda: True)
    monkeypatch.setattr(turns, "give_way", lambda: gave_way.append(None))
    assert not open_app(page, **asked).error
    assert len(gave_way) > 1


def test_a_page_that_waits_for_what_another_makes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, begun, seen = BudgetedCache(100), Event(), []
    waiting: dict[int, float] = {}
    monkeypatch.setattr(turns, "_waited_for", waiting)

    def ask() -> None:
        waiting[get_ident()] = float("inf")
        begun.set()
        assert cache.get("key", lambda: 0, size) == 1
        seen.append(waiting[get_ident()])

    other = Thread(target=ask)

    def make() -> int:
        other.start()
        assert begun.wait(60)
        for _ in range(2000):
            if not waiting:
                return 1
            turns.time.sleep(0.01)
        raise AssertionError("the run would wait for who waits for it")

    assert cache.get("key", make, size) == 1
    other.join()
    assert seen == [float("inf")]


@pytest.mark.timeout(20)
def test_what_says_how_large_a_value_is_may_ask_the_cache() -> None:
    cache = BudgetedCache(100)
    assert cache.get("a", lambda: 1, lambda _: cache.get("b", lambda: 2, lambda _: 5)) == 1
    assert cache.used_bytes == 7
