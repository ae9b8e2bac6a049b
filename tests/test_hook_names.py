import subprocess
import sys

import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.hook_names import (
    BRANCHES,
    COSTLY_LEAVES,
    EMBED,
    FINAL_NORMALIZED,
    FINAL_SCALE,
    block_norm,
    block_point,
    branch_out,
    differential_point,
    inner_norm,
    matches_glob,
    mixer_point,
    subnorm,
)
from tests.models.tiny import tiny_model

MIXER_POINTS = (
    *("in_proj", "z", "conv", "x", "B", "C", "dt", "log_decay"),
    *("write", "state", "hidden_attention", "ssm_y"),
)


def names_of_model(normalisation: str) -> set[str]:
    """Every name that the functions make for a differential block 0 and a plain block 1."""
    names = {EMBED, FINAL_SCALE, FINAL_NORMALIZED}
    for block in (0, 1):
        names |= {block_point(block, p) for p in ("resid_pre", "resid_post", "mixer_in", "mixer_out")}
        names |= {block_norm(block, p) for p in ("scale", "normalized")}
        for branch in BRANCHES if block == 0 else (None,):
            names |= {mixer_point(block, p, branch) for p in MIXER_POINTS}
            names |= {inner_norm(block, p, branch) for p in ("scale", "gated")}
    names |= {branch_out(0, branch) for branch in BRANCHES}
    names |= {differential_point(0, p) for p in ("lambda", "difference")}
    for branch in {"post": (None,), "pre": BRANCHES, "none": ()}[normalisation]:
        names |= {subnorm(0, p, branch) for p in ("scale", "normalized")}
    return names


@pytest.mark.parametrize("normalisation", ["post", "pre", "none"])
def test_the_functions_name_every_hook_point_of_a_model_and_no_other(normalisation: str) -> None:
    model = tiny_model(DifferentialConfig(placement=(0,), normalisation=normalisation))
    assert names_of_model(normalisation) == set(model.hook_points)


@pytest.mark.parametrize(
    ("name", "pattern", "selected"),
    [
        ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_pre", True),
        ("blocks.10.hook_resid_pre", "blocks.1.*", False),
        ("blocks.0.mixer.hook_z", "blocks.*", True),
        ("blocks.0.mixer.hook_state", "*", False),
        ("blocks.0.mixer.hook_state", "blocks.0.mixer.*", False),
        ("blocks.0.mixer.hook_state", "blocks.*.hook_state", True),
        ("blocks.0.mixer.hook_state", "*hook_state", True),
        ("blocks.0.mixer.hook_write", "blocks.*", False),
        ("blocks.0.mixer.hook_write", "*.hook_write", True),
        ("blocks.0.mixer.hook_hidden_attention", "*.hook_hidden_attention", True),
        ("blocks.0.mixer.hook_hidden_attention", "*.hook_state", False),
    ],
)
def test_a_glob_selects_costly_points_only_when_it_spells_them_out(name: str, pattern: str, selected: bool) -> None:
    assert matches_glob(name, pattern) == selected


def test_costly_points_are_those_larger_than_the_residual_stream() -> None:
    assert set(COSTLY_LEAVES) == {"hook_write", "hook_state", "hook_hidden_attention"}


def test_names_and_config_need_no_torch() -> None:
    code = (
        "import sys, importlib.util, types, pathlib\n"
        "root = pathlib.Path(importlib.util.find_spec('diffmamba_interp').submodule_search_locations[0])\n"
        "package = types.ModuleType('diffmamba_interp'); package.__path__ = [str(root)]\n"
        "sys.modules['diffmamba_interp'] = package\n"
        "import diffmamba_interp.config, diffmamba_interp.hook_names\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
