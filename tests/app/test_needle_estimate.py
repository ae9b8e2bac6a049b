"""The estimate of a needle run: every part grows with what it is about, and with nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.pages_.needle import request
from app.pages_.needle.request import EXAMPLE, NeedleEstimate, NeedleRead, SampleRequest, estimate, parse_stories
from app.shell import estimates, loading
from app.shell.lens_reading import LensRequest
from diffmamba_interp.needle.trajectory import PIECE_TOKENS
from tests.app.conftest import OpenApp

REQUEST = SampleRequest(task="qa1", length=1024, n=10, seed=0)
LOGIT = LensRequest(lens=None, revision="", first=0, last=0)
TUNED = LensRequest(lens=Path("lens"), revision="", first=0, last=0)


@pytest.fixture
def reads(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> list[NeedleRead]:
    """The same model twice; a token takes a millisecond in a block, a read-out a second."""
    open_app()
    monkeypatch.setattr(estimates, "_kind_seconds", lambda *_: 1e-3)
    monkeypatch.setattr(estimates, "read_out_seconds", lambda _: 1.0)
    key = loading.model_key("models/all", "float32")
    return [NeedleRead(name=name, key=key, lens=LOGIT) for name in ("first", "second")]


def grown(before: NeedleEstimate, after: NeedleEstimate) -> set[str]:
    """The parts that are greater after."""
    assert all(getattr(after, name) >= value for name, value in vars(before).items())
    return {name for name, value in vars(before).items() if getattr(after, name) > value}


def test_the_seconds_are_the_sum_of_the_parts(reads: list[NeedleRead]) -> None:
    found = estimate(reads, REQUEST)
    assert found.seconds == pytest.approx(sum(part for name, part in vars(found).items() if name.endswith("_s")))
    n_layers = loading.config(reads[0].key).n_layers
    passes = 10 * 1024 * n_layers * 1e-3
    read_outs = request.READ_OUT_COST * 10 * (n_layers + 1) * 1.0
    assert found.reading_s == pytest.approx(2 * (passes + read_outs))
    assert found.attention_s == pytest.approx(2 * request.ATTENTION_PASSES * passes)


def test_longer_prompts_take_longer_passes_and_more_memory_and_no_longer_error_bars(reads: list[NeedleRead]) -> None:
    once, twice = estimate(reads, REQUEST), estimate(reads, replace(REQUEST, length=2048))
    assert grown(once, twice) == {"prompts_s", "reading_s", "attention_s", "memory_bytes"}
    assert twice.attention_s == pytest.approx(2 * once.attention_s)


def test_more_prompts_take_longer_in_every_part_but_loading_and_hardly_more_memory(reads: list[NeedleRead]) -> None:
    once, twice = estimate(reads, REQUEST), estimate(reads, replace(REQUEST, n=20))
    assert grown(once, twice) == {"prompts_s", "reading_s", "attention_s", "error_bars_s", "memory_bytes"}
    assert twice.reading_s == pytest.approx(2 * once.reading_s)
    # They are read step by step, so only what is kept of them grows.
    assert twice.memory_bytes - once.memory_bytes == 10 * 2 * request.FOUND_BYTES


def test_short_prompts_are_read_together_and_take_the_memory_of_one_step(reads: list[NeedleRead]) -> None:
    few, many = (estimate(reads[:1], replace(REQUEST, length=128, n=n)) for n in (8, 160))
    assert many.memory_bytes - few.memory_bytes == 152 * request.FOUND_BYTES


def test_two_models_take_what_each_of_them_takes(reads: list[NeedleRead]) -> None:
    one, both = estimate(reads[:1], REQUEST), estimate(reads, REQUEST)
    assert both.reading_s == pytest.approx(2 * one.reading_s)
    assert both.attention_s == pytest.approx(2 * one.attention_s)
    assert both.loading_s == pytest.approx(2 * one.loading_s)
    assert both.memory_bytes - one.memory_bytes >= estimates.model_bytes(reads[0].key)


def test_a_model_in_memory_takes_no_time_to_load_and_as_much_memory(reads: list[NeedleRead]) -> None:
    before = estimate(reads[:1], REQUEST)
    loading.model(reads[0].key)
    after = estimate(reads[:1], REQUEST)
    assert (before.loading_s > 0, after.loading_s) == (True, 0)
    assert before.memory_bytes == after.memory_bytes


def test_a_tuned_lens_is_loaded_and_held_and_the_logit_lens_beside_it_doubles_the_read_outs(
    reads: list[NeedleRead],
) -> None:
    loading.model(reads[0].key)
    logit = estimate(reads[:1], REQUEST)
    tuned = estimate([replace(reads[0], lens=TUNED)], REQUEST)
    assert grown(logit, tuned) == {"loading_s", "memory_bytes"}
    both = estimate([replace(reads[0], lens=TUNED, with_logit=True)], REQUEST)
    assert grown(tuned, both) == {"reading_s", "error_bars_s", "memory_bytes"}
    passes = tuned.attention_s / request.ATTENTION_PASSES
    assert both.reading_s - passes == pytest.approx(2 * (tuned.reading_s - passes))


def test_prompts_in_pieces_take_a_pass_more_for_what_is_read(reads: list[NeedleRead]) -> None:
    whole, pieces = (estimate(reads, replace(REQUEST, length=n)) for n in (PIECE_TOKENS, PIECE_TOKENS + 1))
    assert pieces.attention_s > 5 * whole.attention_s


def test_without_the_attention_its_part_is_nothing(reads: list[NeedleRead]) -> None:
    without = estimate([replace(read, attention=False) for read in reads], REQUEST)
    assert without.attention_s == 0
    assert grown(without, estimate(reads, REQUEST)) == {"attention_s"}


def test_pasted_prompts_are_counted(reads: list[NeedleRead]) -> None:
    pasted = SampleRequest(task="", length=0, n=0, seed=0, stories=parse_stories(EXAMPLE))
    assert 40 < pasted.n_tokens < 150
    assert estimate(reads, pasted).reading_s > 0


def test_numbers_of_half_the_size_halve_the_memory_of_the_weights(reads: list[NeedleRead]) -> None:
    full = reads[0].key
    assert estimates.model_bytes(replace(full, dtype="bfloat16")) == estimates.model_bytes(full) // 2


def test_a_differential_block_is_measured_apart_from_a_plain_one(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_app()
    monkeypatch.setattr(estimates, "_kind_seconds", lambda key, cfg, kind: {"plain": 1.0, "differential": 10.0}[kind])
    all_, alternate = (loading.model_key(f"models/{name}", "float32") for name in ("all", "alternate"))
    assert estimates.block_seconds(all_) == 10 * loading.config(all_).n_layers
    kinds = [loading.config(alternate).block_kind(block) for block in range(loading.config(alternate).n_layers)]
    assert estimates.block_seconds(alternate) == kinds.count("plain") + 10 * kinds.count("differential")


def test_what_is_measured_is_measured_once_per_sizes_dtype_and_kind(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_app()
    measured = []
    monkeypatch.setattr(estimates, "_seconds", lambda run: (measured.append(run().shape), 1.0)[1])
    key = loading.model_key("models/alternate", "float32")
    for n_tokens in (100, 200):
        estimates.forward_seconds(replace(key, dtype="bfloat16"), n_tokens, 1)
    # Each kind of block and the read-out.
    assert len(measured) == 3
