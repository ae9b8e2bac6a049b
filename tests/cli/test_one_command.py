import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from diffmamba_interp import __main__ as one_command
from diffmamba_interp import explore
from diffmamba_interp.runs import command
from diffmamba_interp.runs.settings import bundled_recipes


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_its_exit_codes_and_examples(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_command.main(asked) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and text in shown for name, text in one_command.COMMANDS.items())
    assert all(f"{code:3d}  " in shown for code, _ in one_command.EXIT_CODES)
    assert all(line.split()[0] in one_command.COMMANDS for line in one_command.EXAMPLES)


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"diffmamba-interp {version('diffmamba-interp')}\n"


@pytest.mark.parametrize(("name", "meant"), [("train_lens", "train-lens"), ("inspekt", "inspect"), ("--verison", None)])
def test_another_command_is_refused_with_the_nearest_one(
    name: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_command.main([name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: '{name}' is no command")
    assert ("Did you mean" in said) == (meant is not None)
    assert meant is None or said.rstrip().endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize("name", one_command.COMMANDS)
def test_a_command_gets_the_arguments_that_follow_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def main(args: list[str]) -> int:
        given.extend(args)
        return 7

    module = ModuleType("fake")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"diffmamba_interp.{name.replace('-', '_')}", module)
    assert one_command.main([name, "--recipe", "x.toml"]) == 7
    assert given == ["--recipe", "x.toml"]


@pytest.mark.parametrize(
    ("caller", "usage"),
    [
        ("/usr/bin/diffmamba-interp", "diffmamba-interp train-lens"),
        ("C:/Scripts/diffmamba-interp.exe", "diffmamba-interp train-lens"),
        ("/site/diffmamba_interp/__main__.py", "python -m diffmamba_interp train-lens"),
        ("/site/diffmamba_interp/train_lens.py", "python -m diffmamba_interp.train_lens"),
    ],
)
def test_usage_says_how_the_command_was_called(caller: str, usage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [caller, "--help"])
    assert command.program("train-lens") == usage


def test_what_needs_no_library_loads_none() -> None:
    asked = [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in one_command.COMMANDS),
        ["train-lens", "--n", "1"],
    ]
    program = f"""
import contextlib, sys
from diffmamba_interp import __main__ as command
for arguments in {asked}:
    with contextlib.suppress(SystemExit):
        command.main(arguments)
print(*{{"torch", "transformers", "huggingface_hub", "scipy", "pyarrow", "plotly"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert done.stdout.count("exit codes: 0 done") == len(one_command.COMMANDS)


def test_recipes_of_the_package_are_found_by_name(project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bundled_recipes()["demo_mamba2"] == project_root / "recipes" / "demo_mamba2.toml"
    assert one_command.main(["train-lm"]) == 2
    assert "demo_mamba2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        one_command.main(["train-lm", "--recipe", "demo_mamba2", "--help"])
    assert ended.value.code == 0


# ------------------------------------------------------------------ explore


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What Streamlit's command was given."""
    calls: list[list[str]] = []
    fake = ModuleType("streamlit.web.cli")
    fake.main = lambda args, standalone_mode: calls.append(args)  # type: ignore[attr-defined]
    monkeypatch.setattr(explore.importlib, "import_module", lambda name: fake)
    return calls


def test_explore_gives_the_explorer_its_root_on_this_machine_alone(
    server: list[list[str]], tmp_path: Path, project_root: Path
) -> None:
    assert explore.main(["--root", str(tmp_path), "--port", "8600", "--no-browser"]) == 0
    (given,) = server
    assert given[:2] == ["run", str(project_root / "app" / "main.py")]
    assert given[-3:] == ["--", "--root", str(tmp_path)]
    assert {"--server.address=localhost", "--server.headless=true", "--server.port=8600"} <= set(given)


def test_explore_imports_pytorch_early_and_leaves_errors_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail(name: str) -> None:
        asked.append(name)
        raise OSError("a broken library")

    monkeypatch.setattr(explore.importlib, "import_module", fail)
    explore.import_early()
    assert asked == ["torch"]


@pytest.mark.parametrize(("wrong", "said"), [(["--root", "nowhere"], "is no folder"), (["--port", "0"], "1 and")])
def test_explore_refuses_what_cannot_be_served(
    wrong: list[str], said: str, server: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert explore.main(wrong) == 2
    assert said in capsys.readouterr().err
    assert server == []


def test_explore_says_how_to_install_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "streamlit.web.cli", None)
    assert explore.main([]) == 2
    assert "pip install 'diffmamba-interp[app]'" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(explore, "PLACES", (Path("nowhere/main.py"),))
    assert explore.main([]) == 2
    assert "has no explorer" in capsys.readouterr().err
