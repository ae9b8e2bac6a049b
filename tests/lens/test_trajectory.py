"""Trajectories: every number beside its definition, right labels, and the library's plots from our arrays."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffmamba_interp import HookedMamba
from diffmamba_interp.lens import LensTrajectory, LogitLens, TunedLens, lens_trajectory, residual_stream
from diffmamba_interp.lens.trajectory import _checked_targets


@pytest.fixture
def trajectory(model: HookedMamba, lens: TunedLens, tokens: torch.Tensor) -> LensTrajectory:
    return lens_trajectory(model, lens, tokens, targets=tokens.roll(-1, 1), top_k=3, keep_log_probs=True)


def test_the_last_stage_is_the_models_own_output(
    model: HookedMamba, tokens: torch.Tensor, trajectory: LensTrajectory
) -> None:
    assert trajectory.stages == ("embedding", "after block 0", "after block 1", "after block 2", "output")
    assert trajectory.log_probs is not None
    expected = model(tokens).log_softmax(-1).numpy()
    np.testing.assert_allclose(trajectory.log_probs[:, -1], expected, atol=2e-5)
    assert np.abs(trajectory.kl_to_final_nats[:, -1]).max() < 1e-6


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_a_stage_reads_the_stream_that_its_label_names(
    model: HookedMamba, lens: TunedLens, tokens: torch.Tensor, trajectory: LensTrajectory, stage: int
) -> None:
    name = "hook_embed" if stage == 0 else f"blocks.{stage - 1}.hook_resid_post"
    _, cache = model.run_with_cache(tokens, name)
    expected = lens(cache[name], stage).log_softmax(-1).numpy()
    assert trajectory.log_probs is not None
    np.testing.assert_allclose(trajectory.log_probs[:, stage], expected, atol=2e-5)


def test_every_number_follows_from_the_distributions(trajectory: LensTrajectory) -> None:
    q = trajectory.log_probs
    assert q is not None
    assert trajectory.targets is not None
    assert trajectory.target_ranks is not None
    p = q[:, -1:]
    np.testing.assert_allclose(trajectory.entropy_nats, -(np.exp(q) * q).sum(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trajectory.kl_to_final_nats, (np.exp(p) * (p - q)).sum(-1), rtol=1e-4, atol=1e-5)
    order = np.argsort(-q, axis=-1)
    assert np.array_equal(trajectory.top_tokens, order[..., :3])
    np.testing.assert_allclose(
        trajectory.top_probabilities, np.exp(np.take_along_axis(q, order[..., :3], -1)), rtol=1e-5
    )
    targets = trajectory.targets[:, None, :, None]
    np.testing.assert_array_equal(
        trajectory.target_log_probabilities, np.take_along_axis(q, np.broadcast_to(targets, (3, 5, 12, 1)), -1)[..., 0]
    )
    np.testing.assert_array_equal(trajectory.target_ranks, 1 + np.argmax(order == targets, axis=-1))


def test_the_librarys_trajectory_can_be_built_from_our_arrays(trajectory: LensTrajectory) -> None:
    from tuned_lens.plotting import PredictionTrajectory

    theirs = PredictionTrajectory(
        log_probs=trajectory.log_probs[0], input_ids=trajectory.tokens[0], targets=trajectory.targets[0]
    )
    np.testing.assert_allclose(theirs.entropy().stats, trajectory.entropy_nats[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(theirs.forward_kl().stats, trajectory.kl_to_final_nats[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(theirs.rank().stats, trajectory.target_ranks[0])


@pytest.mark.parametrize("kind", [LogitLens, TunedLens])
def test_the_librarys_trajectory_takes_our_lenses(
    model: HookedMamba, tokens: torch.Tensor, kind: type[LogitLens | TunedLens]
) -> None:
    from tuned_lens.plotting import PredictionTrajectory

    class Cache(dict[tuple[str, int], torch.Tensor]):
        """What the library reads of TransformerLens' cache."""

        model = SimpleNamespace(tokenizer=None, cfg=SimpleNamespace(n_layers=4))

    lens = kind.from_model(model)
    stream = residual_stream(model, tokens[:1])
    cache = Cache({("resid_pre", block): h[0] for block, h in enumerate(stream.entering)})
    theirs = PredictionTrajectory.from_lens_and_cache(lens, tokens[0], cache, model(tokens[:1])[0])
    ours = lens_trajectory(model, lens, tokens[:1])
    np.testing.assert_allclose(theirs.entropy().stats, ours.entropy_nats[0], rtol=1e-4, atol=1e-5)


def test_positions_select_columns_of_the_whole(
    model: HookedMamba, lens: TunedLens, tokens: torch.Tensor, trajectory: LensTrajectory
) -> None:
    last = lens_trajectory(model, lens, tokens, targets=tokens.roll(-1, 1), positions=slice(-2, None))
    np.testing.assert_allclose(last.entropy_nats, trajectory.entropy_nats[..., -2:], atol=1e-5)
    np.testing.assert_array_equal(last.target_ranks, trajectory.target_ranks[..., -2:])
    np.testing.assert_array_equal(last.tokens, trajectory.tokens[:, -2:])
    assert last.log_probs is None


def test_right_padding_does_not_change_what_comes_before_it(
    model: HookedMamba, lens: TunedLens, tokens: torch.Tensor, trajectory: LensTrajectory
) -> None:
    padded = torch.cat([tokens, torch.zeros_like(tokens)], dim=1)
    read = lens_trajectory(model, lens, padded, lengths=torch.full((3,), 12))
    np.testing.assert_allclose(read.kl_to_final_nats[..., :12], trajectory.kl_to_final_nats, atol=1e-5)


def test_tied_probabilities_share_the_best_rank(model: HookedMamba, tokens: torch.Tensor) -> None:
    model.unembed.weight.data[7] = model.unembed.weight.data[9]
    ranks = [
        lens_trajectory(model, LogitLens.from_model(model), tokens, targets=torch.full_like(tokens, t)).target_ranks
        for t in (7, 9)
    ]
    np.testing.assert_array_equal(*ranks)


def test_the_logit_lens_and_the_tuned_lens_differ(
    model: HookedMamba, tokens: torch.Tensor, trajectory: LensTrajectory
) -> None:
    logit = lens_trajectory(model, LogitLens.from_model(model), tokens)
    assert np.abs(logit.entropy_nats[:, :-1] - trajectory.entropy_nats[:, :-1]).min(axis=(0, 2)).max() > 1e-4
    np.testing.assert_allclose(logit.entropy_nats[:, -1], trajectory.entropy_nats[:, -1], atol=1e-6)


def test_a_record_goes_to_json_and_back(trajectory: LensTrajectory) -> None:
    back = LensTrajectory.from_dict(json.loads(json.dumps(trajectory.to_dict())))
    assert back.stages == trajectory.stages
    np.testing.assert_array_equal(back.top_tokens, trajectory.top_tokens)
    np.testing.assert_array_equal(back.log_probs, trajectory.log_probs)
    np.testing.assert_array_equal(back.target_ranks, trajectory.target_ranks)


def test_targets_that_do_not_fit_are_refused(model: HookedMamba, lens: TunedLens, tokens: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="one target per position"):
        _checked_targets(tokens[:, :3], tokens, None, model.cfg.d_vocab)  # the annotations refuse it first under test
    with pytest.raises(ValueError, match="vocabulary is 0 to 96"):
        lens_trajectory(model, lens, tokens, targets=tokens + 97)
