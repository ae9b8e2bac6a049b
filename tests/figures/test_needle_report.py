"""The page of a needle measurement holds all it needs, says who won, and takes no name for markup."""

import re
from dataclasses import replace

import pytest

from diffmamba_interp.figures.needle_report import needle_report
from diffmamba_interp.needle.curves import Curve, PairedCurve
from diffmamba_interp.needle.findings import Verdict

GROUPS = ((("length", "512"),), (("task", "qa1"), ("length", "512")))
STAGES = ("embedding", "after block 0", "output")
VALUES = {"value": (0.1, 0.2, 0.6), "low": (0.05, 0.1, 0.5), "high": (0.2, 0.3, 0.7)}


def curves(model: str) -> list[Curve]:
    return [
        Curve(
            model=model, lens="tuned", measure=measure, statistic=statistic, group=group, n=30, stages=STAGES, **VALUES
        )
        for group in GROUPS
        for measure, statistic in (("snr_db", "mean"), ("snr_db", "median"), ("probability", "mean"))
    ]


def verdict(**changes: object) -> Verdict:
    made = Verdict(
        baseline="one",
        model="two",
        lens="tuned",
        place="output",
        group=GROUPS[0],
        n=30,
        baseline_db=1.0,
        model_db=3.5,
        difference_db=2.5,
        low=2.0,
        high=3.0,
        p_value=0.01,
    )
    return replace(made, **changes)


def body(page: str) -> str:
    return page.split("</head>")[1]


def test_the_page_shows_verdicts_figures_and_what_it_was_made_with() -> None:
    paired = PairedCurve(
        **{name: getattr(curves("two")[0], name) for name in Curve.__dataclass_fields__},
        baseline="one",
        p_value=(0.1, 0.1, 0.1),
        p_holm=(0.3, 0.3, 0.3),
    )
    judged = [verdict(), verdict(place="inner stages", low=-1.0)]
    page = needle_report([*curves("one"), *curves("two")], [paired], judged, {"seed": 7}, title="a title")
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<title>a title</title>") == 1
    assert "+2.50 [+2.00, +3.00]" in page
    assert "<th>two − one, dB</th>" in page
    assert "two \\u2212 one, tuned lens" in page
    assert [row.split("<td>")[-1].split("<")[0] for row in page.split("</tr>")[1:3]] == ["two", "undecided"]
    # One script with the library, in the head; mean, difference, probability twice, median.
    assert body(page).count('class="plotly-graph-div"') == body(page).count('"showSendToCloud": false') == 5
    assert body(page).count("<svg xmlns") == 3
    assert "&quot;seed&quot;: 7" in page


def test_nothing_is_fetched_and_names_are_escaped() -> None:
    page = needle_report(curves("<b>&"), [], [], {"path": "</script><img src=x>"}, title="<i>")
    text = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert "<i>" not in text
    assert "<b>" not in text
    assert "&lt;/script&gt;" in text


def test_a_page_without_curves_is_refused() -> None:
    with pytest.raises(ValueError, match="no curves to report"):
        needle_report([], [], [], {}, title="")
