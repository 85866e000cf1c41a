"""A server that answers like an OpenAI-compatible one, or misbehaves as a test tells it to."""

import json
import re
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Mapping[str, str], bytes]


def more_numbers(question: str) -> str:
    """Prefers the excerpt with more digits in it, and the first one of two with as many."""
    first, second = (len(re.findall(r"\d", text)) for text in re.findall(r"<<<\n(.*?)\n>>>", question, re.DOTALL))
    return "B" if second > first else "A"


@dataclass(kw_only=True)
class Server:
    """What it was asked, and how it answers."""

    address: str = ""
    answer: Callable[[str], str] = more_numbers
    faults: list[Reply | None] = field(default_factory=list[Reply | None])  # of the next questions; None: it answers
    questions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: set[str | None] = field(default_factory=set[str | None])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any]) -> Reply:
        with self.lock:
            self.questions.append(body)
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            return fault
        choice = {"message": {"role": "assistant", "content": self.answer(body["messages"][-1]["content"])}}
        return 200, {}, json.dumps({"choices": [choice] * body["n"]}).encode()


@contextmanager
def judge_server() -> Generator[Server]:
    """A server on this machine, for as long as the context lasts."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send((200, {}, b'{"data": []}'))

        def do_POST(self) -> None:
            server.keys.add(self.headers.get("Authorization"))
            self._send(server.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, reply: Reply) -> None:
            status, headers, data = reply
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (so it is called there)
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        server.address = f"http://127.0.0.1:{running.server_address[1]}/v1"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()
