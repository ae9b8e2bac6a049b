"""Which way imports go, and what importing the package does to its surroundings: nothing."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIDE_EFFECTS = """
import json, logging, random, sys, time, warnings
import numpy, torch

def surroundings():
    return {
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "torch seed": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy seed": hash(numpy.random.get_state()[1].tobytes()),
        "python seed": hash(random.getstate()),
        "log handlers": len(logging.getLogger().handlers),
        "cuda": torch.cuda.is_initialized(),
    }

before, start = surroundings(), time.process_time()
import diffmamba_interp
cpu_s = time.process_time() - start
print(json.dumps({"before": before, "after": surroundings(), "cpu_s": cpu_s, "modules": sorted(sys.modules)}))
"""

# Each line breaks one contract.
TRESPASSES = {
    "models/trespass.py": ("import diffmamba_interp.lens.trespass", "Imports go one way"),
    "lens/trespass.py": ("import diffmamba_interp.needle.trespass", "Imports go one way"),
    "needle/trespass.py": ("import streamlit", "nothing that a wheel does not install"),
    "config.py": ("import torch", "Level 0 imports no torch"),
    "figures/trespass.py": ("import torch", "figures import neither"),
    "drawing/trespass.py": ("import diffmamba_interp.needle.trespass", "Imports go one way"),
    "ops/trespass.py": ("import mamba_ssm", "Only ops.fused"),
    "text/there.py": ("import diffmamba_interp.text.back", "No circle of imports"),
    "text/back.py": ("import diffmamba_interp.text.there", "No circle of imports"),
}

# Imports that the contracts cannot see: of libraries, and of a package's names, which are listed for type checkers too.
IMPORT_BY_NAME = {"lazy_names.py", "explore.py", "ops/fused.py", "ops/kernels/triton_import.py", "text/python_docs.py"}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def imported(project_root: Path) -> dict:
    """A fresh interpreter's view of `import diffmamba_interp`, with warnings as errors."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SIDE_EFFECTS],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == "", "importing the package wrote to stderr"
    assert run.stdout.count("\n") == 1, "importing the package wrote to stdout"
    return json.loads(run.stdout)


def test_imports_obey_the_contract(project_root: Path) -> None:
    run = lint_imports(project_root)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_contract_is_broken_by_an_import_against_it(project_root: Path, tmp_path: Path) -> None:
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    package = tmp_path / "diffmamba_interp"
    shutil.copytree(project_root / "diffmamba_interp", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (line, _) in TRESPASSES.items():
        file = package / name
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        with file.open("a", encoding="utf-8") as source:
            source.write(f"\n{line}\n")
    run = lint_imports(tmp_path)
    assert run.returncode != 0
    for _, contract in TRESPASSES.values():
        (verdict,) = [
            line for line in run.stdout.splitlines() if contract in line and {"KEPT", "BROKEN"} & set(line.split())
        ]
        assert "BROKEN" in verdict, run.stdout
    edges = (
        "models.trespass -> diffmamba_interp.lens",
        "lens.trespass -> diffmamba_interp.needle",
        "drawing.trespass -> ",
        "No cycles are allowed in diffmamba_interp.text.",
    )
    for edge in edges:
        assert edge in run.stdout


def test_a_module_without_a_level_breaks_the_contract(project_root: Path, tmp_path: Path) -> None:
    shutil.copy(project_root / "pyproject.toml", tmp_path)
    shutil.copytree(
        project_root / "diffmamba_interp",
        tmp_path / "diffmamba_interp",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (tmp_path / "diffmamba_interp" / "helpers.py").touch()
    run = lint_imports(tmp_path)
    assert run.returncode != 0
    assert "helpers" in run.stdout


def test_what_is_imported_by_name_while_running_is_no_part_of_the_package(
    project_root: Path, package_sources: list[Path]
) -> None:
    package = project_root / "diffmamba_interp"
    dynamic = {str(file.relative_to(package)) for file in package_sources if imports_by_name(file)}
    assert dynamic == IMPORT_BY_NAME


def imports_by_name(file: Path) -> bool:
    """Whether a file calls `__import__`, or takes anything but a package's version from `importlib`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id="__import__"):
                return True
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "importlib":
                if module != "importlib.metadata":
                    return True
            case ast.Import(names=names) if any(alias.name.partition(".")[0] == "importlib" for alias in names):
                return True
    return False


@pytest.mark.parametrize(
    "library", ["datasets", "mamba_ssm", "plotly", "streamlit", "tuned_lens", "wandb", "transformers.models"]
)
def test_importing_the_package_leaves_heavy_libraries_alone(imported: dict, library: str) -> None:
    loaded = [name for name in imported["modules"] if name.startswith(f"{library}.") or name == library]
    assert loaded == []


@pytest.fixture(scope="session")
def imported_with_its_subpackages(project_root: Path) -> list[str]:
    """Modules that a fresh interpreter holds after importing every subpackage."""
    names = sorted(init.parent.name for init in (project_root / "diffmamba_interp").glob("*/__init__.py"))
    imports = "; ".join(f"import diffmamba_interp.{name}" for name in names)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import json, sys; {imports}; print(json.dumps(sorted(sys.modules)))"],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    "library",
    ["accelerate", "datasets", "pandas", "plotly", "scipy", "streamlit", "tuned_lens", "wandb", "transformers.models"],
)
def test_importing_its_subpackages_leaves_heavy_libraries_alone(
    imported_with_its_subpackages: list[str], library: str
) -> None:
    loaded = [name for name in imported_with_its_subpackages if name.startswith(f"{library}.") or name == library]
    assert loaded == []


def test_a_name_loads_what_it_needs_and_no_more(project_root: Path) -> None:
    def loaded(program: str, *libraries: str) -> list[str]:
        told = f"import sys; {program}; print(*sorted({set(libraries)} & sys.modules.keys()))"
        run = subprocess.run([sys.executable, "-c", told], cwd=project_root, capture_output=True, text=True, check=True)
        return run.stdout.split()

    assert loaded("import diffmamba_interp, diffmamba_interp.lens, diffmamba_interp.needle", "torch", "numpy") == []
    heavy = ["triton", "huggingface_hub", "transformers", "tyro", "datasets", "tuned_lens", "plotly", "pyarrow"]
    assert loaded("from diffmamba_interp import HookedMamba", "torch", *heavy) == ["torch"]
    readers = "text.tokenizer", "lens.subjects", "needle.accuracy_grid", "needle.trajectory_records"
    program = "; ".join(f"import diffmamba_interp.{reader}" for reader in readers)
    assert loaded(program, "tokenizers", "transformers") == ["tokenizers"]
    first = "model, _ = load_demo(); model(torch.zeros(1, 2, dtype=torch.int64)); load_demo_lens()"
    program = f"import torch; from diffmamba_interp import *; from diffmamba_interp.lens import *; {first}"
    assert loaded(program, "torch._dynamo", "sympy", "triton", "tyro", "datasets", "plotly", "scipy") == []


def test_importing_the_package_changes_no_global_setting(imported: dict) -> None:
    assert imported["after"] == imported["before"]
    assert imported["after"]["cuda"] is False


def test_importing_the_package_takes_under_three_seconds_beyond_torch(imported: dict) -> None:
    assert imported["cpu_s"] < 3.0


def test_argument_types_are_enforced_while_testing() -> None:
    from diffmamba_interp import hook_names

    with pytest.raises(Exception, match="type") as refusal:
        hook_names.block_point("three", "resid_pre")  # type: ignore[arg-type]
    assert type(refusal.value).__module__.split(".")[0] in {"jaxtyping", "beartype"}
