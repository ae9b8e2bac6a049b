"""A list of steps: run with what is in memory, and printed as Python that computes the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.shell.folders import ModelKey
from app.shell.steps import Lines, Ref, Step, Within, as_python, model_steps, run_steps
from diffmamba_interp.figures.curves import lambda_figure
from diffmamba_interp.interventions import ScaleLambda
from diffmamba_interp.lens import demo_lens_folder, load_lens
from diffmamba_interp.models.demo import demo_folder

STEPS = [
    Step("values", torch.tensor, [[1.5, -2.0, 0.25]], dtype=torch.float64),
    Step("total", "values.sum", dim=(1,)),
    Within(torch.inference_mode, steps=[Step("doubled", torch.add, Ref("total"), Step("", torch.tensor, 2))]),
]


def executed(steps: list) -> dict:
    names: dict = {}
    exec(compile(as_python(steps), "copied", "exec"), names)
    return names


def test_what_is_printed_computes_what_is_run() -> None:
    ran, printed = run_steps(STEPS, {}), executed(STEPS)
    for name in ("values", "total", "doubled"):
        assert np.array_equal(ran[name].numpy(), printed[name].numpy())
    assert ran["doubled"].is_inference()
    assert printed["doubled"].is_inference()


def test_a_step_whose_result_is_given_is_not_run() -> None:
    assert run_steps(STEPS, {"total": torch.tensor([5.0])})["doubled"].tolist() == [7.0]


def test_arguments_that_only_save_work_are_not_printed() -> None:
    step = Step("largest", max, [3, 1, 2])
    assert run_steps([step], {}, {"largest": {"key": lambda value: -value}})["largest"] == 1
    assert "key" not in "".join(step.lines(set()))


def test_lines_are_printed_as_they_are_and_their_result_has_to_be_given() -> None:
    lines = Lines("text", "text = str")
    assert executed([lines])["text"] is str
    assert run_steps([lines], {"text": repr})["text"] is repr
    with pytest.raises(KeyError, match="text"):
        run_steps([lines], {})


def test_values_are_imported_from_the_highest_package_that_gives_them_out() -> None:
    printed = as_python([Step("figure", lambda_figure, {}), Step("", list, [ScaleLambda(factor=0.5, blocks=(1,))])])
    assert "from diffmamba_interp.figures.curves import lambda_figure" in printed
    assert "from diffmamba_interp.interventions import ScaleLambda" in printed


@pytest.mark.parametrize(
    ("place", "written"),
    [
        (demo_folder("mamba2"), "demo_folder('mamba2')"),
        (demo_lens_folder("diff-mamba2"), "demo_lens_folder('diff-mamba2')"),
        (demo_lens_folder("mamba2", "jacobian"), "demo_lens_folder('mamba2', 'jacobian')"),
        (Path("/elsewhere/lens"), "'/elsewhere/lens'"),
        (Path("/cache/models--owner--name/snapshots/0f"), "'owner/name'"),
    ],
)
def test_a_folder_is_written_so_that_the_code_runs_anywhere(place: Path, written: str) -> None:
    assert f"lens = load_lens({written}, model)" in as_python([Step("lens", load_lens, place, Ref("model"))])


def test_the_model_is_loaded_with_its_dtype_and_device() -> None:
    key = ModelKey(folder=demo_folder("mamba2"), revision="", dtype="bfloat16", device="cpu")
    assert next(iter(executed(model_steps(key))["model"].parameters())).dtype == torch.bfloat16
