"""Everything is imported once, before the first page is drawn, however many open the explorer at once."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from threading import Event

import pytest
from streamlit.testing.v1 import AppTest

from app.shell import starting
from tests.app.conftest import OpenApp, complaint

DRAWN_MEANWHILE = {
    "multiprocessing",
    "_plotly_utils",
    "plotly",
    "pyarrow",
    "narwhals",
    "einops",
    "packaging",
    "PIL",
    "streamlit",
    "tyro",
}
"""Packages that go on importing small modules of their own while pages are drawn, none of which imports another."""

EVERY_PAGE = """
import gc
import sys
from streamlit.testing.v1 import AppTest
from app.shell import starting

def named(app, page):
    assert not app.exception and not app.error, (page, app.error)
    print(page, *sorted(set(sys.modules) - known))


def start(**how):
    begin(**how)
    known.update(sys.modules)


finish, begin, known = starting.finish, starting.start, set()
starting.finish, starting.start = lambda: None, start
named(AppTest.from_file(sys.argv[1] + "/app/main.py", default_timeout=200).run(), "start")
print("without", *sorted({"pandas", "transformers", "app.pages_.needle.request", "scipy.stats"} - set(sys.modules)))
starting.finish, starting.start = finish, begin
starting.import_rest()
assert gc.get_freeze_count() > 100_000
known.update(sys.modules)
app = AppTest.from_file(sys.argv[1] + "/app/main.py", default_timeout=200)
choices = {"needle_length": "0", "needle_n": "2", "source": "needle", "length": "0", "swept": "lambda"}
app.query_params.update({"model": "bundled:diff-mamba2", **choices})
app.run()
for page in ("attention", "lens", "needle", "interventions", "retrieval", "session"):
    app.switch_page(f"pages_/{page}/{page}.py").run()
    named(app, page)
"""


@pytest.fixture
def not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_started", "_imported", "_complete"):
        monkeypatch.setattr(starting, name, Event())


@pytest.mark.usefixtures("not_started")
def test_those_who_come_while_the_explorer_starts_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, finish, imports = Event(), Event(), []

    def import_slowly() -> None:
        imports.append(1)
        begun.set()
        finish.wait(timeout=30)

    monkeypatch.setattr(starting, "import_everything", import_slowly)
    with ThreadPoolExecutor(3) as sessions:
        first = sessions.submit(starting.start)
        begun.wait(timeout=30)
        others = [sessions.submit(starting.start) for _ in range(2)]
        assert not any(session.done() for session in (first, *others))
        finish.set()
        for session in (first, *others):
            session.result(timeout=30)
    starting.start()
    assert len(imports) == 1


@pytest.mark.usefixtures("not_started")
def test_the_first_page_says_that_the_explorer_is_starting_and_the_next_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(starting, "import_everything", lambda: None)
    monkeypatch.setattr(starting.st, "spinner", lambda words, **_: said.append(words) or nullcontext())
    starting.start()
    starting.import_rest()
    starting.start()
    assert said == ["The explorer is starting: loading its libraries"]


@pytest.mark.usefixtures("not_started")
def test_the_rest_is_imported_once_when_a_page_was_drawn_and_the_next_page_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, finish, imports = Event(), Event(), []

    def import_slowly(module: str) -> None:
        imports.append(module)
        begun.set()
        finish.wait(timeout=30)

    monkeypatch.setattr(starting, "import_everything", lambda: None)
    monkeypatch.setattr(starting.importlib, "import_module", import_slowly)
    starting.start()
    assert imports == []
    for _ in range(2):
        starting.finish()
    begun.wait(timeout=30)
    with ThreadPoolExecutor(1) as sessions:
        second = sessions.submit(starting.start)
        assert not second.done()
        finish.set()
        second.result(timeout=30)
    # The thread of the second call has nothing left to import.
    starting.import_rest()
    assert imports == ["scipy.stats"]


@pytest.mark.usefixtures("not_started")
def test_the_start_page_alone_is_imported_for_the_first_who_opens_it_and_all_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imports: list[str] = []
    monkeypatch.setattr(starting, "import_start_page", lambda: imports.append("start page"))
    monkeypatch.setattr(starting, "import_everything", lambda: imports.append("everything"))
    starting.start(untouched=True)
    assert imports == ["start page"]
    for _ in range(2):
        starting.start(untouched=True)
    starting.import_rest()
    assert imports == ["start page", "everything"]


def test_only_the_start_page_of_which_nothing_is_asked_counts_as_untouched(
    open_app: OpenApp, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(*, untouched: bool) -> None:
        asked.append(untouched)
        raise ImportError("told enough")

    asked: list[bool] = []
    monkeypatch.setattr(starting, "start", begin)
    AppTest.from_file(project_root / "app" / "main.py").run()
    open_app(dtype="bfloat16")
    open_app("lens")
    assert asked == [True, False, False]


@pytest.mark.usefixtures("not_started")
def test_an_import_that_failed_is_tried_again_by_the_next_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("no such library")

    monkeypatch.setattr(starting, "import_everything", fail)
    for _ in range(2):
        with pytest.raises(ImportError, match="no such library"):
            starting.start()


def test_no_page_is_drawn_before_the_start(open_app: OpenApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: bool) -> None:
        raise ImportError("no such library")

    monkeypatch.setattr(starting, "start", fail)
    app = open_app()
    assert complaint(app) == "Drawing this page failed.\nno such library"
    assert len(app.title) == 0


def test_a_run_that_ends_takes_nothing_from_the_path_before_what_another_thread_looks_for(
    project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = str(Path(starting.st.__file__).parents[1])
    folder = str(project_root / "app")
    others = [entry for entry in sys.path if entry not in (folder, libraries)]
    monkeypatch.setattr(sys, "path", [*others, libraries])
    passed: list[str] = []
    ahead: list[Iterator[str]] = []

    def look(**_: bool) -> None:
        """As an import does: entry by entry, up to the one before the libraries."""
        ahead.append(iter(sys.path))
        passed.extend(islice(ahead[-1], sys.path.index(libraries)))
        raise ImportError("told enough")

    monkeypatch.setattr(starting, "start", look)
    for _ in range(2):
        AppTest.from_file(project_root / "app" / "main.py", default_timeout=60).run()
        assert libraries not in passed
        assert libraries in ahead.pop()
    assert sys.path.count(folder) == 1


def test_the_browser_loads_the_file_that_draws_figures_and_none_of_a_release_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = tmp_path / "static" / "static" / "js"
    scripts.mkdir(parents=True)
    monkeypatch.setattr(starting.st, "__file__", str(tmp_path / "__init__.py"))
    assert "of [])" in starting.load_in_browser.__wrapped__()
    for name in ("BidiComponent.D9.css", "BidiComponent.D9.js", "index.A.js"):
        (scripts / name).touch()
    script = starting.load_in_browser.__wrapped__()
    assert 'of ["BidiComponent.D9.js"])' in script


def test_what_a_file_imports_anywhere_in_it_is_among_the_imports() -> None:
    named = set(starting.named_imports(starting.APP.rglob("*.py")))
    assert ("app.pages_.needle.request", "estimate") in named
    assert ("transformers", "PreTrainedTokenizerFast") in named
    assert ("huggingface_hub.errors", "HfHubHTTPError") in named
    at_heads = set(starting.named_imports(starting.START_PAGE, in_functions=False))
    assert ("app.pages_.overview.story", "story") in at_heads
    assert ("transformers", "PreTrainedTokenizerFast") not in at_heads


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_page_imports_anything_after_the_start(project_root: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", EVERY_PAGE, str(project_root)]
    done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = {page: set(names) for page, *names in map(str.split, done.stdout.splitlines())}
    assert lines.pop("without") == {"pandas", "transformers", "app.pages_.needle.request", "scipy.stats"}
    assert {"start", "needle"} < lines.keys()
    for page, names in lines.items():
        late = {name for name in names if name.partition(".")[0] not in DRAWN_MEANWHILE}
        assert late == set(), page
