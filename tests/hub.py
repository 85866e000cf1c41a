"""A hub of datasets on loopback, which answers like the one of Hugging Face: revisions, trees, and bytes by range."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_nobodyMaySeeThis51c9"


@dataclass(kw_only=True)
class Hub:
    """The commits of one dataset, `owner/name`, its branches, and what was asked."""

    commits: dict[str, Mapping[str, bytes]] = field(default_factory=dict[str, Mapping[str, bytes]])
    branches: dict[str, str] = field(default_factory=dict[str, str])
    requests: list[str] = field(default_factory=list[str])
    tokens: set[str] = field(default_factory=set[str])
    fault: Callable[[str], str] = lambda _: ""
    is_gated: bool = False
    next_at: str = ""  # another server than its own, to which its pages lead
    address: str = ""

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """The commit that has these files, to which the branch leads from now on."""
        listed = [(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items())]
        commit = hashlib.sha1(f"{len(self.commits)} {listed}".encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in its base
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._respond(json.loads(body) if body.startswith("{") else parse_qs(body))

    def _respond(self, body: Mapping[str, Any]) -> None:
        hub = self.hub
        request = f"{self.command} {self.path}"
        hub.requests.append(request)
        hub.tokens.add(self.headers.get("Authorization") or "")
        fault = hub.fault(request)
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        if fault:
            self._send(int(fault), b"")
            return
        if hub.is_gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            return
        path = unquote(urlsplit(self.path).path)
        home, rest = next(
            (home, path.removeprefix(home))
            for home in ("/api/datasets/owner/name/", "/datasets/owner/name/", "")
            if path.startswith(home)
        )
        if not home:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return
        verb, revision, *names = rest.split("/")
        commit = hub.branches.get(revision, revision)
        if commit not in hub.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        files, name = hub.commits[commit], "/".join(names)
        if verb == "revision":
            self._json({"id": "owner/name", "sha": commit, "siblings": []})
        elif verb == "tree":
            below = [one for one in files if not name or one.startswith(f"{name}/")]
            if name and not below:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                folders = sorted({one.rpartition("/")[0] for one in below} - {""})
                tree = [{"type": "directory", "path": one, "oid": "0" * 40} for one in folders]
                self._pages([*tree, *(_described(one, files[one]) for one in below)])
        elif verb == "paths-info":
            self._json([_described(one, files[one]) for one in body["paths"] if one in files])
        elif name in files:
            self._bytes(files[name])
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _bytes(self, data: bytes) -> None:
        start, _, end = (self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")
        piece = data[int(start) : int(end) + 1 if end else None]
        ending = {"Content-Range": f"bytes {start}-{int(start) + len(piece) - 1}/{len(data)}"}
        self._send(206, piece, ending)

    def _pages(self, entries: list[dict[str, Any]]) -> None:
        """A page of entries, and where the next one is."""
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        more = f"{self.hub.next_at or self.hub.address}{urlsplit(self.path).path}?recursive=true&cursor={start + 5}"
        headers = {"Link": f'<{more}>; rel="next"'} if start + 5 < len(entries) else {}
        self._send(200, json.dumps(entries[start : start + 5]).encode(), headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _described(name: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it: large ones with the sha256 of what is stored elsewhere."""
    sha256 = hashlib.sha256(data).hexdigest()
    described: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": sha256[:40]}
    return (
        described | {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 134}} if len(data) > 4096 else described
    )


@contextlib.contextmanager
def hub() -> Generator[Hub]:
    """A hub, with the environment that leads there."""
    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": served}))
    server.daemon_threads = True
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", served.address)
            patch.setenv("HF_TOKEN", TOKEN)
            yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
