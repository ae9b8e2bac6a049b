"""The explorer without a browser: pages run in this process, and what they draw is read back."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from app.shell.plotly_element import NAME
from app.shell.starting import MEMORY_VARIABLE, ROOT_VARIABLE

MODEL = "models/alternate"
IDS = "5 17 42 8 5 17 42 8 60 5 17"

WORDS = ["[unk]", "the", "keys", "are", "in", "red", "<b>", '<img/src="x"onerror="window.harm=1">']

OpenApp = Callable[..., AppTest]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, fixtures_dir: Path) -> Path:
    """A root folder with two models below it, and one beside it that must stay closed."""
    outside = tmp_path_factory.mktemp("around")
    for name in ("alternate", "all"):
        shutil.copytree(fixtures_dir / "published_diffmamba2" / name, outside / "shown" / "models" / name)
    shutil.copytree(fixtures_dir / "published_diffmamba2" / "all", outside / "secret")
    return outside / "shown"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Whole words between blanks."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[unk]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    return made


@pytest.fixture(scope="session")
def worded(root: Path, tokenizer: Tokenizer) -> str:
    """A model below the root that has a tokenizer."""
    shutil.copytree(root / MODEL, root / "worded", dirs_exist_ok=True)
    tokenizer.save(str(root / "worded" / "tokenizer.json"))
    return "worded"


@pytest.fixture
def open_app(root: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenApp]:
    """`open_app("attention", block="2")`: the page, opened with such an address, in a fresh process' state."""

    def open_(page: str = "overview", *, memory_gib: float = 1.0, at_root: Path = root, **query: str) -> AppTest:
        monkeypatch.setenv(ROOT_VARIABLE, str(at_root))
        monkeypatch.setenv(MEMORY_VARIABLE, str(memory_gib))
        app = AppTest.from_file(project_root / "app" / "main.py", default_timeout=60)
        app.query_params.update({"model": MODEL, **query})
        return (app if page == "overview" else app.switch_page(f"pages_/{page}/{page}.py")).run()

    # How fast the machine is decides what a page runs at once; measuring it for every test takes longer than the page.
    monkeypatch.setattr("app.shell.estimates._seconds", lambda run: 1e-3)
    monkeypatch.setattr("app.shell.downloads.OPEN", True)
    # For every app that is opened Streamlit would read the metadata of all installed packages.
    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", list)
    st.cache_resource.clear()
    st.cache_data.clear()
    yield open_
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture(scope="session")
def address(project_root: Path, root: Path) -> Iterator[str]:
    """Where the explorer answers, one server for all tests in a browser."""
    from tests.app.browser import served

    with served(project_root, root) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    from tests.app.browser import CHROMIUM, CHROMIUM_ARGUMENTS

    with sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield made
        made.close()


def texts(elements: Any) -> list[str]:
    return [element.value for element in elements]


def complaint(app: AppTest) -> str:
    """The words of the only error box; no box that Streamlit draws for an exception is there."""
    assert not app.exception
    assert len(app.error) == 1
    return "\n".join([app.error[0].value, *texts(app.code)])


def drawn(app: AppTest) -> dict[str, Any]:
    """The page's only figure as JSON values, arrays decoded."""
    (figure,) = figures(app)
    return figure


def figures(app: AppTest) -> list[dict[str, Any]]:
    """All figures of the page, as `drawn`; each has a name in words, and its legend stands where it can be seen."""
    assert not app.exception
    assert texts(app.error) == []
    specs = [json.loads(spec(chart), object_hook=_decoded) for chart in charts(app)]
    for layout in (one["layout"] for one in specs):
        assert len(layout["meta"]["label"]) > len("Chart")
        if layout.get("showlegend") and layout["legend"].get("yref") == "container":
            assert 0 <= layout["legend"].get("y", 1) <= 1
    return specs


def charts(app: AppTest) -> list[Any]:
    """The page's figures as Streamlit's elements."""
    return [element for element in app.get("bidi_component") if element.proto.component_name == NAME]


def spec(chart: Any) -> str:
    """A figure of `charts` as the browser gets it, JSON."""
    return json.loads(chart.proto.json)["figure"]


def headline(app: AppTest, at: int = 0) -> str:
    """The words above the page's figures, without their markup. at: which, where there are several."""
    found = [e.proto.body for e in app.get("html") if 'class="headline"' in e.proto.body]
    return html.unescape(re.sub(r"<[^>]*>", " ", found[at]).replace("  ", " ")).replace("( ", "(")


def captions(app: AppTest) -> list[str]:
    """What stands small on the page, with words that explain themselves or without."""
    return texts(app.caption) + notes(app)


def notes(app: AppTest) -> list[str]:
    """The notes below figures, without their markup."""
    bodies = [element.proto.body for element in app.get("html") if 'class="note"' in element.proto.body]
    return [html.unescape(re.sub(r"<[^>]*>", "", body)) for body in bodies]


def links(app: AppTest) -> list[Any]:
    """The links to other pages, without the side bar's."""
    return [element.proto for element in app.get("page_link")]


def tables(app: AppTest, column: str = "") -> list[dict[str, list[str]]]:
    """The page's tables, each cell as it is read, by columns. column: that they have."""
    return [table for element in app.get("html") if (table := columns(element.proto.body)) and column in ["", *table]]


def columns(body: str) -> dict[str, list[str]]:
    """A table's columns; nothing where there is no table."""
    if "<table>" not in body:
        return {}
    head, *lines = ElementTree.fromstring(body).iter("tr")
    cells = [["".join(cell.itertext()) for cell in line] for line in lines]
    return {"".join(name.itertext()): list(column) for name, column in zip(head, zip(*cells, strict=True), strict=True)}


def block_tables(app: AppTest) -> list[dict[str, list[str]]]:
    """The tables of blocks, one per model."""
    return tables(app, "kind")


def run_code(app: AppTest) -> dict[str, Any]:
    """The names that the page's "copy as Python" leaves behind when it is run."""
    (code,) = [element.value for element in app.code if element.language == "python"]
    made: dict[str, Any] = {}
    exec(compile(code, "copied", "exec"), made)
    return made


def _decoded(value: dict[str, Any]) -> Any:
    if "bdata" not in value:
        return value
    array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
    return array.reshape([int(size) for size in str(value.get("shape", array.size)).split(",")])
