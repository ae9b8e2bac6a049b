"""What an installed copy holds."""

import email
import shutil
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

DATA_FILES = ["weights.safetensors", "config.json", "recipe.toml", "CARD.md"]
NEIGHBOURS = [
    "app/pictures/stray.png",
    "stray.py",
    "tests/test_stray.py",
    "analyses/stray/run.py",
    "lenses/stray/recipe.toml",
    "runs/x.json",
]


@pytest.fixture(scope="module")
def wheel(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of the project as it is, with data files added to the package and strays added beside it."""
    copy = tmp_path_factory.mktemp("project")
    for name in ["pyproject.toml", "README.md", "LICENSE", ".gitignore"]:
        shutil.copy(project_root / name, copy / name)
    shutil.copytree(
        project_root / "diffmamba_interp",
        copy / "diffmamba_interp",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for folder in ("app", "lenses", "recipes"):
        shutil.copytree(project_root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for stray in [*(f"diffmamba_interp/text/{name}" for name in DATA_FILES), *NEIGHBOURS]:
        (copy / stray).parent.mkdir(parents=True, exist_ok=True)
        (copy / stray).write_bytes(b"stray")
    (built,) = WheelBuilder(str(copy)).build(directory=str(copy / "dist"), versions=["standard"])
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_installs_the_package_and_nothing_beside_it(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"diffmamba_interp"}


def test_the_wheel_holds_every_source_file_and_py_typed(wheel: zipfile.ZipFile, project_root: Path) -> None:
    sources = {str(p.relative_to(project_root)) for p in (project_root / "diffmamba_interp").rglob("*.py")}
    assert sources | {"diffmamba_interp/py.typed"} <= set(wheel.namelist())


@pytest.mark.parametrize("name", DATA_FILES)
def test_data_files_inside_the_package_are_installed(wheel: zipfile.ZipFile, name: str) -> None:
    assert f"diffmamba_interp/text/{name}" in wheel.namelist()


@pytest.mark.parametrize("model", ["diff-mamba2", "mamba2"])
def test_the_demo_pairs_lenses_are_installed(wheel: zipfile.ZipFile, model: str) -> None:
    for kind in ("", "-jacobian"):
        folder = f"diffmamba_interp/lens/demo_files/{model}{kind}"
        assert {f"{folder}/config.json", f"{folder}/params.pt"} <= set(wheel.namelist())


def test_the_explorer_and_the_recipes_are_installed_as_data_of_the_package(
    wheel: zipfile.ZipFile, project_root: Path
) -> None:
    kept = {path.relative_to(project_root) for path in (project_root / "app").rglob("*") if path.is_file()}
    needed = {f"diffmamba_interp/explorer/{path}" for path in kept if not {"__pycache__", "pictures"} & {*path.parts}}
    recipes = [path for path in (project_root / "recipes").rglob("*") if path.is_file()]
    needed |= {
        f"diffmamba_interp/{path.relative_to(project_root)}" for path in recipes if "__pycache__" not in path.parts
    }
    assert needed <= set(wheel.namelist())
    assert not [name for name in wheel.namelist() if "/pictures/" in name]


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt")]
    assert "diffmamba-interp = diffmamba_interp.__main__:main" in wheel.read(name).decode()


def test_kernels_and_streamlit_are_asked_for_only_by_their_extras(metadata: Message) -> None:
    requirements = metadata.get_all("Requires-Dist", [])
    for package, extra in [
        ("mamba-ssm", "gpu"),
        ("causal-conv1d", "gpu"),
        ("triton", "gpu"),
        ("streamlit", "app"),
    ]:
        lines = [r for r in requirements if r.startswith(package)]
        assert any(f"extra == '{extra}'" in line for line in lines)
        assert all("extra == " in line for line in lines)
