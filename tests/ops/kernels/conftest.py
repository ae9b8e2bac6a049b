"""Triton kernels on the GPU where there is one, else interpreted on the CPU."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Read when Triton is imported; without it a kernel refuses tensors on the CPU.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session", autouse=True)
def _loop_bounds_of_the_interpreter() -> Iterator[None]:
    """Triton's interpreter reads a loop bound as int(array of one element), which NumPy 2.4 refuses."""
    pytest.importorskip("triton", reason="the kernels need Triton")
    if torch.cuda.is_available():
        yield
        return
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: type, *scope: object) -> None:
        original(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patched)
        yield


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is full of NaN, so that an element that a kernel forgets shows."""
    original = torch.empty

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = original(*args, **kwargs)
        return tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)

    monkeypatch.setattr(torch, "empty", poisoned)
