"""The benchmark runs from end to end, tiny and on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_runs_on_a_cpu(project_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    sizes = ["--device", "cpu", "--length", "70", "--heads", "2", "--d-state", "8", "--long", "300", "--blocks", "1"]
    command = [sys.executable, "-W", "error", str(project_root / "benchmarks" / "hidden_attention.py"), *sizes]
    environment = os.environ | {"PYTHONPATH": str(project_root)}
    run = subprocess.run([*command, "--out", str(out)], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert all(error < 1e-5 for error in results["errors"].values())
    assert results["long_prompt"]["finite"] == 1.0
    for timings in results["timings"].values():
        assert {"ours", "eager PyTorch"} <= set(timings)
