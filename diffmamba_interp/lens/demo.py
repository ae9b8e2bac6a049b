"""The tuned lenses of the demo pair, which come with the package: no training, no network.

They live in `lenses/<model>/pile/` of the source tree, and a wheel carries them as data of this subpackage.
"""

from __future__ import annotations

from pathlib import Path

from diffmamba_interp.argument_checks import checked
from diffmamba_interp.lens.folders import load_lens
from diffmamba_interp.lens.lenses import TunedLens
from diffmamba_interp.models.demo import DEMO_NAMES, DemoName, load_demo
from diffmamba_interp.models.language_model import HookedMamba

INSTALLED_FOLDER = Path(__file__).parent / "demo_files"
SOURCE_FOLDER = Path(__file__).parents[2] / "lenses"


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
