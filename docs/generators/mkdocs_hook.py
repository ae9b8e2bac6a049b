"""What MkDocs calls while it builds the site: the pages and tables that come from the code and the analyses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generators import api_pages, command_pages, findings_pages, hook_tables, notebook_pages
from docs.generators.docstrings import readable

ROOT = Path(__file__).resolve().parents[2]


def explorer_pages() -> str:
    """The explorer's pages, as its navigation names them, with what the script of each says of itself.

    Raises ValueError if `app/main.py` names none.
    """
    rows = []
    for node in ast.walk(ast.parse((ROOT / "app" / "main.py").read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id="page"), args=[ast.Constant(value=name), ast.Constant(value=title), *_]):
                script = ROOT / "app" / "pages_" / str(name) / f"{name}.py"
                said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
                about = " ".join(said.partition("\n\n")[0].split()).removeprefix(f"{title}: ")
                rows.append(f"| {title} | {about[:1].upper()}{about[1:]} |")
    if not rows:
        raise ValueError("app/main.py names no page as `page(name, title, icon)`: say here how it does.")
    return "\n".join(["| page | what it shows |", "| --- | --- |", *rows])


GENERATED = {
    "<!-- generated: hooks -->": hook_tables.markdown,
    "<!-- generated: names elsewhere -->": hook_tables.names_elsewhere,
    "<!-- generated: commands -->": command_pages.markdown,
    "<!-- generated: explorer -->": explorer_pages,
    "<!-- generated: glossary -->": findings_pages.glossary,
}
"""Lines of a page that a part of the code's own making takes the place of."""

PROMPTS = re.compile(r"^```console\n(?:\$ .*\n)+```$", re.MULTILINE)
"""Commands without their output: shown without the prompt, so that what is copied can be pasted."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are not in `docs/` into the navigation."""
    assert config.nav is not None
    findings = ["findings/index.md", *(f"findings/{name}/index.md" for name in findings_pages.analyses())]
    api = ["api/index.md", *(f"api/{name}.md" for name in (*api_pages.INSTRUMENTS, *api_pages.FUNCTIONS))]
    notebooks = [f"notebooks/{name}.md" for name in notebook_pages.notebooks()]
    config.nav = [
        *config.nav,
        {"Notebooks": notebooks},
        {"Findings": findings},
        {"API": api},
        {"Changes": "changes.md"},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add those pages, and the pictures and files that they show."""

    def add(place: str, text: str) -> None:
        files.append(File.generated(config, place, content=text))

    for name, path in notebook_pages.notebooks().items():
        text, figures = notebook_pages.page(path, name)
        add(f"notebooks/{name}.md", findings_pages.linked(findings_pages.for_site(text), below="../findings/"))
        for file, figure in figures.items():
            add(f"notebooks/{file}", figure)
        if path.stem != name:
            files.append(File.generated(config, f"notebooks/{name}.ipynb", abs_src_path=str(path)))
    add("findings/index.md", findings_pages.index())
    for name in findings_pages.analyses():
        text, shown = findings_pages.page(name)
        add(f"findings/{name}/index.md", text)
        for file in dict.fromkeys(shown):
            place = f"findings/{name}/{file.relative_to(ROOT / 'analyses' / name)}"
            if file.suffix == ".md":
                add(place, findings_pages.beside(file)[0])
            else:
                files.append(File.generated(config, place, abs_src_path=str(file)))
    add("api/index.md", api_pages.page())
    for module in api_pages.INSTRUMENTS:
        add(f"api/{module}.md", api_pages.page(module))
    for name in api_pages.FUNCTIONS:
        add(f"api/{name}.md", api_pages.page_of_functions(name))
    add("changes.md", findings_pages.for_site((ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    files.append(
        File.generated(config, "pictures/attention.png", abs_src_path=str(ROOT / "app/pictures/attention.png"))
    )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what is generated. Raises ValueError for a mark that nothing is known for."""
    if page.file.src_uri == "checkpoints.md":
        page.meta["hide"] = ["toc"]  # its table takes the room; the file itself is written by a test
    for mark, make in GENERATED.items():
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    if "<!-- generated:" in markdown:
        raise ValueError(f"{page.file.src_uri} asks for a generated part that docs/generators/mkdocs_hook.py lacks.")
    if not page.file.generated_by:
        markdown = findings_pages.linked(markdown, below="findings/")
    return PROMPTS.sub(lambda block: block[0].replace("\n$ ", "\n").replace("```console", "```sh"), markdown)


class Readable(griffe.Extension):
    """What mkdocstrings calls once it has read the package."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for written in _written_in(pkg):
            if written.docstring:
                written.docstring.value = readable(written.docstring.value)


def _written_in(parent: griffe.Module | griffe.Class) -> Iterator[Any]:
    """Everything that is written in a module or class, itself included; not what is only imported."""
    yield parent
    for member in parent.members.values():
        if isinstance(member, griffe.Module | griffe.Class):
            yield from _written_in(member)
        elif not member.is_alias:
            yield member
