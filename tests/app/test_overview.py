"""Overview page: the chosen model, block by block."""

import re
from pathlib import Path

import pytest

from diffmamba_interp.models.inspection import inspect_checkpoint
from tests.app.conftest import MODEL, OpenApp, complaint, texts


def test_the_block_table_says_what_inspect_checkpoint_says(open_app: OpenApp, root: Path) -> None:
    app = open_app()
    table = app.dataframe[0].value
    report = inspect_checkpoint(root / MODEL)
    assert list(table["kind"]) == [block.kind for block in report.blocks]
    assert list(table["parameters"]) == [block.n_parameters for block in report.blocks]
    assert table["λ"][2] == pytest.approx(report.blocks[2].lambda_, abs=1e-4)
    assert table["λ_init"][2] == pytest.approx(report.blocks[2].lambda_init, abs=1e-4)
    assert table["sigmoid"][0] == {True: "saturated", False: "open"}[report.blocks[0].saturated]
    assert table["λ"].isna().tolist() == [False, True, False, True]


def test_parameters_device_and_scan_are_shown(open_app: OpenApp, root: Path) -> None:
    app = open_app()
    shown = {metric.label: metric.value for metric in app.metric}
    report = inspect_checkpoint(root / MODEL, device="cpu")
    assert shown["Parameters"] == f"{report.n_parameters:,}"
    assert (shown["Blocks"], shown["Differential"]) == ("4", "2")
    assert (shown["Device"], shown["Numbers"]) == ("cpu", "float32")
    assert report.scan in app.text[0].value


def test_another_model_can_be_chosen(open_app: OpenApp) -> None:
    app = open_app()
    app.selectbox(key="model").select("models/all").run()
    assert set(app.dataframe[0].value["kind"]) == {"differential"}


def test_the_models_to_choose_from_lie_below_the_root_or_come_with_the_package(open_app: OpenApp) -> None:
    offered = open_app().selectbox(key="model").options
    assert {name for name in offered if not name.startswith("bundled:")} - {"worded"} == {"models/all", MODEL}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret", "leads outside of the root"),
        ("../nothing", "leads outside of the root"),
        ("/", "leads outside of the root"),
        ("models/../../secret", "leads outside of the root"),
        ("models/none", "there is no folder"),
        ("models", "config.json"),
        ("bundled:../secret", "leads outside of the root|there is no folder"),
        ("a\x00b", "no folder name"),
        ("x" * 5000, "no folder name"),
        ("<script>alert(1)</script>", "there is no folder"),
    ],
)
def test_a_folder_that_cannot_be_opened_is_an_error_box(open_app: OpenApp, name: str, words: str) -> None:
    app = open_app(model=name)
    assert re.search(words, complaint(app))
    app.selectbox(key="model").select(MODEL).run()
    assert len(app.dataframe) == 1
    assert not app.error


def test_a_link_that_leads_out_of_the_root_is_refused(open_app: OpenApp, root: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(root.parent / "secret", target_is_directory=True)
    app = open_app(at_root=tmp_path / "inside", model="link")
    assert "leads outside of the root" in complaint(app)


def test_a_root_without_models_says_how_to_name_another(open_app: OpenApp, tmp_path: Path) -> None:
    assert "`-- --root FOLDER`" in complaint(open_app(at_root=tmp_path, model=""))


def test_a_root_that_is_no_folder_is_an_error_box(open_app: OpenApp, tmp_path: Path) -> None:
    assert "is no folder" in complaint(open_app(at_root=tmp_path / "none"))


def test_a_corrupt_checkpoint_is_an_error_box(open_app: OpenApp, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"no tensors")
    app = open_app(at_root=tmp_path, model="bad")
    assert "bad" in complaint(app)
    assert texts(app.error) == ["Opening the model failed."]
