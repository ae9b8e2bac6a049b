"""What the widgets say is kept over pages and stands in the address."""

import pytest

from app.shell import address
from tests.app.conftest import IDS, MODEL, OpenApp, drawn, texts


def test_the_address_says_what_is_not_the_default(open_app: OpenApp) -> None:
    app = open_app("attention", model="models/all", ids=IDS)
    app.slider(key="block").set_value(2).run()
    assert app.query_params["block"] in ("2", ["2"])  # a list in older releases of Streamlit
    assert app.query_params["ids"] in (IDS, [IDS])
    assert "heads" not in app.query_params


def test_an_address_brings_the_view_back(open_app: OpenApp) -> None:
    first = open_app("attention", ids=IDS, block="2", heads="1")
    first.slider(key="zoom").set_value((2, 7)).run()
    address = {key: value if isinstance(value, str) else value[0] for key, value in first.query_params.items()}
    assert address["zoom"] == "2-7"
    second = open_app("attention", **{key: value for key, value in address.items() if key != "model"})
    assert second.slider(key="block").value == 2
    assert second.slider(key="zoom").value == (2, 7)
    assert second.selectbox(key="heads").value == "1"
    assert drawn(second)["layout"]["title"] == drawn(first)["layout"]["title"]


def test_changing_the_page_keeps_the_choices(open_app: OpenApp) -> None:
    app = open_app("attention", ids=IDS)
    app.slider(key="block").set_value(3).run()
    app.switch_page("pages_/overview/overview.py").run()
    assert app.selectbox(key="model").value == MODEL
    app.switch_page("pages_/attention/attention.py").run()
    assert app.slider(key="block").value == 3
    assert app.text_area(key="ids").value == IDS


def test_a_value_in_the_address_that_does_not_exist_is_said_and_replaced(open_app: OpenApp) -> None:
    app = open_app("attention", ids=IDS, block="99", heads="minus one")
    assert app.slider(key="block").value == 0
    assert app.selectbox(key="heads").value == "mean"
    assert len([text for text in texts(app.warning) if "There is no" in text]) == 2
    assert len(drawn(app)["data"]) == 3


def test_a_choice_that_another_model_does_not_have_is_replaced(open_app: OpenApp) -> None:
    app = open_app("attention", ids=IDS, block="0", heads="7")
    assert app.selectbox(key="heads").value == "7"
    app.text_area(key="ids").set_value("1 2 3").run()
    app.selectbox(key="model").select("models/all").run()
    assert app.selectbox(key="heads").value == "7"
    assert len(drawn(app)["data"]) == 3


def test_a_long_prompt_stays_out_of_the_address_and_the_page_says_so(open_app: OpenApp) -> None:
    app = open_app("attention", ids="5 " * 1000)
    app.slider(key="block").set_value(1).run()
    assert "ids" not in app.query_params
    assert any("too long for the address" in caption for caption in texts(app.caption))


def test_a_slider_that_is_dragged_is_one_change_and_a_later_one_another(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(address.time, "monotonic", lambda: clock[0])
    app = open_app("attention", ids=IDS)
    for block, seconds, n_replaced in ((1, 9.0, 0), (2, 0.5, 1), (3, 0.5, 2), (0, 9.0, 2)):
        clock[0] += seconds
        app.slider(key="block").set_value(block).run()
        assert app.session_state["view_address"].n_replaced == n_replaced, block
    clock[0] += 0.5
    app.selectbox(key="heads").select("1").run()
    assert app.session_state["view_address"].n_replaced == 2


def test_undo_goes_back_one_change_at_a_time_and_not_beyond_the_first(open_app: OpenApp) -> None:
    app = open_app("attention", ids=IDS, block="1")
    assert app.button(key="undo").disabled
    app.slider(key="block").set_value(2).run()
    app.selectbox(key="heads").select("3").run()
    app.button(key="undo").click().run()
    assert (app.slider(key="block").value, app.selectbox(key="heads").value) == (2, "mean")
    app.button(key="undo").click().run()
    assert app.slider(key="block").value == 1
    assert app.button(key="undo").disabled
    assert app.query_params["block"] in ("1", ["1"])


def test_undo_brings_back_what_no_widget_showed_a_long_prompt_and_the_state_before_a_change_under_way(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "SETTLE_S", 0.0)
    long = " ".join(IDS.split() * 99)
    app = open_app("heads", ids=IDS)
    app.text_area(key="ids").set_value(long).run()
    app.text_area(key="ids").set_value(f"{long} 7").run()
    app.button(key="undo").click().run()
    assert app.text_area(key="ids").value == long
    app = open_app("interventions", ids=IDS, lambda_0="0.5", swept="lambda", knock_positions="1")
    app.button(key="reset_changes").click().run()
    app.session_state["view_values"]["lambda_99"] = "1.5"
    app.text_input(key="knock_positions").set_value("2").run()
    # The page of the next change is left before its end, and that of one more is not begun.
    with monkeypatch.context() as patched:
        patched.setattr(address, "write", lambda: None)
        app.selectbox(key="swept").set_value("nothing").run()
    app.text_input(key="knock_positions").set_value("3")
    app.button(key="undo").click().run()
    assert (app.selectbox(key="swept").value, app.text_input(key="knock_positions").value) == ("lambda", "2")
    app.button(key="undo").click().run()
    assert app.text_input(key="knock_positions").value == ""
    assert not {"lambda_0", "lambda_99"} & app.session_state["view_values"].keys()
    app.button(key="undo").click().run()
    assert (app.text_input(key="knock_positions").value, app.slider(key="lambda_0").value) == ("1", 0.5)
    assert app.button(key="undo").disabled


@pytest.mark.parametrize("page", ["attention", "graph", "heads", "interventions", "playground", "session"])
def test_a_second_model_is_offered_only_where_it_is_shown(open_app: OpenApp, page: str) -> None:
    app = open_app(page, ids=IDS, play_tokens="1")
    assert not app.exception
    assert "beside" not in {box.key for box in app.selectbox}
