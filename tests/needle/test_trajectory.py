"""Trajectories are right in closed form, and equal to a plain full forward per label, whatever shares the batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from diffmamba_interp import DifferentialConfig, HookedMamba, LogitLens, TunedLens, fit_jacobian_lens
from diffmamba_interp.needle import trajectory as module
from diffmamba_interp.needle.records import NeedleSample
from diffmamba_interp.needle.trajectory import needle_trajectory
from diffmamba_interp.needle.trajectory_records import ARRAYS, NeedleTrajectory
from diffmamba_interp.stages import stage_names
from tests.models.tiny import N_TOKENS, tiny_model
from tests.needle.closed_form import N_BLOCKS, TableLens, random_tables, sample_of, table_model

LABELS = [(3,), (5, 7), (2, 9, 4), (11, 5)]


def ragged_samples() -> list[NeedleSample]:
    """Prompts of different lengths and label sets, labels of one to three tokens."""
    rng = np.random.default_rng(7)
    sets = [LABELS, LABELS[:2], [(1,), (6,)]]
    return [
        sample_of(rng.integers(0, N_TOKENS, size=n), sets[index % 3], answer=index % 2, seed=index)
        for index, n in enumerate((9, 14, 9, 3, 21, 14, 12))
    ]


def tuned_lens(model: HookedMamba) -> TunedLens:
    """Translators far from zero."""
    lens = TunedLens.from_model(model)
    lens.load_stacked(*(0.2 * torch.randn(part.shape) for part in lens.stacked()))
    return lens


@torch.no_grad()
def plain_reading(model: HookedMamba, lens: Callable, sample: NeedleSample) -> dict[str, np.ndarray]:
    """[stage, label] and [stage], from one full forward at batch 1 per label, every position kept."""
    found: dict[str, list] = {name: [] for name in ARRAYS}
    for label in sample.label_tokens:
        tokens = torch.tensor([[*sample.tokens.tolist(), *label]])
        logits, cache = model.run_with_cache(tokens)
        stages = [lens(cache[f"blocks.{i}.hook_resid_pre"], i) for i in range(model.cfg.n_layers)] + [logits]
        log_q = torch.stack([stage[0].log_softmax(-1) for stage in stages]).double().numpy()
        at = sample.n_tokens - 1
        found["log_probs"].append(sum(log_q[:, at + k, token] for k, token in enumerate(label)))
        found["token_ranks"].append(rankdata(-log_q[:, at], axis=-1)[:, label[0]])
    last = log_q[:, at]
    return {
        "log_probs": np.stack(found["log_probs"], axis=-1),
        "token_ranks": np.stack(found["token_ranks"], axis=-1),
        "entropy_nats": -(np.exp(last) * last).sum(-1),
        "kl_to_final_nats": (np.exp(last[-1]) * (last[-1] - last)).sum(-1),
    }


def assert_close(one: NeedleTrajectory, other: NeedleTrajectory, tolerance: float = 1e-5) -> None:
    assert one.samples == other.samples
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=tolerance)


def test_a_model_known_in_closed_form_is_read_right() -> None:
    tables = random_tables()
    sample = sample_of([1, 8, 6], LABELS, answer=1)
    read = needle_trajectory(table_model(tables[-1]), TableLens(tables), [sample])
    assert read.log_probs.dtype == np.float64
    for stage, p in enumerate(tables):
        expected = [p[6, 3], p[6, 5] * p[5, 7], p[6, 2] * p[2, 9] * p[9, 4], p[6, 11] * p[11, 5]]
        snr = expected[1] / np.mean([expected[0], expected[2], expected[3]])
        at = (0, 0, stage)
        assert np.exp(read.log_probs[at]) == pytest.approx(expected, abs=1e-6)
        assert read.measure("probability")[at] == pytest.approx(expected[1], abs=1e-6)
        assert read.measure("snr")[at] == pytest.approx(snr, rel=1e-6)
        assert read.snr_db[at] == pytest.approx(10 * np.log10(snr), abs=1e-6)
        assert read.measure("label_share")[at] == pytest.approx(expected[1] / sum(expected), abs=1e-6)
        assert read.measure("per_token_probability")[at] == pytest.approx(expected[1] ** 0.5, abs=1e-6)
        assert read.label_ranks[at].tolist() == rankdata(-np.array(expected)).tolist()
        assert read.measure("vocabulary_rank")[at] == 1 + (p[6] > p[6, 5]).sum()
        assert read.entropy_nats[at] == pytest.approx(-(p[6] * np.log(p[6])).sum(), abs=1e-6)
        final = tables[-1][6]
        assert read.kl_to_final_nats[at] == pytest.approx((final * np.log(final / p[6])).sum(), abs=1e-6)


def test_stages_are_the_embedding_every_block_and_the_models_own_output() -> None:
    tables = random_tables()
    read = needle_trajectory(table_model(tables[-1]), TableLens(tables), [sample_of([1], LABELS)])
    assert read.stages == stage_names(N_BLOCKS)
    assert read.log_probs.shape == (1, 1, N_BLOCKS + 1, len(LABELS))
    assert (read.kl_to_final_nats[..., -1] == 0).all()
    assert (read.kl_to_final_nats[..., :-1] > 0).all()


def test_equally_probable_labels_share_the_mean_of_their_ranks() -> None:
    logits = torch.zeros(16, dtype=torch.float64)
    logits[[3, 5]] = 2.0

    def lens(h: torch.Tensor, idx: int) -> torch.Tensor:
        return logits.expand(*h.shape[:-1], 16)

    sample = sample_of([6], [(3,), (5,), (9,), (2,)])
    read = needle_trajectory(table_model(random_tables()[-1]), lens, [sample])
    assert read.label_ranks[0, 0, 0].tolist() == [1.5, 1.5, 3.5, 3.5]
    assert read.token_ranks[0, 0, 0].tolist() == [1.5, 1.5, 9.5, 9.5]
    assert read.measure("is_right")[0, 0].tolist()[:-1] == [0.0] * N_BLOCKS
    assert read.snr_db[0, 0, 0] == pytest.approx(10 * np.log10(3 * np.e**2 / (np.e**2 + 2)), abs=1e-6)


@pytest.mark.parametrize("differential", [None, DifferentialConfig(placement=(0,))], ids=["plain", "differential"])
def test_readings_equal_a_full_forward_per_label(differential: DifferentialConfig | None) -> None:
    model, samples = tiny_model(differential), ragged_samples()
    jacobian = fit_jacobian_lens(model, torch.tensor(samples[4].tokens)[None], skip_first=2)
    lenses = {"tuned": tuned_lens(model), "logit": LogitLens.from_model(model), "jacobian": jacobian}
    read = needle_trajectory(model, lenses, samples, batch_tokens=40)
    assert read.lenses == ("tuned", "logit", "jacobian")
    for k, lens in enumerate(lenses.values()):
        for s, sample in enumerate(samples):
            expected, n_labels = plain_reading(model, lens, sample), len(sample.labels)
            for name in ("log_probs", "token_ranks"):
                np.testing.assert_allclose(getattr(read, name)[k, s, :, :n_labels], expected[name], atol=1e-5)
                assert np.isnan(getattr(read, name)[k, s, :, n_labels:]).all()
            for name in ("entropy_nats", "kl_to_final_nats"):
                np.testing.assert_allclose(getattr(read, name)[k, s], expected[name], atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [{"batch_tokens": 1}, {"max_samples": 2}, {"piece_tokens": 4}, {"piece_tokens": 7, "batch_tokens": 60}],
    ids=str,
)
def test_batches_and_pieces_change_nothing(how: dict[str, int]) -> None:
    model, samples = tiny_model(DifferentialConfig(placement=(1,))), ragged_samples()
    lens = tuned_lens(model)
    assert_close(needle_trajectory(model, lens, samples, **how), needle_trajectory(model, lens, samples))


def test_only_last_positions_of_the_residual_stream_are_kept() -> None:
    model = tiny_model()
    seen: list[torch.Tensor] = []

    def lens(h: torch.Tensor, idx: int) -> torch.Tensor:
        seen.append(h)
        return model.unembed(h)

    needle_trajectory(model, lens, [sample_of(range(20), LABELS)])
    assert {h.shape[1] for h in seen} == {1, 2}
    assert max(h.untyped_storage().nbytes() for h in seen) <= len(LABELS) * 2 * model.cfg.d_model * 4


def test_hooks_on_the_model_take_effect_before_the_lens_reads() -> None:
    model, sample = tiny_model(), sample_of([1, 2, 3], LABELS)
    lens = LogitLens.from_model(model)
    with model.hooks([("blocks.1.hook_resid_pre", lambda resid, name: torch.zeros_like(resid) + 1.0)]):
        hooked = needle_trajectory(model, lens, [sample])
    plain = needle_trajectory(model, lens, [sample])
    assert np.array_equal(hooked.log_probs[:, :, 0], plain.log_probs[:, :, 0])
    expected = lens(torch.ones(model.cfg.d_model), 1).log_softmax(-1)[3]
    assert hooked.log_probs[0, 0, 1, 0] == pytest.approx(float(expected), abs=1e-5)


def test_what_is_around_a_pass_is_told_its_prompts_and_sees_no_label_after_them() -> None:
    model, samples, seen = tiny_model(), ragged_samples(), []

    @contextmanager
    def around(indices: Sequence[int]) -> Iterator[None]:
        widths: list[int] = []
        with model.hooks([("hook_embed", lambda value, _: widths.append(value.shape[1]))]):
            yield
        seen.append((list(indices), widths))

    read = needle_trajectory(model, tuned_lens(model), samples, max_samples=2, around=around)
    assert sorted(index for indices, _ in seen for index in indices) == list(range(len(samples)))
    assert all(widths == [max(samples[index].n_tokens for index in indices)] for indices, widths in seen)
    assert read.log_probs.shape[1] == len(samples)


def test_a_broken_off_measurement_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = tiny_model(), ragged_samples()
    lens, whole = tuned_lens(model), None
    read_batch, calls = module.read_batch, []

    def counted(*arguments: object) -> object:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return read_batch(*arguments)

    whole = needle_trajectory(model, lens, samples, max_samples=2)
    monkeypatch.setattr(module, "read_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        needle_trajectory(model, lens, samples, max_samples=2, path=tmp_path)
    kept = sorted(tmp_path.glob("part-*"))
    assert len(kept) == 2
    calls.clear()
    monkeypatch.setattr(module, "read_batch", lambda *a: calls.append(1) or read_batch(*a))
    resumed = needle_trajectory(model, lens, samples, max_samples=2, path=tmp_path)
    assert len(calls) == len(list(tmp_path.glob("part-*"))) - 2
    assert all(np.array_equal(getattr(resumed, name), getattr(whole, name), equal_nan=True) for name in ARRAYS)
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_another_measurement_is_refused(tmp_path: Path) -> None:
    model, samples = tiny_model(), ragged_samples()
    lens = tuned_lens(model)
    needle_trajectory(model, lens, samples, path=tmp_path)
    with pytest.raises(ValueError, match="differs in samples, batches"):
        needle_trajectory(model, lens, samples[:3], path=tmp_path)
    with pytest.raises(ValueError, match="differs in model"):
        needle_trajectory(tiny_model(seed=1), lens, samples, path=tmp_path, force=True)
    with pytest.raises(ValueError, match="differs in lenses"):
        needle_trajectory(model, tuned_lens(model), samples, path=tmp_path)


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model, samples = tiny_model(), ragged_samples()
    needle_trajectory(model, LogitLens.from_model(model), samples)
    assert capsys.readouterr().err == ""
    needle_trajectory(model, LogitLens.from_model(model), samples, show_progress=True, name="tiny")
    assert f"tiny: {len(samples)} of {len(samples)} prompts, " in capsys.readouterr().err


SAMPLE = sample_of([1, 2], LABELS)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (replace(SAMPLE, labels=("a", "A ", "c", "d")), "distractor 'A ', which is equal to its answer 'a'"),
        (replace(SAMPLE, label_tokens=((3,), (3,), (2,), (4,))), "distractor 'b', which is equal to its answer"),
        (replace(SAMPLE, label_tokens=((3,), (2,), (2,), (4,))), "a distractor twice"),
        (replace(SAMPLE, answer="z"), "none of its labels"),
        (replace(SAMPLE, label_tokens=((3,), (), (2,), (4,))), "a label without tokens"),
        (replace(SAMPLE, label_tokens=((3,),)), "4 labels, but tokens for 1"),
        (replace(SAMPLE, labels=("a",), label_tokens=((3,),)), "needs a distractor"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(sample: NeedleSample, message: str) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        needle_trajectory(model, LogitLens.from_model(model), [sample])


def test_no_samples_no_lens_a_repeated_sample_and_a_lens_of_another_model_are_refused() -> None:
    model = tiny_model()
    lens = LogitLens.from_model(model)
    with pytest.raises(ValueError, match="no samples"):
        needle_trajectory(model, lens, [])
    with pytest.raises(ValueError, match="no lens"):
        needle_trajectory(model, {}, [SAMPLE])
    with pytest.raises(ValueError, match="given twice"):
        needle_trajectory(model, lens, [SAMPLE, SAMPLE])
    with pytest.raises(ValueError, match=r"'wrong' gave shape \(1, 1, 16\) at block 0, expected logits"):
        needle_trajectory(model, {"wrong": lambda h, idx: h}, [SAMPLE])
