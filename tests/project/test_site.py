"""The site's pages: blocks of code run, every hook and option is in its table, nothing of the repository is missed.

`make docs` runs the blocks of all pages, in a process without pytest's type hook, and builds the site strictly.
"""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import diffmamba_interp
from diffmamba_interp.__main__ import COMMANDS
from diffmamba_interp.config import DifferentialConfig
from diffmamba_interp.explore import ExploreOptions
from diffmamba_interp.inspect import InspectOptions
from diffmamba_interp.lens.recipe import LensRecipe
from diffmamba_interp.lm_training.recipe import Recipe
from diffmamba_interp.needle.recipe import NeedleRecipe
from diffmamba_interp.runs.options import OutputOptions
from docs.generators import (
    api_pages,
    command_pages,
    docstrings,
    findings_pages,
    hook_tables,
    notebook_pages,
    run_blocks,
)
from tests.models.tiny import DIFF_S6_VARIANTS, DIFFERENTIAL_VARIANTS, tiny_model


def test_every_block_of_a_page_runs() -> None:
    assert run_blocks.run_page("hooks", run_blocks.pages()["hooks"]) > 0


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```python\n1 / 0\n```\n", "division by zero"),
        ("```python\n1 / 0\n```\n```text\nZeroDivisionError: float ...\n```\n", "the page shows"),
        ("```python\n1 / 1\n```\n```text\nZeroDivisionError: ...\n```\n", "it prints\n\nand the page shows"),
        ("```python\nprint(1 + 1)\n```\n```text\n3\n```\n", "it prints\n2"),
        ("```console\n$ diffmamba-interp inspec x\n```\n", "is no command"),
        ("```console\n$ diffmamba-interp inspec\nerror: something else\n```\n", "the page shows"),
    ],
)
def test_a_page_that_is_wrong_is_found_out(page: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(page)
    with pytest.raises(AssertionError, match=said):
        run_blocks.run_page("page", tmp_path / "page.md")


def test_an_error_is_cut_only_where_the_page_says_so() -> None:
    assert run_blocks.fits("ValueError: it is 3: give 4.", "ValueError: it is 3: ...")
    assert not run_blocks.fits("ValueError: it is 3: give 4.", "ValueError: it is 3:")


@pytest.fixture(scope="module")
def hooks_page() -> str:
    return hook_tables.markdown()


@pytest.mark.parametrize("mixer", ["mamba2", "mamba1"])
def test_every_hook_point_of_every_kind_of_model_is_in_the_tables_and_no_other(mixer: str, hooks_page: str) -> None:
    def fits_mixer(variant: DifferentialConfig) -> bool:
        return mixer == "mamba2" or variant.head_division == "d_head"

    variants = [None, *filter(fits_mixer, [*DIFF_S6_VARIANTS, *DIFFERENTIAL_VARIANTS])]
    points = {hook_tables.general(n) for v in variants for n in tiny_model(v, mixer=mixer).hook_points}
    named = hook_tables.names_in_page(hooks_page)
    assert sorted(points - named) == []
    of_another = {n for kind, names in hook_tables.MIXERS.items() if kind != mixer for n in names}
    of_another -= set(hook_tables.MIXERS[mixer])
    assert sorted(name for name in named - points if not name.endswith(tuple(of_another))) == []


def test_a_hook_point_without_an_equation_and_an_equation_without_one_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hook_tables, "KINDS", hook_tables.KINDS[:1])
    with pytest.raises(ValueError, match="take out their equations"):
        hook_tables.tables()
    monkeypatch.delitem(hook_tables.MIXERS["mamba2"], "hook_dt")
    with pytest.raises(ValueError, match="hook_dt of Mamba-2 has no equation"):
        hook_tables.tables()


def test_the_tables_say_which_hooks_the_kernels_do_not_serve(hooks_page: str) -> None:
    slow = [row for row in hooks_page.splitlines() if row.endswith(f"| {hook_tables.PYTORCH} |")]
    assert {re.findall(r"hook_\w+", row)[0] for row in slow} == {"hook_state", "hook_hidden_attention"}


def options_of(settings: type, prefix: str = "") -> set[str]:
    """The options that a parser makes of a dataclass' fields, those of nested ones included."""
    options = set()
    for field in fields(settings):
        hint = get_type_hints(settings)[field.name]
        inner = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
        name = prefix + field.name.replace("_", "-")
        # What every command takes has no prefix.
        below = prefix if inner is OutputOptions else f"{name}."
        options |= options_of(inner, below) if isinstance(inner, type) else {f"--{name}"}
    return options


def test_every_option_of_every_command_is_in_the_page() -> None:
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", command_pages.markdown(), re.MULTILINE | re.DOTALL))
    assert set(COMMANDS) <= set(sections)
    settings: dict[str, Any] = {
        "explore": ExploreOptions,
        "inspect": InspectOptions,
        "train-lens": LensRecipe,
        "evaluate-needle": NeedleRecipe,
        "train-lm": Recipe,
    }
    for command, options in settings.items():
        listed = set(re.findall(r"(?<!\w)--[a-z][\w.-]*", re.sub(r"\.\d+(?=\.)", "", sections[command])))
        # The path of `inspect` has no name; of a recipe's tables that are left out, the help shows none.
        missing = (options_of(options) | options_of(OutputOptions)) - listed - {"--path"}
        assert sorted(name for name in missing if not name.startswith("--data.text")) == []


def test_help_without_options_is_an_error_rather_than_an_empty_page() -> None:
    with pytest.raises(ValueError, match="no option"):
        command_pages.parsed("usage: something\n")


def test_a_docstring_of_the_source_reads_as_one_on_a_page() -> None:
    text = "What it is.\n\nx: a value [batch], or\n    None. y, z: `a[0]` < 3.\n\nt = 1   after one\n  = 2   after two"
    assert docstrings.readable(text) == (
        "What it is.\n\n- **x**: a value \\[batch], or\n    None. y, z: `a[0]` &lt; 3.\n\n"
        "    t = 1   after one\n      = 2   after two"
    )
    assert docstrings.readable("Args:\n    x: one.") == "Args:\n    x: one."


def test_the_reference_takes_a_function_for_itself_where_a_file_has_its_name() -> None:
    assert "::: diffmamba_interp.interventions.compare.compare\n" in api_pages.page("interventions")


def test_findings_and_reference_leave_nothing_out(project_root: Path) -> None:
    index = findings_pages.index()
    asked = set(re.findall(r"\| `analyses/(\w+)", (project_root / "README.md").read_text(encoding="utf-8")))
    assert asked
    assert sorted(name for name in asked if f"]({name}/index.md)" not in index) == []
    assert set(api_pages.public_names()) == set(diffmamba_interp.__all__)


def test_a_notebook_is_a_page_with_its_code_and_its_figures() -> None:
    page, figures = notebook_pages.page(notebook_pages.notebooks()["first_look"], "first_look")
    assert page.startswith("# A first look")
    assert page.count("```python\n") == 6
    assert [name for name in figures if f"]({name})" not in page] == []
    assert all(figure.lstrip().startswith("<svg") for figure in figures.values())
    assert figures


def test_other_tools_names_are_those_of_the_export() -> None:
    assert "| `blocks.{i}.hook_resid_pre` | `blocks.{i}.hook_resid_pre` | `backbone.layers.{i}.input` |" in (
        hook_tables.names_elsewhere()
    )


def test_every_page_that_somebody_wrote_is_in_the_navigation(project_root: Path) -> None:
    text = (project_root / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.name for path in (project_root / "docs").glob("*.md")}
    assert sorted(page for page in pages if f": {page}" not in text) == []
