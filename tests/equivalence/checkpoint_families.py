"""Every family of public checkpoints that people try to load, written with its own config fields and tensor names.

`FAMILIES` is the table. `write` puts a tiny random model of transformers into a folder in the family's layout; what
loading it then does is in `docs/checkpoints.md`, which `test_checkpoint_families.py` compares, and writes when asked.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    FalconMambaConfig,
    FalconMambaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from diffmamba_interp import HookedMamba
from tests.models.tiny import relative_error
from tests.published import unpack

PUBLISHED = Path(__file__).resolve().parents[1] / "fixtures" / "published_diffmamba2" / "alternate"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
REMEDY = "WRITE_PAGES=1 pytest tests/equivalence/test_checkpoint_families.py"
TOLERANCE = 2e-5
Weights = dict[str, Tensor]
Writer = Callable[[Path, Mamba2ForCausalLM, Weights], object]
PEERS: dict[str, tuple[Any, Any]] = {
    "mamba2": (Mamba2Config, Mamba2ForCausalLM),
    "mamba": (MambaConfig, MambaForCausalLM),
    "falcon_mamba": (FalconMambaConfig, FalconMambaForCausalLM),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of folder. write: None for the published fixture. peer: changes to the tiny model, which is a `mixer`.

    refused: what its error must say, None where it loads.
    """

    name: str
    example: str
    holds: str
    write: Writer | None
    peer: dict[str, Any] = field(default_factory=dict)
    mixer: str = "mamba2"
    refused: str | None = None


def peer_of(family: Family) -> Mamba2ForCausalLM:
    """A tiny model of transformers with random weights everywhere."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 48, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}
    if family.mixer == "mamba2":
        sizes |= {"head_dim": 16, "num_heads": 4, "n_groups": 2, "chunk_size": 16}
    config, model = PEERS[family.mixer]
    peer = model(config(**(sizes | family.peer))).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return peer


@torch.no_grad()
def outcome_of(family: Family, folder: Path) -> str:
    """Write the family's checkpoint and load it: "" if the logits are those of transformers, else the error."""
    if family.write is None:
        unpack(PUBLISHED, folder)
        expected = load_file(folder / "expected.safetensors")
        logits = HookedMamba.from_pretrained(folder)(expected["input_ids"])
        return "" if relative_error(logits, expected["logits"]) < TOLERANCE else "its logits are others"
    peer = peer_of(family)
    weights = {name: tensor.clone().contiguous() for name, tensor in peer.state_dict().items()}
    family.write(folder, peer, weights)
    try:
        model = HookedMamba.from_pretrained(folder)
    except (ValueError, OSError) as error:
        return str(error).replace(str(folder), "FOLDER")
    tokens = torch.randint(0, 48, (2, 21), generator=torch.Generator().manual_seed(1))
    error = relative_error(model(tokens), peer(tokens).logits)
    return "" if error < TOLERANCE else f"it loads, but its logits differ by {error:.1e} from those of transformers"


# ------------------------------------------------------------------ writers


def json_file(folder: Path, name: str, values: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values))


def hugging_face(folder: Path, peer: Mamba2ForCausalLM, weights: Weights, **fields: Any) -> None:
    """transformers' own files; `None` removes a field of the config."""
    peer.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text()) | fields
    json_file(folder, "config.json", {name: value for name, value in raw.items() if value is not None})


def base_model(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
    peer.backbone.save_pretrained(folder)


def renamed(rename: Callable[[str], str]) -> Writer:
    def write(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
        hugging_face(folder, peer, weights)
        save_file({rename(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")

    return write


def only_lm_head(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
    hugging_face(folder, peer, weights)
    del weights["backbone.embeddings.weight"]
    save_file(weights, folder / "model.safetensors")


def codestral_hugging_face(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
    """Shards beside the vendor's own copy of all weights, which is not read."""
    cfg = peer.config
    peer.save_pretrained(folder, max_shard_size="20KB")
    save_file({"model.stray": torch.zeros(1)}, folder / "consolidated.safetensors")
    json_file(folder, "params.json", mistral_params(cfg))
    json_text = json.dumps({
        **{"architectures": ["Mamba2ForCausalLM"], "bos_token_id": 0, "chunk_size": cfg.chunk_size, "conv_kernel": 4},
        **{"eos_token_id": 0, "expand": 2, "head_dim": cfg.head_dim, "hidden_act": "silu"},
        **{"hidden_size": cfg.hidden_size, "initializer_range": 0.1, "intermediate_size": 2 * cfg.hidden_size},
        **{"layer_norm_epsilon": 1e-05, "model_type": "mamba2", "n_groups": cfg.n_groups, "norm_before_gate": True},
        **{"num_heads": cfg.num_heads, "num_hidden_layers": 2, "pad_token_id": 0, "rescale_prenorm_residual": False},
        **{"residual_in_fp32": True, "rms_norm": True, "state_size": cfg.state_size, "tie_word_embeddings": False},
        **{"time_step_floor": 0.0001, "time_step_init_scheme": "random", "time_step_limit": [0.0, float("inf")]},
        **{"time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 256, "time_step_scale": 1.0},
        **{"torch_dtype": "bfloat16", "transformers_version": "4.44.0.dev0", "use_bias": False, "use_cache": True},
        **{"use_conv_bias": True, "vocab_size": cfg.vocab_size},
    })  # fmt: skip
    (folder / "config.json").write_text(json_text)


def mistral_params(cfg: Mamba2Config) -> dict[str, Any]:
    return {
        **{"dim": cfg.hidden_size, "n_layers": 2, "vocab_size": cfg.vocab_size, "n_groups": cfg.n_groups},
        **{"rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 1},
        **{"tie_embeddings": False, "model_type": "mamba"},
    }


def mistral(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
    json_file(folder, "params.json", mistral_params(peer.config))
    named = {f"model.{name}".replace("embeddings.", "embedding."): tensor for name, tensor in weights.items()}
    save_file(named, folder / "consolidated.safetensors")


def state_spaces(folder: Path, peer: Mamba2ForCausalLM, weights: Weights, **fields: Any) -> None:
    raw = {
        **{"d_model": peer.config.hidden_size, "d_intermediate": 0, "n_layer": 2, "vocab_size": 45},
        **{"ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True},
        **{"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": True},
    }
    json_file(folder, "config.json", raw | fields)
    named = {name.replace("embeddings.", "embedding."): tensor for name, tensor in weights.items()}
    torch.save(named, folder / "pytorch_model.bin")


def fla(folder: Path, peer: Mamba2ForCausalLM, weights: Weights, *, old: bool = False, **fields: Any) -> None:
    cfg = peer.config
    raw = {
        **{"architectures": ["Mamba2ForCausalLM"], "bos_token_id": 1, "chunk_size": cfg.chunk_size, "conv_kernel": 4},
        **{"eos_token_id": 2, "expand": 2, "fuse_cross_entropy": True, "fuse_norm": True, "head_dim": cfg.head_dim},
        **{"hidden_act": "silu", "hidden_size": cfg.hidden_size, "initializer_range": 0.02, "model_type": "mamba2"},
        **{"n_groups": cfg.n_groups, "norm_eps": cfg.layer_norm_epsilon, "num_heads": cfg.num_heads},
        **{"num_hidden_layers": 2, "pad_token_id": 0, "rescale_prenorm_residual": True, "residual_in_fp32": True},
        **{"state_size": cfg.state_size, "torch_dtype": "bfloat16", "transformers_version": "4.53.3"},
        **{"use_bias": False, "use_cache": True, "use_conv_bias": True, "use_l2warp": False},
        **{"vocab_size": cfg.vocab_size, "tie_word_embeddings": False},
    }
    limits = list(cfg.time_step_limit)
    later = {
        **{"A_init_range": [1, 16], "D_has_hdim": False, "conv_init": None, "dt_init_floor": 1e-4, "dt_limit": limits},
        **{"dt_max": 0.1, "dt_min": 0.001, "fuse_linear_cross_entropy": False, "norm_before_gate": False},
        **{"rmsnorm": True},
    }
    earlier = {
        **{"rms_norm": True, "time_step_floor": 1e-4, "time_step_limit": limits, "time_step_max": 0.1},
        **{"time_step_min": 0.001, "time_step_rank": 2},
    }
    json_file(folder, "config.json", raw | (earlier if old else later) | fields)
    save_file(weights, folder / "model.safetensors")


def megatron(
    folder: Path,
    peer: Mamba2ForCausalLM,
    weights: Weights,
    *,
    ranks: int = 1,
    stray: tuple[str, ...] = (),
    **args: Any,
) -> None:
    """The release's folders, and its file: weights beside the run's arguments, optimizer states and random numbers."""
    names = {"backbone.embeddings.weight": "embedding.word_embeddings.weight", "lm_head.weight": "output_layer.weight"}
    model: dict[str, Any] = {}
    for name, tensor in weights.items():
        short = names.get(name, name.replace("backbone.layers", "decoder.layers"))
        short = re.sub(r"(layers\.\d+)\.norm\.weight", r"\1.mixer.in_proj.layer_norm_weight", short)
        model[short.replace("backbone.norm_f", "decoder.final_norm")] = tensor
    model["decoder.layers.0.mixer.in_proj._extra_state"] = None
    model |= {name: torch.zeros(2) for name in stray}
    arguments = {
        **{"num_layers": 2, "hidden_size": 32, "normalization": "RMSNorm", "norm_epsilon": 1e-5, "swiglu": False},
        **{"untie_embeddings_and_output_weights": True, "tensor_model_parallel_size": 1, "params_dtype": torch.float32},
        **{"mamba_num_groups": peer.config.n_groups, "mamba_state_dim": 8, "apply_layernorm_1p": False},
    }
    content = {
        "args": argparse.Namespace(**(arguments | args)),
        "checkpoint_version": 3.0,
        "iteration": 0,
        "model": model,
        "rng_state": [{"np_rng_state": np.random.RandomState(0).get_state()}],
    }
    for rank in range(ranks):
        place = folder / "release" / f"mp_rank_{rank:02d}"
        place.mkdir(parents=True)
        torch.save(content, place / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("release")


def only_config(**raw: Any) -> Writer:
    def write(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
        json_file(folder, "config.json", raw)
        save_file(weights, folder / "model.safetensors")

    return write


def quantised(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
    hugging_face(folder, peer, weights, quantization_config={"quant_method": "bitsandbytes"})
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors")


def adapter(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
    json_file(folder, "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "someone/mamba2"})
    name = "base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight"
    save_file({name: torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def one_file(name: str) -> Writer:
    def write(folder: Path, peer: Mamba2ForCausalLM, weights: Weights) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")

    return write


def with_options(writer: Callable[..., object], **options: Any) -> Writer:
    return lambda folder, peer, weights: writer(folder, peer, weights, **options)


# ------------------------------------------------------------------ the table

TIED = {"tie_word_embeddings": True}
FLA_NUMBERS = {"layer_norm_epsilon": 1e-3, "time_step_limit": (0.0, 0.05)}

FAMILIES = (
    Family(
        name="published Diff-Mamba-2", example="the released 370M model",
        holds="Hugging Face's fields with `diffmamba` and `diffmamba_settings`, two mixers in a differential block",
        write=None,
    ),
    Family(
        name="Hugging Face `Mamba2ForCausalLM`", example="AntonV/mamba2-130m-hf",
        holds="`config.json` of `model_type` `mamba2`, safetensors or `pytorch_model.bin`, whole or sharded",
        write=hugging_face,
    ),
    Family(
        name="Hugging Face `Mamba2Model`, tied", example="a base model that was saved alone",
        holds="names without `backbone.`, no `lm_head`, `tie_word_embeddings` true", write=base_model, peer=TIED,
    ),
    Family(
        name="Hugging Face `Mamba2Model`, not tied", example="a base model that was saved alone",
        holds="names without `backbone.`, no `lm_head`, `tie_word_embeddings` false", write=base_model,
        refused="a model without an unembedding",
    ),
    Family(
        name="Hugging Face, tied, only `lm_head` stored", example="safetensors of a tied model",
        holds="`lm_head.weight` and no embedding", write=only_lm_head, peer=TIED,
    ),
    Family(
        name="trained under DDP or `torch.compile`", example="a state dict saved from inside the wrapper",
        holds="names below `module.` and `_orig_mod.`", write=renamed(lambda name: f"module._orig_mod.{name}"),
    ),
    Family(
        name="trained in a Lightning module", example="a state dict saved from inside the module",
        holds="names below `model.`", write=renamed(lambda name: f"model.{name}"),
    ),
    Family(
        name="Codestral Mamba, Hugging Face's files", example="mistralai/Mamba-Codestral-7B-v0.1",
        holds="shards; its `norm_before_gate` true is read by no library; the vendor's own copy beside is not read",
        write=codestral_hugging_face,
    ),
    Family(
        name="Codestral Mamba, Mistral's own files", example="mistralai/Mamba-Codestral-7B-v0.1",
        holds="`params.json`, `consolidated.safetensors`", write=mistral,
    ),
    Family(
        name="state-spaces Mamba-2", example="state-spaces/mamba2-130m to mamba2-2.7b",
        holds="`config.json` of `mamba_ssm`, `pytorch_model.bin`", write=state_spaces,
        peer=TIED | {"state_size": 128, "n_groups": 1},
    ),
    Family(
        name="flash-linear-attention, since April 2026", example="fla-hub",
        holds="`norm_eps`, `dt_limit`, `rmsnorm`, ...", write=fla, peer=FLA_NUMBERS,
    ),
    Family(
        name="flash-linear-attention, before", example="fla-hub",
        holds="`norm_eps`, `time_step_limit`, `rms_norm`, ...; where `n_groups` is above 1, a warning: its gated norm "
        "was per group only where mamba_ssm was installed",
        write=with_options(fla, old=True), peer=FLA_NUMBERS | {"n_groups": 1},
    ),
    Family(
        name="flash-linear-attention, norm before the gate", example="`norm_before_gate` true",
        holds="the same tensors, other maths", write=with_options(fla, norm_before_gate=True),
        refused="norm_before_gate is True",
    ),
    Family(
        name="flash-linear-attention, no gated norm", example="`rmsnorm` false", holds="no `mixer.norm`",
        write=with_options(fla, rmsnorm=False), refused="rmsnorm is False",
    ),
    Family(
        name="flash-linear-attention, D of every channel", example="`D_has_hdim` true", holds="D of d_inner entries",
        write=with_options(fla, D_has_hdim=True), refused="D_has_hdim is True",
    ),
    Family(
        name="Megatron Mamba-2", example="nvidia/mamba2-8b-3t-4k",
        holds="`release/mp_rank_00/model_optim_rng.pt`, opened with `weights_only=True` and a list of harmless classes",
        write=megatron,
    ),
    Family(
        name="Megatron Mamba-2, several ranks", example="a checkpoint of a run of one's own",
        holds="`iter_.../mp_rank_00`, `mp_rank_01`, ...", write=with_options(megatron, ranks=2),
        refused="hybrid_conversion.py",
    ),
    Family(
        name="Megatron hybrid", example="nvidia/mamba2-hybrid-8b-3t-4k", holds="blocks of attention and feed-forward",
        write=with_options(megatron, stray=("decoder.layers.1.mlp.linear_fc1.weight",)), refused="feed-forward",
    ),
    Family(
        name="Hugging Face `MambaForCausalLM`", example="state-spaces/mamba-130m-hf",
        holds="`config.json` of `model_type` `mamba`, safetensors or `pytorch_model.bin`, whole or sharded",
        write=hugging_face, mixer="mamba",
    ),
    Family(
        name="Hugging Face `FalconMambaForCausalLM`", example="tiiuae/falcon-mamba-7b",
        holds="`model_type` `falcon_mamba`: norms without gain on B, C and dt, of eps `mixer_rms_eps`",
        write=hugging_face, mixer="falcon_mamba", peer={"tie_word_embeddings": False, "mixer_rms_eps": 1e-3},
    ),
    Family(
        name="state-spaces Mamba-1", example="state-spaces/mamba-130m to mamba-2.8b",
        holds="`ssm_cfg` without a layer, or with Mamba1; `pytorch_model.bin`",
        write=with_options(state_spaces, ssm_cfg={}), mixer="mamba",
    ),
    Family(
        name="state-spaces hybrid", example="state-spaces/mamba2attn-2.7b", holds="`attn_layer_idx`",
        write=with_options(state_spaces, attn_layer_idx=[1]), refused="attn_layer_idx",
    ),
    *(
        Family(
            name=f"Hugging Face `{kind}`", example=example, holds="another architecture",
            write=only_config(model_type=kind, architectures=["Other"]), refused=f"kind '{kind}' \\(",
        )
        for kind, example in (
            ("falcon_h1", "tiiuae/Falcon-H1-0.5B-Base"),
            ("bamba", "ibm-ai-platform/Bamba-9B"),
            ("zamba2", "Zyphra/Zamba2-1.2B"),
            ("nemotron_h", "nvidia/Nemotron-H-8B-Base-8K"),
            ("granitemoehybrid", "ibm-granite/granite-4.0-h-tiny"),
            ("jamba", "ai21labs/Jamba-v0.1"),
            ("rwkv", "RWKV/rwkv-4-169m-pile"),
        )
    ),
    Family(
        name="quantised weights", example="bitsandbytes, GPTQ, FP8", holds="integers and their scales", write=quantised,
        refused="Quantised",
    ),
    Family(
        name="PEFT adapter", example="a LoRA of any model", holds="`adapter_config.json`, `adapter_model.safetensors`",
        write=adapter, refused="PEFT adapter of 'someone/mamba2'",
    ),
    Family(name="GGUF", example="files for llama.cpp", holds="`*.gguf`", write=one_file("m.gguf"), refused="llama.cpp"),
    Family(name="NeMo", example="a .nemo archive", holds="`*.nemo`", write=one_file("m.nemo"), refused="NeMo"),
)  # fmt: skip


PAGE_TEXT = """\
# Checkpoints

What `HookedMamba.from_pretrained` opens, from a folder or the hub, and in which words it refuses the rest. Loading is
strict: every tensor finds its place, or nothing is loaded. `diffmamba-interp inspect PATH` says the same of one folder.

Each family is written as a tiny random model with its own config fields and tensor names; "loads" means that its logits
are those of transformers with the same weights, to {tolerance:g} of the largest. The published Diff-Mamba-2
models are compared with the published code's own logits.

Sizes on which a config is silent are read from the tensors. A `num_heads`, `head_dim`, `expand` or `n_groups` that
contradicts them is corrected with a warning. An `n_groups` and `state_size` that leave two readings (the weights tell
only their product), and every other contradiction, is an error. Config fields that the loader does not know are named
in a warning.

| family | for example | what it holds | what happens |
| --- | --- | --- | --- |
{rows}

Written by `{remedy}` from what loading each family does; without the
variable, the test fails where this page says anything else.
"""


def page(outcomes: dict[str, str]) -> str:
    """The documentation, from what loading each family did."""
    rows = [
        f"| {family.name} | {family.example} | {family.holds} | {told(outcomes[family.name])} |" for family in FAMILIES
    ]
    return PAGE_TEXT.format(rows="\n".join(rows), remedy=REMEDY, tolerance=TOLERANCE)


def told(outcome: str) -> str:
    return f"refused: {outcome.replace('|', '/')}" if outcome else "loads"


def all_outcomes(folder: Path) -> dict[str, str]:
    return {family.name: outcome_of(family, folder / str(at)) for at, family in enumerate(FAMILIES)}
