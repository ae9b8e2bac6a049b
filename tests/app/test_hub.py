"""Models of the hub: named plainly, refused clearly, and never waited for long."""

import time
from pathlib import Path

import pytest

from app.shell.folders import hub_folder, hub_id
from tests.app.conftest import MODEL, OpenApp, block_tables, complaint


@pytest.mark.parametrize("name", ["hub:../../etc", "hub:", "hub:one-word", "hub:a/b/c", "hub:<script>/x"])
def test_what_is_no_hub_id_is_refused_without_asking(name: str) -> None:
    with pytest.raises(ValueError, match="is no hub id"):
        hub_folder(name, allowed=True, max_bytes=1)


def test_an_explorer_without_the_hub_says_so() -> None:
    with pytest.raises(ValueError, match="--no-hub"):
        hub_folder("hub:owner/name", allowed=False, max_bytes=1)


def test_without_a_network_the_page_says_so_within_seconds_and_lives_on(open_app: OpenApp) -> None:
    app = open_app(model="hub:owner/no-such-model")
    start = time.perf_counter()
    app.button(key="fetch_first").click().run()
    assert time.perf_counter() - start < 20
    assert "did not answer" in complaint(app)
    app.selectbox(key="model").select(MODEL).run()
    assert block_tables(app)


def test_a_model_beyond_the_budget_is_refused_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Info:
        class Sibling:
            rfilename, size = "model.safetensors", 3 * 2**30

        siblings = (Sibling,)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Info)
    with pytest.raises(ValueError, match="3.0 GiB, more than the budget of 1.0 GiB"):
        hub_folder("hub:owner/large", allowed=True, max_bytes=2**30)


def test_a_folder_of_the_hubs_cache_is_known_by_its_id() -> None:
    assert hub_id(Path("cache/models--owner--some--name/snapshots/0123abc")) == "owner/some--name"
    assert hub_id(Path("models/alternate")) is None


def test_a_link_that_names_a_model_of_the_hub_asks_before_anything_is_sent(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def hub_folder(name: str, **_: object) -> Path:
        asked.append(name)
        raise FileNotFoundError("nobody there")

    monkeypatch.setattr("app.shell.loading.hub_folder", hub_folder)
    app = open_app(model="hub:owner/name", beside="hub:owner/other")
    assert asked == []
    assert not app.error
    assert any("Nothing was sent there yet" in text.value for text in app.info)
    app.button(key="fetch_first").click().run()
    assert asked == ["hub:owner/name"]
    app.selectbox(key="model").select(MODEL).run()
    assert asked == ["hub:owner/name"]
    app.button(key="fetch_second").click().run()
    assert asked == ["hub:owner/name", "hub:owner/other"]
