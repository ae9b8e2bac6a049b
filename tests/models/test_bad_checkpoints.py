"""Each unusable checkpoint is a clear error, and nothing is half-loaded or run."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffmamba_interp import DifferentialConfig, HookedMamba
from tests.models.tiny import assert_same, tiny_model

ran: list[str] = []


class Malicious:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return ran.append, ("ran",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(DifferentialConfig(placement=(0,))).save_pretrained(tmp_path, format="diff_mamba")
    return tmp_path


@pytest.fixture
def state_spaces(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path, format="state_spaces")
    return tmp_path


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder: Path, **fields: Any) -> None:
    raw = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


# ------------------------------------------------------------------ paths


def test_an_unknown_path_is_said_to_be_no_folder_and_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        HookedMamba.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no hub id of the form 'owner/name'"):
        HookedMamba.from_pretrained("nowhere")


def test_a_hub_id_without_network_is_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError, match="'nobody/nothing' is no folder here, and fetching it .* failed"):
        HookedMamba.from_pretrained("nobody/nothing")


def test_a_file_instead_of_its_folder_says_so(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is a file: give the folder"):
        HookedMamba.from_pretrained(folder / "model.safetensors")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_config_or_weights_lists_what_it_holds(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    left = "model.safetensors" if missing == "config.json" else "config.json"
    with pytest.raises(FileNotFoundError, match=left):
        HookedMamba.from_pretrained(folder)


# ------------------------------------------------------------------ keys and shapes


def test_missing_extra_and_misshapen_keys_are_named_together(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["stray"] = torch.zeros(1)
        del tensors["backbone.norm_f.weight"]
        tensors["backbone.layers.1.mixer.D"] = torch.zeros(3)

    edit_weights(folder, spoil)
    with pytest.raises(ValueError) as caught:
        HookedMamba.from_pretrained(folder)
    message = str(caught.value)
    assert "missing: backbone.norm_f.weight" in message
    assert "not part of the model: stray" in message
    assert "wrong shape: backbone.layers.1.mixer.D is [3], needed [4]" in message
    assert "Nothing was loaded" in message


def test_a_lambda_without_its_block_is_an_extra_key(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"backbone.layers.1.lambda_q1": torch.zeros(16)}))
    with pytest.raises(ValueError, match=r"not part of the model: backbone\.layers\.1\.lambda_q1"):
        HookedMamba.from_pretrained(folder)


def test_a_differential_block_beyond_the_last_is_an_error(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"backbone.layers.9.mixer_1.A_log": torch.zeros(4)}))
    with pytest.raises(ValueError, match="9"):
        HookedMamba.from_pretrained(folder)


def test_a_scalar_where_a_vector_belongs_is_an_error(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"backbone.layers.0.mixer_1.A_log": torch.tensor(1.0)}))
    with pytest.raises(ValueError, match="malformed"):
        HookedMamba.from_pretrained(folder)


def test_quantised_weights_are_not_taken_for_numbers(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].to(torch.int8)}))
    with pytest.raises(ValueError, match=r"lm_head\.weight \(I8\).*Quantised"):
        HookedMamba.from_pretrained(folder)


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("kept", [0, 5, 100, -10])
def test_a_truncated_safetensors_file_is_named(folder: Path, kept: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable safetensors file"):
        HookedMamba.from_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]", "", "3", "\x00"])
def test_a_config_that_is_no_json_object_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        HookedMamba.from_pretrained(folder)


def test_a_config_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        HookedMamba.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 3, 100, 2000, -20])
def test_a_truncated_pickle_is_named(state_spaces: Path, kept: int) -> None:
    file = state_spaces / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a file of plain tensors"):
        HookedMamba.from_pretrained(state_spaces)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_pickle_with_code_is_refused_without_running_it(state_spaces: Path, write: Callable[..., None]) -> None:
    ran.clear()
    with (state_spaces / "pytorch_model.bin").open("wb") as file:
        write({"backbone.embedding.weight": torch.zeros(2), "bad": Malicious()}, file)
    with pytest.raises(ValueError, match="It was not unpickled"):
        HookedMamba.from_pretrained(state_spaces)
    assert ran == []


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"a": 1}, {"state_dict": {"a": torch.zeros(1)}}, {3: torch.zeros(1)}]
)
def test_a_pickle_of_something_else_than_named_tensors_is_refused(state_spaces: Path, content: object) -> None:
    torch.save(content, state_spaces / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not hold a dictionary of tensors"):
        HookedMamba.from_pretrained(state_spaces)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_random_bytes_are_never_an_unexplained_error(state_spaces: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 10, 50, 200):
        for _ in range(40):
            noise = torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8).numpy().tobytes()
            (state_spaces / "pytorch_model.bin").write_bytes(b"\x80\x02" + noise)
            with pytest.raises(ValueError, match="plain tensors|dictionary of tensors"):
                HookedMamba.from_pretrained(state_spaces)


# ------------------------------------------------------------------ shards


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path, max_shard_size=4000)
    return tmp_path


def edit_weight_map(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    edit(index["weight_map"])
    file.write_text(json.dumps(index))


def test_a_whole_file_beside_the_shards_of_another_save_is_what_transformers_reads(
    sharded: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    newer, folder = tiny_model(seed=1), tmp_path_factory.mktemp("newer")
    newer.save_pretrained(folder)
    (folder / "model.safetensors").rename(sharded / "model.safetensors")
    assert_same(HookedMamba.from_pretrained(sharded), newer)
    assert "the shards of model.safetensors.index.json are not" in caplog.text


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"lists shards that are not there: {shard.name}"):
        HookedMamba.from_pretrained(sharded)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/outside.safetensors", "sub/model.safetensors", "..", ""]
)
def test_an_index_cannot_lead_out_of_its_folder(sharded: Path, name: str) -> None:
    (sharded.parent / "outside.safetensors").write_bytes(b"")
    edit_weight_map(sharded, lambda weight_map: weight_map.update({"embed.weight": name}))
    with pytest.raises((ValueError, FileNotFoundError), match="outside its folder|not there"):
        HookedMamba.from_pretrained(sharded)


@pytest.mark.parametrize("name", [3, None, ["model.safetensors"]])
def test_an_index_names_files(sharded: Path, name: object) -> None:
    edit_weight_map(sharded, lambda weight_map: weight_map.update({"embed.weight": name}))
    with pytest.raises(ValueError, match="not all file names"):
        HookedMamba.from_pretrained(sharded)


def test_an_index_has_a_weight_map(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        HookedMamba.from_pretrained(sharded)


def test_a_tensor_in_two_shards_is_ambiguous(sharded: Path) -> None:
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(ValueError, match="stored twice"):
        HookedMamba.from_pretrained(sharded)


# ------------------------------------------------------------------ other models


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, "kind 'llama'. Supported: diffmamba_interp"),
        ({"model_type": "mamba"}, "Mamba1 blocks, but the weights are those of Mamba2 blocks"),
        ({"model_type": None}, "kind 'DiffMamba2ForCausalLM'"),
        ({"model_type": None, "architectures": None}, "kind 'unknown'"),
    ],
)
def test_a_model_of_another_kind_is_named(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit_config(folder, **fields)
    with pytest.raises(ValueError, match=message):
        HookedMamba.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ssm_cfg": {}}, "Mamba1 blocks, but the weights are those of Mamba2 blocks"),
        ({"ssm_cfg": None}, "Mamba1 blocks, but the weights are those of Mamba2 blocks"),
        ({"attn_layer_idx": [1]}, "attn_layer_idx"),
        ({"d_intermediate": 32}, "d_intermediate=32"),
        ({"rms_norm": False}, "rms_norm=False"),
        ({"ssm_cfg": {"layer": "Mamba2", "norm_before_gate": True}}, "norm_before_gate"),
        ({"vocab_size": 30}, "embedding has 23 rows"),
        ({"vocab_size": None}, "incomplete or malformed"),
        ({"ssm_cfg": [1]}, "."),
        ({"pad_vocab_size_multiple": 0}, "."),
    ],
)
def test_a_state_spaces_model_of_another_kind_is_refused(
    state_spaces: Path, fields: dict[str, Any], message: str
) -> None:
    edit_config(state_spaces, **fields)
    with pytest.raises(ValueError, match=message):
        HookedMamba.from_pretrained(state_spaces)


@pytest.mark.parametrize(
    "model", [None, {}, {"d_model": 16}, [1], {"d_model": 16, "n_layers": 2, "d_vocab": 23, "depth": 3}]
)
def test_our_own_format_without_its_config_is_refused(tmp_path: Path, model: object) -> None:
    tiny_model().save_pretrained(tmp_path)
    edit_config(tmp_path, model=model)
    with pytest.raises(ValueError, match=r"malformed|unknown keys"):
        HookedMamba.from_pretrained(tmp_path)


def test_a_later_version_of_our_own_format_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    edit_config(tmp_path, format_version=2)
    with pytest.raises(ValueError, match="format_version 2"):
        HookedMamba.from_pretrained(tmp_path)
