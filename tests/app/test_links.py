"""Links between the pages: each opens the next one at the block, position and prompt that was looked at."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest

from app.pages_.needle.prompt_links import chosen_stage
from app.shell import loading
from app.shell.choices import needle_sample
from app.shell.links import places_links
from tests.app.conftest import IDS, MODEL, OpenApp, headline, links


def followed(app, label: str) -> tuple[str, dict[str, str]]:
    """Page and address of a link."""
    (link,) = [one for one in links(app) if one.label == label]
    return link.page, {key: values[0] for key, values in parse_qs(link.query_string).items()}


def test_a_lens_cell_opens_its_block_position_and_token_and_the_way_back(open_app: OpenApp) -> None:
    lens = open_app("lens", ids=IDS, cell="3-4")
    page, query = followed(lens, "Attention")
    assert page == "attention"
    assert query == {"model": MODEL, "ids": IDS, "block": "2", "row": "4"}
    attention = open_app("attention", **query)
    assert (attention.slider(key="block").value, attention.slider(key="row").value) == (2, 4)
    page, query = followed(attention, "Lens")
    assert (page, query["cell"]) == ("lens", "3-4")
    page, query = followed(attention, "Interventions")
    changed = open_app("interventions", **query)
    assert changed.text_input(key="knock_positions").value == "4"
    assert "The change" in headline(changed)


@pytest.mark.parametrize(
    ("place", "attention", "lens"),
    [
        ({"block": 2, "position": 9, "word": " hall"},
         {"block": "2", "row": "9", "kind": "contribution", "token": "hall"}, {"cell": "3-9"}),
        ({"block": None, "position": 30, "word": ":"}, {"row": "30"}, {"cell": "0-30", "first": "26"}),
        ({"block": 0, "position": None, "number": "3"}, {"block": "0", "number": "3"}, {"cell": "1-40", "number": "3"}),
    ],
)  # fmt: skip
def test_a_place_is_said_to_each_page_in_its_own_words(place: dict, attention: dict, lens: dict) -> None:
    last = 12 if place["position"] == 9 else 40
    by_page = {link.page: link.changes for link in places_links(**place, last=last)}
    assert by_page["attention"] == attention
    assert by_page["lens"] == lens
    assert "lens" not in [link.page for link in places_links(**place, last=last, but="lens")]


def test_a_prompt_of_a_run_is_the_side_bars_prompt_of_its_number(open_app: OpenApp) -> None:
    query = {"model": "bundled:diff-mamba2", "needle_lens": "logit lens", "needle_length": "0", "needle_n": "2",
             "needle_seed": "5", "needle_prompt": "1", "needle_attention": "False", "needle_stage": "4"}  # fmt: skip
    page, linked = followed(open_app("needle", **query, beside="none"), "Lens")
    of_prompt = {"source": "needle", "task": "qa1", "length": "0", "seed": "5", "number": "1"}
    assert linked.items() >= {**of_prompt, "beside": "none"}.items()
    assert linked["cell"].startswith("4-")
    key = loading.model_key("bundled:diff-mamba2", "float32")
    samples = [needle_sample(key, "qa1", 0, 5, number) for number in range(2)]
    assert samples[0].prompt != samples[1].prompt
    assert linked["cell"] == f"4-{samples[1].n_tokens - 1}"


@pytest.mark.parametrize(("said", "ready", "stage"), [("", 3, 3), ("2", 3, 2), ("99", 3, 4), ("x", 9, 4)])
def test_the_stage_to_go_on_at_is_the_clicked_one_or_where_the_answer_comes_in(
    said: str, ready: int, stage: int
) -> None:
    assert chosen_stage(said, ready, 5) == stage
