import json
import subprocess
import sys
from pathlib import Path

from diffmamba_interp.text.python_docs import MODULES, python_documents

SIDE_EFFECTS = """
import json, logging, sys, threading, warnings
warnings.simplefilter("error")
from diffmamba_interp.text.python_docs import python_documents
before = (logging.getLogger().handlers[:], threading.active_count(), sys.getrecursionlimit(), sys.path[:])
documents = list(python_documents())
after = (logging.getLogger().handlers[:], threading.active_count(), sys.getrecursionlimit(), sys.path[:])
print(json.dumps([len(documents), before == after]))
"""


def test_there_is_much_documentation_and_none_twice() -> None:
    documents = list(python_documents())
    texts = [document.text for document in documents]
    assert sum(map(len, texts)) > 500_000
    assert len(set(texts)) == len(texts)
    assert all(text.strip() for text in texts)


def test_topics_and_docstrings_are_both_there() -> None:
    by_source = {document.source: document.text for document in python_documents()}
    assert "context manager" in by_source["pydoc topic with"]
    assert "heap" in by_source["docstrings of heapq"]


def test_reading_twice_gives_the_same() -> None:
    assert list(python_documents()) == list(python_documents())


def test_every_module_belongs_to_the_standard_library() -> None:
    assert {name.split(".")[0] for name in MODULES} <= sys.stdlib_module_names


def test_importing_the_modules_changes_nothing_and_prints_nothing(project_root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SIDE_EFFECTS], cwd=project_root, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    n_documents, unchanged = json.loads(run.stdout)
    assert n_documents > 100
    assert unchanged
