"""The prompt in force stands above every page, with one answer for all of them; what a link changes is said."""

import html
import re

import pytest

from app.shell.prompt_line import shortened
from tests.app.conftest import IDS, MODEL, OpenApp, headline, links
from tests.app.test_links import followed

PAGES = ("overview", "attention", "heads", "graph", "lens", "playground", "interventions")


def line(app) -> str:
    """Without markup."""
    (found,) = [e.proto.body for e in app.get("html") if 'class="prompt"' in e.proto.body]
    return html.unescape(re.sub(r"<[^>]*>", " ", found))


def notes(app) -> list[str]:
    return [e.proto.body for e in app.get("html") if "The link that you followed" in e.proto.body]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_the_prompt_and_asks_for_the_answer_that_is_marked(open_app: OpenApp, page: str) -> None:
    app = open_app(page, ids=IDS, answer="60", colour="target_probability", kind="contribution")
    assert f"of 11 tokens, marked answer “60”: {IDS}" in line(app)
    assert not notes(app)
    asked = {"attention": "token", "graph": "token", "lens": "target"}
    if page in asked:
        assert app.text_input(key=asked[page]).value == "60"
    elif page == "overview":
        assert "“60”, the answer marked in the side bar" in headline(app)
        assert followed(app, "Does the subtraction help?")[1]["answer"] == "60"


def test_a_page_with_prompts_of_its_own_says_that_it_does_not_read_this_one(open_app: OpenApp) -> None:
    app = open_app("retrieval", model="bundled:diff-mamba2", prompt="one two")
    assert "not read on this one: one two" in line(app)


def test_a_link_to_another_prompt_leaves_the_marked_answer_behind(open_app: OpenApp) -> None:
    query = {"model": "bundled:diff-mamba2", "needle_lens": "logit lens", "needle_length": "0", "needle_n": "1"}
    app = open_app("needle", **query, needle_attention="False", beside="none", answer="moon")
    assert "answer" not in followed(app, "Lens")[1]
    lens = open_app("lens", **query, source="needle", length="0", answer="moon")
    assert followed(lens, "Attention")[1]["answer"] == "moon"
    lens.number_input(key="number").set_value(1).run()
    assert "known answer" in line(lens)
    assert "answer" not in followed(lens, "Attention")[1]


def test_a_link_that_changes_the_prompt_is_told_and_can_be_taken_back(open_app: OpenApp) -> None:
    app = open_app(ids=IDS, answer="60")
    app.query_params.update({"model": MODEL, "ids": "5 6 7"})
    del app.query_params["answer"]
    app.switch_page("pages_/lens/lens.py").run()
    assert "of 3 tokens: 5 6 7" in line(app)
    assert IDS in notes(app)[0]
    # It is offered on other pages too, by links to the same prompt and where it is not read.
    app.query_params["cell"] = "1-2"
    app.switch_page("pages_/attention/attention.py").run()
    assert IDS in notes(app)[0]
    app.switch_page("pages_/session/session.py").run()
    assert IDS in notes(app)[0]
    app.button(key="prompt_back").click().run()
    assert IDS in line(app)
    assert not notes(app)
    app.query_params.clear()
    app.switch_page("pages_/overview/overview.py").run()
    assert IDS in line(app)
    assert not notes(app)


def test_the_earlier_prompt_comes_back_with_its_answer_marks_and_places(open_app: OpenApp, worded: str) -> None:
    mine = {
        "prompt": "the keys are in red",
        "needle": "the keys",
        "distractors": "in",
        "answer": "keys",
        "wrong": "are",
    }
    app = open_app("attention", model=worded, **mine, row="3", kind="contribution", token="in", view="spans")
    app.switch_page("pages_/overview/overview.py").run()
    app.query_params.clear()
    app.query_params.update({"model": worded, "prompt": "keys in the red", "row": "2"})
    app.switch_page("pages_/attention/attention.py").run()
    assert (app.text_input(key="answer").value, app.slider(key="row").value) == ("", 2)
    app.text_input(key="answer").set_value("red").run()
    app.slider(key="block").set_value(1).run()
    app.button(key="prompt_back").click().run()
    assert {"prompt": mine["prompt"]} | {k: app.text_input(key=k).value for k in mine if k != "prompt"} == mine
    assert (app.slider(key="row").value, app.text_input(key="token").value) == (3, "in")
    # What was chosen after the link stays.
    assert app.slider(key="block").value == 1


def test_a_prompt_that_was_typed_after_a_link_is_not_offered_to_be_taken_back(open_app: OpenApp) -> None:
    app = open_app(ids=IDS)
    app.query_params.update({"model": MODEL, "ids": "5 6 7"})
    app.switch_page("pages_/lens/lens.py").run()
    app.text_area(key="ids").set_value("5 6").run()
    assert not notes(app)


def test_a_link_with_the_same_prompt_is_not_told_of(open_app: OpenApp) -> None:
    app = open_app(ids=IDS)
    app.query_params.update({"cell": "1-2"})
    app.switch_page("pages_/lens/lens.py").run()
    assert links(app)
    assert not notes(app)


def test_of_a_long_prompt_its_front_and_its_end_are_shown() -> None:
    assert shortened("a\n b") == "a b"
    assert shortened("x" * 99 + "y" * 99) == f"{'x' * 40} … {'y' * 60}"
