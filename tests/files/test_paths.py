"""`~` in paths, where no shell has replaced it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from diffmamba_interp.files.paths import expand_fields, expand_home, expand_name


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_at_the_start_is_the_home_folder(home: Path) -> None:
    assert expand_home("~/a b") == home / "a b"
    assert expand_name("~") == str(home)
    assert expand_home("a/~/b") == Path("a/~/b")
    assert expand_home("~no-such-user/a") == Path("~no-such-user/a")


def test_what_exists_as_it_is_written_and_what_is_no_path_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    (home / "~root").mkdir()
    assert expand_home("~root") == Path("~root")
    assert [expand_name(name) for name in ("owner/name", "auto", None, "")] == ["owner/name", "auto", None, ""]


def test_fields_of_a_recipe_are_expanded_one_by_one(home: Path) -> None:
    @dataclass(frozen=True)
    class Recipe:
        data: str
        filler: tuple[str, ...] = ("~/a", "b")
        name: str = "~/c"

        def __post_init__(self) -> None:
            expand_fields(self, "data", "filler")

    assert Recipe("~/x") == Recipe(str(home / "x"))
    assert Recipe("").filler == (str(home / "a"), "b")
    assert Recipe("").name == "~/c"
