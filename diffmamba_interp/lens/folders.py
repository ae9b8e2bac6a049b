"""Lens folders: the tuned-lens library's format and what that format cannot say, in a file beside it.

    config.json   the library's own fields, nothing else: it opens without a word in tuned_lens 0.2.0
    params.pt     plain float32 tensors "0.weight", "0.bias", ...; bytes depend on the values alone
    lens.json     ours: which residual stream translator i reads, the identity of the read-out
                  (`models.read_out_identity`), and the sha256 of params.pt

`reads` is "resid_pre" (translator i reads what enters block i; the library and we) or "resid_post" (translator
i reads what leaves block i, and none reads the embedding; lens files of published Mamba models). A folder
without lens.json is "resid_post" if its last translator alone is zero: reading block outputs without the
final one never trains it. Everything is converted to "resid_pre" when it is loaded:

    ours[0] = 0 (the embedding has no translator there: plain logit lens),   ours[i + 1] = theirs[i]

The demo pair's lenses come with the package, in such folders: no training, no network. They live in
`lenses/<model>/pile/` of the source tree, and a wheel carries them as data of this subpackage.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.files.checksums import require_sha256
from diffmamba_interp.files.tensors import read_tensors
from diffmamba_interp.lens.lenses import CONFIG_FILE, LENS_FILE, PARAMS_FILE, TunedLens, TunedLensConfig
from diffmamba_interp.lens.unembedding import ModelUnembed
from diffmamba_interp.models.checkpoint_files import read_json
from diffmamba_interp.models.checkpoint_hub import HUB_ID
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo
from diffmamba_interp.models.language_model import HookedMamba
from diffmamba_interp.models.read_out_identity import ReadOutIdentity, is_read_out_of

Reads = Literal["resid_pre", "resid_post"]

INSTALLED_FOLDER = Path(__file__).parent / "demo_files"
SOURCE_FOLDER = Path(__file__).parents[2] / "lenses"

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
) -> TunedLens:
    """The lens in a folder or hub id, over `model`'s read-out and on its device.

    reads: the convention of a folder without lens.json, if what would be found out by itself is wrong (see the
        module's text); the log says what was taken.
    allow_other_unembedding: load a lens that was trained with another unembedding, such as that of the same
        model before fine-tuning. Sizes must fit all the same.

    Raises:
        FileNotFoundError: no such folder or hub id, or a file is missing in it.
        ValueError: another model's lens; params that are corrupt (compared with the sum in lens.json), misshapen, not
            finite or not plain tensors (nothing is unpickled); an unknown convention.
    """
    folder = _resolve(path, revision)
    config = _read_config(folder / CONFIG_FILE)
    described = read_json(folder / LENS_FILE) if (folder / LENS_FILE).is_file() else {}
    _require_same_model(folder, config, described, model, allow_other_unembedding)
    weight, bias = _read_params(folder / PARAMS_FILE, config, described.get("params_sha256"))
    if _convention(folder, described, reads, weight, bias) == "resid_post":
        weight, bias = _moved_by_one(weight), _moved_by_one(bias)
    lens = TunedLens(ModelUnembed(model), config)
    lens.load_stacked(weight, bias)
    return lens


@checked
def load_demo_lens(name: DemoName = "diff-mamba2", model: HookedMamba | None = None) -> TunedLens:
    """The tuned lens of a model of the demo pair, over that model's read-out and on its device.

    model: what `load_demo(name)` returned, whose weights the lens then shares; None loads it anew on the CPU.
    `demo_lens_folder(name) / "CARD.md"` says how the lens was made and how good it is.

    Raises:
        FileNotFoundError: this copy of the package holds no lenses.
        ValueError: another name, or `model` is not the demo model of that name.
    """
    folder = demo_lens_folder(name)
    if model is None:
        model, _ = load_demo(name)
    return load_lens(folder, model)


@checked
def demo_lens_folder(name: DemoName) -> Path:
    """The folder of a demo model's lens: `config.json`, `lens.json`, `params.pt`, `metrics.json`, `CARD.md`.

    Raises as `load_demo_lens` does.
    """
    if name not in DEMO_NAMES:
        raise ValueError(f"there is no demo model {name!r}: choose one of {', '.join(DEMO_NAMES)}.")
    places = (INSTALLED_FOLDER / name, SOURCE_FOLDER / name / "pile")
    for folder in places:
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"this copy of the package holds no lens of {name!r} (neither {places[0]} nor {places[1]}): install a "
        "released wheel, or train one with `python -m diffmamba_interp.train_lens --model "
        f"{name}` and open it with load_lens."
    )


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
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=wanted))
    except Exception as error:
        raise FileNotFoundError(
            f"{str(path)!r} is no folder here, and fetching it from the hub failed: {error}. "
            "Check the name and the connection, or give a local folder."
        ) from error


def _read_config(path: Path) -> TunedLensConfig:
    values = read_json(path)
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
    config: TunedLensConfig,
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
        raise ValueError(f"{folder / LENS_FILE} is damaged: {error}") from error
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
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a lens folder holds {CONFIG_FILE} and {PARAMS_FILE}.")
    if sha256 is not None:
        changed = f"If it was changed on purpose, remove params_sha256 from the {LENS_FILE} beside it."
        require_sha256(path, sha256, remedy=f"{_REMEDY} {changed}")
    state, _ = read_tensors(path, remedy=_REMEDY)
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
