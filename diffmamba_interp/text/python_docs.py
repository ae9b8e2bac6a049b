"""The documentation that every Python installation carries: language topics and docstrings.

Text for a first try without any download. It differs between Python versions, so nothing that must be
comparable across machines may be measured on it; record `TextSource.sha256`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from types import ModuleType

from diffmamba_interp.text.documents import Document

# Written in Python, present on every platform, and without effect when imported.
MODULES = (
    *("abc", "argparse", "ast", "base64", "bisect", "calendar", "cmd", "codecs", "collections"),
    *("collections.abc", "colorsys", "configparser", "contextlib", "copy", "csv", "dataclasses"),
    *("datetime", "decimal", "difflib", "dis", "email.message", "email.policy", "enum", "filecmp"),
    *("fnmatch", "fractions", "functools", "getopt", "gettext", "glob", "graphlib", "gzip", "hashlib"),
    *("heapq", "hmac", "html.parser", "http.client", "http.cookiejar", "imaplib", "inspect", "io"),
    *("ipaddress", "json", "json.decoder", "json.encoder", "keyword", "linecache", "locale", "logging"),
    *("logging.handlers", "mailbox", "mimetypes", "numbers", "operator", "optparse", "os", "pathlib"),
    *("pickle", "pickletools", "pkgutil", "platform", "plistlib", "pprint", "profile", "pstats"),
    *("pydoc", "queue", "random", "reprlib", "sched", "secrets", "selectors", "shelve", "shlex"),
    *("shutil", "smtplib", "socket", "socketserver", "statistics", "string", "struct", "subprocess"),
    *("sysconfig", "tarfile", "tempfile", "textwrap", "threading", "timeit", "token", "tokenize"),
    *("trace", "traceback", "types", "unittest", "unittest.case", "unittest.mock"),
    *("urllib.parse", "urllib.request", "urllib.robotparser", "uuid", "warnings", "wave", "weakref"),
    *("xml.dom.minidom", "xml.etree.ElementTree", "xml.sax.handler", "xmlrpc.client", "zipfile"),
)
_MIN_CHARS = 80


def python_documents() -> Iterator[Document]:
    """The language topics, then the docstrings of the standard library, one document a topic or module.

    A topic with two names comes once; a module that this Python lacks is left out.
    """
    from pydoc_data.topics import topics

    told: set[str] = set()
    for name in sorted(topics):
        text = topics[name].strip()
        if text not in told:
            told.add(text)
            yield Document(text, f"pydoc topic {name}")
    for name in MODULES:
        if importlib.util.find_spec(name) is None:
            continue
        text = "\n\n".join(_docstrings(importlib.import_module(name)))
        if text:
            yield Document(text, f"docstrings of {name}")


def _docstrings(module: ModuleType) -> Iterator[str]:
    """The longer docstrings of a module, its own functions and classes, and their methods, by name."""
    seen: set[str] = set()
    members = [module, *(value for _, value in _own_members(module, module.__name__))]
    for member in members:
        parts = [member]
        if inspect.isclass(member):
            parts += [value for _, value in _own_members(member, module.__name__)]
        for part in parts:
            raw = getattr(part, "__doc__", None)
            # A class with a slot called __doc__ has a descriptor there.
            text = inspect.cleandoc(raw) if isinstance(raw, str) else ""
            if len(text) >= _MIN_CHARS and text not in seen:
                seen.add(text)
                yield text


def _own_members(owner: object, module_name: str) -> list[tuple[str, object]]:
    return [
        (name, value)
        for name, value in sorted(vars(owner).items())
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module_name
    ]
