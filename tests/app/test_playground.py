"""Playground: what the model writes with and without the subtraction, and what was likely at each step."""

import numpy as np
import torch

from app.shell.continued import continued_headline
from diffmamba_interp import load_demo
from diffmamba_interp.drawing.labels import probability_text
from diffmamba_interp.interventions import ScaleLambda, intervene
from diffmamba_interp.text.tokenizer import END_OF_TEXT
from tests.app.conftest import IDS, OpenApp, drawn, figures, run_code, tables, texts

BUNDLED = "bundled:diff-mamba2"


def headline(app) -> str:
    return next(html.proto.body for html in app.get("html") if "headline" in html.proto.body)


def test_both_texts_are_those_of_generate_and_the_code_gives_the_figure(open_app: OpenApp) -> None:
    app = open_app("playground", model=BUNDLED, play_tokens="4")
    made = run_code(app)
    record = made["continued"]
    model, tokenizer = load_demo("diff-mamba2")
    tokens = made["tokens"]
    assert record.tokens[0].tolist() == model.generate(tokens, 4)[0, tokens.shape[1] :].tolist()
    with intervene(model, ScaleLambda(factor=0.0)):
        assert record.tokens[1].tolist() == model.generate(tokens, 4)[0, tokens.shape[1] :].tolist()
    assert record.names == ("as it is", "without the subtraction")
    assert "hallway" in headline(app)
    for trace, printed, values in zip(drawn(app)["data"], made["figure"].data, record.probability, strict=True):
        np.testing.assert_allclose(trace["y"], values, rtol=1e-5)
        np.testing.assert_allclose(trace["y"], printed.y, rtol=1e-5)
    last = int(record.tokens[0, 2])
    assert not np.isin(last, record.tokens[0, :2])
    told = continued_headline(record, lambda token: END_OF_TEXT if token == last else f" w{token}")
    first, second = record.tokens[0, :2]
    assert told.says[0] == f"“as it is” goes on with “w{first} w{second}”."
    assert "At step 2 “as it is” ends its text: what it writes after that begins another one." in told.says
    before, after = tables(app)
    step = app.slider(key="step").value
    assert step == record.parting[1]
    assert before["is"][0] == probability_text(float(record.followed_probabilities[0, step, 0]))
    app.toggle(key="own_text").set_value(True).run()
    after = tables(app)[1]
    assert after["token"][0].strip("␣") == tokenizer.decode([int(record.tokens[1, step])]).strip()


def test_another_lambda_in_one_block_changes_that_block_alone(open_app: OpenApp) -> None:
    app = open_app("playground", ids=IDS, play_lambda="0.5", play_blocks="2", play_tokens="3")
    record = run_code(app)["continued"]
    assert record.names[1] == "λ times 0.5 in block 2"
    assert record.interventions[1][0]["blocks"] == [2]
    app.slider(key="play_lambda").set_value(1.0).run()
    same = run_code(app)["continued"]
    np.testing.assert_allclose(same.probability[1], same.probability[0], rtol=1e-5)
    assert "writes the same" in headline(app)


def test_a_plain_model_writes_alone(open_app: OpenApp) -> None:
    app = open_app("playground", model="bundled:mamba2", play_tokens="2")
    assert any("subtracts nothing" in text for text in texts(app.info))
    assert len(figures(app)[0]["data"]) == 1
    assert len(tables(app)) == 1


def test_tokens_are_drawn_with_a_seed(open_app: OpenApp) -> None:
    app = open_app("playground", ids=IDS, temperature="2.0", play_seed="3", play_tokens="6", play_lambda="1.0")
    record = run_code(app)["continued"]
    assert np.array_equal(record.tokens[0], record.tokens[1])
    assert torch.is_tensor(run_code(app)["tokens"])
    app.number_input(key="play_seed").set_value(4).run()
    assert not np.array_equal(run_code(app)["continued"].tokens[0], record.tokens[0])
