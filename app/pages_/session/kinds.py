"""The kinds of records that a session file holds: how each is written, read and checked, drawn and told."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import plotly.graph_objects as go

from app.shell.change_headlines import (
    faithfulness_headline,
    intervention_headline,
    patched_quantity,
    patching_headline,
    sweep_headline,
)
from app.shell.continued import continued_headline
from app.shell.downloads import KeptRecord, record_bytes
from app.shell.headlines import (
    Headline,
    attention_headline,
    heads_headline,
    lens_headline,
    needle_headline,
    retrieval_headline,
)
from app.shell.kept_graphs import graph_headline, read_graph, write_graph
from app.shell.kept_runs import HeadsRun, PatchingRun, ProbesRun, RetrievalRun
from app.shell.lens_reading import trajectory_bytes
from app.shell.needle_pictures import attention_picture, curve_figures, name_stages_shortly
from app.shell.needle_runs import NeedleRun, read_needle, shipped_results, write_needle
from app.shell.reading_headlines import last_reads_headline
from app.shell.readings import at_output, in_words
from diffmamba_interp.drawing.panels import Drawing
from diffmamba_interp.drawing.plotly_figure import to_plotly
from diffmamba_interp.figures.allocation import allocation_curves, allocation_drawing
from diffmamba_interp.figures.attention import attention_drawing, attention_heads_drawing, attention_span_drawing
from diffmamba_interp.figures.continuations import continuations_drawing
from diffmamba_interp.figures.contribution_graph import contribution_graph_drawing
from diffmamba_interp.figures.faithfulness import faithfulness_drawing
from diffmamba_interp.figures.heads import NAMES, head_scores_drawing
from diffmamba_interp.figures.interventions import (
    BY_STAGE,
    answer_by_stage_drawing,
    dose_response_drawing,
    patch_grid_drawing,
)
from diffmamba_interp.figures.lens import lens_drawing
from diffmamba_interp.figures.needle import probes_drawing, stages_drawing
from diffmamba_interp.figures.retrieval import accuracy_drawing, ratio_drawing
from diffmamba_interp.files.archives import arrays_from_bytes, require_modest
from diffmamba_interp.files.json_files import json_text, parse_json
from diffmamba_interp.files.json_records import JsonRecord
from diffmamba_interp.implicit_attention import ContributionGraph
from diffmamba_interp.implicit_attention.record import AttentionRecord
from diffmamba_interp.interventions import Continuations, FaithfulnessRecord, InterventionRecord, SweepRecord
from diffmamba_interp.interventions.records import PROBABILITY
from diffmamba_interp.lens import LensTrajectory
from diffmamba_interp.needle import PairedCurve, compare_probes, summarise_probes

MAX_ARRAY_BYTES, MAX_JSON_BYTES = 512 * 2**20, 16 * 2**20
OF_SESSION, REMEDY = "a record of the session file", "Save the session file again."
MAX_CELLS = 256
VIEWS = ("positions", "spans", "heads")
DOSED = (PROBABILITY, "snr_db")


@dataclass(frozen=True, kw_only=True)
class RecordKind:
    """Of a record. of: its class. write: as bytes. read: the inverse, checked; raises ValueError, or KeyError and
    TypeError where a part is missing. drawings: what it shows, without a model. tell: what it says. lines: more of it.
    """

    of: type
    ending: str
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    drawings: Callable[[KeptRecord], list[Drawing]]
    tell: Callable[[KeptRecord], Headline]
    lines: Callable[[Any], list[str]] = lambda record: []


def kind_of(record: object) -> str:
    """Name of the record's kind in a session file. Raises TypeError for what is none."""
    for name, kind in KINDS.items():
        if isinstance(record, kind.of):
            return name
    raise TypeError(f"a session keeps no {type(record).__name__}.")


def figures_of(kept: KeptRecord) -> list[go.Figure]:
    """The record's figures as its page draws them."""
    if isinstance(kept.record, NeedleRun):
        curves, _ = curve_figures(kept.record)
        read = attention_picture(kept.record)
        return [*curves.values(), *([read[0]] if read else [])]
    figures = [to_plotly(drawing) for drawing in KINDS[kind_of(kept.record)].drawings(kept)]
    if isinstance(kept.record, ProbesRun):
        for figure in figures:
            name_stages_shortly(figure, kept.record.records[0].stages)
    return figures


def read_attention(content: bytes) -> AttentionRecord:
    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.npz"
        path.write_bytes(content)
        record = AttentionRecord.load(path)
    n_batch, n_pos = record.tokens.shape
    n_heads = [len(record.heads)] if record.per_head else []
    wanted = (n_batch, *n_heads, record.rows.shape[1], n_pos)
    if any(tuple(part.shape) != wanted for part in record.parts) or bool((record.rows >= n_pos).any()):
        raise ValueError(f"a record of the session file is not of one piece: its pictures should be {wanted}.")
    return record


def attention_drawings(kept: KeptRecord) -> list[Drawing]:
    """By position, by span or head by head, as the page had it."""
    record = cast(AttentionRecord, kept.record)
    if kept.view == "heads" and record.per_head and len(record.heads) > 1:
        return [attention_heads_drawing(record)]
    only = record.heads[0] if record.per_head and len(record.heads) == 1 else None
    if kept.view == "spans":
        return [attention_span_drawing(record, kept.spans, head=only)]
    return [attention_drawing(record, head=only, max_cells=MAX_CELLS)]


def read_lens(content: bytes) -> LensTrajectory:
    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
    arrays = arrays_from_bytes(content, source=OF_SESSION, remedy=REMEDY)
    stages = [str(stage) for stage in arrays.pop("stages")]
    record = LensTrajectory.from_dict({"stages": stages, **arrays})
    wanted = (*record.tokens.shape[:1], len(stages), *record.tokens.shape[1:])
    if record.top_tokens.ndim != 4 or any(
        array.shape[:3] != wanted for array in (record.top_tokens, record.entropy_nats, record.kl_to_final_nats)
    ):
        raise ValueError(f"a record of the session file is not of one piece: its arrays should be {wanted}.")
    return record


def read_session_graph(content: bytes) -> ContributionGraph:
    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
    return read_graph(content, source=OF_SESSION, remedy=REMEDY)


def graph_strings(kept: KeptRecord) -> list[str]:
    """Of every position; numbers where the record came with others."""
    n_pos = cast(ContributionGraph, kept.record).node.shape[-1]
    return list(kept.strings) if len(kept.strings) == n_pos else [str(place) for place in range(n_pos)]


def lens_words(kept: KeptRecord) -> Callable[[int], str]:
    return lambda token: kept.words.get(token, str(token))


def read_session_needle(content: bytes) -> NeedleRun:
    require_modest(content, MAX_ARRAY_BYTES, source=OF_SESSION, remedy=REMEDY)
    return read_needle(content)


def needle_drawings(kept: KeptRecord) -> list[Drawing]:
    run = cast(NeedleRun, kept.record)
    _, curves = curve_figures(run)
    groups = dict.fromkeys((isinstance(curve, PairedCurve), curve.measure) for curve in curves)
    drawings = [
        stages_drawing(
            [curve for curve in curves if (isinstance(curve, PairedCurve), curve.measure) == group], title=""
        )
        for group in groups
    ]
    return [*drawings, *allocation_drawings(run)]


def allocation_drawings(run: NeedleRun) -> list[Drawing]:
    """What the last position reads; nothing where it was not asked for."""
    read = {reading.trajectory.model: reading.allocation for reading in run.readings if reading.allocation is not None}
    return [allocation_drawing(allocation_curves(read))] if read else []


def needle_told(kept: KeptRecord) -> Headline:
    readings = cast(NeedleRun, kept.record).readings
    read = [reading.trajectory for reading in readings]
    return needle_headline(read, shipped_results([one.model for one in read])) + last_reads_headline(readings)


def intervention_drawings(kept: KeptRecord) -> list[Drawing]:
    record = cast(InterventionRecord, kept.record)
    lenses = dict.fromkeys(name.partition(".")[0] for name in record.clean if "." in name)
    return [
        answer_by_stage_drawing(record, measure, lens=lens)
        for lens in lenses
        for measure, reading in BY_STAGE.items()
        if reading in record.clean and f"{lens}.{reading}" in record.clean
    ]


def intervention_lines(record: InterventionRecord) -> list[str]:
    """What was changed, and every number at the output."""
    changes = [in_words(change) for change in record.interventions] or ["nothing is changed"]
    numbers = [f"{one.name}: {one.value}" + (f" ({one.change})" if one.change else "") for one in at_output(record)]
    return [*changes, *numbers]


def check_intervention(record: InterventionRecord) -> bool:
    shapes = [{name: value.shape for name, value in of.items()} for of in (record.clean, record.intervened)]
    return PROBABILITY in record.clean and shapes[0] == shapes[1] and all(shape for shape in shapes[0].values())


def check_sweep(record: SweepRecord) -> bool:
    cells = (len(record.groups), len(record.doses))
    return bool(cells[0] and cells[1] and PROBABILITY in record.clean) and all(
        record.intervened[name].shape == (*cells, *clean.shape) for name, clean in record.clean.items()
    )


def check_patching(run: PatchingRun) -> bool:
    shape = (1, len(run.exact.blocks), len(run.places))
    return all(
        grid.patched.shape == shape
        and grid.clean.shape == grid.corrupted.shape == (1,)
        and len(grid.positions) == len(run.places)
        and all(of is None or len(of) == len(grid.blocks) for of in (grid.branches, grid.heads))
        for grid in (run.exact, run.estimate)
    )


def check_faithfulness(record: FaithfulnessRecord) -> bool:
    shape = (len(record.n_sources), len(record.rankings), len(record.fractions))
    return record.deletion.shape == record.insertion.shape == shape and 0 not in shape


def check_continuations(record: Continuations) -> bool:
    steps = record.tokens.shape
    likely = (record.top_tokens, record.top_probabilities, record.followed_tokens, record.followed_probabilities)
    return (
        len(steps) == 2
        and 0 not in steps
        and len(record.names) == len(record.interventions) == steps[0]
        and record.probability.shape == steps
        and all(array.ndim == 3 and array.shape[:2] == steps and array.shape == likely[0].shape for array in likely)
        and likely[0].shape[2] > 0
    )


def check_heads(run: HeadsRun) -> bool:
    rows, width = len(run.scores.rows), max(run.scores.n_heads, default=0)
    values = run.scores.values
    return (
        run.measure in NAMES
        and run.measure in values
        and len(run.scores.n_heads) == rows > 0
        and all(array.ndim == 3 and array.shape[1] == rows and array.shape[2] >= width for array in values.values())
    )


def check_cells(run: RetrievalRun) -> bool:
    return bool(run.cells) and len({len(cell.models) for cell in run.cells}) == 1 and bool(run.cells[0].models)


def check_probes(run: ProbesRun) -> bool:
    return bool(run.records) and all(
        array.shape == (len(one.samples), len(one.stages)) and len(one.samples) == len(one.stories) > 0
        for one in run.records
        for array in (one.is_right, one.bits, one.shuffled_right, one.shuffled_bits)
    )


def probes_drawings(kept: KeptRecord) -> list[Drawing]:
    records = cast(ProbesRun, kept.record).records
    drawings = [probes_drawing(summarise_probes(records), title="Linear probes of the answer")]
    if len(records) == 2 and records[0].stages == records[1].stages:
        drawings.append(probes_drawing(compare_probes(*records[::-1]), title="Paired difference"))
    return drawings


def sweep_drawings(record: SweepRecord) -> list[Drawing]:
    return [dose_response_drawing(record, name, quantity="value") for name in DOSED if name in record.clean]


def retrieval_drawings(run: RetrievalRun) -> list[Drawing]:
    ratio = [ratio_drawing(run.cells)] if len(run.cells[0].models) == 2 else []
    return [accuracy_drawing(run.cells), *ratio]


def patching_drawings(kept: KeptRecord) -> list[Drawing]:
    run = cast(PatchingRun, kept.record)
    grids = {"exact": run.exact, "estimate, one backward pass": run.estimate}
    return [patch_grid_drawing(grids, place_names=run.places, title=f"Change of {patched_quantity(run.exact.against)}")]


def _json(
    of: type[JsonRecord],
    check: Callable[[Any], bool],
    drawings: Callable[[Any], list[Drawing]],
    tell: Callable[[Any], Headline],
    lines: Callable[[Any], list[str]] = lambda record: [],
    *,
    of_kept: bool = False,
) -> RecordKind:
    """A kind that goes to JSON. drawings, tell: of the record, or where `of_kept` of all that is kept with it."""

    def read(content: bytes) -> JsonRecord:
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"a record of the session file has {len(content) / 2**20:.0f} MiB, which is too much.")
        record = of.from_dict(parse_json(content.decode(), source=OF_SESSION))
        if not check(record):
            raise ValueError("a record of the session file is not of one piece: its parts do not fit together.")
        return record

    return RecordKind(
        of=of, ending="json", write=lambda record: json_text(record.to_dict()).encode(), read=read,
        drawings=drawings if of_kept else lambda kept: drawings(kept.record),
        tell=lambda kept: tell(kept.record), lines=lines,
    )  # fmt: skip


KINDS: dict[str, RecordKind] = {
    "attention": RecordKind(
        of=AttentionRecord, ending="npz", write=record_bytes, read=read_attention, drawings=attention_drawings,
        tell=lambda kept: attention_headline(kept.record, kept.spans),
    ),
    "needle": RecordKind(
        of=NeedleRun, ending="npz", write=write_needle, read=read_session_needle, drawings=needle_drawings,
        tell=needle_told,
    ),
    "lens": RecordKind(
        of=LensTrajectory, ending="npz", write=trajectory_bytes, read=read_lens,
        drawings=lambda kept: [lens_drawing(kept.record, lens_words(kept))],
        tell=lambda kept: lens_headline({kept.model: kept.record}, lens_words(kept)),
    ),
    "graph": RecordKind(
        of=ContributionGraph, ending="npz", write=write_graph, read=read_session_graph,
        drawings=lambda kept: [contribution_graph_drawing(kept.record, token_strings=graph_strings(kept))],
        tell=lambda kept: graph_headline(kept.record, kept.spans, graph_strings(kept)),
    ),
    "intervention": _json(
        InterventionRecord, check_intervention, intervention_drawings, intervention_headline, intervention_lines,
        of_kept=True,
    ),
    "sweep": _json(SweepRecord, check_sweep, sweep_drawings, sweep_headline),
    "patching": _json(
        PatchingRun, check_patching, patching_drawings, lambda run: patching_headline(run.exact, run.places),
        of_kept=True,
    ),
    "faithfulness": _json(
        FaithfulnessRecord, check_faithfulness, lambda record: [faithfulness_drawing(record)], faithfulness_headline
    ),
    "continuations": replace(
        _json(
            Continuations, check_continuations,
            lambda kept: [continuations_drawing(kept.record, lens_words(kept))], lambda record: Headline(says=()),
            of_kept=True,
        ),
        tell=lambda kept: continued_headline(kept.record, lens_words(kept)),
    ),
    "heads": _json(
        HeadsRun, check_heads, lambda run: [head_scores_drawing(run.scores, run.measure)],
        lambda run: heads_headline(run.scores, run.measure),
    ),
    "retrieval": _json(
        RetrievalRun, check_cells, retrieval_drawings, lambda run: retrieval_headline(run.cells)
    ),
    "probes": _json(ProbesRun, check_probes, probes_drawings, lambda run: Headline(says=()), of_kept=True),
}  # fmt: skip
