"""Every page with the kinds of models that are not bundled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from diffmamba_interp import HookedMamba, HookedMambaConfig
from diffmamba_interp.config import DifferentialConfig
from diffmamba_interp.models.demo import load_demo_tokenizer
from tests.app.conftest import OpenApp, charts, texts

SCANS: dict[str, Any] = {"subtract_at": "scan", "lambda_form": "sigmoid"}
FAMILIES: dict[str, dict[str, Any]] = {
    "mamba1": {"mixer": "mamba1"},
    "diff-mamba1": {"mixer": "mamba1", "differential": DifferentialConfig()},
    "diff-s6 of mamba1": {"mixer": "mamba1", "differential": DifferentialConfig(**SCANS)},
    "diff-s6 of mamba2": {"d_head": 8, "differential": DifferentialConfig(**SCANS)},
    "token_head_gate": {
        "d_head": 8,
        "differential": DifferentialConfig(subtract_at="scan", lambda_form="token_head_gate", normalisation="none"),
    },
}
SOURCE = {"source": "needle", "length": "0", "beside": "none"}
PAGES: dict[str, dict[str, str]] = {
    "overview": {},
    "attention": {},
    "heads": {"asked_heads": "yes"},
    "graph": {},
    "lens": {},
    "playground": {"play_tokens": "2"},
    "evidence": {},
    "needle": {"needle_lens": "logit lens", "needle_length": "0", "needle_n": "2", "asked_needle": "yes"},
    "interventions": {"asked_interventions": "yes"},
    "retrieval": {"results": "run here", "lengths": "0", "tasks": "qa1", "n": "1"},
    "session": {},
}


WITH_FIGURES = {"attention", "heads", "graph", "lens", "needle", "interventions"}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model of each kind, random weights and the tokenizer of the bundled pair."""
    folder, tokenizer = tmp_path_factory.mktemp("families"), load_demo_tokenizer()
    for place, (name, settings) in enumerate(FAMILIES.items()):
        torch.manual_seed(place)
        cfg = HookedMambaConfig(
            d_model=16, n_layers=3, d_vocab=len(tokenizer), d_state=8, tie_embeddings=True, **settings
        )
        HookedMamba(cfg).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_page_opens_and_draws(open_app: OpenApp, families: Path, family: str, page: str) -> None:
    app = open_app(page, at_root=families, **{**SOURCE, **PAGES[page], "model": family})
    assert not app.exception
    assert texts(app.error) == []
    assert charts(app) or page not in WITH_FIGURES
