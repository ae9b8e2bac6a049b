"""`config.json` of Mamba-1 models, to and from `HookedMambaConfig`: Hugging Face's two and state-spaces'.

hf_mamba: Hugging Face `mamba`. hf_falcon_mamba: Hugging Face `falcon_mamba`, with norms on B, C and dt. state_spaces:
the `mamba_ssm` models whose `ssm_cfg` names no layer, or Mamba1. Their tensors have the names that Mamba-2's have.

Every size shows in a tensor's shape; a config that says another one is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from diffmamba_interp.config import HookedMambaConfig
from diffmamba_interp.models.checkpoint_fields import (
    HF_FIELDS,
    HF_HARMLESS,
    SSM_FIELDS,
    SSM_HARMLESS,
    STATE_SPACES_HARMLESS,
    Format,
    vocabulary_fields,
)
from diffmamba_interp.models.checkpoint_sizes import (
    Shapes,
    StoredSizes,
    padded_vocabulary,
    require_layers,
    stored_sizes,
)
from diffmamba_interp.models.config_fields import ConfigFields, warn_of_unknown

OF_MAMBA2 = ("d_head", "n_groups", "chunk_size")
HF_MAMBA1_FIELDS = {ours: theirs for ours, theirs in HF_FIELDS.items() if ours not in OF_MAMBA2}
SSM_MAMBA1_FIELDS = {ours: theirs for ours, theirs in SSM_FIELDS.items() if ours not in OF_MAMBA2}

HF_MAMBA1_HARMLESS = HF_HARMLESS | frozenset(
    ("use_mambapy", "use_falcon_mambapy", "use_associative_scan", "d_inner", "d_model", "n_layer", "ssm_cfg")
    + ("fused_add_norm", "pad_vocab_size_multiple")
)
SSM_MAMBA1_HARMLESS = SSM_HARMLESS | frozenset(("dt_init", "dt_scale", "use_fast_path"))

log = logging.getLogger(__name__)


def read_hf_mamba1(raw: Mapping[str, Any], shapes: Shapes) -> HookedMambaConfig:
    """The config of a `mamba` or `falcon_mamba` folder. Raises ValueError where it and the tensors disagree."""
    fields = ConfigFields(raw)
    if fields.value("hidden_act", "silu") not in ("silu", "swish"):
        raise fields.error("hidden_act", raw["hidden_act"], "silu: other activations are not Mamba-1's")
    if fields.flag("rms_norm", True) is False:
        raise fields.error("rms_norm", False, "true: LayerNorms between the blocks are not supported")
    stored = stored_sizes(shapes, "mamba1")
    n_layers = fields.integer("num_hidden_layers", stored.n_layers or 32)
    if shapes:
        require_layers(n_layers, shapes, name="num_hidden_layers")
    falcon = raw.get("model_type") == "falcon_mamba"
    cfg = HookedMambaConfig(
        mixer="mamba1",
        d_model=fields.stored_size("hidden_size", stored.d_model, 768),
        n_layers=n_layers,
        d_vocab=fields.stored_size("vocab_size", stored.d_vocab, 50280),
        **_mixer_sizes(fields, HF_MAMBA1_FIELDS | {"dt_rank": "time_step_rank"}, stored),
        scan_norm_eps=fields.number("mixer_rms_eps", 1e-6) if falcon else None,
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        residual_in_fp32=fields.flag("residual_in_fp32", True),
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        dt_min=fields.number("time_step_min", 0.001),
        dt_max=fields.number("time_step_max", 0.1),
        dt_floor=fields.number("time_step_floor", 1e-4),
        initializer_range=fields.number("initializer_range", 0.1),
    )
    d_inner = fields.integer("intermediate_size", None)
    if d_inner not in (None, cfg.mixer_sizes("plain").d_inner):
        raise fields.error("intermediate_size", d_inner, f"expand x hidden_size, {cfg.expand} x {cfg.d_model}")
    warn_of_unknown(fields.unknown(HF_MAMBA1_HARMLESS))
    return cfg


def read_state_spaces_mamba1(fields: ConfigFields, ssm: ConfigFields, shapes: Shapes) -> HookedMambaConfig:
    """The config of a `mamba_ssm` folder, given as its fields and those of `ssm_cfg`, whose layer is Mamba1."""
    stored = stored_sizes(shapes, "mamba1")
    needed: list[tuple[ConfigFields, str, tuple[Any, ...]]] = [
        (fields, "d_intermediate", (0,)),
        (fields, "rms_norm", (True,)),
        (fields, "attn_layer_idx", ([],)),
    ]
    values = [(within, name, within.value(name, allowed[0]), allowed) for within, name, allowed in needed]
    wrong = [f"{within.within}{name}={value!r}" for within, name, value, allowed in values if value not in allowed]
    if wrong:
        raise ValueError(f"it asks for what is not a pure Mamba-1 stack: {', '.join(wrong)}.")
    n_layers = fields.integer("n_layer")
    if shapes:
        require_layers(n_layers, shapes, name="n_layer")
    d_vocab, n_tokens = padded_vocabulary(fields, stored.d_vocab)
    fields.integer("d_model")
    cfg = HookedMambaConfig(
        mixer="mamba1",
        d_model=fields.stored_size("d_model", stored.d_model, 0),
        n_layers=n_layers,
        d_vocab=d_vocab,
        d_vocab_padding=d_vocab - n_tokens,
        **_mixer_sizes(ssm, SSM_MAMBA1_FIELDS | {"dt_rank": "dt_rank"}, stored),
        tie_embeddings=fields.flag("tie_embeddings", True),
        residual_in_fp32=fields.flag("residual_in_fp32", True),
        dt_min=ssm.number("dt_min", 0.001),
        dt_max=ssm.number("dt_max", 0.1),
        dt_floor=ssm.number("dt_init_floor", 1e-4),
    )
    warn_of_unknown(fields.unknown(STATE_SPACES_HARMLESS) + ssm.unknown(SSM_MAMBA1_HARMLESS))
    return cfg


def write_mamba1(cfg: HookedMambaConfig, format: Format) -> dict[str, Any]:
    """What `config.json` holds. Raises ValueError for a model that the format cannot express."""
    if cfg.differential_blocks:
        raise ValueError(f"format {format!r} cannot hold a differential Mamba-1 model: use 'diffmamba_interp'.")
    if (cfg.scan_norm_eps is not None) != (format == "hf_falcon_mamba"):
        has, right = ("norms", "hf_falcon_mamba") if cfg.scan_norm_eps is not None else ("no norms", "hf_mamba")
        raise ValueError(f"format {format!r} cannot hold a model with {has} on B, C and dt: use {right!r}.")
    if format == "state_spaces":
        return _write_state_spaces(cfg)
    if cfg.d_vocab_padding:
        log.warning(
            "format %r does not record that the last %d rows of the vocabulary are padding: a model loaded from it may "
            "generate their ids.",
            format,
            cfg.d_vocab_padding,
        )
    values: dict[str, Any] = {theirs: getattr(cfg, ours) for ours, theirs in HF_MAMBA1_FIELDS.items()}
    if cfg.scan_norm_eps is not None:
        values["mixer_rms_eps"] = cfg.scan_norm_eps
    sizes: Any = cfg.mixer_sizes("plain")
    return values | {
        "model_type": format.removeprefix("hf_"),
        "architectures": ["FalconMambaForCausalLM" if format == "hf_falcon_mamba" else "MambaForCausalLM"],
        "intermediate_size": sizes.d_inner,
        "time_step_rank": sizes.dt_rank,
        "hidden_act": "silu",
    }


def _write_state_spaces(cfg: HookedMambaConfig) -> dict[str, Any]:
    if cfg.norm_eps != 1e-5:
        raise ValueError(f"format 'state_spaces' fixes norm_eps at 1e-5; the model has {cfg.norm_eps}.")
    sizes: Any = cfg.mixer_sizes("plain")
    ssm: dict[str, Any] = {theirs: getattr(cfg, ours) for ours, theirs in SSM_MAMBA1_FIELDS.items()}
    return {
        "d_model": cfg.d_model,
        "d_intermediate": 0,
        "n_layer": cfg.n_layers,
        **vocabulary_fields(cfg),
        "ssm_cfg": {"layer": "Mamba1", **ssm, "dt_rank": sizes.dt_rank},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": cfg.residual_in_fp32,
        "fused_add_norm": True,
        "tie_embeddings": cfg.tie_embeddings,
    }


def _mixer_sizes(fields: ConfigFields, names: Mapping[str, str], stored: StoredSizes) -> dict[str, Any]:
    expand = stored.d_inner // stored.d_model if stored.d_inner and stored.d_model else None
    if expand is not None and expand * stored.d_model != stored.d_inner:  # type: ignore[operator]
        raise ValueError(
            f"the weights have d_inner {stored.d_inner}, no multiple of their width {stored.d_model}: not supported."
        )
    automatic = fields.raw.get(names["dt_rank"]) == "auto"
    return {
        "expand": fields.stored_size(names["expand"], expand, 2),
        "d_conv": fields.stored_size(names["d_conv"], stored.d_conv, 4),
        "d_state": fields.stored_size(names["d_state"], stored.d_state, 16),
        "dt_rank": stored.dt_rank if automatic else fields.integer(names["dt_rank"], stored.dt_rank),
        "proj_bias": fields.stored_flag(names["proj_bias"], stored.proj_bias, False),
        "conv_bias": fields.stored_flag(names["conv_bias"], stored.conv_bias, True),
    }
