"""Session page: figures that were looked at go into a file, and come out of it without their model."""

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.pages_.session.file import read_session, write_session
from app.pages_.session.report import told_apart, write_report
from app.shell import downloads
from app.shell.downloads import file_part
from app.shell.wording import of_prompt
from tests.app.conftest import IDS, MODEL, OpenApp, complaint, drawn, figures, texts


def session_of(app: AppTest) -> bytes:
    """What the page's button gives, from the state that this run left."""
    kept = list(app.session_state["kept_records"].values())
    return write_session(app.session_state["view_page"], dict(app.session_state["view_values"]), kept)


def uploaded(app: AppTest, content: bytes) -> AppTest:
    return app.file_uploader(key="session_upload").upload("session.zip", content, "application/zip").run()


@pytest.fixture
def written(open_app: OpenApp) -> bytes:
    app = open_app("attention", ids=IDS, block="2")
    app.switch_page("pages_/lens/lens.py").run()
    return session_of(app)


def test_the_figures_that_were_looked_at_are_in_the_file(written: bytes) -> None:
    session = read_session(written)
    assert [kept.title for kept in session.records] == [
        "attention, block 2, hidden, positions",
        "lens, positions 0 to 10",
    ]
    assert session.state["ids"] == IDS
    assert session.page == "lens"


def test_the_list_names_each_figures_prompt_by_its_beginning_and_its_end(open_app: OpenApp) -> None:
    app = open_app("lens", model="bundled:diff-mamba2", beside="none")
    app.switch_page("pages_/session/session.py").run()
    (said,) = [text.value for text in app.text if "lens, positions" in text.value]
    assert ", of “<context>John moved to the garden. … " in said
    assert said.endswith("Question: Where is John? Answer:”")
    assert of_prompt(()) == ""
    assert of_prompt(("a", " b\n", "c")) == ", of “a b c”"


def test_figures_of_two_prompts_are_both_kept_and_told_apart(open_app: OpenApp) -> None:
    one, other = (" ".join([*[IDS] * 4, middle, *[IDS] * 5]) for middle in ("30", "31"))
    app = open_app("lens", ids=one)
    app.text_area(key="ids").set_value(other).run()
    app.text_area(key="ids").set_value(one).run()
    app.switch_page("pages_/session/session.py").run()
    kept = list(app.session_state["kept_records"].values())
    assert [record.strings for record in kept] == [tuple(other.split()), tuple(one.split())]
    names = told_apart(kept)
    ends = [f", with “{middle}” at position 44" for middle in (31, 30)]
    assert all(name.endswith(end) for name, end in zip(names, ends, strict=True))
    assert names[0].removesuffix(ends[0]) == names[1].removesuffix(ends[1])
    assert [text for text in texts(app.text) if "lens" in text] == [f"{MODEL}: {name}" for name in names]
    report = write_report({}, kept).decode()
    assert all(f"{number}. {name}</h2>" in report for number, name in enumerate(names, start=1))
    records = read_session(session_of(app)).records
    assert [record.strings for record in records] == [record.strings for record in kept]
    parts = [file_part(record.strings) for record in kept]
    assert parts[0] != parts[1]
    assert file_part(("He: ", "where", " is", " Mary", "? A", "nswer", ":")).startswith("-where-is-mary-answer-")
    assert file_part(()) == ""


def test_a_file_is_drawn_where_its_model_is_not(open_app: OpenApp, written: bytes, tmp_path: Path) -> None:
    app = uploaded(open_app("session", at_root=tmp_path, model=""), written)
    attention, lens = figures(app)
    assert len(attention["data"]) == 3
    assert lens["data"][0]["y"][-1] == "output"


def test_a_needle_run_is_drawn_again_where_its_models_are_not(open_app: OpenApp, tmp_path: Path) -> None:
    query = {"model": "bundled:diff-mamba2", "needle_lens": "logit lens", "needle_length": "0", "needle_n": "2"}
    app = open_app("needle", **query)
    before = figures(app)
    file = session_of(app)
    (kept,) = read_session(file).records
    assert kept.title == "needle, qa1 at 0 tokens, 2 prompts of seed 0"
    assert kept.model == "bundled:diff-mamba2 and bundled:mamba2"
    again = uploaded(open_app("session", at_root=tmp_path, model=""), file)
    assert len(figures(again)) == len(before) == 5
    for one, first in zip(figures(again), before, strict=True):
        for trace, other in zip(one["data"], first["data"], strict=True):
            assert np.allclose(trace["y"], other["y"], atol=1e-9)
    # A damaged file takes nothing away from what is kept.
    app.switch_page("pages_/session/session.py").run()
    uploaded(app, file[: len(file) // 2])
    assert "session file" in complaint(app)
    assert [one.title for one in app.session_state["kept_records"].values()] == [kept.title]


def test_the_widgets_can_be_set_as_they_were(open_app: OpenApp, written: bytes) -> None:
    app = uploaded(open_app("session"), written)
    next(button for button in app.button if button.label == "Set the widgets as they were and go to Lens").click().run()
    assert app.text_area(key="ids").value == IDS
    app.switch_page("pages_/attention/attention.py").run()
    assert app.slider(key="block").value == 2
    assert len(drawn(app)["data"]) == 3


def test_a_corrupt_file_is_an_error_box_and_the_page_lives_on(open_app: OpenApp, written: bytes) -> None:
    app = uploaded(open_app("session"), written[:200])
    assert "no session file" in complaint(app)
    app = uploaded(app, written)
    assert len(figures(app)) == 2


def test_only_the_last_figures_are_kept(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "MAX_RECORDS", 3)
    app = open_app("attention", ids=IDS)
    for block in range(4):
        app.slider(key="block").set_value(block).run()
    titles = [title for title, *_ in app.session_state["kept_records"]]
    assert titles == [f"attention, block {block}, hidden, positions" for block in (1, 2, 3)]


def test_without_figures_there_is_nothing_to_take_away(open_app: OpenApp) -> None:
    app = open_app("session")
    assert app.get("download_button")[0].disabled
    assert any("none were drawn in this visit" in text for text in texts(app.text))


def test_figures_of_an_opened_file_are_taken_away_with_those_of_this_visit(
    open_app: OpenApp, written: bytes, tmp_path: Path
) -> None:
    app = uploaded(open_app("session", at_root=tmp_path, model=""), written)
    assert not app.get("download_button")[0].disabled
    titles = ["attention, block 2, hidden, positions", "lens, positions 0 to 10"]
    assert [kept.title for kept in app.session_state["kept_records"].values()] == titles
    app.button(key="forget").click().run()
    assert app.get("download_button")[0].disabled
    # What this visit drew stays as it is, and comes last; what is the same is not there twice.
    app = open_app("attention", ids=IDS, block="2", heads="1")
    app.switch_page("pages_/lens/lens.py").run()
    app = uploaded(app.switch_page("pages_/session/session.py").run(), written)
    records = read_session(session_of(app)).records
    assert [kept.title for kept in records] == [f"{titles[0]} (from the file)", *titles]
    assert [kept.record.heads for kept in records[:2]] == [tuple(range(8)), (1,)]


def test_a_single_head_comes_back_under_its_number(open_app: OpenApp, tmp_path: Path) -> None:
    app = open_app("attention", ids=IDS, block="2", heads="3")
    before = drawn(app)
    again = drawn(uploaded(open_app("session", at_root=tmp_path, model=""), session_of(app)))
    assert "head 3" in before["layout"]["title"]["text"]
    assert again["layout"]["title"]["text"] == before["layout"]["title"]["text"]


def test_interventions_come_back_with_their_change_and_numbers_and_spans_as_spans(
    open_app: OpenApp, worded: str, tmp_path: Path
) -> None:
    prompt = {"model": worded, "prompt": "the keys are in red", "needle": "keys are", "distractors": "red"}
    app = open_app("interventions", **prompt, lambda_factor="0.5", swept="lambda")
    app.switch_page("pages_/attention/attention.py").run()
    app.selectbox(key="view").select("spans").run()
    again = uploaded(open_app("session", at_root=tmp_path, model=""), session_of(app))
    assert not again.exception
    shown = [element.value for element in again.code]
    assert any("λ times 0.5" in text and "Probability of the answer" in text for text in shown)
    titles = texts(again.text)
    assert any("sweep of λ" in title for title in titles)
    labels = " ".join(figures(again)[-1]["layout"]["xaxis"]["ticktext"])
    assert "needle" in labels
    assert "distractor" in labels
