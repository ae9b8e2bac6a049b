"""Commands in processes of their own that may be killed; the package is imported once and the processes forked."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FORKER = """
import json, os, signal, sys, time
from pathlib import Path
from diffmamba_interp import train_lens
from diffmamba_interp.commands import lens_run

def start(args, environment, output):
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    # Under nohup or in a shell's background these are ignored, and children inherit that.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    code = train_lens.main(args)
    sys.stdout.flush()
    os._exit(code)

def n_lines(path):
    return Path(path).read_bytes().count(b"\\n") if Path(path).exists() else 0

for line in sys.stdin:
    job = json.loads(line)
    children = [start(job["args"], env, job["output"] + str(i)) for i, env in enumerate(job["environments"])]
    if job["signal"]:
        ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while n_lines(job["log"]) < job["after_lines"] and not os.waitid(os.P_PID, children[0], ended):
            time.sleep(0.001)
        time.sleep(job["delay_s"])
        os.kill(children[0], job["signal"])
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
"""


class Forker:
    """Runs the train_lens command in forks of one warm process."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process, self._output = process, str(folder / "output")

    def run(
        self,
        args: list[str],
        *,
        environments: tuple[dict[str, str], ...] = ({},),
        kill: int | None = None,
        log: Path | None = None,
        after_lines: int = 0,
        delay_s: float = 0.0,
    ) -> tuple[list[int], str]:
        """Exit codes (minus the signal of a killed one) and the output of the first process.

        One process per environment. `kill`: the signal sent to the first, `delay_s` after `log` has `after_lines`.
        """
        job: dict[str, Any] = {
            "args": args,
            "environments": environments,
            "signal": kill,
            "log": str(log),
            "after_lines": after_lines,
            "delay_s": delay_s,
            "output": self._output,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        codes = json.loads(self._process.stdout.readline())
        return codes, Path(self._output + "0").read_text()


@pytest.fixture(scope="session")
def forker(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    folder = tmp_path_factory.mktemp("forker")
    environment = os.environ | {"PYTHONPATH": str(project_root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKER],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Forker(process, folder)
        assert process.stdin is not None
        process.stdin.close()
