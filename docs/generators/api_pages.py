"""The reference as pages: the public names of the package and of its instruments, for mkdocstrings to fill."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "diffmamba_interp"
INSTRUMENTS = ("implicit_attention", "lens", "needle", "interventions", "text")
"""Packages with an `__all__` that a page of its own shows."""


FUNCTIONS = {
    "hook_names": ("Names of hook points, made so that a misspelt one fails where it is written.", ["hook_names.py"]),
    "interchange": ("Activations for other tools, by the names that they have there.", ["interchange.py"]),
    "figures": (
        "From records to figures. A `..._drawing` is data, which `drawing.plotly_figure.to_plotly` and "
        "`drawing.svg.to_svg` draw; most have a partner that Plotly has drawn already, as `dose_response_figure` is.",
        [f"figures/{path.name}" for path in sorted((PACKAGE / "figures").glob("[a-z]*.py"))],
    ),
}
"""Pages that show the functions of some files: what they are about, and the files."""

ABOUT = """The names that most work begins with, imported from `diffmamba_interp` and loaded when first used. Shapes are
written as jaxtyping has them. What the instruments have beside these is on pages of their own."""


def public_names(module: str = "") -> list[str]:
    """The names in a package's `__all__`, read without importing it; those of `diffmamba_interp` by default."""
    tree = ast.parse((PACKAGE / module / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return sorted(ast.literal_eval(node.value), key=lambda name: (name.isupper(), name.lower()))
    raise ValueError(f"diffmamba_interp/{module} has no __all__.")


def page(module: str = "") -> str:
    """The reference of a package: each public name with its docstring."""
    path = f"diffmamba_interp.{module}".strip(".")
    shown_before = set(public_names()) if module else set()
    lines = [f"# {path}", "", ABOUT if not module else f"Import from `{path}`.", ""]
    for name in public_names(module):
        if name in shown_before:
            lines += [f"## {name}", "", f"See [`{name}`][diffmamba_interp.{name}].", ""]
        else:
            # A file of the same name would be taken for what is in it.
            place = f"{path}.{name}" if (PACKAGE / module / f"{name}.py").exists() else path
            lines += [f"::: {place}.{name}", ""]
    return "\n".join(lines)


def page_of_functions(name: str) -> str:
    """The reference of some files: each public function with its docstring."""
    about, files = FUNCTIONS[name]
    lines = [f"# diffmamba_interp.{name}", "", about, ""]
    for file in files:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        module = f"diffmamba_interp.{file.removesuffix('.py').replace('/', '.')}"
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        lines += [f"::: {module}.{function}\n" for function in functions if not function.startswith("_")]
    return "\n".join(lines)
