"""Lens page: tokens by stages, with the lens, the colour and the positions that the widgets say."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.drawing.labels import probability_text
from diffmamba_interp.lens import LogitLens, TunedLens, fit_jacobian_lens, lens_trajectory, load_lens, save_lens
from tests.app.conftest import IDS, MODEL, OpenApp, captions, charts, complaint, drawn, figures, run_code, tables, texts

TOKENS = torch.tensor([[int(part) for part in IDS.split()]])


@pytest.fixture(scope="module")
def model(root: Path) -> HookedMamba:
    return HookedMamba.from_pretrained(root / MODEL).eval()


@pytest.fixture(scope="module")
def lens_name(root: Path, model: HookedMamba) -> str:
    """A tuned lens below the root, unlike the logit lens at every block."""
    lens = TunedLens.from_model(model)
    weights, biases = lens.stacked()
    torch.manual_seed(5)
    lens.load_stacked(weights + 0.1 * torch.randn_like(weights), biases + 0.1 * torch.randn_like(biases))
    save_lens(lens, root / "lenses" / "tuned")
    return "lenses/tuned"


def test_the_logit_lens_is_shown_stage_by_stage(open_app: OpenApp, model: HookedMamba) -> None:
    trace = drawn(open_app("lens", ids=IDS))["data"][0]
    found = lens_trajectory(model, LogitLens.from_model(model), TOKENS)
    assert np.array_equal(trace["z"], found.top_probabilities[0, ..., 0])
    assert trace["y"] == list(found.stages)
    assert trace["text"][2] == [str(token) for token in found.top_tokens[0, 2, :, 0]]


def test_a_tuned_lens_below_the_root_is_offered_and_used(
    open_app: OpenApp, model: HookedMamba, root: Path, lens_name: str
) -> None:
    app = open_app("lens", ids=IDS)
    assert app.selectbox(key="lens").options == ["logit lens", lens_name]
    app.selectbox(key="lens").select(lens_name).run()
    found = lens_trajectory(model, load_lens(root / lens_name, model), TOKENS)
    assert np.array_equal(drawn(app)["data"][0]["z"], found.top_probabilities[0, ..., 0])


def test_a_jacobian_lens_below_the_root_is_read_and_named(open_app: OpenApp, model: HookedMamba, root: Path) -> None:
    lens = fit_jacobian_lens(model, TOKENS, skip_first=2)
    save_lens(lens, root / "lenses" / "jacobian")
    app = open_app("lens", ids=IDS, lens="lenses/jacobian")
    found = lens_trajectory(model, load_lens(root / "lenses" / "jacobian", model), TOKENS)
    trace = drawn(app)["data"][0]
    assert np.array_equal(trace["z"], found.top_probabilities[0, ..., 0])
    assert not np.allclose(
        trace["z"], lens_trajectory(model, LogitLens.from_model(model), TOKENS).top_probabilities[0, ..., 0]
    )
    assert any("the token that the Jacobian lens finds" in text for text in captions(app))
    made = run_code(app)["figure"].data[0]
    assert np.array_equal(trace["z"], made.z)
    shutil.rmtree(root / "lenses" / "jacobian")


def test_the_colour_says_what_is_drawn(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("lens", ids=IDS, target="")
    found = lens_trajectory(model, LogitLens.from_model(model), TOKENS, targets=TOKENS.roll(-1, 1))
    for colour, values in {
        "entropy": found.entropy_nats,
        "kl_to_final": found.kl_to_final_nats,
        "target_rank": np.log10(found.target_ranks)[..., :-1],
        "target_probability": np.exp(found.target_log_probabilities)[..., :-1],
    }.items():
        app.selectbox(key="colour").select(colour).run()
        assert np.allclose(drawn(app)["data"][0]["z"], values[0]), colour


def test_a_target_token_can_be_named(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("lens", ids=IDS, colour="target_probability")
    app.text_input(key="target").set_value("17").run()
    found = lens_trajectory(model, LogitLens.from_model(model), TOKENS, targets=torch.full_like(TOKENS, 17))
    assert np.allclose(drawn(app)["data"][0]["z"], np.exp(found.target_log_probabilities[0]))


def test_a_prompt_of_one_token_has_no_next_token_and_the_page_says_so(open_app: OpenApp) -> None:
    assert "no next token" in complaint(open_app("lens", ids="5", colour="target_rank", target=""))


def test_of_a_long_prompt_a_window_is_shown_and_can_be_moved(open_app: OpenApp) -> None:
    ids = " ".join(str(place % 90) for place in range(80))
    app = open_app("lens", ids=ids)
    assert app.slider(key="first").value == 66
    app.slider(key="first").set_value(10).run()
    figure = drawn(app)
    assert figure["layout"]["xaxis"]["ticktext"] == [str(token) for token in range(10, 24)]
    cells, *_, points = figure["data"]
    assert cells["x"] == list(range(10, 24))
    assert points["customdata"][0][:2] == [0, 10]
    assert points["customdata"][0][2].startswith("embedding, position 10: 10")


@pytest.mark.parametrize(("width", "shown", "stage"), [(1500, 25, "after block 0"), (300, 4, "0")])
def test_as_many_positions_are_shown_as_have_room(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, width: int, shown: int, stage: str
) -> None:
    monkeypatch.setattr("app.shell.viewport.content_width", lambda: width)
    app = open_app("lens", ids=" ".join(str(place % 90) for place in range(80)), first="72")
    figure = drawn(app)
    assert not app.warning
    assert 72 in figure["data"][0]["x"]
    assert len(figure["data"][0]["x"]) == shown
    assert stage in figure["layout"]["yaxis"].get("ticktext", figure["data"][0]["y"])


@pytest.mark.parametrize(
    ("name", "words"), [("../secret", "leads outside of the root"), (MODEL, "lens"), ("none", "there is no folder")]
)
def test_a_folder_that_is_no_lens_is_an_error_box(open_app: OpenApp, name: str, words: str) -> None:
    assert words in complaint(open_app("lens", ids=IDS, lens=name))


def test_the_lens_of_another_model_is_an_error_box(open_app: OpenApp, lens_name: str) -> None:
    app = open_app("lens", ids=IDS, lens=lens_name)
    app.selectbox(key="model").select("models/all").run()
    assert "another unembedding" in complaint(app)
    app.selectbox(key="lens").select("logit lens").run()
    assert drawn(app)


@pytest.mark.parametrize("address", [{}, {"lens": "lenses/tuned", "colour": "target_rank"}, {"target": "3"}])
def test_copy_as_python_gives_the_same_numbers(open_app: OpenApp, lens_name: str, address: dict[str, str]) -> None:
    app = open_app("lens", ids=IDS, **address)
    trace, (made, *_) = drawn(app)["data"][0], run_code(app)["figure"].data
    assert np.array_equal(trace["z"], made.z)
    assert trace["text"] == [list(row) for row in made.text]
    assert trace["customdata"] == [list(row) for row in made.customdata]


def test_a_cell_of_the_address_shows_its_list(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("lens", ids=IDS, cell="2-5")
    found = lens_trajectory(model, LogitLens.from_model(model), TOKENS)
    table = tables(app)[0]
    assert list(table["token"]) == [str(token) for token in found.top_tokens[0, 2, 5]]
    assert table["is"] == [probability_text(value) for value in found.top_probabilities[0, 2, 5].tolist()]
    assert any(element.value == "after block 1, position 5, “17”" for element in app.header)


@pytest.mark.parametrize("cell", ["99-1", "1-99", "x-y", "-", "1"])
def test_a_cell_that_is_not_on_the_page_gives_the_last_one(open_app: OpenApp, cell: str) -> None:
    app = open_app("lens", ids=IDS, cell=cell)
    assert any("output, position 10" in element.value for element in app.header)


def test_two_models_stand_side_by_side_with_their_lists(open_app: OpenApp) -> None:
    app = open_app("lens", ids=IDS, beside="models/all", compare="beside")
    first, second = figures(app)
    made = run_code(app)
    assert np.allclose(first["data"][0]["z"], made["figure"].data[0].z)
    assert np.allclose(second["data"][0]["z"], made["second_figure"].data[0].z)
    assert not np.allclose(first["data"][0]["z"], second["data"][0]["z"])
    assert len(tables(app)) == 2


def test_the_difference_of_two_models_is_model_minus_baseline(open_app: OpenApp) -> None:
    app = open_app("lens", ids=IDS, beside="models/all", compare="difference", colour="entropy")
    trace, scale = drawn(app)["data"][0], drawn(app)["layout"]["coloraxis"]
    made = run_code(app)
    assert np.array_equal(trace["z"], made["difference_figure"].data[0].z)
    entropy = [made[f"{of}trajectory"].entropy_nats[0] for of in ("", "second_")]
    assert np.allclose(trace["z"], entropy[0] - entropy[1])
    assert scale["cmin"] == -scale["cmax"] < 0
    assert scale["colorbar"]["title"]["text"].startswith(f"{MODEL} − models/all:")
    same = made["trajectory"].top_tokens[0, ..., 0] == made["second_trajectory"].top_tokens[0, ..., 0]
    assert [[word == "" for word in line] for line in trace["text"]] == same.tolist()


def test_models_of_other_words_cannot_be_compared(open_app: OpenApp, worded: str) -> None:
    app = open_app("lens", model=worded, prompt="the keys are", beside="models/all", compare="beside")
    assert "different vocabularies" in complaint(app)


def test_every_cell_has_a_point_that_can_be_clicked(open_app: OpenApp) -> None:
    cells, *_, points = drawn(open_app("lens", ids=IDS))["data"]
    assert len(points["x"]) == np.size(cells["z"])
    stage, place, words = points["customdata"][-1]
    assert (stage, place) == (4, 10)
    assert words == cells["customdata"][-1][-1]


def test_the_first_of_the_list_stand_above_the_map(open_app: OpenApp) -> None:
    app = open_app("lens", ids=IDS, cell="2-7")
    found = run_code(app)["trajectory"]
    token, probability = found.top_tokens[0, 2, 7, 0], found.top_probabilities[0, 2, 7, 0]
    (told,) = [text for text in texts(app.markdown) if text.startswith("In the frame: after block 1, position 7, “8”")]
    assert told.partition("\n")[2].startswith(f"**“{token}”** {probability_text(float(probability))} · **")
    parts = list(app.main)
    drawn_at = next(at for at, part in enumerate(parts) if part.proto is charts(app)[0].proto)
    assert next(at for at, part in enumerate(parts) if getattr(part, "value", "") == told) < drawn_at


def test_the_cell_of_the_list_is_framed_and_percentages_stand_below_one_another(open_app: OpenApp) -> None:
    for query, (stage, position) in (({}, (4, 10)), ({"cell": "2-7"}, (2, 7))):
        layout = drawn(open_app("lens", ids=IDS, **query))["layout"]
        frames = [[shape[end] for end in ("x0", "x1", "y0", "y1")] for shape in layout["shapes"]]
        assert frames == [[position - 0.5, position + 0.5, stage - 0.5, stage + 0.5]] * 2
        assert layout["hoverlabel"]["align"] == "left"
        assert layout["hoverlabel"]["font"]["family"] == "monospace"
