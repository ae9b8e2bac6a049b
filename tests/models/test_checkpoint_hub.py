"""Checkpoints from and to the hub, without a hub."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import huggingface_hub
import pytest

from diffmamba_interp import DifferentialConfig, HookedMamba
from tests.models.tiny import assert_same, tiny_model

SNAPSHOT = "diffmamba_interp.models.checkpoint_hub.snapshot_download"


def test_a_hub_id_is_downloaded_without_what_is_not_needed(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    calls: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        return str(tmp_path)

    with patch(SNAPSHOT, download), patch("huggingface_hub.HfApi.repo_info"):
        assert_same(HookedMamba.from_pretrained("someone/model", revision="v2"), model)
    (call,) = calls
    assert (call["name"], call["revision"]) == ("someone/model", "v2")
    assert not any("bin" in pattern for pattern in call["allow_patterns"])


def test_pickles_are_downloaded_where_there_are_no_safetensors(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, format="state_spaces")
    with patch(SNAPSHOT, return_value=str(tmp_path)) as download, patch("huggingface_hub.HfApi.repo_info"):
        assert_same(HookedMamba.from_pretrained("someone/model"), model)
    assert any("bin" in pattern for pattern in download.call_args.kwargs["allow_patterns"])


def test_a_hub_that_does_not_answer_is_not_waited_for_and_its_cache_is_used(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    silent = patch("huggingface_hub.HfApi.repo_info", side_effect=TimeoutError("no answer"))
    cache = patch(
        "diffmamba_interp.models.checkpoint_hub.try_to_load_from_cache", return_value=str(tmp_path / "config.json")
    )
    with silent as asked, cache:
        assert_same(HookedMamba.from_pretrained("someone/model"), model)
    assert 0 < asked.call_args.kwargs["timeout"] <= 30
    with silent, pytest.raises(FileNotFoundError, match=r"'someone/model' .* failed: no answer\. Check the name"):
        HookedMamba.from_pretrained("someone/model")


def test_push_to_hub_uploads_a_folder_that_loads(tmp_path: Path) -> None:
    model, uploaded = tiny_model(DifferentialConfig(placement=(0,))), []

    class Api:
        """Takes what would be sent."""

        def __init__(self, **options: Any) -> None:
            pass

        def create_repo(self, **options: Any) -> Any:
            return type("Repo", (), {"repo_id": options["repo_id"]})

        def upload_folder(self, *, folder_path: Path, **options: Any) -> None:
            uploaded.append(sorted(path.name for path in Path(folder_path).iterdir()))
            assert_same(HookedMamba.from_pretrained(folder_path), model)

    with patch.object(huggingface_hub.hub_mixin, "HfApi", Api):
        model.push_to_hub("someone/model")
    assert uploaded == [["config.json", "model.safetensors"]]
