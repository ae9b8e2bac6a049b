"""What pyproject.toml asks for is what the code imports, and its versions agree with those that are installed."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# Where a distribution's name is not that of what it installs.
DISTRIBUTIONS = {"huggingface_hub": "huggingface-hub", "mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d"}

# Read in parquet files alone, whose format outlasts its major releases.
WITHOUT_UPPER_BOUND = {"pyarrow"}


@pytest.fixture(scope="module")
def stated(pyproject: dict[str, Any]) -> dict[str, list[Requirement]]:
    """Requirements by extra; those of the package itself under ""."""
    project = pyproject["project"]
    lines = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in stated] for extra, stated in lines.items()}


@pytest.fixture(scope="module")
def pins(project_root: Path) -> dict[str, str]:
    lines = (project_root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def lower_bound(requirement: Requirement) -> Version:
    (bound,) = [spec.version for spec in requirement.specifier if spec.operator in (">=", "==")]
    return Version(bound)


def imported_packages(sources: Iterable[Path]) -> set[str]:
    """Top names of what the files import, by statement or by `import_module` of a text; no standard library."""
    names: set[str] = set()
    for file in sources:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=aliases):
                    names |= {alias.name for alias in aliases}
                case ast.ImportFrom(module=str(module), level=0):
                    names.add(module)
                case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module))]):
                    names.add(module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"diffmamba_interp", "app"}


def names(requirements: Iterable[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def distributions(packages: Iterable[str]) -> set[str]:
    return {canonicalize_name(DISTRIBUTIONS.get(package, package)) for package in packages}


def test_the_package_imports_what_it_asks_for_and_asks_for_what_it_imports(
    package_sources: list[Path], stated: dict[str, list[Requirement]]
) -> None:
    imported = distributions(imported_packages(package_sources))
    asked = names(stated[""])
    # PyTorch imports tensorboard by itself; Triton and Streamlit are imported by name, in one place each.
    optional = names([*stated["app"], *stated["gpu"], *stated["logging"]])
    assert imported - optional == asked
    assert optional - imported <= {"tensorboard", "triton"}


def test_the_explorer_imports_only_what_its_extra_and_the_package_ask_for(
    project_root: Path, stated: dict[str, list[Requirement]]
) -> None:
    imported = distributions(imported_packages((project_root / "app").rglob("*.py")))
    assert imported - names(stated[""]) == names(stated["app"])


def test_every_dependency_has_a_lower_bound_and_a_users_an_upper_one(stated: dict[str, list[Requirement]]) -> None:
    for extra, requirements in stated.items():
        for requirement in requirements:
            lowest = lower_bound(requirement)
            upper = [spec.version for spec in requirement.specifier if spec.operator == "<"]
            if extra != "dev" and requirement.name not in WITHOUT_UPPER_BOUND:
                (bound,) = upper
                assert lowest < Version(bound), requirement


def test_the_lowest_versions_are_those_that_a_users_requirements_state(
    project_root: Path, stated: dict[str, list[Requirement]]
) -> None:
    script = [sys.executable, str(project_root / ".ci/lowest_versions.py")]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    users = [*stated[""], *stated["app"], *stated["logging"]]
    printed = {requirement.name: lower_bound(requirement) for requirement in map(Requirement, lines)}
    assert printed == {requirement.name: lower_bound(requirement) for requirement in users}


def test_every_dependency_of_a_checkout_is_pinned_to_a_version_that_is_asked_for(
    stated: dict[str, list[Requirement]], pins: dict[str, str]
) -> None:
    for requirement in [*stated[""], *stated["app"], *stated["dev"], *stated["docs"]]:
        assert requirement.specifier.contains(pins[requirement.name]), requirement
    for requirement in stated["logging"] + stated["gpu"]:
        if pin := pins.get(requirement.name):
            assert requirement.specifier.contains(pin), requirement


@pytest.mark.parametrize("version", ["2.8.0", "2.11.0", "2.13.0"])
def test_any_torch_from_the_oldest_with_a_usable_triton_is_accepted(
    stated: dict[str, list[Requirement]], version: str
) -> None:
    (torch,) = [requirement for requirement in stated[""] if requirement.name == "torch"]
    assert torch.specifier.contains(version)


def test_the_type_checker_is_told_of_no_library_that_the_package_does_not_import(
    package_sources: list[Path], pyproject: dict[str, Any]
) -> None:
    (override,) = pyproject["tool"]["mypy"]["overrides"]
    untyped = {module.removesuffix(".*") for module in override["module"]}
    assert untyped <= imported_packages(package_sources)
