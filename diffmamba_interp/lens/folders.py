"""Lens folders: the tuned-lens library's format and what that format cannot say, in a file beside it.

    config.json   the library's own fields, nothing else: it opens without a word in tuned_lens 0.2.0; of a Jacobian
                  lens, those of `JacobianLensConfig`
    params.pt     plain float32 tensors "0.weight", "0.bias", ...; of a Jacobian lens, see `lens.jacobian_layout`; bytes
                  depend on the values alone
    lens.json     ours: which residual stream translator i reads, the identity of the read-out
                  (`models.read_out_identity`), and the sha256 of params.pt

`reads` is "resid_pre" (translator i reads what enters block i; the library and we) or "resid_post" (translator
i reads what leaves block i, and none reads the embedding; lens files of published Mamba models). A folder
without lens.json is "resid_post" if its last translator alone is zero: reading block outputs without the
final one never trains it. Everything is converted to "resid_pre" when it is loaded:

    ours[0] = 0 (the embedding has no translator there: plain logit lens),   ours[i + 1] = theirs[i]

Jacobian lenses of others are one file, NAME.pt, which opens here too.

The demo pair's lenses come with the package, in such folders: no training, no network. They live in
`lenses/<model>/pile/` (tuned) and `lenses/<model>/jacobian/` of the source tree, and a wheel carries them as data of
this subpackage.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, overload

import huggingface_hub
import torch
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.checksums import require_sha256
from diffmamba_interp.files.tensors import read_tensors
from diffmamba_interp.lens.jacobian_layout import JACOBIAN_LENS, JacobianLayout, JacobianLensConfig
from diffmamba_interp.lens.lenses import (
    CONFIG_FILE,
    LENS_FILE,
    PARAMS_FILE,
    JacobianLens,
    LensKind,
    TunedLens,
    TunedLensConfig,
)
from diffmamba_interp.lens.unembedding import ModelUnembed
from diffmamba_interp.models.checkpoint_files import read_json
from diffmamba_interp.models.checkpoint_hub import HUB_ID
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out_identity import ReadOutIdentity, is_read_out_of
from diffmamba_interp.stages import stage_name

Reads = Literal["resid_pre", "resid_post"]

INSTALLED_FOLDER = Path(__file__).parent / "demo_files"
SOURCE_FOLDER = Path(__file__).parents[2] / "lenses"
_DEMO_FOLDERS: dict[LensKind, tuple[str, str]] = {"tuned": ("", "pile"), "jacobian": ("-jacobian", "jacobian")}
"""By kind: what the name of an installed copy's folder ends in, and the folder's name in the source tree."""

_REMEDY = "Delete the lens, then train or fetch it again."
_OLD_LENS = (
    " (It holds no sketch of its unembedding, so it was saved by an older version, and a model that was rounded to "
    "float16 after loading cannot be told from another: load the model in float32 and save the lens again.)"
)

logger = logging.getLogger(__name__)


@checked
def load_lens(
    path: str | Path,
    model: HookedMamba,
    *,
    reads: Reads | None = None,
    allow_other_unembedding: bool = False,
    revision: str | None = None,
) -> TunedLens | JacobianLens:
    """The lens in a folder, a hub id or a Jacobian lens' file NAME.pt, over `model`'s read-out and on its device.

    reads: the convention of a folder without lens.json, if what would be found out by itself is wrong (see the
        module's text); the log says what was taken.
    allow_other_unembedding: load a lens that was trained with another unembedding, such as that of the same
        model before fine-tuning. Sizes must fit all the same.

    A public file names no model: unless its writer said more, only sizes can be compared, and the log says so.

    Raises:
        FileNotFoundError: no such folder, file or hub id, or a file is missing in it.
        ValueError: another model's lens; params that are corrupt (compared with the sum in lens.json), misshapen, not
            finite or not plain tensors (nothing is unpickled); an unknown convention.
    """
    if Path(path).suffix == ".pt":
        return _open_public_file(Path(path).expanduser(), model, reads, allow_other_unembedding)
    folder = _resolve(path, revision)
    values = read_json(folder / CONFIG_FILE)
    described = read_json(folder / LENS_FILE) if (folder / LENS_FILE).is_file() else {}
    if lens_kind(folder) == "jacobian":
        return _open_jacobian_folder(folder, values, described, model, reads, allow_other_unembedding)
    config = _tuned_config(folder / CONFIG_FILE, values)
    _require_same_model(folder, config, described, model, allow_other_unembedding)
    weight, bias = _read_params(folder / PARAMS_FILE, config, described.get("params_sha256"))
    if _convention(folder, described, reads, weight, bias) == "resid_post":
        weight, bias = _moved_by_one(weight), _moved_by_one(bias)
    lens = TunedLens(ModelUnembed(model), config)
    lens.load_stacked(weight, bias)
    return lens


@overload
def load_demo_lens(
    name: DemoName = "diff-mamba2", model: HookedMamba | None = None, *, kind: Literal["tuned"] = "tuned"
) -> TunedLens: ...
@overload
def load_demo_lens(
    name: DemoName = "diff-mamba2", model: HookedMamba | None = None, *, kind: Literal["jacobian"]
) -> JacobianLens: ...
@checked
def load_demo_lens(
    name: DemoName = "diff-mamba2", model: HookedMamba | None = None, *, kind: LensKind = "tuned"
) -> TunedLens | JacobianLens:
    """A lens of a model of the demo pair, over that model's read-out and on its device.

    model: what `load_demo(name)` returned, whose weights the lens then shares; None loads it anew on the CPU.
    kind: the tuned lens or the Jacobian lens. `demo_lens_folder(name, kind) / "CARD.md"` says how it was made and how
        good it is.

    Raises:
        FileNotFoundError: this copy of the package holds no such lens.
        ValueError: another name or kind, or `model` is not the demo model of that name.
    """
    folder = demo_lens_folder(name, kind)
    if model is None:
        model, _ = load_demo(name)
    return load_lens(folder, model)


@checked
def demo_lens_folder(name: DemoName, kind: LensKind = "tuned") -> Path:
    """The folder of a demo model's lens: `config.json`, `lens.json`, `params.pt`, `metrics.json`, `CARD.md`.

    Raises as `load_demo_lens` does.
    """
    if name not in DEMO_NAMES:
        raise ValueError(f"there is no demo model {name!r}: choose one of {', '.join(DEMO_NAMES)}.")
    ending, folder_name = _DEMO_FOLDERS[kind]
    places = (INSTALLED_FOLDER / f"{name}{ending}", SOURCE_FOLDER / name / folder_name)
    for folder in places:
        if (folder / "config.json").is_file():
            return folder
    what, option = ("lens", "") if kind == "tuned" else (f"{kind} lens", f" --kind {kind}")
    raise FileNotFoundError(
        f"this copy of the package holds no {what} of {name!r} (neither {places[0]} nor {places[1]}): install a "
        f"released wheel, or make one with `python -m diffmamba_interp.train_lens --model {name}{option}` and open it "
        "with load_lens."
    )


def lens_kind(path: str | Path) -> LensKind:
    """What kind of lens a folder holds, by its config.json. Raises FileNotFoundError or ValueError as `load_lens`."""
    return "jacobian" if read_json(Path(path) / CONFIG_FILE).get("lens_type") == JACOBIAN_LENS else "tuned"


def read_description(path: str | Path) -> dict[str, Any]:
    """What lens.json in a folder says; empty for a folder of the library."""
    file = Path(path) / LENS_FILE
    return read_json(file) if file.is_file() else {}


def _resolve(path: str | Path, revision: str | None) -> Path:
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.match(str(path)):
        raise FileNotFoundError(f"there is no lens folder {str(path)!r}, and it is no hub id of the form 'owner/name'.")
    try:
        wanted = [CONFIG_FILE, PARAMS_FILE, LENS_FILE]
        return Path(huggingface_hub.snapshot_download(str(path), revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise FileNotFoundError(
            f"{str(path)!r} is no folder here, and fetching it from the hub failed: {error}. "
            "Check the name and the connection, or give a local folder."
        ) from error


def _open_jacobian_folder(
    folder: Path,
    values: Mapping[str, Any],
    described: Mapping[str, Any],
    model: HookedMamba,
    reads: Reads | None,
    allow_other_unembedding: bool,
) -> JacobianLens:
    try:
        config = JacobianLensConfig.from_dict(values)
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG_FILE} is not a Jacobian lens' config: {error}") from error
    if reads not in (None, "resid_pre"):
        raise ValueError(f"{folder} holds a Jacobian lens, whose stages are named: reads={reads!r} cannot be asked.")
    _require_same_model(folder, config, described, model, allow_other_unembedding)
    content = _read_tensors(folder / PARAMS_FILE, described.get("params_sha256"))
    layout = JacobianLayout.from_content(content, folder / PARAMS_FILE)
    _require_sizes(folder / PARAMS_FILE, layout, config.base_model_name_or_path, model)
    return JacobianLens.of_layout(ModelUnembed(model), config, layout)


def _open_public_file(
    path: Path, model: HookedMamba, reads: Reads | None, allow_other_unembedding: bool
) -> JacobianLens:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    if reads not in (None, "resid_post"):
        raise ValueError(f"{path}: the entries of such a file are block outputs, reads='resid_post', not {reads!r}.")
    layout = JacobianLayout.from_content(_read_tensors(path, None), path)
    about = layout.metadata
    name = str(about.get("base_model_name_or_path", about.get("model_name", "unknown")))
    n_layers = about.get("num_hidden_layers", model.cfg.n_layers)
    try:
        known = {"base_model_name_or_path": name, "d_model": layout.d_model, "num_hidden_layers": n_layers}
        config = JacobianLensConfig.from_dict({**about, **known})
    except TypeError as error:
        raise ValueError(f"the metadata in {path} is damaged: {error}") from error
    _require_same_model(path, config, about, model, allow_other_unembedding)
    _require_sizes(path, layout, name, model)
    absent = sorted(set(range(model.cfg.n_layers)) - set(layout.jacobians))
    if absent:
        logger.warning(
            "%s: no Jacobian of %s; there the lens is the logit lens",
            *(path, ", ".join(stage_name(stage) for stage in absent)),
        )
    return JacobianLens.of_layout(ModelUnembed(model), config, layout)


def _require_sizes(path: Path, layout: JacobianLayout, name: str, model: HookedMamba) -> None:
    beyond = [stage for stage in layout.jacobians if not 0 <= stage < model.cfg.n_layers]
    if layout.d_model != model.cfg.d_model or beyond:
        raise ValueError(
            f"the lens in {path} is for d_model {layout.d_model} and reads the output of block "
            f"{max(layout.jacobians) - 1} (model {name!r}), but this model has d_model {model.cfg.d_model} and "
            f"{model.cfg.n_layers} blocks, of which the last is not read. Give the lens that was made for this model."
        )
    unknown = sorted(layout.branches.keys() - model.hook_points.keys())
    if unknown:
        raise ValueError(f"the lens in {path} has Jacobians of {', '.join(unknown[:3])}, which this model lacks.")


def _tuned_config(path: Path, values: Mapping[str, Any]) -> TunedLensConfig:
    known = {field.name for field in fields(TunedLensConfig)}
    missing = {"base_model_name_or_path", "d_model", "num_hidden_layers"} - set(values)
    if missing:
        raise ValueError(f"{path} is not a lens' config: it lacks {', '.join(sorted(missing))}.")
    ignored = sorted(set(values) - known)
    if ignored:
        logger.warning("%s: ignoring keys that a lens does not have: %s", path, ", ".join(ignored))
    return TunedLensConfig(**{name: value for name, value in values.items() if name in known})


def _require_same_model(
    folder: Path,
    config: TunedLensConfig | JacobianLensConfig,
    described: Mapping[str, Any],
    model: HookedMamba,
    allow_other_unembedding: bool,
) -> None:
    sizes = (config.d_model, config.num_hidden_layers)
    if sizes != (model.cfg.d_model, model.cfg.n_layers):
        raise ValueError(
            f"the lens in {folder} is for d_model {sizes[0]} and {sizes[1]} blocks (model "
            f"{config.base_model_name_or_path!r}), but this model has d_model {model.cfg.d_model} and "
            f"{model.cfg.n_layers} blocks. Give the lens that was trained for this model."
        )
    if allow_other_unembedding:
        return
    try:
        stored = ReadOutIdentity.from_dict(described)
    except ValueError as error:
        where = folder if folder.suffix == ".pt" else folder / LENS_FILE
        raise ValueError(f"{where} is damaged: {error}") from error
    if stored is not None:
        is_same = is_read_out_of(model, stored)
    elif config.unembed_hash is not None:
        is_same = config.unembed_hash == ModelUnembed(model).unembedding_hash()
    else:
        logger.warning("%s holds no hash of its unembedding: cannot tell whether it is this model's.", folder)
        return
    if not is_same:
        raise ValueError(
            f"the lens in {folder} was trained with another unembedding (model "
            f"{config.base_model_name_or_path!r}) than this model's, so its read-outs would mean nothing. Load the "
            "model it was trained for, or pass allow_other_unembedding=True if you know that the two agree."
            f"{_OLD_LENS if stored is not None and stored.sketch is None else ''}"
        )


def _read_params(path: Path, config: TunedLensConfig, sha256: str | None) -> tuple[Tensor, Tensor]:
    """Weights [block, d_model, d_model] and biases [block, d_model] in float32."""
    state = _read_tensors(path, sha256)
    n, d = config.num_hidden_layers, config.d_model
    needed = {f"{i}.weight": (d, d) for i in range(n)} | {f"{i}.bias": (d,) for i in range(n)}
    held = {name: tuple(t.shape) if isinstance(t, Tensor) else None for name, t in _items(state)}
    wrong = sorted(name for name in needed.keys() | held.keys() if needed.get(name) != held.get(name))
    if wrong:
        raise ValueError(
            f"{path} does not hold {n} translators of d_model {d}: {', '.join(wrong[:5])} "
            f"{'is' if len(wrong) == 1 else 'are'} missing, unexpected or of another shape."
        )
    stacks = [torch.stack([state[f"{i}.{part}"].float() for i in range(n)]) for part in ("weight", "bias")]
    if not all(bool(stack.isfinite().all()) for stack in stacks):
        raise ValueError(f"{path} holds values that are not finite: this lens is broken. Train it again.")
    return stacks[0], stacks[1]


def _read_tensors(path: Path, sha256: str | None) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a lens folder holds {CONFIG_FILE} and {PARAMS_FILE}.")
    if sha256 is not None:
        changed = f"If it was changed on purpose, remove params_sha256 from the {LENS_FILE} beside it."
        require_sha256(path, sha256, remedy=f"{_REMEDY} {changed}")
    content, _ = read_tensors(path, remedy=_REMEDY)
    return content


def _items(state: Any) -> list[tuple[str, Any]]:
    return list(state.items()) if isinstance(state, Mapping) else [(f"a {type(state).__name__}", None)]


def _convention(folder: Path, described: Mapping[str, Any], asked: Reads | None, weight: Tensor, bias: Tensor) -> Reads:
    stored = described.get("reads")
    for value in (stored, asked):
        if value is not None and value not in get_args(Reads):
            raise ValueError(f"reads is {value!r}: it must be one of {', '.join(get_args(Reads))}.")
    if stored is not None:
        if asked is not None and asked != stored:
            raise ValueError(f"{folder / LENS_FILE} says reads={stored!r}, but reads={asked!r} was asked for.")
        return stored
    if asked is not None:
        return asked
    trained = [bool(w.any() or b.any()) for w, b in zip(weight, bias, strict=True)]
    taken: Reads = "resid_post" if any(trained) and not trained[-1] else "resid_pre"
    logger.warning(
        "%s does not say which residual stream its translators read; taken: %r, since the last translator is %s. "
        "Pass reads= if that is wrong.",
        folder,
        taken,
        "trained" if trained[-1] else "zero",
    )
    return taken


def _moved_by_one(stack: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(stack[:1]), stack[:-1]])
