"""Processes of one run and their devices."""

from pathlib import Path

import pytest
import torch

from diffmamba_interp.files.locks import LockedError, folder_lock
from diffmamba_interp.runs.command import RunError
from diffmamba_interp.runs.process_group import ProcessGroup, local_device, process_group


def test_a_lone_process_sums_with_nobody() -> None:
    group, value, parameter = ProcessGroup(), torch.ones(2), torch.nn.Parameter(torch.ones(2))
    assert group.sum_(value) is value
    parameter.grad = torch.ones(2)
    group.sum_gradients([parameter])
    group.wait_for_all()
    assert (value.tolist(), parameter.grad.tolist()) == ([1, 1], [1, 1])
    assert (group.any(True), group.any(False), group.writer_says(True)) == (True, False, True)
    assert group.is_writer


@pytest.mark.parametrize("name", ["gpu", "", " ", "meta", "cpu:x", "cuda:-1", "xla", "CPU", "0", "vulkan"])
def test_what_is_no_device_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device is '{name}', .*(give cpu, cuda, cuda:1|no CUDA device)"):
        local_device(name)


def test_cuda_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device("auto") == local_device(None) == local_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="no CUDA device"):
        local_device("cuda")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(ValueError, match=r"device is 'cuda:99', number 99, but torch sees 2 CUDA device\(s\)"):
        local_device("cuda:99")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("auto") == torch.device("cuda", 1)
    assert local_device("cuda:0") == torch.device("cuda", 0)
    assert chosen == [1, 0]


def test_without_torchrun_the_process_is_alone() -> None:
    with process_group("cpu") as group:
        assert (group.rank, group.size, group.device) == (0, 1, torch.device("cpu"))


def test_the_writer_holds_the_lock_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ProcessGroup().only_writer_of(tmp_path), pytest.raises(LockedError):
        folder_lock(tmp_path).__enter__()
    other = ProcessGroup(rank=1, size=2)
    monkeypatch.setattr(ProcessGroup, "any", lambda self, here: False)
    with folder_lock(tmp_path), other.only_writer_of(tmp_path):
        pass
    # What the writer says where it could not begin.
    monkeypatch.setattr(ProcessGroup, "any", lambda self, here: True)
    with pytest.raises(RunError, match="first process of this run could not begin"):
        other.only_writer_of(tmp_path).__enter__()


def test_every_gradient_is_replaced_by_its_own_sum_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanged: list[int] = []

    def twice(tensor: torch.Tensor, op: object) -> None:
        exchanged.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr("torch.distributed.all_reduce", twice)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1,))]
    before = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, gradient in zip(parameters[:2], before, strict=False):
        parameter.grad = gradient.clone()
    ProcessGroup(size=2).sum_gradients(parameters)
    for parameter, gradient in zip(parameters[:2], before, strict=False):
        assert torch.equal(parameter.grad, 2 * gradient)
    assert parameters[2].grad is None
    assert exchanged == [10]
