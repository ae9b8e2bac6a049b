"""Lenses and models go to a hub and come back, over its own library and a hub on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffmamba_interp import DifferentialConfig
from diffmamba_interp.lens import TunedLens, hub_card, push_lens, save_lens
from tests.lens.stand_in_hub import running
from tests.models.tiny import tiny_model

# The library takes its hub's address when it is imported, so it runs in a process of its own.
PUSH_AND_FETCH = """
import torch
from diffmamba_interp import HookedMamba, TunedLens, fit_jacobian_lens, load_lens
from diffmamba_interp.lens import push_lens, save_lens

def require_same(back, sent, tolerance):
    assert type(back) is type(sent)
    for theirs, mine in zip(back.state_dict().values(), sent.state_dict().values(), strict=True):
        assert torch.allclose(theirs, mine, atol=tolerance)

model = HookedMamba.from_pretrained("model")
model.push_to_hub("me/model")
require_same(HookedMamba.from_pretrained("me/model"), model, 0)
tuned = TunedLens.from_model(model)
torch.nn.init.normal_(tuned.layer_translators[0].bias)
jacobian = fit_jacobian_lens(model, torch.arange(20).reshape(2, 10), skip_first=1)
for lens, folder in ((tuned, "tuned"), (jacobian, "jacobian")):
    save_lens(lens, folder)
    open(f"{folder}/log.jsonl", "w").close()
    print(push_lens(folder, f"me/{folder}", base_model="me/model"))
    require_same(load_lens(f"me/{folder}", model), lens, 2e-3)
"""


def test_a_model_and_both_kinds_of_lens_go_to_a_hub_and_come_back(tmp_path: Path, project_root: Path) -> None:
    tiny_model(DifferentialConfig(placement=(0,))).save_pretrained(tmp_path / "model")
    with running() as (address, repos):
        environment = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": "hf_of_nobody",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(project_root),
        }
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", PUSH_AND_FETCH], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert set(repos) == {"me/model", "me/tuned", "me/jacobian"}
    assert set(repos["me/model"]) >= {"config.json", "model.safetensors"}
    # The run's log stays here.
    assert set(repos["me/tuned"]) - {".gitattributes"} == {"README.md", "config.json", "lens.json", "params.pt"}
    assert b"- jacobian-lens\n" in repos["me/jacobian"]["README.md"]
    assert done.stdout.split() == [f"{address}/me/{name}/commit/{'a' * 40}" for name in ("tuned", "jacobian")]


def test_the_hubs_page_is_the_folders_card_below_the_head_that_the_hub_reads(project_root: Path) -> None:
    folder = project_root / "lenses" / "diff-mamba2" / "pile"
    head, card = hub_card(folder, base_model="me/model").removeprefix("---\n").split("\n---\n\n", 1)
    assert card == (folder / "CARD.md").read_text(encoding="utf-8")
    assert head.splitlines()[0] == "library_name: diffmamba-interp"
    assert "- tuned-lens" in head
    assert head.splitlines()[-1] == "base_model: me/model"
    assert "base_model" not in hub_card(folder)


def test_a_folder_without_a_lens_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    save_lens(TunedLens.from_model(tiny_model()), tmp_path)
    (tmp_path / "params.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no lens: params\.pt missing"):
        push_lens(tmp_path, "me/lens")
