"""Recipes from files and command lines."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffmamba_interp.runs.options import recipe_from_arguments, split_recipe_option
from diffmamba_interp.runs.settings import (
    read_toml,
    require_numbers,
    require_seed,
    to_toml,
    to_values,
)


@dataclass(frozen=True, kw_only=True)
class Tiny:
    """A recipe of two fields."""

    name: str = "plain"
    steps: int = 1
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        require_numbers(self)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "r.toml").write_text('name = "of the file"\nsteps = 3\n')
    return tmp_path / "r.toml"


def parse(*args: str) -> Tiny:
    return recipe_from_arguments(Tiny, args, prog="tiny", description="A tiny command.")


def test_options_override_the_file_wherever_it_is_named(file: Path) -> None:
    expected = Tiny(name="of the file", steps=5)
    assert parse("--recipe", str(file), "--steps", "5") == expected
    assert parse("--steps", "5", f"--recipe={file}") == expected
    assert parse("--steps", "5") == Tiny(steps=5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--recipe"], "--recipe needs the path of a TOML file"),
        (["--recipe="], "--recipe needs the path"),
        (["--recipe", ""], "--recipe needs the path"),
        (["--recipe", "--steps", "3"], "--recipe needs the path"),
        (["--recipe", "a.toml", "--recipe"], "--recipe needs the path"),
        (["--recipe", "a.toml", "--recipe=b.toml"], r"--recipe comes 2 times \(a.toml, b.toml\): give one"),
    ],
)
def test_a_recipe_option_without_a_path_or_given_twice_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_recipe_option(args)


def test_a_recipe_in_the_home_folder_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    assert read_toml(Tiny, "~/r.toml").steps == 3


def test_a_byte_order_mark_is_passed_over(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert parse("--recipe", str(file)).name == "of the file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x02\xff", "r.toml is not valid TOML"),
        (b"\x7fELF\x02\x01\xb0", "r.toml is not valid TOML"),
        (b"x = " + b"[" * 200_000, "r.toml is nested too deeply"),
        (b"[steps]\nx = 1", "r.toml: steps is .* it must be a whole number"),
        (b"steps = 3.5", "r.toml: steps is 3.5: it must be a whole number"),
        (b"scales = [nan]", "r.toml: scales is nan: it must be a finite number"),
    ],
    ids=["zeros", "binary", "nested", "table", "fraction", "nan"],
)
def test_a_file_that_is_no_recipe_is_named(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse("--recipe", str(file))


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder: give the path of a recipe"):
        parse("--recipe", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="none.toml is no file: give the path of a recipe"):
        parse("--recipe", str(tmp_path / "none.toml"))


@pytest.mark.parametrize("name", ['a "b" \\ c', "tab\tline\nreturn\r", "\x00\x01\x7f\x1b[31m", "größer 語"])
def test_any_text_goes_to_toml_and_back(name: str) -> None:
    assert tomllib.loads(to_toml(to_values(Tiny(name=name))))["name"] == name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="scales is .*: it must be a finite number"):
        Tiny(scales=(1.0, value))


def test_seeds_are_those_that_every_generator_takes() -> None:
    require_seed(0)
    require_seed(2**32 - 1)
    for seed in (-1, 2**32, 10**30):
        with pytest.raises(ValueError, match=rf"^data.seed is {seed}: it must lie in \[0, 2\^32\)"):
            require_seed(seed, "data.seed")


def test_an_entry_that_is_none_of_the_kind_is_named_by_its_place_from_0(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('scales = [1.0, 2.0, "three"]\n')
    with pytest.raises(ValueError, match=r"scales\[2\] is 'three'"):
        read_toml(Tiny, file)
