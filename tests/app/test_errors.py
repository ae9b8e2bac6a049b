"""Whatever goes wrong, a page says so in words of ours, with what to do; Streamlit's own box is never drawn."""

import json
import re
import shutil
from pathlib import Path

import pytest
import streamlit as st
import torch
from streamlit.runtime.scriptrunner import StopException

from app.shell.errors import LESS_MEMORY, OWN_FAULT, in_words
from diffmamba_interp.implicit_attention.selection import MemoryLimitError
from diffmamba_interp.lens.folders import demo_lens_folder
from tests.app.conftest import IDS, OpenApp, charts, complaint, texts

PAGES = ("overview", "attention", "lens", "needle", "interventions", "retrieval", "session")
ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: 80000 bytes."


def fails_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every page fail before it draws anything, outside of the blocks that show errors."""

    def raise_(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(st, "title", raise_)


@pytest.mark.parametrize("page", PAGES)
def test_a_fault_of_ours_is_told_on_every_page(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, page: str
) -> None:
    fails_with(KeyError("lost"), monkeypatch)
    app = open_app(page)
    assert "KeyError: 'lost'" in complaint(app)
    assert texts(app.info) == [OWN_FAULT]
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("error", "words", "advice"),
    [
        (RuntimeError(ALLOCATOR), "not enough memory", LESS_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory", LESS_MEMORY),
        (MemoryError(), "not enough memory", LESS_MEMORY),
        (MemoryLimitError("the map", 9 << 20, 8 << 20, "Give rows="), "the map would take about 9 MiB; a", LESS_MEMORY),
        (RuntimeError("shapes differ"), "RuntimeError: shapes differ", OWN_FAULT),
        (ImportError("cannot import name 'x'"), "cannot import name 'x'", None),
        (PermissionError(13, "Permission denied", "weights"), "no permission for weights", None),
        (ValueError("the lens is of another model"), "the lens is of another model", None),
    ],
)
def test_every_kind_of_error_is_shown_with_what_to_do(
    open_app: OpenApp, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str, advice: str | None
) -> None:
    fails_with(error, monkeypatch)
    app = open_app()
    assert words in complaint(app)
    assert texts(app.info) == ([] if advice is None else [advice])


def test_an_error_without_words_is_given_some() -> None:
    assert "not enough memory" in in_words(MemoryError())
    assert in_words(ValueError()) == "ValueError"


def test_a_library_limit_is_told_without_the_library_own_words() -> None:
    said = in_words(MemoryLimitError("the map", 9 << 20, 8 << 20, "Give rows="))
    assert said == "the map would take about 9 MiB; a page takes at most 8 MiB at a time."
    assert "max_bytes" in str(MemoryLimitError("the map", 9, 8, "Give rows="))


def test_what_streamlit_stops_a_page_with_is_no_error(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    fails_with(StopException(), monkeypatch)
    app = open_app()
    assert not app.exception
    assert texts(app.error) == []


@pytest.mark.parametrize(("page", "view"), [("attention", "heads"), ("lens", "positions")])
def test_a_click_that_cannot_be_read_is_told(open_app: OpenApp, page: str, view: str) -> None:
    app = open_app(page, ids=IDS, view=view)
    clicked = app._tree.get_widget_states()
    told = [{"event": "selection", "value": {"points": [{}]}}]
    click = f"$$STREAMLIT_INTERNAL_KEY_{charts(app)[0].proto.id}__events"
    clicked.widgets.add(id=click, json_trigger_value=json.dumps(told))
    app._run(clicked)
    assert "KeyError" in complaint(app)


@pytest.mark.parametrize(("page", "key"), [("lens", "lens"), ("needle", "needle_lens"), ("interventions", "lens")])
def test_a_lens_of_another_model_of_the_same_size_is_refused_on_every_page(
    open_app: OpenApp, tmp_path: Path, page: str, key: str
) -> None:
    shutil.copytree(demo_lens_folder("mamba2"), tmp_path / "plain")
    needle = {"needle_length": "0", "needle_n": "1", "needle_attention": "False", "beside": "none"}
    app = open_app(page, at_root=tmp_path, **{"model": "bundled:diff-mamba2", **needle, key: "plain"})
    assert re.search("^the lens in .* another", complaint(app), re.MULTILINE)
    assert texts(app.info) == []
