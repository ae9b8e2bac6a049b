import subprocess
import sys

import pytest
import torch

from diffmamba_interp.ops.kernels import triton_import

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else found(name, *rest)
import torch
from diffmamba_interp.ops.kernels import fused_conv_silu
try:
    fused_conv_silu(torch.zeros(1, 2, 3), torch.zeros(3, 4))
except ImportError as error:
    assert "pip install triton" in str(error)
    sys.exit(7)
"""


def test_without_triton_the_import_works_and_the_call_says_what_to_install() -> None:
    assert subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=False).returncode == 7


def test_tensors_on_the_cpu_are_refused_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_import, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        triton_import.check_launchable("a kernel", torch.zeros(1))


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="one device"):
        triton_import.check_launchable("a kernel", torch.zeros(1), torch.zeros(1, device="meta"))
