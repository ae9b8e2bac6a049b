"""The cache: each value made once, within the budget, and safe when several sessions ask at a time."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from app.shell.loading import BudgetedCache
from tests.app.conftest import MODEL, OpenApp, block_tables, complaint


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
