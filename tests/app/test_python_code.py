"""What is copied as Python names a bundled lens, and any other by its folder."""

from pathlib import Path

from app.shell.python_code import imported, lens_call
from diffmamba_interp.lens import demo_lens_folder


def test_a_bundled_lens_is_loaded_by_name_so_that_the_code_runs_anywhere() -> None:
    call = lens_call(demo_lens_folder("diff-mamba2"))
    assert call == "load_demo_lens('diff-mamba2', model)"
    assert imported(call) == "load_demo_lens"


def test_another_lens_is_loaded_from_its_folder_and_the_logit_lens_from_the_model(tmp_path: Path) -> None:
    assert lens_call(tmp_path) == f"load_lens({str(tmp_path)!r}, model)"
    assert imported(lens_call(tmp_path)) == "load_lens"
    assert imported(lens_call(None)) == "LogitLens"
