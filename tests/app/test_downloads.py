"""Files to take away hold what is on the page."""

import csv
import io
import json

import numpy as np
import pytest

from app.pages_.attention.request import attention_files
from app.shell.lens_reading import lens_files, trajectory_bytes
from diffmamba_interp import DifferentialConfig
from diffmamba_interp.figures.attention import attention_figure
from diffmamba_interp.figures.lens import lens_heat_map
from diffmamba_interp.implicit_attention import AttentionRecord, extract_attention
from diffmamba_interp.lens import LogitLens, lens_trajectory
from tests.app.conftest import IDS, OpenApp
from tests.models.tiny import random_tokens, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model(DifferentialConfig(placement=(0,)))


@pytest.fixture(scope="module")
def record(model):
    return extract_attention(
        model, random_tokens(1, 6), 0, reduce="mean", token_strings=["a", "=1+1", ",", "\n", '"', "é"]
    )


def content(files, ending: str) -> bytes:
    (file,) = [file for file in files if file.ending == ending]
    return file.make()


def test_the_npz_file_is_the_record(record, tmp_path) -> None:
    (tmp_path / "r.npz").write_bytes(content(attention_files(record, attention_figure(record)), "npz"))
    again = AttentionRecord.load(tmp_path / "r.npz").to_numpy()
    assert all(np.array_equal(again[name], value) for name, value in record.to_numpy().items())


def test_the_csv_file_holds_every_visible_cell(record) -> None:
    lines = list(
        csv.DictReader(io.StringIO(content(attention_files(record, attention_figure(record)), "csv").decode()))
    )
    assert len(lines) == 6 * 7 // 2
    for line in lines:
        value = record.difference[0, int(line["dest_pos"]), int(line["src_pos"])]
        assert float(line["difference"]) == pytest.approx(float(value))
        assert json.loads(line["src_token"]) == record.token_strings[0][int(line["src_pos"])]
    assert not any(cell.startswith(("=", "@", "+")) for line in lines for cell in line.values())


def test_the_html_file_needs_no_network(record) -> None:
    page = content(attention_files(record, attention_figure(record)), "html").decode()
    assert "<script src=" not in page
    assert "Plotly.newPlot" in page
    assert '"showSendToCloud": false' in page


def test_the_lens_files_hold_the_trajectory(model) -> None:
    found = lens_trajectory(model, LogitLens.from_model(model), random_tokens(1, 5), targets=random_tokens(1, 5))
    files = lens_files({"one": found}, [lens_heat_map(found, str)], str)
    lines = list(csv.DictReader(io.StringIO(content(files, "csv").decode())))
    assert len(lines) == 3 * 5
    assert lines[7]["stage"] == found.stages[1]
    assert float(lines[7]["entropy_nats"]) == pytest.approx(float(found.entropy_nats[0, 1, 2]))
    assert json.loads(lines[7]["top_1"]) == str(found.top_tokens[0, 1, 2, 0])
    assert int(lines[7]["target_rank"]) == found.target_ranks[0, 1, 2]
    assert {line["model"] for line in lines} == {"one"}
    with np.load(io.BytesIO(content(files, "npz")), allow_pickle=False) as file:
        assert np.array_equal(file["0.kl_to_final_nats"], found.kl_to_final_nats)
        assert file["models"].tolist() == ["one"]
    with np.load(io.BytesIO(trajectory_bytes(found)), allow_pickle=False) as file:
        assert np.array_equal(file["kl_to_final_nats"], found.kl_to_final_nats)
        assert tuple(file["stages"]) == found.stages


def test_positions_are_those_of_the_prompt_and_both_models_are_named(model) -> None:
    tokens = random_tokens(1, 8)
    lens = LogitLens.from_model(model)
    whole = lens_trajectory(model, lens, tokens)
    end = lens_trajectory(model, lens, tokens, positions=slice(5, 8))
    figure = lens_heat_map(end, str)
    assert "position 7" in figure.data[0].customdata[0][2]
    files = lens_files({"bundled:a": end, "b": end}, [figure, figure], str)
    assert [file.ending for file in files] == ["a.html", "b.html", "csv", "npz"]
    lines = list(csv.DictReader(io.StringIO(content(files, "csv").decode())))
    assert [line["model"] for line in lines] == ["bundled:a"] * 9 + ["b"] * 9
    assert [int(line["position"]) for line in lines] == [5, 6, 7] * 6
    assert float(lines[2]["entropy_nats"]) == pytest.approx(float(whole.entropy_nats[0, 0, 7]), rel=1e-5)
    with np.load(io.BytesIO(content(files, "npz")), allow_pickle=False) as file:
        assert file["1.positions"].tolist() == [5, 6, 7]
        assert file["models"].tolist() == ["bundled:a", "b"]


@pytest.mark.parametrize("page", ["attention", "lens"])
def test_every_figure_page_offers_the_files(open_app: OpenApp, page: str) -> None:
    app = open_app(page, ids=IDS)
    assert [button.label for button in app.get("download_button")] == ["HTML", "CSV", "NPZ"]


def test_code_and_a_samples_text_are_sent_when_they_are_opened(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.shell.downloads.OPEN", False)
    app = open_app("attention", model="bundled:diff-mamba2", source="needle", length="0")
    assert not app.code
    assert not app.get("download_button")
    app.session_state["take_away_html"] = app.session_state["text_Its text"] = True
    app.run()
    texts = {element.language: element.value for element in app.code}
    assert "Question:" in texts["plaintext"]
    assert "extract_attention" in texts["python"]
    assert len(app.get("download_button")) == 3
