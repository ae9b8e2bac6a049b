"""Evidence page: three meanings of "carries", each with its block; and where what speaks against stands."""

import re
from dataclasses import replace

import numpy as np
import pytest

from app.pages_.evidence import accounts
from app.pages_.evidence.accounts import Account, of_subtraction, of_swapping, verdict
from app.pages_.evidence.against import of_branches
from app.pages_.evidence.shipped import accuracy_of_many, carriers_of_many, gaps_of_many
from app.shell import estimates, loading
from diffmamba_interp.implicit_attention import HeadScores
from diffmamba_interp.interventions import PatchGrid, SweepRecord
from diffmamba_interp.interventions.records import PROBABILITY
from tests.app.conftest import IDS, OpenApp, headline, links
from tests.app.test_links import followed

BUNDLED = {"model": "bundled:diff-mamba2", "beside": "bundled:mamba2"}


def words(app) -> str:
    return re.sub(r"<[^>]*>", "", " ".join(e.proto.body for e in app.get("html")))


def test_each_meaning_names_its_block_and_opens_the_page_where_it_is_seen(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twelve blocks, and 24 heads in each, in four places of 44 tokens.
    seconds = {44 * (12 * 4 + 4): 9.6, 44 * (288 * 4 + 4): 151.2}
    monkeypatch.setattr(accounts, "forward_seconds", lambda key, n_tokens: seconds[n_tokens])
    app = open_app("evidence", **BUNDLED)
    told = headline(app)
    assert "depends on what “carries” means" in told
    assert "the last position reads the needle there: block 3" in told
    assert "no contradiction" in told
    assert "(n = 1)" in told
    for label, key, value in (("This head on Attention", "block", 3), ("All heads", "measure", "needle_share"),
                              ("Every block, λ from 0 to 2 times", "swept_apart", True)):  # fmt: skip
        page, query = followed(app, label)
        opened = open_app(page, **BUNDLED | query)
        assert {w.key: w.value for w in (*opened.slider, *opened.selectbox, *opened.toggle)}[key] == value
    # What a link will compute is said, with what it takes and whether it waits for a press.
    assert followed(app, "Every block: computed as it opens, about 10 s")[1]["patched"] == "mixer_out"
    query = followed(app, "Every head: computed when you press Run there, about 151 s")[1]
    assert (query["patched"], query["asked_patching"]) == ("gated", "yes")


def test_what_is_long_is_offered_and_said_to_be_missing(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "forward_seconds", lambda key, n_tokens, *_: n_tokens / 44)
    app = open_app("evidence", **BUNDLED)
    assert "2 of the three not computed yet" in headline(app)
    app.button(key="run_subtraction").click().run()
    assert "1 of the three not computed yet" in headline(app)


def test_what_cannot_be_asked_of_a_prompt_or_a_plain_model_is_said(open_app: OpenApp) -> None:
    app = open_app("evidence", ids=IDS)
    assert "No needle is marked" in words(app)
    assert "stand in the prompt, to exchange" in words(app)
    assert "Nothing is subtracted" in words(open_app("evidence", model="bundled:mamba2", beside="none"))


def test_the_card_of_what_speaks_against_it_leads_to_a_list_with_a_link_each(open_app: OpenApp) -> None:
    page, query = followed(open_app(**BUNDLED), "What speaks against it?")
    app = open_app(page, **BUNDLED | query)
    assert {link.page for link in links(app)} == {
        "interventions", "", "lens", "attention", "needle", "retrieval"
    }  # fmt: skip
    for told in ("does not show that the subtraction cancels noise", "So this prompt can be answered without",
                 "read more of the", "the baseline is ahead", "It is behind in",
                 "ratio to the wrong labels from"):  # fmt: skip
        assert told in words(app)


def test_the_sweep_of_the_start_page_is_not_made_again(open_app: OpenApp) -> None:
    app = open_app(**BUNDLED)
    told = re.search("ratio to the wrong labels from [0-9.]+ dB to [0-9.]+ dB", words(app))
    assert told
    app.switch_page("pages_/evidence/evidence.py").run()
    app.selectbox(key="question").set_value("against").run()
    assert told[0] in words(app)
    assert len([key for key, _ in loading.cache().held() if "swept = sweep(" in str(key)]) == 1


def test_the_meanings_agree_or_not() -> None:
    one, other = (Account(asks="Reads", says="", block=block) for block in (0, 4))
    assert "block 0 does" in verdict([one, one]).says[0]
    assert "reads: block 0; reads: block 4" in verdict([one, other]).says[0]
    assert "1 of the three" in verdict([one], 1).against[0]


def test_the_block_that_loses_most_or_brings_most_back_is_named() -> None:
    record = SweepRecord(
        clean={PROBABILITY: np.array([0.9])}, doses=(0.0,), groups=((0, 1), (0,), (1,)), dose="λ", units={},
        intervened={PROBABILITY: np.array([[[0.1]], [[0.8]], [[0.4]]])},
    )  # fmt: skip
    account = of_subtraction(record, "x")
    assert account.block == 1
    assert (
        account.says
        == "Block 1: λ 0 in it alone takes the probability of “x” from 0.90 to 0.40; next is block 0, to 0.80."
    )
    slightly = replace(record, intervened={PROBABILITY: np.array([[[0.1]], [[0.899]], [[0.4]]])})
    assert of_subtraction(slightly, "x").says.endswith("from 0.90 to 0.40.")
    unmoved = replace(record, intervened={PROBABILITY: np.array([[[0.1]], [[0.899]], [[0.901]]])})
    assert of_subtraction(unmoved, "x").says.startswith("λ 0 in no block alone lowers")
    grid = PatchGrid(
        point="mixer_out", blocks=(0, 1), positions=(0, 1), answers=(1,), against=(2,), clean=np.array([2.0]),
        corrupted=np.array([0.0]), patched=np.array([[[0.0, 1.0], [1.5, 0.0]]]),
    )  # fmt: skip
    account = of_swapping(grid, ["needle", "the rest"], "“x” and “y”")
    assert account.block == 1
    assert "at the needle" in account.says
    assert "75%" in account.says
    assert "block 0 at the rest of the prompt, 50%." in account.says
    more = replace(grid, patched=np.array([[[0.0, 0.009], [3.0, 0.0]]]))
    assert of_swapping(more, ["needle", "the rest"], "").says.endswith(
        "150% of the logit difference, more than all of it."
    )
    none = of_swapping(replace(grid, patched=np.zeros((1, 2, 2))), ["needle", "the rest"], "")
    assert none.block is None
    assert "No block at any place brings back 1%" in none.says


def test_blocks_whose_subtrahend_reads_more_of_the_needle_are_counted() -> None:
    shares = np.array([[[0.1], [0.3], [0.5], [0.2]]])
    rows = tuple((block, branch) for block in (0, 1) for branch in ("minuend", "subtrahend"))
    read = HeadScores(
        rows=rows, n_heads=(1,) * 4, values={"needle_share": shares}, uniform={"needle_share": np.array([0.2])}
    )
    says, block = of_branches(read)
    assert "In 1 of 2 blocks" in says
    assert "block 0, 30% against 10%, reading all tokens alike 20% (one" in says
    low, _ = of_branches(replace(read, uniform={"needle_share": np.array([0.4])}))
    assert "30% against 10%, both below what reading all tokens alike would give, 40%" in low
    assert block == 0


def test_of_many_prompts_only_the_bundled_pair_was_measured() -> None:
    subtraction, swapping = carriers_of_many(BUNDLED["model"])
    assert "block 0 alone costs most accuracy, −0.20" in subtraction
    assert "block 0's minuend" in swapping
    assert "block 3's minuend" in swapping
    (gap,) = gaps_of_many(list(BUNDLED.values()))
    assert "in qa1 alone +0.00" in gap
    assert "And in all tasks together −0.02" in gap
    assert gap.index("n = 500") < gap.index("n = 2,242")
    assert carriers_of_many("mine") == []
    assert accuracy_of_many(["mine"]) == ""
