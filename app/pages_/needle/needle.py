"""Needle: at which block the answer comes in, for two models on the same prompts, and what the subtraction does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast
from zlib import crc32

import streamlit as st

from app.pages_.needle.files import (
    attention_files,
    curve_files,
    printed_attention,
    printed_curves,
    printed_probes,
    probe_files,
)
from app.pages_.needle.prompt_links import draw_prompt_links, take_stage
from app.pages_.needle.request import (
    EXAMPLE,
    MAX_CHARACTERS,
    MAX_SAMPLES,
    NeedleRead,
    SampleRequest,
    default_n,
    estimate,
    parse_stories,
    probe_seconds,
    run_needle,
    run_probes,
    too_few_to_mark,
)
from app.shell import address, state, viewport
from app.shell.choices import (
    LENGTHS,
    MAX_SEED,
    TASKS,
    choose_fitting_lenses,
    choose_model,
    choose_second_model,
    length_in_words,
    require_same_vocabulary,
)
from app.shell.downloads import KeptRecord, draw_downloads, keep_record
from app.shell.errors import shown_errors
from app.shell.estimates import ASKED_S, LONG_S, require_feasible, require_memory
from app.shell.figures import draw_figure
from app.shell.glossary import draw_note
from app.shell.headlines import draw_headline, needle_headline
from app.shell.kept_runs import ProbesRun
from app.shell.links import RAN, is_asked
from app.shell.loading import ChosenModel, baseline_last
from app.shell.needle_pictures import as_list, attention_picture, curve_figures, formation_lines, probe_pictures
from app.shell.needle_runs import CurveSettings, NeedleReading, NeedleRun, shipped_results
from app.shell.reading_headlines import last_reads_headline
from app.shell.steps import as_python
from app.shell.turns import give_way
from app.shell.wording import counted
from diffmamba_interp.drawing.colours import short_name
from diffmamba_interp.needle import MEASURED, MEASURES
from diffmamba_interp.needle.probes import MIN_STORIES
from diffmamba_interp.statistics import Statistic

READ, ASKED, SEEN, PROBED = "needle_readings", "needle_asked", "needle_seen", "needle_probed"
SOURCES = {"generated": "generated", "pasted": "pasted"}
SHOWN = tuple(measure for measure in MEASURES if measure not in ("snr_db", "snr"))
"""The signal-to-noise ratio has a figure of its own."""

STATISTICS = {"mean": "mean", "median": "median"}


def page() -> None:
    st.title("Needle")
    first = choose_model()
    second = choose_second_model(first) if first else None
    if first is None:
        return
    told = st.container()
    with shown_errors("Reading the needle"):
        models = baseline_last([model for model in (first, second) if model])
        is_answer = is_asked("needle")
        with st.expander("Prompts, lens and what is shown") if is_answer else st.container():
            request = choose_samples(default_n(models))
            reads, drawing = choose_reading(models)
        readings, share = run_or_recall(reads, request, ASKED_S if is_answer else LONG_S)
        if readings:
            run = NeedleRun(readings=tuple(readings), drawing=drawing)
            if share < 1:
                st.warning(f"Stopped after {counted(run.n_prompts)}, {share:.0%} of the run. Press Run to go on.")
            read = [reading.trajectory for reading in readings]
            draw_headline(needle_headline(read, shipped_results([one.model for one in read])))
            draw_curves(reads, request, run)
            draw_prompt_links(readings, request)
            draw_attention(reads, request, run)
            keep_run(reads, request, run)
            draw_probes(reads, request)
        else:
            before = "Nothing is read yet."
            if state.pending(RAN) == mark_of(reads, request):
                before = (
                    f"This was read where the link or session was made; here it takes more than {ASKED_S:.0f} s, and "
                    "waits."
                )
            elif READ in st.session_state:
                before = "What stood here was of other settings, and is gone until they are back."
            told.info(
                f"{before} Run reads {counted(request.n_prompts)} "
                f"block by block, in {' and '.join(short_name(read.name) for read in reads)}: in which block does the "
                "answer come in?"
            )


def run_or_recall(
    reads: Sequence[NeedleRead], request: SampleRequest, longest_s: float
) -> tuple[list[NeedleReading], float]:
    """What was read, and the share of the run that is done; runs if the button was pressed, or the page was opened with
    a short run.

    longest_s: what is short; of what a link or session says was run, as long as what the start page asks.
    """
    what = (tuple(reads), request)
    expected = estimate(reads, request)
    require_feasible(expected.seconds, "Choose fewer or shorter prompts")
    require_memory(expected.memory_bytes, "Choose shorter prompts, one model, or bfloat16")
    left, right, words = st.columns([1, 1, 4])
    pressed = left.button("Run", key="run_needle", type="primary")
    stop, bar = right.empty(), st.empty()
    words.caption(
        f"About {request.n_tokens:,} tokens for each of {len(reads)} models: about {expected.seconds:.0f} s here "
        f"({expected.in_words}), {expected.memory_bytes / 2**20:,.0f} MiB."
    )
    ran, readings, share = st.session_state.get(READ, (None, [], 0.0))
    if ran != what:
        readings, share = [], 0.0
    mark = mark_of(reads, request)
    if state.pending(RAN) == mark:
        longest_s = max(longest_s, ASKED_S)
    is_opened = address.is_opened() or SEEN not in st.session_state
    st.session_state[SEEN] = what
    if pressed or (is_opened and ran != what and expected.seconds <= longest_s):
        st.session_state[ASKED] = what
    if st.session_state.get(ASKED) == what:
        state.put(RAN, mark)
    elif state.pending(RAN) != mark:
        state.forget(RAN)
    state.remembered(RAN, "")
    if share < 1 and st.session_state.get(ASKED) == what:
        # The press makes Streamlit leave this run at its next drawing; what was read until then stays.
        stop.button("Cancel", key="cancel_needle", on_click=cancel)
        bar.progress(0.0, "Making the prompts")
        for share, readings in run_needle(reads, request):
            st.session_state[READ] = (what, readings, share)
            bar.progress(share, f"{share:.0%} of the prompts")
            give_way()
        bar.empty()
        stop.empty()
    return readings, share


def cancel() -> None:
    st.session_state.pop(ASKED, None)
    state.forget(RAN)


def mark_of(reads: Sequence[NeedleRead], request: SampleRequest) -> str:
    """The same on every machine for the same models, lenses and prompts."""
    said = [(read.name, read.lens_names, read.attention) for read in reads], request
    return f"{crc32(repr(said).encode()):08x}"


def keep_run(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> None:
    part = f", {run.n_prompts} of them read" if run.n_prompts < request.n_prompts else ""
    keep(reads, f"needle, {request.in_words}{part}", run)


def keep(reads: Sequence[NeedleRead], title: str, record: NeedleRun | ProbesRun) -> None:
    """For the session's file."""
    keep_record(
        KeptRecord(
            title=title, model=" and ".join(read.name for read in reads), dtype=reads[0].key.dtype,
            device=reads[0].key.device, strings=(), record=record,
        )
    )  # fmt: skip


def draw_curves(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> None:
    """The measure and the SNR by stage, and model minus baseline."""
    figures, curves = curve_figures(run)
    for place, (name, figure) in enumerate(figures.items()):
        if place % 2 == 0:
            columns = st.columns(2)
        with columns[place % 2]:
            key, stages = f"needle_{name}", run.readings[0].trajectory.stages
            draw_figure(figure, key, on_select=partial(take_stage, key, stages))
    draw_note(
        f"{counted(run.n_prompts)}; bands: 95 % bootstrap intervals over prompts. SNR: probability of the answer over "
        "the mean of the wrong labels. Differences: model minus baseline on the same prompts; filled: p < 0.05, "
        "corrected."
    )
    if words := too_few_to_mark(curves, run.n_prompts):
        st.info(words)
    table = formation_lines(run, request.said)
    st.markdown("\n".join(as_list(table) if viewport.is_narrow() else table))
    draw_note(
        "Comes in: the first place from which the SNR stays above 7 dB, or the answer on top of the labels, to the "
        "output; nowhere where it never does. A difference counts from place to place, which is a block each. "
        "SNR there: mean of the prompts in which it forms, in a difference in both models. In brackets 95 % intervals."
    )
    code = as_python(printed_curves(reads, request, run))
    draw_downloads(curve_files(figures, curves, run.readings), code, name="needle")


def draw_attention(reads: Sequence[NeedleRead], request: SampleRequest, run: NeedleRun) -> None:
    picture = attention_picture(run)
    if picture is None:
        return
    figure, curves = picture
    st.header("What the last position reads for its answer")
    draw_headline(last_reads_headline(run.readings))
    draw_figure(figure, "needle_attention_figure")
    draw_note(
        "Sizes of the exact contributions of every token to the answer's logit. Written: what a block adds, which is "
        "minuend − λ · subtrahend in a differential one. Cancelled: 1 − |difference| / (|minuend| + |λ · subtrahend|)."
    )
    code = as_python(printed_attention(reads, request, run))
    draw_downloads(attention_files(figure, curves, run.readings), code, name="needle")


def draw_probes(reads: Sequence[NeedleRead], request: SampleRequest) -> None:
    """Linear probes of all prompts, when asked for: they need many prompts and a time of their own."""
    what = (tuple((read.name, read.key) for read in reads), request)
    st.header("Can the answer be read at all?")
    left, words = st.columns([1, 5])
    if left.button("Fit probes", key="run_probes"):
        st.session_state[PROBED] = what
    words.caption(
        f"A linear classifier of the answer at every stage, fitted and read on different stories; {MIN_STORIES} "
        f"stories at least, a hundred say something. About {probe_seconds(reads, request):.0f} s for all "
        f"{request.n_prompts} prompts."
    )
    if st.session_state.get(PROBED) != what:
        return
    with st.spinner("Fitting the probes"):
        records = [run_probes(reads, request, at) for at in range(len(reads))]
    keep(reads, f"probes, {request.in_words}", ProbesRun(records=tuple(records)))
    figures, curves = probe_pictures(records)
    for column, (place, figure) in zip(st.columns(2), enumerate(figures), strict=False):
        with column:
            draw_figure(figure, f"needle_probes_{place}")
    draw_note(
        "Cross-validated over stories; bands: 95 % bootstrap intervals over them. Dashed: the same with the answers "
        "shuffled, what a probe gets right of anything. What a probe reads need not be what the model uses."
    )
    draw_downloads(
        probe_files(figures, curves, records), as_python(printed_probes(reads, request, records)), name="needle"
    )


def choose_samples(n_ready: int) -> SampleRequest:
    """Generated prompts, which the address can name, or pasted ones. n_ready: how many unless told otherwise.

    Raises ValueError for pasted text that is none.
    """
    columns = st.columns([2, 4, 2, 2, 2])
    with columns[0]:
        source = state.selectbox("Prompts", "needle_source", list(SOURCES), "generated")
    if source == "pasted":
        pasted = state.text_area(
            f"JSON, at most {MAX_SAMPLES} samples; the needle is a text of the context", "needle_pasted", EXAMPLE,
            height=180, max_chars=MAX_CHARACTERS,
        )  # fmt: skip
        return SampleRequest(task="", length=0, n=0, seed=0, stories=parse_stories(pasted))
    with columns[1]:
        task = state.selectbox("Task", "needle_task", list(TASKS), "qa1", format_func=TASKS.__getitem__)
    with columns[2]:
        length = state.selectbox("Tokens", "needle_length", LENGTHS, "256", format_func=length_in_words)
    with columns[3]:
        n = state.number_input("How many", "needle_n", 1, MAX_SAMPLES, n_ready)
    with columns[4]:
        seed = state.number_input("Seed", "needle_seed", 0, MAX_SEED, 0)
    return SampleRequest(task=task, length=int(length), n=n, seed=seed)


def choose_reading(models: list[ChosenModel]) -> tuple[list[NeedleRead], CurveSettings]:
    """Lens, measure and scale in a line. Raises ValueError for models that do not read the same words."""
    if any(model.tokenizer is None for model in models):
        raise ValueError("the prompts are text: choose models that have a tokenizer.")
    for other in models[1:]:
        require_same_vocabulary(models[0], other)
    columns = st.columns([3, 4, 2, 3])
    with columns[0]:
        requests = choose_fitting_lenses(models, "needle_lens")
    with columns[1]:
        measure = state.selectbox(
            "Shown", "needle_measure", SHOWN, "probability", format_func=lambda name: MEASURED[name].title
        )
    with columns[2]:
        statistic = state.selectbox("Over prompts", "needle_statistic", list(STATISTICS), "mean")
    with columns[3]:
        log = MEASURED[measure].scale == "probability" and state.toggle("Logarithmic axis", "needle_log")
        tuned = all(request.lens for request in requests)
        with_logit = tuned and state.toggle("Logit lens beside it", "needle_logit")
        attention = state.toggle("What is read", "needle_attention", True, help="about a fifth of the time more")
    reads = [
        NeedleRead(name=model.name, key=model.key, lens=request, with_logit=with_logit, attention=attention)
        for model, request in zip(models, requests, strict=True)
    ]
    return reads, CurveSettings(measure=measure, statistic=cast(Statistic, statistic), log=log)


page()
