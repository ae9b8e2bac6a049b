"""The tables of hook points: names, shapes and paths from models that are built and run, equations from below.

Every name of a model must have its equation here, and every equation a name: `tables` refuses anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from diffmamba_interp import DifferentialConfig, HookedMamba, HookedMambaConfig
from diffmamba_interp.hook_names import BRANCHES, COSTLY_LEAVES
from diffmamba_interp.interchange import name_table
from diffmamba_interp.models.differential_mixer import DifferentialMixer
from diffmamba_interp.models.mixer import ScanMixer

BATCH, POS = 2, 7
KERNELS, APART, PYTORCH = "kernels", "kernels, the branches apart", "PyTorch for that call"

STREAM = {
    "hook_embed": "W_E[token]",
    "blocks.{i}.hook_resid_pre": "block 0: `hook_embed`; else the `hook_resid_post` before",
    "blocks.{i}.norm.hook_scale": "sqrt(mean(resid_pre²) + eps)",
    "blocks.{i}.norm.hook_normalized": "resid_pre / scale, before the gain",
    "blocks.{i}.hook_mixer_in": "u = w_norm · normalized",
    "blocks.{i}.hook_mixer_out": "what the block adds",
    "blocks.{i}.hook_resid_post": "resid_pre + mixer_out",
    "ln_final.hook_scale": "sqrt(mean(last resid_post²) + eps)",
    "ln_final.hook_normalized": "last resid_post / scale, before the gain; logits = W_U (w_final · normalized)",
}
"""Points outside the mixers."""

MIXERS = {
    "mamba2": {
        "hook_in_proj": "[z | x | B | C | dt] = in_proj(u)",
        "hook_z": "z, the gate before SiLU",
        "hook_conv": "c = conv1d(x | B | C) + bias, before SiLU",
        "hook_x": "x = SiLU(c), its part",
        "hook_B": "B = SiLU(c), its part",
        "hook_C": "C = SiLU(c), its part",
        "hook_dt": "dt = clamp(softplus(dt + dt_bias))",
        "hook_log_decay": "dt A, with A = −exp(A_log)",
        "hook_write": "write[t] = dt[t] x[t] B[t]ᵀ",
        "hook_state": "state[t] = exp(dt[t] A) state[t−1] + write[t]",
        "hook_hidden_attention": "H[t,s] = (C[t]·B[s]) exp(cum[t] − cum[s]) dt[s] for s ≤ t, cum the sum of dt A",
        "hook_ssm_y": "y[t] = state[t] C[t] + D x[t] = Σₛ H[t,s] x[s] + D x[t]",
        "inner_norm.hook_scale": "rms of y · SiLU(z), of each group",
        "inner_norm.hook_gated": "o = w y · SiLU(z) / scale; out = out_proj(o)",
    },
    "mamba1": {
        "hook_in_proj": "[x | z] = in_proj(u)",
        "hook_z": "z, the gate before SiLU",
        "hook_conv": "c = conv1d(x) + bias, before SiLU",
        "hook_x": "x = SiLU(c); dt, B and C are made of it",
        "hook_B": "B, from x_proj(x)",
        "hook_C": "C, from x_proj(x)",
        "hook_dt": "dt = softplus(dt_proj(dt_low) + dt_bias), of each channel",
        "hook_write": "write[t] = dt[t] x[t] B[t]",
        "hook_state": "state[t] = exp(dt[t] A) · state[t−1] + write[t]",
        "hook_hidden_attention": "H[t,s] = Σₙ C[t,n] exp(A[n] (cum[t] − cum[s])) dt[s] B[s,n] for s ≤ t, cum of dt",
        "hook_ssm_y": "y[t] = ⟨C[t], state[t]⟩ + D x[t]",
        "hook_gated": "o = y · SiLU(z); out = out_proj(o)",
    },
}
"""Points inside a mixer, by its kind; the scan's are one head's or one channel's."""

BRANCH_OUT = {
    "mixer": "what the branch puts out, without lambda",
    "gated": "what is subtracted, the branch's gated value, without lambda",
    "scan": "what is subtracted, the branch's y, without lambda",
}
DIFFERENTIAL = {
    "hook_lambda": "lambda",
    "hook_difference": "m = minuend's hook_out − lambda · subtrahend's hook_out",
    "subnorm.hook_scale": "sqrt(mean(m²) + eps)",
    "subnorm.hook_normalized": "m / scale, before the gain; times (1 − lambda_init)",
    "subnorm.{branch}.hook_scale": "rms of that branch's hook_out, before the subtraction",
    "subnorm.{branch}.hook_normalized": "that branch's hook_out / scale, before its gain",
}
"""Points of a differential mixer beside those of its branches."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of block with a table of its own. differential: None for a plain one."""

    title: str
    mixer: str
    differential: DifferentialConfig | None = None


def _differential(**fields: str) -> DifferentialConfig:
    return DifferentialConfig(**fields)  # type: ignore[arg-type]


KINDS = (
    Kind(title="Mamba-2", mixer="mamba2"),
    Kind(title="Diff-Mamba over Mamba-2", mixer="mamba2", differential=_differential()),
    Kind(
        title='Diff-Mamba over Mamba-2, normalised before the subtraction (`normalisation="pre"`)',
        mixer="mamba2",
        differential=_differential(normalisation="pre"),
    ),
    Kind(
        title='Diff-S6 over Mamba-2, subtracted behind the gate (`subtract_at="gated"`)',
        mixer="mamba2",
        differential=_differential(subtract_at="gated", lambda_form="sigmoid"),
    ),
    Kind(
        title='Diff-S6 over Mamba-2, the scans subtracted (`subtract_at="scan"`)',
        mixer="mamba2",
        differential=_differential(subtract_at="scan", lambda_form="sigmoid"),
    ),
    Kind(title="Mamba-1", mixer="mamba1"),
    Kind(title="Diff-Mamba over Mamba-1", mixer="mamba1", differential=_differential(lambda_form="exp_dot")),
    Kind(
        title="Diff-S6 over Mamba-1",
        mixer="mamba1",
        differential=_differential(subtract_at="gated", lambda_form="one"),
    ),
)
LAMBDAS = {
    "sigmoid_sum": "sigmoid(Σ lambda_q1) + lambda_init (Eq. 16)",
    "sigmoid": "sigmoid(lambda_q1) + lambda_init, lambda_q1 one number",
    "exp_dot": "exp(q1·k1) − exp(q2·k2) + lambda_init (Eq. 10)",
    "one": "1",
    "token_gate": "sigmoid(w·u[t] + b) + lambda_init; not in the paper",
    "token_head_gate": "sigmoid(W u[t] + b)[h]; not in the paper",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A hook point of one kind of block. name: with {i} for the block, {branch} where both branches have it."""

    name: str
    shape: str
    equation: str
    path: str


def tables() -> dict[str, list[Row]]:
    """By the title of a table, its rows; first the points that every model has.

    Raises ValueError for a hook point without an equation, and for an equation without one.
    """
    used: set[tuple[str, str]] = set()
    rows = {kind.title: list(_rows(kind, used)) for kind in KINDS}
    stream = [row for row in rows[KINDS[0].title] if row.name in STREAM]
    known = {("", name) for name in (*STREAM, *DIFFERENTIAL)} | {(m, n) for m, names in MIXERS.items() for n in names}
    if known - used:
        raise ValueError(f"no model has the hook points {sorted(known - used)}: take out their equations.")
    mixers = {title: [row for row in found if row.name not in STREAM] for title, found in rows.items()}
    return {"Every model": stream, **mixers}


def markdown() -> str:
    """All tables, and the shapes of lambda, as a page's text."""
    return "\n\n".join([*(_table(title, rows) for title, rows in tables().items()), _lambda_table()])


def names_elsewhere() -> str:
    """What other tools call the points of a plain Mamba-2 that they have, as `interchange` exports them."""
    points = list(new_model("mamba2", None).hook_points)
    lines = ["| here | TransformerLens | nnsight |", "| --- | --- | --- |"]
    for name, elsewhere in name_table(points).items():
        if any(elsewhere.values()):
            cells = [f"`{general(other)}`" if other else "" for other in (name, *elsewhere.values())]
            lines.append(f"| {' | '.join(cells)} |".replace("layers.0", "layers.{i}"))
    return "\n".join(lines)


def names_in_page(page: str) -> set[str]:
    """The hook points that the page names, both branches apart: what a reader may copy, with {i} for the block."""
    found = re.findall(r"^\| `([\w.{}]*hook_\w+)`", page, re.MULTILINE)
    return {name.replace("{branch}", branch) for name in found for branch in BRANCHES}


def general(name: str) -> str:
    """A hook point's name with {i} for its block."""
    return re.sub(r"^blocks\.\d+", "blocks.{i}", name)


def new_model(mixer: str, differential: DifferentialConfig | None) -> HookedMamba:
    """A model of one block, in which no two sizes that a hook point may have are alike."""
    own = {"d_head": 10, "n_groups": 4, "chunk_size": 8} if mixer == "mamba2" else {}
    torch.manual_seed(0)
    return HookedMamba(
        HookedMambaConfig(
            d_model=30, n_layers=1, d_vocab=11, d_state=3, expand=4, mixer=mixer, differential=differential, **own
        )
    ).eval()


def _rows(kind: Kind, used: set[tuple[str, str]]) -> Iterator[Row]:
    model = new_model(kind.mixer, kind.differential)
    _, cache = model.run_with_cache(torch.zeros(BATCH, POS, dtype=torch.long), list(model.hook_points))
    rows = {
        general(name): Row(
            name=general(name),
            shape=_shape(name, tuple(cache[name].shape), model),
            equation=_equation(general(name), kind, used),
            path=path_of(model, name),
        )
        for name in model.hook_points
    }
    for row in rows.values():
        second = rows.get(row.name.replace("minuend", "subtrahend"))
        first = rows.get(row.name.replace("subtrahend", "minuend"))
        if first not in (None, row) and replace(first, name=row.name) == row:
            continue
        if second not in (None, row) and replace(second, name=row.name) == row:
            row = replace(row, name=row.name.replace("minuend", "{branch}"))
        yield row


def _equation(name: str, kind: Kind, used: set[tuple[str, str]]) -> str:
    inside = re.sub(r"^blocks\.\{i\}\.mixer\.", "", name)
    branch = next((branch for branch in BRANCHES if inside.startswith(f"{branch}.")), None)
    own = inside.removeprefix(f"{branch}.")
    place = kind.differential.subtract_at if kind.differential else "mixer"
    if name in STREAM:
        used.add(("", name))
        return STREAM[name]
    if branch and own == "hook_out":
        return BRANCH_OUT[place]
    differential = re.sub(r"minuend|subtrahend", "{branch}", inside)
    if differential in DIFFERENTIAL:
        used.add(("", differential))
        return DIFFERENTIAL[differential]
    if own not in MIXERS[kind.mixer]:
        raise ValueError(f"the hook point {name} of {kind.title} has no equation: give it one.")
    used.add((kind.mixer, own))
    return MIXERS[kind.mixer][own]


def _shape(name: str, shape: tuple[int, ...], model: HookedMamba) -> str:
    """The axes by their names; those of the scan are channels in a Mamba-1 mixer."""
    cfg = model.cfg
    sizes = cfg.mixer_sizes(cfg.block_kind(0))
    axes = {BATCH: "batch", POS: "pos", cfg.d_model: "d_model", 1: "1", cfg.d_state: "d_state"}
    if cfg.mixer == "mamba2":
        axes |= {sizes.n_heads: "head", sizes.d_head: "d_head", cfg.n_groups: "group", sizes.d_inner: "d_inner"}
        axes |= {sizes.d_conv_channels: "channels of x, B and C"}
    else:
        axes |= {sizes.d_inner: "channel"}
    if name.endswith("hook_in_proj"):
        return "batch, pos, d_in_proj"
    if name.endswith("hook_hidden_attention"):
        return f"batch, {axes[shape[1]]}, dest_pos, src_pos"
    return ", ".join(axes[size] for size in shape) or "scalar"


def path_of(model: HookedMamba, name: str) -> str:
    """What runs on the GPU path while a function is attached to the hook point: asked of the mixer itself."""
    mixer = model.blocks[0].mixer
    with model.hooks([(name, lambda value, name: None)]):
        scans = [mixer.minuend, mixer.subtrahend] if isinstance(mixer, DifferentialMixer) else [mixer]
        with torch.no_grad():
            served = all(scan.kernels_serve(keep_state=False) for scan in scans if isinstance(scan, ScanMixer))
        inside = isinstance(mixer, DifferentialMixer) and any(point.is_hooked for point in mixer._branch_points)
        if not served:
            return PYTORCH
        return APART if inside and mixer.stack is not None else KERNELS


def _table(title: str, rows: list[Row]) -> str:
    lines = [f"## {title}", "", "| name | shape | value | on a GPU |", "| --- | --- | --- | --- |"]
    for row in rows:
        costly = " ¹" if row.name.rpartition(".")[2] in COSTLY_LEAVES else ""
        lines.append(f"| `{row.name}`{costly} | {row.shape} | {_cell(row.equation)} | {row.path} |")
    return "\n".join(lines)


def _lambda_table() -> str:
    """The shapes of hook_lambda, from a model of each form."""
    lines = ["## lambda", "", "| `lambda_form` | value | shape of `hook_lambda` |", "| --- | --- | --- |"]
    for form, value in LAMBDAS.items():
        apart = {"subtract_at": "scan", "normalisation": "none"} if form == "token_head_gate" else {}
        model = new_model("mamba2", _differential(lambda_form=form, **apart))
        _, cache = model.run_with_cache(torch.zeros(BATCH, POS, dtype=torch.long), "*.hook_lambda")
        name = "blocks.0.mixer.hook_lambda"
        lines.append(f"| `{form}` | {_cell(value)} | {_shape(name, tuple(cache[name].shape), model)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
