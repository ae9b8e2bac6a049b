"""One HTML page about a needle measurement that needs no network: tables, interactive figures, small figures by task.

The script that draws the interactive figures is inside the page, once; the small ones are SVG and need no script.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from plotly.offline import get_plotlyjs

from diffmamba_interp.drawing.panels import Drawing, minus
from diffmamba_interp.drawing.plotly_figure import KEPT_HERE, to_plotly
from diffmamba_interp.drawing.svg import to_svg
from diffmamba_interp.figures.needle import group_name, needle_difference_drawing, needle_drawing, stages_drawing
from diffmamba_interp.needle.curves import Curve, Group, PairedCurve
from diffmamba_interp.needle.findings import MIN_PROMPTS, Verdict
from diffmamba_interp.needle.formation import Formation, FormationDifference, by_cell
from diffmamba_interp.needle.trajectory_records import MEASURED, Measure

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 14px; } td, th { border-bottom: 1px solid #ddd; padding: 4px 8px; }
th { text-align: left; } td.number { text-align: right; } pre { overflow-x: auto; background: #f6f6f6; padding: 1em; }
svg { max-width: 100%; height: auto; } details { margin: 1em 0; } .scroll { overflow-x: auto; }
"""
HOW = (
    "The signal-to-noise ratio of a prompt is p(answer) over the mean p of the task's other labels, 10 log10 of it in "
    "decibels; probabilities are of whole answers. A lens reads them from the residual stream at the last prompt "
    "position, after every block; the last stage is the model's own output. Bands and intervals are 95 % percentile "
    "bootstraps over prompts. Differences are paired by prompt; their p-values are of a two-sided sign-flip test, "
    f"not corrected for the number of rows. Below {MIN_PROMPTS} prompts nothing is decided."
)

FORMS = (
    "The first stage from which the SNR stays above the threshold, or the answer on top of the labels, to the output, "
    "counted from the embedding (0). Where that is not so at the output, the answer never forms: one past the last "
    "stage. The SNR there leaves those prompts out; its difference is over prompts in which both models' answers form."
)


def needle_report(
    curves: Sequence[Curve],
    differences: Sequence[PairedCurve],
    verdicts: Sequence[Verdict],
    about: Mapping[str, Any],
    *,
    title: str,
    formations: Sequence[Formation] = (),
    formation_differences: Sequence[FormationDifference] = (),
) -> str:
    """The page. curves: of `snr_db` (mean, median) and the means of other measures, by length and by task and length.

    differences: of means; none for a single model, and then no verdicts. about: JSON values for the end of the page,
    the provenance. formations: when the answers form. All text is escaped. Raises ValueError if there are no curves.
    """
    if not curves:
        raise ValueError("there are no curves to report: summarise at least one trajectory first.")
    overall = [group for group in dict.fromkeys(curve.group for curve in curves) if "task" not in dict(group)]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(HOW)}</p>",
        *_verdict_section(verdicts),
        *_formation_section(formations, formation_differences),
        *(part for group in overall for part in _group_section(group, curves, differences)),
        *_task_section(curves),
        "<h2>How it was made</h2>",
        f"<pre>{html.escape(json.dumps(about, indent=1))}</pre>",
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
            f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>",
            *parts,
            "</body></html>\n",
        ]
    )


def _verdict_section(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    baseline, model = (html.escape(getattr(verdicts[0], name)) for name in ("baseline", "model"))
    head = (
        "tasks, length",
        "n",
        "lens",
        "where",
        f"{baseline}, dB",
        f"{model}, dB",
        f"{minus(model, baseline)}, dB",
        "p",
        "higher SNR",
    )
    rows = []
    for one in verdicts:
        interval = f"{one.difference_db:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        numbers = (f"{one.baseline_db:+.2f}", f"{one.model_db:+.2f}", interval, f"{one.p_value:.2g}")
        winner = html.escape(one.winner or "undecided")
        rows.append(
            f"<tr><td>{html.escape(group_name(one.group))}</td>{_number(str(one.n))}<td>{html.escape(one.lens)}</td>"
            f"<td>{one.place}</td>{''.join(map(_number, numbers))}<td>{winner}</td></tr>"
        )
    titles = "".join(f"<th>{name}</th>" for name in head)
    return [
        "<h2>Which model stands out more</h2>",
        f'<div class="scroll"><table><tr>{titles}</tr>',
        *rows,
        "</table></div>",
    ]


def _formation_section(formations: Sequence[Formation], differences: Sequence[FormationDifference]) -> list[str]:
    if not formations:
        return []
    names = ("tasks, length", "n", "lens", "criterion", "model", "median stage", "mean stage", "forms", "SNR there, dB")
    rows = []
    for one in by_cell(formations, differences):
        if isinstance(one, Formation):
            whose = html.escape(one.model)
            numbers = (one.median.text(1), one.mean.text(2), f"{one.share_formed.value:.1%}", one.snr_db.text(1))
        else:
            whose = minus(html.escape(one.model), html.escape(one.baseline))
            numbers = (
                one.median.text(1, signed=True),
                f"{one.mean.text(2, signed=True)}, p {one.p_value:.2g}",
                f"{one.share_formed.value:+.1%}",
                f"{one.snr_db.text(1, signed=True)}, n = {one.n_both}",
            )
        rows.append(
            f"<tr><td>{html.escape(group_name(one.group))}</td>{_number(str(one.n))}<td>{html.escape(one.lens)}</td>"
            f"<td>{one.criterion}</td><td>{whose}</td>{''.join(map(_number, numbers))}</tr>"
        )
    return [
        "<h2>When the answer forms</h2>",
        f"<p>{html.escape(FORMS)}</p>",
        f'<div class="scroll"><table><tr>{"".join(f"<th>{name}</th>" for name in names)}</tr>',
        *rows,
        "</table></div>",
    ]


def _number(text: str) -> str:
    return f'<td class="number">{text}</td>'


def _group_section(group: Group, curves: Sequence[Curve], differences: Sequence[PairedCurve]) -> list[str]:
    """Interactive figures of all tasks at one length: Fig. 5 of the paper, linear and logarithmic, and the ratio."""
    of_group = [curve for curve in curves if curve.group == group]
    by_measure = {c.measure: [d for d in of_group if (d.measure, d.statistic) == (c.measure, "mean")] for c in of_group}
    snr, probability = by_measure.pop("snr_db", []), by_measure.pop("probability", [])
    median = [curve for curve in of_group if (curve.measure, curve.statistic) == ("snr_db", "median")]
    paired = [curve for curve in differences if curve.group == group and curve.measure == "snr_db"]
    figures = [
        *([needle_drawing(snr, title="Mean signal-to-noise ratio")] if snr else []),
        *([needle_difference_drawing(paired, title="Paired difference")] if paired else []),
        *([needle_drawing(probability, title="Probability of the answer")] if probability else []),
        *([needle_drawing(probability, log=True, title="The same on a logarithmic axis")] if probability else []),
        *([needle_drawing(median, title="Median signal-to-noise ratio")] if median else []),
        *(drawing for measure, means in by_measure.items() for drawing in _other(measure, means, differences, group)),
    ]
    n = of_group[0].n
    return [f"<h2>{html.escape(group_name(group))}, n = {n}</h2>", *map(_interactive, figures)]


def _other(measure: Measure, means: Sequence[Curve], differences: Sequence[PairedCurve], group: Group) -> list[Drawing]:
    paired = [curve for curve in differences if (curve.group, curve.measure) == (group, measure)]
    title = MEASURED[measure].title
    return [
        needle_drawing(means, title=f"Mean {title}"),
        *([needle_difference_drawing(paired, title=f"Paired difference in {title}")] if paired else []),
    ]


def _interactive(drawing: Drawing) -> str:
    figure = to_plotly(drawing)
    return figure.to_html(full_html=False, include_plotlyjs=False, default_height="480px", config=KEPT_HERE)


def _task_section(curves: Sequence[Curve]) -> list[str]:
    by_task = [curve for curve in curves if "task" in dict(curve.group) and curve.statistic == "mean"]
    if not by_task:
        return []
    drawn = []
    for measure in dict.fromkeys(curve.measure for curve in by_task):
        means = [curve for curve in by_task if curve.measure == measure]
        for log in (False, True) if MEASURED[measure].scale == "probability" else (False,):
            drawn.append(to_svg(stages_drawing(means, title="Task by task, means", log=log)))
    return ["<h2>Task by task</h2>", *drawn]
