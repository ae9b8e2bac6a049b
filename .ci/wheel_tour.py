"""Install a wheel in an empty environment and use it as its first user would, in an empty folder.

    python .ci/wheel_tour.py [--brief] WHEEL

The README's tour (as the wheel's own metadata has it), the bundled models and lenses, every command, and the explorer
in a real browser where there is chromium. Run by the checkout's Python, which has what drives the browser.
`--brief` trains the lens for a few steps only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = ("explore", "inspect", "train-lens", "evaluate-needle", "train-lm")
DESCRIPTION = "import importlib.metadata as m; print(m.metadata('diffmamba-interp').get_payload())"
BUNDLED = """
from diffmamba_interp import load_demo, load_demo_lens
for name in ("diff-mamba2", "mamba2"):
    load_demo(name)
    load_demo_lens(name)
    load_demo_lens(name, kind="jacobian")
"""


def main(args: Sequence[str]) -> int:
    """Install, try, say how long each step took; 0 if all of it works."""
    *options, given = args or [""]
    if options not in ([], ["--brief"]) or not given.endswith(".whl"):
        print(__doc__)
        return 2
    wheel = Path(given).resolve()
    with tempfile.TemporaryDirectory(prefix="wheel-tour-") as folder:
        environment, elsewhere = Path(folder, "environment"), Path(folder, "empty")
        elsewhere.mkdir()
        install(wheel, environment)
        try_out(environment / "bin", elsewhere, is_brief=bool(options))
    print(f"wheel tour: {wheel.name} works from an empty folder")
    return 0


def install(wheel: Path, environment: Path) -> None:
    """The wheel with the explorer's extra, in an environment of its own, at the versions that the tests pass with."""
    with step("install"):
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", PROJECT / "constraints.txt", f"{wheel}[app]"], check=True)


def try_out(binaries: Path, elsewhere: Path, *, is_brief: bool) -> None:
    """What the README promises, one after the other. Raises CalledProcessError or AssertionError for what fails."""
    # Neither the checkout nor what this process was told may help the installed copy.
    strangers = ("PYTHONPATH", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if name not in strangers} | {"OMP_NUM_THREADS": "1"}

    def run(*command: str) -> str:
        program = [str(binaries / command[0]), *command[1:]]
        done = subprocess.run(program, cwd=elsewhere, env=clean, text=True, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    with step("help of every command"):
        assert run("diffmamba-interp", "--version").startswith("diffmamba-interp ")
        for name in COMMANDS:
            assert "--recipe" in run("diffmamba-interp", name, "--help") or name in ("explore", "inspect")
    with step("the README's tour"):
        readme = run("python", "-c", DESCRIPTION)
        (tour,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        run("python", "-c", tour)
        assert (elsewhere / "attention.html").stat().st_size > 1000
    with step("bundled models and lenses"):
        run("python", "-c", BUNDLED)
        assert json.loads(run("diffmamba-interp", "inspect", "diff-mamba2", "--json"))["loads"]
    with step("train-lens, a few steps" if is_brief else "train-lens with defaults"):
        run("diffmamba-interp", "train-lens", *(["--steps", "3"] if is_brief else []))
        assert (elsewhere / "runs/lens/diff-mamba2/CARD.md").exists()
    with step("evaluate-needle"):
        run("diffmamba-interp", "evaluate-needle", "--n", "2", "--lengths", "0")
        assert (elsewhere / "runs/needle/diff-mamba2-and-mamba2/report.html").exists()
    with step("explore, in a browser"):
        explore(binaries / "diffmamba-interp", elsewhere, clean)
    with step("nothing beside the package"):
        (site,) = (binaries.parent / "lib").glob("python*/site-packages")
        assert not (site / "app").exists(), "the explorer lies beside the package, where others' imports find it"


def explore(command: Path, root: Path, environment: dict[str, str]) -> None:
    """Open the explorer's first page, which must come up without a complaint of the browser's."""
    sys.path.insert(0, str(PROJECT / "tests" / "app"))
    from browser import CHROMIUM, CHROMIUM_ARGUMENTS, opened, served
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        print("  left out: there is no chromium here")
        return
    program = [str(command), "explore", "--no-browser", "--root", str(root)]
    with served(root, root, program=program, environment=environment) as address, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGUMENTS)
        with opened(browser, address) as watched:
            watched.figures(1)
            watched.require_clean()
        browser.close()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Say that a step was done, and in how many seconds."""
    began = time.monotonic()
    print(f"wheel tour: {name} ...", flush=True)
    yield
    print(f"wheel tour: {name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
