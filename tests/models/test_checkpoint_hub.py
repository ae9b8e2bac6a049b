"""Checkpoints from and to the hub, without a hub."""

import errno
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest

from diffmamba_interp import DifferentialConfig, HookedMamba
from diffmamba_interp.models.checkpoint_hub import files_to_fetch
from tests.models.tiny import assert_same, tiny_model

SNAPSHOT = "huggingface_hub.snapshot_download"
CACHED = "huggingface_hub.try_to_load_from_cache"


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
    cache = patch(CACHED, return_value=str(tmp_path / "config.json"))
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

        def upload_folder(self, *, folder_path: Path, **options: Any) -> Any:
            uploaded.append(sorted(path.name for path in Path(folder_path).iterdir()))
            assert_same(HookedMamba.from_pretrained(folder_path), model)
            assert (options["revision"], options["create_pr"]) == ("tried", False)
            return Mock(commit_url="https://hub/commit/1")

    with patch("huggingface_hub.HfApi", Api):
        assert model.push_to_hub("someone/model", branch="tried") == "https://hub/commit/1"
    assert uploaded == [["config.json", "model.safetensors"]]


# ------------------------------------------------------------------ what is fetched


@pytest.mark.parametrize(
    ("weights", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["consolidated.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
        ),
        (["pytorch_model.bin", "tf_model.h5", "optimizer.bin"], ["pytorch_model.bin"]),
        (["consolidated.safetensors", "params.json"], ["consolidated.safetensors", "params.json"]),
        (["release/mp_rank_00/model_optim_rng.pt"], ["release/mp_rank_00/model_optim_rng.pt"]),
        (["adapter_model.safetensors", "adapter_config.json"], ["adapter_config.json"]),
    ],
    ids=str,
)  # fmt: skip
def test_only_the_weights_that_would_be_read_are_fetched_and_counted(weights: list[str], fetched: list[str]) -> None:
    assert files_to_fetch([*weights, "README.md"]) == fetched


def test_a_vendors_own_copy_beside_the_shards_is_not_downloaded(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, format="hf_mamba2", max_shard_size=4000)
    with patch(SNAPSHOT, return_value=str(tmp_path)) as download, patch("huggingface_hub.HfApi.repo_info"):
        HookedMamba.from_pretrained("someone/model")
    (call,) = download.call_args_list
    assert not any(fnmatch("consolidated.safetensors", pattern) for pattern in call.kwargs["allow_patterns"])


# ------------------------------------------------------------------ what goes wrong


class HttpError(Exception):
    """As the hub's own: the answer hangs on it."""

    def __init__(self, status: int) -> None:
        super().__init__("Server said no for url: https://huggingface.co/someone/model")
        self.response = Mock(status_code=status)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (HttpError(503), "HTTP 503: Server said no"),
        (HttpError(401), "HTTP 401"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "Permission denied: '/cache'"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=str,
)
@pytest.mark.parametrize("half_cached", [True, False])
def test_the_cause_of_a_failed_download_is_said(
    error: Exception, said: str, half_cached: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    cached = str(tmp_path / "config.json") if half_cached else None
    with (
        patch("huggingface_hub.HfApi.repo_info"),
        patch(SNAPSHOT, side_effect=error),
        patch(CACHED, return_value=cached),
        pytest.raises(FileNotFoundError, match="fetching it from the hub failed") as caught,
    ):
        HookedMamba.from_pretrained("someone/model")
    assert said in str(caught.value)
    assert ("is incomplete: its weights, or some of their shards, are missing" in str(caught.value)) == half_cached


def test_a_complete_copy_in_the_cache_is_read_with_a_warning_that_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    with (
        patch("huggingface_hub.HfApi.repo_info", side_effect=HttpError(502)),
        patch(CACHED, return_value=str(tmp_path / "config.json")),
        caplog.at_level(logging.WARNING, logger="diffmamba_interp"),
    ):
        assert_same(HookedMamba.from_pretrained("someone/model"), model)
    assert "the hub could not be asked (HTTP 502: Server said no" in caplog.text


def test_a_cache_whose_reference_is_missing_says_so(tmp_path: Path) -> None:
    (tmp_path / "models--someone--model" / "snapshots" / "0123abc").mkdir(parents=True)
    with (
        patch("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path)),
        pytest.raises(FileNotFoundError, match="holds 0123abc, but no refs/main .* give one of these with revision="),
    ):
        HookedMamba.from_pretrained("someone/model")


def test_a_cache_without_all_shards_is_no_copy(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size=4000)
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with (
        patch("huggingface_hub.HfApi.repo_info", side_effect=HttpError(500)),
        patch(CACHED, return_value=str(tmp_path / "config.json")),
        pytest.raises(FileNotFoundError, match=r"HTTP 500: .* is incomplete"),
    ):
        HookedMamba.from_pretrained("someone/model")


def test_a_repository_without_weights_that_are_read_lists_what_it_holds() -> None:
    siblings = [Mock(rfilename=name) for name in ("config.json", "model.Q4_K_M.gguf")]
    with (
        patch("huggingface_hub.HfApi.repo_info", return_value=Mock(siblings=siblings)),
        pytest.raises(
            FileNotFoundError, match="no weights of a kind that is read here: config.json, model.Q4_K_M.gguf"
        ),
    ):
        HookedMamba.from_pretrained("someone/model")
