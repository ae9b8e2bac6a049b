"""What the help of a command says, and that grouping changes no option."""

import re
from dataclasses import dataclass
from typing import Literal

import pytest

from diffmamba_interp import __main__ as one_command
from diffmamba_interp import evaluate_needle, explore, inspect, train_lens, train_lm
from diffmamba_interp.lens.recipe import LensRecipe
from diffmamba_interp.needle.recipe import NeedleRecipe
from diffmamba_interp.runs.command import program
from diffmamba_interp.runs.options import field_sentences, recipe_from_arguments

MODULES = {
    "explore": explore,
    "inspect": inspect,
    "train-lens": train_lens,
    "evaluate-needle": evaluate_needle,
    "train-lm": train_lm,
}


@dataclass(frozen=True, kw_only=True)
class Small:
    """A recipe."""

    size: int = 1
    """How large
    it is."""
    kind: Literal["a", "b"] = "a"
    """Which of two."""
    is_on: bool = False
    """Whether."""


def parse(*args: str) -> Small:
    return recipe_from_arguments(
        Small,
        args,
        prog="small",
        description="A small command.",
        groups={"shape": ["size"], "sort": ["kind"]},
        examples=["--size 3"],
    )


def test_options_in_groups_are_those_of_the_recipe() -> None:
    assert parse() == Small()
    assert parse("--size", "3", "--kind", "b", "--is-on", "--quiet", "--json") == Small(size=3, kind="b", is_on=True)


def test_the_help_has_a_box_for_every_group_and_ends_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert not ended.value.code
    said = capsys.readouterr().out
    boxes = re.findall(r"^(?: |╭─ )(\w+) options ", said, re.MULTILINE)
    assert boxes == ["shape", "sort", "other", "recipe", "output"]
    # A sentence that is broken in the source is none in the help.
    assert "How large it is." in said
    assert "examples\n  small --size 3\n" in said
    assert said.index("examples") > said.index("--quiet")


def test_an_option_that_there_is_not_shows_no_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--sizes", "3")
    assert ended.value.code == 2
    assert "examples\n" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", [LensRecipe, NeedleRecipe])
def test_every_field_has_a_sentence_and_no_group_names_another(kind: type) -> None:
    told, names = field_sentences(kind), set(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    assert told.keys() == names
    assert all(text.rstrip().endswith((".", ")")) for text in told.values())
    groups = train_lens.GROUPS if kind is LensRecipe else evaluate_needle.GROUPS
    grouped = [name for members in groups.values() for name in members]
    assert sorted(grouped) == sorted(names)


@pytest.mark.parametrize("name", one_command.COMMANDS)
def test_every_option_of_every_command_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        MODULES[name].main(["--help"])
    said = capsys.readouterr().out
    assert {"--quiet", "--json"} <= set(re.findall(r"--[\w.-]+", said))
    assert "\nexamples\n" in said
    assert said.startswith(f"usage: {program(name)} ")
    options = re.split(r"\n[│ ] (?=--?\w)", said)[1:]
    assert len(options) > 3
    # Behind names and choices there must be a sentence, before the default.
    before_default = {option.split()[0]: option.partition("(default")[0] for option in options}
    silent = [name for name, text in before_default.items() if not re.search(r"\S[.)]\s", text)]
    assert silent == ["-h,"]
