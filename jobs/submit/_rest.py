"""Requests to a server of somebody else's, on the standard library: bounded in time, tried again, never redirected.

A token goes into a header and nowhere else. An answer that is not what the interface promises is an error in words.
"""

import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from selector.errors import UnreachableError, UsageError, without_secrets

_SECONDS = 20.0  # that an answer may take: Ray's job server answers after 10 that it has no agent
_TRIES = 3
_PAUSE = 0.2  # seconds before the second try, twice as many before the third
_MOST_BYTES = 64 << 20  # of an answer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> dict[str, Any]:
        """The JSON object that it is. Raises UnreachableError."""
        try:
            value = json.loads(self.body)
        except ValueError as error:
            raise UnreachableError(f"The answer is no JSON: {self.text[:200]!r}. Is it a Ray dashboard?") from error
        if not isinstance(value, dict):
            raise UnreachableError(f"The answer is no JSON object: {self.text[:200]!r}. Is it a Ray dashboard?")
        return value


def checked(address: str, example: str) -> SplitResult:
    """The parts of an address that says a host and at most a port and a path. Raises UsageError."""
    shown = without_secrets(address)
    if re.search(r"[\x00-\x20\x7f\\]", address) or not address.isascii():
        raise UsageError(f"The address {shown!r:.80} has characters that no address has. Write {example}.")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"The address {shown!r:.80} cannot be read: {error}. Write {example}.") from error
    if "@" in address:
        raise UsageError(f"The address {shown!r:.80} holds credentials. Put the token into RAY_AUTH_TOKEN.")
    if "?" in address or "#" in address:
        raise UsageError(f"The address {shown!r:.80} has a query or a fragment. Write {example}.")
    is_sound = parts.scheme in ("http", "https") and parts.hostname and port != 0
    if not is_sound or ".." in parts.path or "//" in parts.path or "%" in address:
        raise UsageError(f"The address {shown!r:.80} is not that of a server. Write {example}.")
    return parts


def token(name: str = "RAY_AUTH_TOKEN", file_name: str = "RAY_AUTH_TOKEN_PATH") -> str | None:
    """The token in the environment, or in the file that it names. Raises UsageError."""
    value = os.environ.get(name)
    path = os.environ.get(file_name)
    if not value and path:
        try:
            value = Path(path).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"{file_name} names {path!r}, which cannot be read: {error}.") from error
    value = (value or "").strip()
    if not value:
        return None
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise UsageError(f"The token in {name} or {file_name} has characters that a token cannot have.")
    return value


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server at an address."""

    parts: SplitResult

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Answer:
        """The answer to a request that may be sent twice, whatever its status, but for one that says who is not let in.
        Raises UnreachableError for no answer within the time and the tries."""
        problem: Exception | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE * 2 ** (attempt - 1))
            try:
                answer = self._ask_once(method, path, body, kind)
            except ssl.SSLError as error:
                raise UnreachableError(f"{self.shown} cannot be trusted: {error.reason or error}.") from error
            except (OSError, http.client.HTTPException) as error:
                problem = error
                continue
            if answer.status in (401, 403):
                raise UnreachableError(
                    f"{self.shown} does not let us in ({answer.status}). Put its token into RAY_AUTH_TOKEN, or its "
                    "file's path into RAY_AUTH_TOKEN_PATH."
                )
            if 300 <= answer.status < 400:
                raise UnreachableError(
                    f"{self.shown} sends us to another address, where no token of ours goes. Give that address itself."
                )
            if answer.status not in (429, 502, 503, 504):
                return answer
            problem = UnreachableError(f"it answered {answer.status}")
        reason = str(problem).rstrip(".") or type(problem).__name__
        raise UnreachableError(
            f"{self.shown} does not answer ({reason}). Is the address right, and the cluster up?"
        ) from problem

    @property
    def shown(self) -> str:
        return f"{self.parts.scheme}://{self.parts.netloc}{self.parts.path}"

    def _ask_once(self, method: str, path: str, body: bytes | None, kind: str) -> Answer:
        secret = token()
        headers: Mapping[str, str] = {
            **({"Content-Type": kind} if body is not None else {}),
            **({"Authorization": f"Bearer {secret}"} if secret else {}),
        }
        cls = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        connection = cls(self.parts.hostname or "", self.parts.port, timeout=_SECONDS)
        try:
            connection.request(method, f"{self.parts.path.rstrip('/')}{path}", body, dict(headers))
            response = connection.getresponse()
            data = response.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                data = data[:_MOST_BYTES]
            return Answer(status=response.status, body=data)
        finally:
            connection.close()
