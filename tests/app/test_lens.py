"""Lens page: tokens by stages, with the lens, the colour and the positions that the widgets say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import LogitLens, TunedLens, lens_trajectory, load_lens, save_lens
from tests.app.conftest import IDS, MODEL, OpenApp, complaint, drawn, run_code

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
    (trace,) = drawn(open_app("lens", ids=IDS))["data"]
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


def test_the_colour_says_what_is_drawn(open_app: OpenApp, model: HookedMamba) -> None:
    app = open_app("lens", ids=IDS)
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
    assert "no next token" in complaint(open_app("lens", ids="5", colour="target_rank"))


def test_of_a_long_prompt_a_window_is_shown_and_can_be_moved(open_app: OpenApp) -> None:
    ids = " ".join(str(place % 90) for place in range(80))
    app = open_app("lens", ids=ids)
    assert app.slider(key="first").value == 64
    app.slider(key="first").set_value(10).run()
    figure = drawn(app)
    assert figure["layout"]["xaxis"]["ticktext"] == [str(token) for token in range(10, 26)]


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
    (trace,), (made,) = drawn(app)["data"], run_code(app)["figure"].data
    assert np.array_equal(trace["z"], made.z)
    assert trace["text"] == [list(row) for row in made.text]
    assert trace["customdata"] == [list(row) for row in made.customdata]
