"""Names of the hook points, made by typed functions so that a misspelt one fails where it is written.

A name is a path: `blocks.3.mixer.minuend.hook_out`. Inside a block, the mixer's own points hang below
`mixer` in a plain block and below `mixer.minuend` / `mixer.subtrahend` in a differential one.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal

Branch = Literal["minuend", "subtrahend"]
BRANCHES: tuple[Branch, Branch] = ("minuend", "subtrahend")

Scan = tuple[int, Branch | None]
"""A block and, if it is differential, one of its branches."""

ResidualPoint = Literal["resid_pre", "resid_post", "mixer_in", "mixer_out"]
MixerPoint = Literal[
    "in_proj",
    "z",
    "conv",
    "x",
    "B",
    "C",
    "dt",
    "log_decay",
    "write",
    "state",
    "hidden_attention",
    "ssm_y",
]

EMBED = "hook_embed"
FINAL_SCALE = "ln_final.hook_scale"
FINAL_NORMALIZED = "ln_final.hook_normalized"

COSTLY_LEAVES = ("hook_write", "hook_state", "hook_hidden_attention")
"""Points whose value is far larger than the residual stream: computed and cached only when asked for by name."""


def block_point(block: int, point: ResidualPoint) -> str:
    """`blocks.{block}.hook_{point}`: residual stream and the mixer's input and output."""
    return f"blocks.{block}.hook_{point}"


def block_norm(block: int, point: Literal["scale", "normalized"]) -> str:
    """`blocks.{block}.norm.hook_{point}`: the RMSNorm at the block's entrance."""
    return f"blocks.{block}.norm.hook_{point}"


def mixer_prefix(block: int, branch: Branch | None) -> str:
    """`blocks.{block}.mixer`, or the branch below it."""
    return f"blocks.{block}.mixer" if branch is None else f"blocks.{block}.mixer.{branch}"


def mixer_point(block: int, point: MixerPoint, branch: Branch | None = None) -> str:
    """A point inside a mixer; `branch=None` in a plain block. A Diff-S6 that subtracts its scans has one gate, so the
    subtrahend has no z."""
    return f"{mixer_prefix(block, branch)}.hook_{point}"


def inner_norm(block: int, point: Literal["scale", "gated"], branch: Branch | None = None) -> str:
    """The gated RMSNorm inside a mixer: its scale, and its output, which is out_proj's input."""
    return f"{mixer_prefix(block, branch)}.inner_norm.hook_{point}"


def branch_out(block: int, branch: Branch) -> str:
    """`blocks.{block}.mixer.{branch}.hook_out`: a branch's output, without lambda: [batch, pos, d_model].

    In a Diff-S6, which subtracts before out_proj, what is subtracted: [batch, pos, d_inner], as hook_difference is.
    """
    return f"blocks.{block}.mixer.{branch}.hook_out"


def differential_point(block: int, point: Literal["lambda", "difference"]) -> str:
    """`blocks.{block}.mixer.hook_lambda` and `.hook_difference`, of the shape of `branch_out`.

    lambda is a scalar; of a token gate it is [batch, pos, 1], of one with a score for each head [batch, pos, head].
    """
    return f"blocks.{block}.mixer.hook_{point}"


def subnorm(block: int, point: Literal["scale", "normalized"], branch: Branch | None = None) -> str:
    """The norm on the difference; with normalisation `pre` there is one per branch, so name it."""
    middle = "" if branch is None else f".{branch}"
    return f"blocks.{block}.mixer.subnorm{middle}.hook_{point}"


def matches_glob(name: str, pattern: str) -> bool:
    """Whether the shell-style `pattern` selects `name`; a costly point must have its last part spelt out."""
    leaf = name.rpartition(".")[2]
    if leaf in COSTLY_LEAVES and pattern.rpartition(".")[2].lstrip("*") != leaf:
        return False
    return fnmatchcase(name, pattern)
