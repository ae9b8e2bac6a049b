"""`config.json` in the four formats, to and from `HookedMambaConfig`.

diffmamba_interp: ours. diff_mamba: the published Diff-Mamba-2 models (Hugging Face `mamba2` fields plus
`diffmamba` and `diffmamba_settings`). hf_mamba2: Hugging Face `mamba2`. state_spaces: the `mamba_ssm` models.

What decides whether a block is differential is the weights (their names and shapes); a config that says
otherwise is an error, and one that says nothing a warning.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from diffmamba_interp.config import DifferentialConfig, HookedMambaConfig, Placement, differential_blocks

Format = Literal["diffmamba_interp", "diff_mamba", "hf_mamba2", "state_spaces"]
FORMATS: tuple[Format, ...] = get_args(Format)
FORMAT_VERSION = 1
Shapes = Mapping[str, tuple[int, ...]]

DIFFERENTIAL_KEY = re.compile(r"^backbone\.layers\.(\d+)\.mixer_1\.A_log$")

HF_FIELDS = {
    "d_vocab": ("vocab_size", 32768),
    "d_model": ("hidden_size", 4096),
    "d_state": ("state_size", 128),
    "n_layers": ("num_hidden_layers", 64),
    "norm_eps": ("layer_norm_epsilon", 1e-5),
    "d_conv": ("conv_kernel", 4),
    "expand": ("expand", 2),
    "d_head": ("head_dim", 64),
    "n_groups": ("n_groups", 8),
    "proj_bias": ("use_bias", False),
    "conv_bias": ("use_conv_bias", True),
    "residual_in_fp32": ("residual_in_fp32", True),
    "chunk_size": ("chunk_size", 256),
    "tie_embeddings": ("tie_word_embeddings", False),
    "dt_min": ("time_step_min", 0.001),
    "dt_max": ("time_step_max", 0.1),
    "dt_floor": ("time_step_floor", 1e-4),
    "initializer_range": ("initializer_range", 0.1),
}
"""Our field: (Hugging Face `mamba2` field, the value it has there when a config.json leaves it out)."""

SSM_FIELDS = {
    "d_state": ("d_state", 128),
    "d_conv": ("d_conv", 4),
    "expand": ("expand", 2),
    "d_head": ("headdim", 64),
    "n_groups": ("ngroups", 1),
    "proj_bias": ("bias", False),
    "conv_bias": ("conv_bias", True),
    "chunk_size": ("chunk_size", 256),
    "dt_min": ("dt_min", 0.001),
    "dt_max": ("dt_max", 0.1),
    "dt_floor": ("dt_init_floor", 1e-4),
}
"""Our field: (argument of `mamba_ssm.Mamba2` in `ssm_cfg`, its default there)."""

log = logging.getLogger(__name__)


def detect_format(raw: Mapping[str, Any], shapes: Shapes) -> Format:
    """The format of a checkpoint from its config and the names of its tensors."""
    if raw.get("format") == "diffmamba_interp":
        return "diffmamba_interp"
    if raw.get("model_type") == "mamba2":
        return "diff_mamba" if raw.get("diffmamba") or _differential_indices(shapes) else "hf_mamba2"
    if "d_model" in raw and "n_layer" in raw:
        return "state_spaces"
    kind = raw.get("model_type") or ", ".join(raw.get("architectures") or []) or "unknown"
    raise ValueError(
        f"config.json describes a model of kind {kind!r}. Supported: {', '.join(FORMATS)} "
        "(Mamba-2 and Diff-Mamba-2 language models)."
    )


def read_config(raw: Mapping[str, Any], format: Format, shapes: Shapes) -> HookedMambaConfig:
    """The model's config from `config.json` and the shapes of its tensors. Raises ValueError if they disagree."""
    if format == "diffmamba_interp":
        if raw.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"config.json has format_version {raw.get('format_version')!r}: this version of diffmamba_interp reads "
                f"{FORMAT_VERSION}. Load it with the version that wrote it."
            )
        return HookedMambaConfig.from_dict(raw["model"])
    if format == "state_spaces":
        return _read_state_spaces(raw, shapes)
    return _read_hf(raw, shapes)


def write_config(cfg: HookedMambaConfig, format: Format) -> dict[str, Any]:
    """What `config.json` holds. Raises ValueError for a model that the format cannot express."""
    if format == "diffmamba_interp":
        return {"format": "diffmamba_interp", "format_version": FORMAT_VERSION, "model": cfg.to_dict()}
    if format == "state_spaces":
        return _write_state_spaces(cfg)
    if format in ("hf_mamba2", "diff_mamba"):
        return _write_hf(cfg, format)
    raise ValueError(f"format is {format!r}: it must be one of {', '.join(FORMATS)}.")


def _read_hf(raw: Mapping[str, Any], shapes: Shapes) -> HookedMambaConfig:
    values = {ours: raw.get(theirs, default) for ours, (theirs, default) in HF_FIELDS.items()}
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ValueError(f"config.json has hidden_act {raw['hidden_act']!r}: only SiLU is Mamba-2's.")
    if raw.get("rms_norm") is False:
        raise ValueError("config.json has rms_norm false: only Mamba-2's gated RMSNorm is supported.")
    n_heads = raw.get("num_heads", 128)
    if n_heads * values["d_head"] != values["expand"] * values["d_model"]:
        raise ValueError(
            f"config.json contradicts itself: num_heads {n_heads} x head_dim {values['d_head']} is not "
            f"expand {values['expand']} x hidden_size {values['d_model']}."
        )
    low, high = raw.get("time_step_limit", (0.0, math.inf))
    plain = HookedMambaConfig(**values, dt_limit=(_number(low), _number(high)))
    found = _differential_indices(shapes)
    _check_said_placement(raw, found, plain.n_layers)
    return replace(plain, differential=_differential_from_shapes(found, shapes, plain)) if found else plain


def _check_said_placement(raw: Mapping[str, Any], found: tuple[int, ...], n_layers: int) -> None:
    """Compare the differential blocks in the weights with those that the config names, if it names any."""
    if not raw.get("diffmamba"):
        if found and raw.get("diffmamba") is not None:
            raise ValueError(
                f"config.json contradicts the weights: diffmamba is {raw['diffmamba']!r}, but the weights of blocks "
                f"{list(found)} are differential. Correct the config, or remove the field."
            )
        if found:
            log.warning(
                "config.json does not say that the model is differential, but the weights of blocks %s are: "
                "loading it as Diff-Mamba.",
                list(found),
            )
        return
    said = _said_placement(raw.get("diffmamba_settings", "alternate"), n_layers)
    if said != found:
        raise ValueError(
            f"config.json contradicts the weights: diffmamba_settings {raw.get('diffmamba_settings')!r} makes blocks "
            f"{list(said)} differential, but the weights make it blocks {list(found)}. Correct the config."
        )


def _said_placement(setting: object, n_layers: int) -> tuple[int, ...]:
    """The published setting: a named placement, a number of last blocks, or (ours) a list of blocks."""
    if isinstance(setting, list):
        return differential_blocks(tuple(setting), n_layers)
    if str(setting).isdigit():
        return tuple(range(n_layers - min(int(str(setting)), n_layers), n_layers))
    return differential_blocks(str(setting), n_layers)  # type: ignore[arg-type]


def _differential_from_shapes(found: tuple[int, ...], shapes: Shapes, plain: HookedMambaConfig) -> DifferentialConfig:
    prefix = f"backbone.layers.{found[0]}"
    n_heads = shapes[f"{prefix}.mixer_1.A_log"][0]
    return DifferentialConfig(
        placement=_named_if_possible(found, plain.n_layers),
        lambda_form="exp_dot" if f"{prefix}.lambda_k1" in shapes else "sigmoid_sum",
        head_division="d_head" if n_heads == plain.mixer_sizes("plain").n_heads else "n_heads",
    )


def _named_if_possible(blocks: tuple[int, ...], n_layers: int) -> Placement:
    names: tuple[Placement, ...] = ("all", "alternate", "quarter")
    return next((name for name in names if differential_blocks(name, n_layers) == blocks), blocks)


def _differential_indices(shapes: Shapes) -> tuple[int, ...]:
    return tuple(sorted(int(match[1]) for name in shapes if (match := DIFFERENTIAL_KEY.match(name))))


def _write_hf(cfg: HookedMambaConfig, format: Format) -> dict[str, Any]:
    differential = cfg.differential if cfg.differential_blocks else None
    if (differential is not None) != (format == "diff_mamba"):
        kind, right = ("differential", "diff_mamba") if differential else ("plain", "hf_mamba2")
        raise ValueError(f"format {format!r} cannot hold a {kind} model: use {right!r} or 'diffmamba_interp'.")
    if cfg.d_vocab_padding:
        log.warning(
            "format %r does not record that the last %d rows of the vocabulary are padding: a model loaded from it may "
            "generate their ids.",
            format,
            cfg.d_vocab_padding,
        )
    values: dict[str, Any] = {theirs: getattr(cfg, ours) for ours, (theirs, _) in HF_FIELDS.items()}
    values |= {
        "model_type": "mamba2",
        "architectures": ["DiffMamba2ForCausalLM" if differential else "Mamba2ForCausalLM"],
        "num_heads": cfg.mixer_sizes("plain").n_heads,
        "hidden_act": "silu",
        "rms_norm": True,
        "time_step_limit": list(cfg.dt_limit),
    }
    if differential is not None:
        if differential.normalisation != "post" or differential.subnorm_eps != 1e-5 or cfg.expand != 2:
            raise ValueError(
                "format 'diff_mamba' knows only normalisation 'post', subnorm_eps 1e-5 and expand 2; the model has "
                f"{differential.normalisation!r}, {differential.subnorm_eps} and {cfg.expand}: use 'diffmamba_interp'."
            )
        placement = differential.placement
        values |= {
            "diffmamba": True,
            "diffmamba_settings": placement if isinstance(placement, str) else list(placement),
        }
    return values


def _read_state_spaces(raw: Mapping[str, Any], shapes: Shapes) -> HookedMambaConfig:
    ssm = dict(raw.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer != "Mamba2":
        raise ValueError(f"config.json describes {layer} blocks: only Mamba2 blocks are supported.")
    _refuse_other_blocks(raw, ssm)
    values = {ours: ssm.get(theirs, default) for ours, (theirs, default) in SSM_FIELDS.items()}
    low, high = ssm.get("dt_limit", (0.0, math.inf))
    multiple, n_tokens = raw.get("pad_vocab_size_multiple", 8), raw["vocab_size"]
    d_vocab = -(-n_tokens // multiple) * multiple
    stored = shapes.get("backbone.embedding.weight", (d_vocab,))[0]
    if stored != d_vocab:
        raise ValueError(
            f"config.json contradicts the weights: vocab_size {n_tokens} padded to a multiple of {multiple} is "
            f"{d_vocab}, but the embedding has {stored} rows."
        )
    return HookedMambaConfig(
        **values,
        d_model=raw["d_model"],
        n_layers=raw["n_layer"],
        d_vocab=d_vocab,
        d_vocab_padding=d_vocab - n_tokens,
        tie_embeddings=raw.get("tie_embeddings", True),
        residual_in_fp32=raw.get("residual_in_fp32", True),
        dt_limit=(_number(low), _number(high)),
    )


def _refuse_other_blocks(raw: Mapping[str, Any], ssm: Mapping[str, Any]) -> None:
    needed = {"d_intermediate": 0, "rms_norm": True}
    wrong = [f"{name}={raw[name]!r}" for name, value in needed.items() if raw.get(name, value) != value]
    wrong += ["attn_layer_idx"] if raw.get("attn_layer_idx") else []
    inner = {"rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False, "d_ssm": None, "activation": "swish"}
    wrong += [f"ssm_cfg.{name}={ssm[name]!r}" for name, value in inner.items() if ssm.get(name, value) != value]
    if wrong:
        raise ValueError(f"config.json asks for what is not a pure Mamba-2 stack: {', '.join(wrong)}.")


def _write_state_spaces(cfg: HookedMambaConfig) -> dict[str, Any]:
    if cfg.differential_blocks:
        raise ValueError("format 'state_spaces' cannot hold a differential model: use 'diff_mamba' or our own.")
    if cfg.norm_eps != 1e-5:
        raise ValueError(f"format 'state_spaces' fixes norm_eps at 1e-5; the model has {cfg.norm_eps}.")
    n_tokens = cfg.d_vocab - cfg.d_vocab_padding
    multiples = [m for m in (1, 2, 4, 8, 16, 32, 64, 128, 256) if -(-n_tokens // m) * m == cfg.d_vocab]
    if not multiples:
        raise ValueError(f"no multiple pads {n_tokens} tokens to {cfg.d_vocab} rows, which 'state_spaces' needs.")
    ssm: dict[str, Any] = {theirs: getattr(cfg, ours) for ours, (theirs, _) in SSM_FIELDS.items()}
    return {
        "d_model": cfg.d_model,
        "d_intermediate": 0,
        "n_layer": cfg.n_layers,
        "vocab_size": n_tokens,
        "ssm_cfg": {"layer": "Mamba2", **ssm, "dt_limit": list(cfg.dt_limit)},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": cfg.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": multiples[-1] if cfg.d_vocab_padding else 1,
        "tie_embeddings": cfg.tie_embeddings,
    }


def _number(value: Any) -> float:
    """A float from a number, `"inf"`, or transformers 5's `{"__float__": "Infinity"}`."""
    return float(value["__float__"]) if isinstance(value, dict) else float(value)
