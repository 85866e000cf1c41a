"""An S3 on loopback (moto), and a proxy before it that does to requests what networks and servers do."""

import contextlib
import http.client
import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from selector.storage import open_storage

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-may-see-51c9",
    "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
}  # fmt: skip


@dataclass(kw_only=True)
class Proxy:
    """What came by, and what is to go wrong with the next requests of some kind."""

    upstream: tuple[str, int]
    port: int = 0
    requests: list[str] = field(default_factory=list[str])
    num_bytes: int = 0  # of answers that were passed on
    fault: Callable[[str, int], str] = lambda *_: ""  # by "METHOD path" and how many of it came before
    ignores_conditions: bool = False
    stall: float = 30.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, folder: Path, prefix: str) -> str:
        """The address under which the files of a folder lie in the bucket from now on."""
        bucket = open_storage("s3://bucket")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                bucket.ensure(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://bucket/{prefix}"


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as in its base
        """Nothing on stderr."""

    def _pass_on(self) -> None:
        proxy = self.proxy
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        with proxy.lock:
            request = f"{self.command} {self.path}"
            number = sum(one == request for one in proxy.requests)
            proxy.requests.append(request)
        fault = proxy.fault(request, number)
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        if fault == "stall":
            time.sleep(proxy.stall)
        if fault[:3].isdigit():
            status, _, code = fault.partition(" ")
            error = f"<Error><Code>{code or 'SlowDown'}</Code><Message>in words</Message></Error>"
            self._answer(int(status), {}, error.encode())
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        if proxy.ignores_conditions:
            headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
        connection = http.client.HTTPConnection(*proxy.upstream, timeout=60)
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        data = response.read()
        proxy.num_bytes += len(data)
        connection.close()
        if fault == "lost":
            self.close_connection = True
            self.connection.close()
            return
        kept = {name: value for name, value in response.getheaders() if name.lower() not in ("connection", "date")}
        if fault == "truncated" and data:
            self.close_connection = True
            self._answer(response.status, kept | {"Content-Length": str(len(data))}, data[: len(data) // 2])
            self.connection.close()
            return
        self._answer(response.status, kept, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        lengths = {name for name in headers if name.lower() in ("content-length", "transfer-encoding")}
        length = next((headers[name] for name in headers if name.lower() == "content-length"), str(len(data)))
        for name, value in headers.items():
            if name not in lengths:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - as its base calls them


@contextlib.contextmanager
def s3() -> Generator[Proxy]:
    """A bucket called `bucket` behind a proxy, with the environment that leads there."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    proxy = Proxy(upstream=(host, port))
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    front = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    front.daemon_threads = True
    proxy.port = front.server_address[1]
    thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy.address}.items():
                patch.setenv(name, value)
            connection = http.client.HTTPConnection(host, port, timeout=60)
            connection.request("PUT", "/bucket")
            assert connection.getresponse().status == 200
            connection.close()
            yield proxy
    finally:
        front.shutdown()
        front.server_close()
        thread.join()
        server.stop()
