"""The table of lenses says what the lenses' own files say, and the README holds it as it is now."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from diffmamba_interp.lens.card import COLUMNS, catalogue, read_metrics


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_each_lens_has_a_row_with_its_own_numbers(lenses_dir: Path) -> None:
    head, _, *rows = catalogue(lenses_dir)
    assert cells(head) == list(COLUMNS)
    names = [f"{model}/{name}" for model in ("diff-mamba2", "mamba2") for name in ("jacobian", "pile")]
    assert [cells(row)[0] for row in rows] == [f"[{name}]({name}/CARD.md)" for name in names]
    assert "pile_test, 1024 prompts of 128 tokens" in rows[0]
    for row, name in zip(rows, names, strict=True):
        measurement, provenance, _ = read_metrics(lenses_dir / name)
        kl = [stage.kl_nats.value for stage in measurement.stages]
        assert str(provenance.model_sha256)[:12] in row
        assert cells(row)[-2] == f"{sum(kl) / len(kl):.3f} ({sum(kl[1:]) / len(kl[1:]):.3f})"
        assert f"{measurement.n_documents} documents" in row


def test_a_stage_in_which_the_lens_is_no_nearer_is_not_counted(lenses_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model" / "lens"
    shutil.copytree(lenses_dir / "mamba2" / "pile", folder)
    content = json.loads((folder / "metrics.json").read_text())
    n = len(content["measurement"]["stages"])
    content["measurement"]["stages"][1]["kl_saved_nats"] |= {"value": 0.0, "low": -0.1, "high": 0.1}
    (folder / "metrics.json").write_text(json.dumps(content))
    assert cells(catalogue(tmp_path)[-1])[-1] == f"{n - 1} of {n} stages"


def test_a_folder_without_lenses_gives_an_empty_table(tmp_path: Path) -> None:
    assert len(catalogue(tmp_path)) == 2


def test_metrics_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model" / "lens").mkdir(parents=True)
    (tmp_path / "model" / "lens" / "metrics.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99"):
        catalogue(tmp_path)


def test_the_readme_of_the_lenses_holds_the_table_as_it_is_now(lenses_dir: Path) -> None:
    spec = importlib.util.spec_from_file_location("lenses_table", lenses_dir / "table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    text = (lenses_dir / "README.md").read_text(encoding="utf-8")
    assert table.with_table(text) == text, "run: python lenses/table.py"
