"""What it costs to begin: seconds of processor time of imports and of a command's help, and their ratio to PyTorch's.

    python benchmarks/import_cost.py [REPEATS]

Each in a process of its own, with compiled modules as an installed copy has them; the least of the repeats counts.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile

from diffmamba_interp.__main__ import COMMANDS

CASES = {
    "import torch": None,
    "import torch, transformers": None,
    "import diffmamba_interp": 0.05,
    "from diffmamba_interp import HookedMamba": 1.5,
    "from diffmamba_interp import load_demo, load_demo_lens": None,
    **{
        f"from diffmamba_interp.__main__ import main; main({arguments})": 2.0
        for arguments in (["--help"], *([name, "--help"] for name in COMMANDS))
    },
}
"""Statements, and the seconds that each should stay under."""


def main(repeats: int = 5) -> None:
    with tempfile.TemporaryDirectory() as compiled:
        nothing = least_s("pass", compiled, repeats)
        torch_s = least_s("import torch", compiled, repeats) - nothing
        print(f"{'statement':80s} {'CPU s':>6s} {'goal':>5s}  / import torch")
        for statement, goal in CASES.items():
            seconds = least_s(statement, compiled, repeats) - nothing
            print(f"{statement:80s} {seconds:6.2f} {goal or '':>5}  {seconds / torch_s:.2f}")


def least_s(statement: str, compiled: str, repeats: int) -> float:
    """The least processor time of a process that runs the statement; the first run, which compiles, does not count."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    seconds = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", statement], env=environment, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds[1:])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
