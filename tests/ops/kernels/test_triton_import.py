import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from diffmamba_interp.ops.kernel_use import kernels_serve
from diffmamba_interp.ops.kernels import triton_import

WITHOUT_USABLE_TRITON = """
import sys, types
import torch
old = types.ModuleType("triton")
old.__version__ = "3.0.0"
sys.modules |= {modules}
import diffmamba_interp
for name in diffmamba_interp.__all__:
    getattr(diffmamba_interp, name)
from diffmamba_interp.ops.kernels import fused_conv_silu
cfg = diffmamba_interp.HookedMambaConfig(d_model=16, n_layers=1, d_vocab=9, d_state=4, d_head=8)
tokens = torch.zeros(1, 3, dtype=torch.long)
record = diffmamba_interp.extract_attention(diffmamba_interp.HookedMamba(cfg), tokens, block=0)
assert record.weights.isfinite().all()
try:
    fused_conv_silu(torch.zeros(1, 2, 3), torch.zeros(3, 4))
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ("{'triton': None}", "Triton is not installed: `pip install triton`"),
        ("{'triton': old, 'triton.language': types.ModuleType('triton.language')}", "Triton 3.0.0 is too old: 3.4"),
    ],
)
def test_without_a_usable_triton_everything_runs_but_a_kernel_which_says_why(modules: str, reason: str) -> None:
    program = WITHOUT_USABLE_TRITON.replace("{modules}", modules)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert reason in run.stdout
    assert 'impl="reference"' in run.stdout


@pytest.mark.parametrize(
    "error", [OSError("libcuda.so.1: cannot open"), ImportError("no libtriton"), AttributeError("no torch.x")]
)
def test_a_triton_that_cannot_be_imported_is_an_obstacle_that_names_its_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def import_module(name: str) -> None:
        raise error

    monkeypatch.setattr(triton_import, "importlib", SimpleNamespace(import_module=import_module))
    *placeholders, obstacle = triton_import._import_triton()
    assert obstacle is not None
    assert str(error) in obstacle
    assert all(placeholder.jit(len) is len for placeholder in placeholders)


def test_kernels_are_taken_by_themselves_only_where_triton_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_import, "TRITON_OBSTACLE", None)
    with FakeTensorMode():
        on_a_gpu = torch.empty(1, device="cuda")
    assert kernels_serve(on_a_gpu)
    assert not kernels_serve(on_a_gpu, torch.empty(1))
    monkeypatch.setattr(triton_import, "TRITON_OBSTACLE", "Triton is not installed")
    assert not kernels_serve(on_a_gpu)


def test_tensors_on_the_cpu_are_refused_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_import, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        triton_import.check_launchable("a kernel", torch.zeros(1))


def test_tensors_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="one device"):
        triton_import.check_launchable("a kernel", torch.zeros(1), torch.zeros(1, device="meta"))
