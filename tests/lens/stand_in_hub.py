"""A hub on this machine, as far as uploading and downloading small files needs one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories by name, each with its files."""

    repos: dict[str, Files]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            self.repos.setdefault(name, {})
            return self.answer({"url": f"{self.home}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/\w+", path):
            files = json.loads(body)["files"]
            plain = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self.answer({"files": plain})
        if match := re.fullmatch(r"/api/models/(.+)/commit/\w+", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repos[match[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitOid": COMMIT, "commitUrl": f"{self.home}/{match[1]}/commit/{COMMIT}"})
        return self.answer({"error": f"POST {path}"}, 404)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/.+)?", path):
            files = [{"rfilename": name} for name in self.repos.get(match[1], {})]
            known = {"id": match[1], "sha": COMMIT, "siblings": files, "private": False, "tags": [], "downloads": 0}
            return self.answer(known if files else {"error": "no such model"}, 200 if files else 404)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            files_of = self.repos[match[1]].items()
            return self.answer([{"type": "file", "path": name, "size": len(c), "oid": "0"} for name, c in files_of])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.repos.get(match[1], {}).get(match[2])
            if content is not None:
                etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
                return self.send(content, 200, etag)
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        return self.answer({"error": f"GET {path}"}, 404)

    do_HEAD = do_GET

    @property
    def home(self) -> str:
        return f"http://{self.headers['Host']}"

    def answer(self, value: Any, code: int = 200) -> None:
        self.send(json.dumps(value).encode(), code, {"Content-Type": "application/json"})

    def send(self, content: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@contextmanager
def running() -> Iterator[tuple[str, dict[str, Files]]]:
    """The address of a hub of its own, and what it holds."""
    repos: dict[str, Files] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OwnHub", (Hub,), {"repos": repos}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repos
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
