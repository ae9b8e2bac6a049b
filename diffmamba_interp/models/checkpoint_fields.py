"""The published formats' words: config fields and tensor names, which of ours each is, and other models' kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from diffmamba_interp.config import HookedMambaConfig

Format = Literal["diffmamba_interp", "diff_mamba", "hf_mamba2", "state_spaces", "hf_mamba", "hf_falcon_mamba"]
FORMATS: tuple[Format, ...] = get_args(Format)

MAMBA1_KINDS: dict[str, Format] = {"mamba": "hf_mamba", "falcon_mamba": "hf_falcon_mamba"}
"""`model_type` of Hugging Face's Mamba-1 models: our name of the format."""

HF_FIELDS = {
    "d_vocab": "vocab_size",
    "d_model": "hidden_size",
    "d_state": "state_size",
    "n_layers": "num_hidden_layers",
    "norm_eps": "layer_norm_epsilon",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "d_head": "head_dim",
    "n_groups": "n_groups",
    "proj_bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "residual_in_fp32": "residual_in_fp32",
    "chunk_size": "chunk_size",
    "tie_embeddings": "tie_word_embeddings",
    "dt_min": "time_step_min",
    "dt_max": "time_step_max",
    "dt_floor": "time_step_floor",
    "initializer_range": "initializer_range",
}
"""Our field: the Hugging Face `mamba2` field."""

FLA_SPELLINGS = {
    "layer_norm_epsilon": ("norm_eps", "layer_norm_epsilon"),
    "time_step_limit": ("dt_limit", "time_step_limit"),
    "time_step_min": ("dt_min", "time_step_min"),
    "time_step_max": ("dt_max", "time_step_max"),
    "time_step_floor": ("dt_init_floor", "time_step_floor"),
    "rms_norm": ("rmsnorm", "rms_norm"),
}
"""Hugging Face field: how flash-linear-attention spells it, in its later versions and in its earlier ones."""

FLA_ONLY = (
    *("norm_eps", "dt_limit", "dt_min", "dt_max", "dt_init_floor", "rmsnorm", "conv_init", "A_init_range"),
    *("D_has_hdim", "fuse_norm", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp"),
)
"""Fields that only flash-linear-attention writes into a config of `model_type` "mamba2"."""

HF_HARMLESS = frozenset(
    """
    model_type architectures transformers_version dtype torch_dtype num_heads intermediate_size use_cache verbose
    time_step_rank time_step_init_scheme time_step_scale rescale_prenorm_residual conv_init A_init_range fuse_norm
    fuse_cross_entropy fuse_linear_cross_entropy use_l2warp norm_before_gate diffmamba diffmamba_settings
    pad_token_id bos_token_id eos_token_id sep_token_id decoder_start_token_id forced_bos_token_id forced_eos_token_id
    return_dict output_hidden_states output_attentions torchscript use_bfloat16 tf_legacy_loss pruned_heads
    chunk_size_feed_forward is_encoder_decoder is_decoder cross_attention_hidden_size add_cross_attention
    tie_encoder_decoder max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens finetuning_task
    id2label label2id tokenizer_class prefix task_specific_params problem_type unsloth_version
    """.split()  # noqa: SIM905 - one name a line would be seventy lines
)
"""Fields that change nothing in the numbers of a forward pass, or that are read apart from `HF_FIELDS`."""

SSM_FIELDS = {
    "d_state": "d_state",
    "d_conv": "d_conv",
    "expand": "expand",
    "d_head": "headdim",
    "n_groups": "ngroups",
    "proj_bias": "bias",
    "conv_bias": "conv_bias",
    "chunk_size": "chunk_size",
    "dt_min": "dt_min",
    "dt_max": "dt_max",
    "dt_floor": "dt_init_floor",
}
"""Our field: argument of `mamba_ssm.Mamba2` in `ssm_cfg`."""

SSM_HARMLESS = frozenset(
    ("layer", "conv_init", "A_init_range", "use_mem_eff_path", "process_group", "sequence_parallel")
    + ("layer_idx", "device", "dtype")
)
STATE_SPACES_HARMLESS = frozenset(("fused_add_norm", "attn_cfg", "model_type", "architectures", "torch_dtype", "dtype"))

KEY_PARTS = (
    ("embed.", "backbone.embeddings."),
    (".mixer.minuend.", ".mixer_1."),
    (".mixer.subtrahend.", ".mixer_2."),
    (".mixer.lambda_", ".lambda_"),
    (".mixer.subnorm.", ".subln."),
    (".inner_norm.", ".norm."),
    ("blocks.", "backbone.layers."),
    ("ln_final.", "backbone.norm_f."),
    ("unembed.", "lm_head."),
)
"""Our name of a parameter, piece by piece: the published one."""

OTHER_KINDS = {
    "jamba": "Mamba-1 blocks mixed with attention and experts",
    **dict.fromkeys(
        (
            "bamba",
            "zamba2",
            "nemotron_h",
            "falcon_h1",
            "granitemoehybrid",
            "granite_moe_hybrid",
            "plamo2",
            "mamba2_hybrid",
        ),
        "Mamba-2 blocks mixed with attention or feed-forward blocks",
    ),
    "zamba": "Mamba-1 blocks mixed with attention",
    "hymba": "attention and Mamba heads in the same block",
    "log-linear-mamba2": "log-linear Mamba-2 blocks, which keep several states a head",
    **dict.fromkeys(("rwkv", "rwkv5", "rwkv6", "rwkv7"), "RWKV blocks"),
}
"""`model_type`: what such a model is made of, where that is near enough to Mamba-2 to be tried here."""


def published_name(name: str, format: Format) -> str:
    """The name in the files of `format` of our parameter `name`; see `KEY_PARTS`."""
    if format == "diffmamba_interp":
        return name
    for ours, theirs in KEY_PARTS:
        at_start = not ours.startswith(".")
        if name.startswith(ours) if at_start else ours in name:
            name = name.replace(ours, theirs, 1)
    return name.replace("backbone.embeddings.", "backbone.embedding.") if format == "state_spaces" else name


def require_supported_kind(raw: Mapping[str, Any]) -> None:
    """Raise ValueError, saying what the model is, unless the config is of one of the formats that are read."""
    kind = raw.get("model_type")
    named = raw.get("format") == "diffmamba_interp" or kind in ("mamba2", *MAMBA1_KINDS)
    if named or ("d_model" in raw and "n_layer" in raw):
        return
    if kind is not None and not isinstance(kind, str):
        raise ValueError(f"model_type is {kind!r}: it must be a name, such as 'mamba2'.")
    if kind is None and raw.get("format") is not None:
        raise ValueError(f"format is {raw['format']!r}: only 'diffmamba_interp' is one.")
    if kind is None:
        said = raw.get("architectures")
        kind = ", ".join(map(str, said)) if isinstance(said, list) and said else "unknown" if said is None else said
    made_of = OTHER_KINDS.get(kind) if isinstance(kind, str) else None
    raise ValueError(
        f"it describes a model of kind {kind!r}{f' ({made_of})' if made_of else ''}. Supported: {', '.join(FORMATS)} "
        "(Mamba and Diff-Mamba language models)."
    )


def vocabulary_fields(cfg: HookedMambaConfig) -> dict[str, int]:
    """The vocabulary as a `mamba_ssm` config says it. Raises ValueError for a padding that it cannot say."""
    n_tokens = cfg.d_vocab - cfg.d_vocab_padding
    multiples = [m for m in (1, 2, 4, 8, 16, 32, 64, 128, 256) if -(-n_tokens // m) * m == cfg.d_vocab]
    if not multiples:
        raise ValueError(f"no multiple pads {n_tokens} tokens to {cfg.d_vocab} rows, which 'state_spaces' needs.")
    return {"vocab_size": n_tokens, "pad_vocab_size_multiple": multiples[-1] if cfg.d_vocab_padding else 1}


def is_fla(raw: Mapping[str, Any]) -> bool:
    """Whether a config of `model_type` "mamba2" is flash-linear-attention's and not Hugging Face's."""
    return raw.get("model_type") == "mamba2" and any(name in raw for name in FLA_ONLY)
