"""Files of Jacobian lenses: the public layout as it is documented, ours beside it, and what is no such file."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.files.checksums import DamagedFileError
from diffmamba_interp.lens import JacobianLens, ModelUnembed, TunedLens, fit_jacobian_lens, load_lens, save_lens
from diffmamba_interp.lens.jacobian_layout import JacobianLayout, JacobianLensConfig
from tests.models.tiny import random_tokens, relative_error, tiny_model

D_MODEL, N_BLOCKS = 16, 3


@pytest.fixture(scope="module")
def model() -> HookedMamba:
    return tiny_model(DifferentialConfig(placement=(0,)), n_layers=N_BLOCKS).requires_grad_(False)


@pytest.fixture(scope="module")
def lens(model: HookedMamba) -> JacobianLens:
    return fit_jacobian_lens(model, random_tokens(3, 9), skip_first=2, branches=True, name="tiny")


def public(**changes: Any) -> dict[str, Any]:
    """A file as others write it, in the documented layout and nothing else."""
    generator = torch.Generator().manual_seed(0)
    matrices = {layer: torch.randn(D_MODEL, D_MODEL, generator=generator).half() for layer in range(N_BLOCKS - 1)}
    return {"J": matrices, "n_prompts": 7, "source_layers": [0, 1], "d_model": D_MODEL} | changes


def test_the_public_file_has_the_documented_layout(model: HookedMamba, lens: JacobianLens, tmp_path: Path) -> None:
    lens.save(tmp_path / "lens.pt")
    content = torch.load(tmp_path / "lens.pt", weights_only=True)
    assert {"J", "n_prompts", "source_layers", "d_model", "metadata"} <= set(content)
    assert (content["n_prompts"], content["source_layers"], content["d_model"]) == (3, [0, 1], D_MODEL)
    assert set(content["J"]) == {0, 1}
    for layer, matrix in content["J"].items():
        assert (matrix.dtype, matrix.shape) == (torch.float16, (D_MODEL, D_MODEL))
        # Entry l is of the output of block l, which is what enters block l + 1.
        assert relative_error(matrix.float(), lens.jacobians[layer + 1]) < 1e-3
    assert relative_error(content["embedding"].float(), lens.jacobians[0]) < 1e-3
    assert set(content["branches"]) == {f"blocks.0.mixer.{branch}.hook_out" for branch in ("minuend", "subtrahend")}
    assert content["metadata"]["reads"] == "resid_post"
    json.dumps(content["metadata"])


@pytest.mark.parametrize("name", ["folder", "lens.pt"])
def test_a_saved_lens_comes_back_in_half_precision(
    model: HookedMamba, lens: JacobianLens, tmp_path: Path, name: str
) -> None:
    save_lens(lens, tmp_path / name, {"tokenizer_sha256": "ab"})
    back = load_lens(tmp_path / name, model)
    assert isinstance(back, JacobianLens)
    assert back.config == lens.config
    assert torch.equal(back.jacobians, lens.jacobians.half().float())
    assert {n: torch.equal(m, lens.branches[n].half().float()) for n, m in back.branches.items()} == dict.fromkeys(
        lens.branches, True
    )
    # What half precision holds is held again.
    save_lens(back, tmp_path / f"again-{name}")
    again = load_lens(tmp_path / f"again-{name}", model)
    assert torch.equal(again.jacobians, back.jacobians)


def test_the_bytes_depend_on_the_values_alone(lens: JacobianLens, tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_lens(lens, tmp_path / name)
    assert (tmp_path / "one" / "params.pt").read_bytes() == (tmp_path / "two" / "params.pt").read_bytes()


def test_int8_takes_half_the_bytes_and_errs_by_half_a_step(
    model: HookedMamba, lens: JacobianLens, tmp_path: Path
) -> None:
    save_lens(lens, tmp_path / "eight", storage="int8")
    back = load_lens(tmp_path / "eight", model)
    assert isinstance(back, JacobianLens)
    for stage, matrix in enumerate(lens.jacobians):
        rest = matrix - matrix.diagonal().diag()
        step = rest.abs().amax(dim=1, keepdim=True) / 127
        assert bool(((back.jacobians[stage] - matrix).abs() <= step / 2 * 1.001).all())
        assert torch.equal(back.jacobians[stage].diagonal(), matrix.diagonal())
    wide = JacobianLayout(d_model=256, n_prompts=1, jacobians={1: torch.randn(256, 256)})
    n_bytes = [sum(_bytes(value) for value in wide.to_content(how)["J"].values()) for how in ("float16", "int8")]
    assert 0.5 < n_bytes[1] / n_bytes[0] < 0.52
    with pytest.raises(ValueError, match=r"public layout, which holds Jacobians in float16"):
        save_lens(lens, tmp_path / "lens.pt", storage="int8")


def _bytes(value: Any) -> int:
    return sum(_bytes(part) for part in value.values()) if isinstance(value, dict) else value.nbytes


def test_entries_beyond_half_precision_are_kept_in_single(model: HookedMamba, tmp_path: Path) -> None:
    config = JacobianLensConfig(
        base_model_name_or_path="", d_model=D_MODEL, num_hidden_layers=N_BLOCKS, fitted=(0, 1, 2)
    )
    large = torch.eye(D_MODEL).repeat(N_BLOCKS, 1, 1)
    large[1] *= 1e5
    JacobianLens(ModelUnembed(model), config, large).save(tmp_path / "lens.pt")
    back = load_lens(tmp_path / "lens.pt", model)
    assert isinstance(back, JacobianLens)
    assert torch.equal(back.jacobians, large)


def test_a_file_of_others_opens_and_reads_the_embedding_as_logit_lens(
    model: HookedMamba, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(public(), tmp_path / "other.pt")
    with caplog.at_level(logging.WARNING):
        lens = load_lens(tmp_path / "other.pt", model)
    assert isinstance(lens, JacobianLens)
    assert "cannot tell whether it is this model's" in caplog.text
    assert "no Jacobian of embedding; there the lens is the logit lens" in caplog.text
    assert (lens.config.fitted, lens.config.n_prompts) == ((1, 2), 7)
    assert torch.equal(lens.jacobians[0], torch.eye(D_MODEL))
    assert torch.equal(lens.jacobians[2], public()["J"][1].float())
    # Written again, it has no entry that it did not have.
    lens.save(tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert (again["source_layers"], "embedding" in again) == ([0, 1], False)
    assert all(torch.equal(again["J"][layer], public()["J"][layer]) for layer in (0, 1))


def test_another_models_lens_is_refused(model: HookedMamba, lens: JacobianLens, tmp_path: Path) -> None:
    other = tiny_model(DifferentialConfig(placement=(0,)), n_layers=N_BLOCKS, seed=9)
    for name in ("folder", "lens.pt"):
        save_lens(lens, tmp_path / name)
        with pytest.raises(ValueError, match="another unembedding"):
            load_lens(tmp_path / name, other)
        assert isinstance(load_lens(tmp_path / name, other, allow_other_unembedding=True), JacobianLens)
        with pytest.raises(ValueError, match="3 blocks .*but this model has d_model 16 and 2 blocks"):
            load_lens(tmp_path / name, tiny_model(DifferentialConfig(placement=(0,))))
        plain = tiny_model(n_layers=N_BLOCKS)
        with pytest.raises(
            ValueError, match=r"Jacobians of blocks\.0\.mixer\.minuend\.hook_out.*which this model lacks"
        ):
            load_lens(tmp_path / name, plain, allow_other_unembedding=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is no file of a Jacobian lens: it holds no matrices under 'J'"),
        ({"jacobian_sum": {}, "n_done": 3}, "a checkpoint of a fit that is under way"),
        (public(d_model="wide"), r"is no file of a Jacobian lens \(ValueError"),
        (public(d_model=8), r"does not hold matrices of 8 x 8 alone: J\[0\], J\[1\]"),
        (public(J={}), "does not hold matrices of 16 x 16 alone: none"),
        (public(J={0: torch.zeros(16, 16, dtype=torch.int8), 1: torch.zeros(16, 16)}), r"alone: J\[0\]"),
        (public(J={0: torch.full((16, 16), torch.nan), 1: torch.zeros(16, 16)}), r"not finite \(J\[0\]\)"),
        (public(source_layers=[0, 2]), r"holds other layers than source_layers says"),
        (public(J={0: torch.zeros(16, 16), 2: torch.zeros(16, 16)}, source_layers=[0, 2]), "the output of block 2"),
        (public(metadata={"unembedding_sha256": "ab", "unembedding_sketch": "!"}), "other.pt is damaged"),
    ],
)
def test_what_is_no_lens_of_this_model_says_so(model: HookedMamba, tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=message):
        load_lens(tmp_path / "other.pt", model)


def test_files_that_are_missing_changed_or_of_another_convention_are_refused(
    model: HookedMamba, lens: JacobianLens, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_lens(tmp_path / "none.pt", model)
    lens.save(tmp_path / "lens.pt")
    with pytest.raises(ValueError, match="block outputs, reads='resid_post', not 'resid_pre'"):
        load_lens(tmp_path / "lens.pt", model, reads="resid_pre")
    save_lens(lens, tmp_path / "folder")
    with pytest.raises(ValueError, match="cannot be asked"):
        load_lens(tmp_path / "folder", model, reads="resid_post")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"lens_type": config["lens_type"]}))
    with pytest.raises(ValueError, match="is not a Jacobian lens' config"):
        load_lens(tmp_path / "folder", model)
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    params = bytearray((tmp_path / "folder" / "params.pt").read_bytes())
    params[len(params) // 2] ^= 1
    (tmp_path / "folder" / "params.pt").write_bytes(params)
    with pytest.raises(DamagedFileError):
        load_lens(tmp_path / "folder", model)
    with pytest.raises(ValueError, match="give a folder for a tuned lens"):
        save_lens(TunedLens.from_model(model), tmp_path / "tuned.pt")


@pytest.mark.filterwarnings("default")
def test_transformer_lens_opens_the_file_and_carries_the_stream_as_we_do(
    model: HookedMamba, lens: JacobianLens, tmp_path: Path
) -> None:
    """TransformerLens 4.3 or later, where it is installed: it is no dependency of ours."""
    analysis = pytest.importorskip("transformer_lens.tools.analysis", reason="TransformerLens is not installed")
    lens.save(tmp_path / "lens.pt")
    theirs = analysis.JacobianLens.load(str(tmp_path / "lens.pt"))
    ours = load_lens(tmp_path / "lens.pt", model)
    assert (theirs.n_prompts, theirs.source_layers) == (3, [0, 1])
    _, cache = model.run_with_cache(random_tokens(2, 9))
    for layer in theirs.source_layers:
        h = cache[f"blocks.{layer}.hook_resid_post"]
        read = model.unembed(model.ln_final(theirs.transport(h, layer)))
        torch.testing.assert_close(ours(h, layer + 1), read)
    theirs.save(str(tmp_path / "theirs.pt"))
    back = load_lens(tmp_path / "theirs.pt", model)
    assert isinstance(back, JacobianLens)
    assert torch.equal(back.jacobians[1:], ours.jacobians[1:])
