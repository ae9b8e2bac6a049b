"""A command's options: from a recipe and the command line, with a sentence each, in groups, and examples below."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from diffmamba_interp.runs.settings import read_toml

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class RecipeOption:
    """Options from a file."""

    recipe: Path | None = None
    """A TOML file with options, or the name of a recipe that comes with the package; those given here override it."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What every command takes."""

    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say no more than the result in one line; warnings and errors are written as ever."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the result as one JSON document to stdout, and everything else to stderr."""


def split_recipe_option(args: Sequence[str]) -> tuple[str | None, list[str]]:
    """The path that `--recipe PATH` or `--recipe=PATH` names, None without it, and the other arguments.

    Raises ValueError if the option has no path, or comes twice.
    """
    rest, others, paths = list(args), [], []
    while rest:
        argument = rest.pop(0)
        if argument == "--recipe":
            paths.append("" if not rest or rest[0].startswith("--") else rest.pop(0))
        elif argument.startswith("--recipe="):
            paths.append(argument.removeprefix("--recipe="))
        else:
            others.append(argument)
    if "" in paths:
        raise ValueError("--recipe needs the path of a TOML file.")
    if len(paths) > 1:
        raise ValueError(f"--recipe comes {len(paths)} times ({', '.join(paths)}): give one, and override its options.")
    return (paths[0] if paths else None), others


def recipe_from_arguments(
    kind: type[Settings],
    args: Sequence[str],
    *,
    prog: str,
    description: str,
    groups: Mapping[str, Sequence[str]] | None = None,
    examples: Sequence[str] = (),
) -> Settings:
    """Settings of type `kind`, whose fields all have defaults: from `--recipe FILE.toml`, then other options over it.

    groups: the fields by the word that their box of the help is called after; fields of none come last, as "other".
    examples: arguments of calls, which the help ends with.

    Raises FileNotFoundError or ValueError as `split_recipe_option` and `read_toml` do, and for values that make no
    sense; SystemExit for options that there are not.
    """
    path, others = split_recipe_option(args)
    default = kind() if path is None else read_toml(kind, path)
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    grouped = {word: list(members) for word, members in (groups or {}).items()}
    rest = [name for name in names if not any(name in members for members in grouped.values())]
    grouped |= {"other": rest} if rest else {}
    whole = _in_groups(kind, default, grouped)
    parsed = parsed_options(whole, others, prog=prog, description=description, examples=examples)
    return kind(**{name: getattr(getattr(parsed, word), name) for word, members in grouped.items() for name in members})


def parsed_options(
    kind: Any,
    args: Sequence[str],
    *,
    prog: str,
    description: str,
    examples: Sequence[str] = (),
    default: Any = None,
) -> Any:
    """`args` as a `kind`, by tyro; its help ends with the examples, and with where exit codes stand.

    Raises SystemExit, as tyro does.
    """
    given = {} if default is None else {"default": default}
    try:
        return tyro.cli(kind, args=args, description=description, prog=prog, **given)
    except SystemExit as ended:
        if not ended.code and {"--help", "-h"} & set(args):
            sys.stdout.write("\n".join([*help_ending(prog, examples), ""]))
        raise


def help_ending(prog: str, examples: Sequence[str]) -> list[str]:
    """What stands below the options."""
    lines = ["", "examples", *(f"  {prog} {arguments}".rstrip() for arguments in examples)] if examples else []
    return [
        *lines,
        "",
        "exit codes: 0 done, 1 the answer is no, 2 an error that you can mend; all: diffmamba-interp --help",
    ]


def field_sentences(kind: type) -> dict[str, str]:
    """What the texts below the fields of a dataclass say, each in one paragraph."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    told: dict[str, str] = {}
    for item, text in zip(body.body, body.body[1:], strict=False):
        match item, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                told[name] = " ".join(words.split())
    return told


def _in_groups(kind: type, default: Any, groups: Mapping[str, Sequence[str]]) -> Any:
    """A dataclass of dataclasses, one for each group, whose options have the names that they have in `kind`."""
    hints, told = get_type_hints(kind, include_extras=True), field_sentences(kind)

    def option(name: str) -> tuple[str, Any, Any]:
        return name, Annotated[hints[name], tyro.conf.arg(help=told.get(name))], field(default=getattr(default, name))

    whole: list[tuple[str, Any, Any]] = []
    for word, members in groups.items():
        group: Callable[[], Any] = make_dataclass(word, [option(name) for name in members], frozen=True, kw_only=True)
        group.__doc__ = ""
        whole.append((word, Annotated[group, tyro.conf.OmitArgPrefixes], field(default_factory=group)))
    for word, common in (("recipe", RecipeOption), ("output", OutputOptions)):
        whole.append((word, Annotated[common, tyro.conf.OmitArgPrefixes], field(default_factory=partial(common))))
    made = make_dataclass("Options", whole, frozen=True, kw_only=True)
    made.__doc__ = ""
    return made
