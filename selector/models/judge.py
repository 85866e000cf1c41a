"""Questions to a language model behind an OpenAI-compatible address (vLLM, Ray Serve): what is asked over a network.

What it answered is kept below the root, by the question: so it outlives the ratings that are made of it, and a run that
was killed, or is repeated with another policy, asks nothing twice. What failed is not kept. All workers share one limit
of questions a minute, which lies below the root too.
"""

import functools
import hashlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.message import Message
from typing import Any, cast

from selector.engine import alive
from selector.errors import PolicyError, UnreachableError, without_secrets
from selector.storage import Storage

FOLDER = "judged/"
"""Begins the keys of what was answered, and of the limits. No garbage: only whoever owns the root removes it."""

_LONGEST_WAIT = 60.0  # seconds
_FIRST_WAIT = 0.5
_MOST_AHEAD = 600.0  # seconds that turns are given away for
_FEW = 16  # questions: where none of so many is answered, it is not the questions' fault
_FATAL = {401: "refuses the key", 403: "refuses the key", 404: "has no such path or model", 405: "is no such server"}
_OF_THE_QUESTION = (400, 413, 422)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a model is asked: all of it decides the answers, and nothing else does."""

    model: str
    user: str
    system: str = ""
    num_answers: int = 1
    temperature: float = 0.0
    most_tokens: int = 8  # of an answer

    def body(self) -> dict[str, Any]:
        """The request, as JSON."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": self.user}],
            "n": self.num_answers,
            "temperature": self.temperature,
            "max_tokens": self.most_tokens,
        }

    @property
    def key(self) -> str:
        """Where its answers are kept."""
        digest = hashlib.sha256(json.dumps(self.body(), sort_keys=True).encode()).hexdigest()
        return f"{FOLDER}{digest[:2]}/{digest}.json"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A question that was not answered, and why."""

    reason: str


Answers = tuple[str, ...] | Failure


@dataclass(frozen=True, kw_only=True)
class Client:
    """Asks a server at an address, such as http://localhost:8000/v1, and keeps its answers."""

    address: str
    storage: Storage | None = None  # None: nothing is kept, and nobody else asks
    per_minute: float | None = None  # questions of all workers together
    parallel: int = 8  # questions of this worker at a time
    retries: int = 5
    timeout: float = 120.0  # seconds for an answer
    key_variable: str = "OPENAI_API_KEY"  # the environment variable with the key, if the server wants one

    def check(self) -> None:
        """Raises UnreachableError where nobody answers at the address."""
        self._tried(urllib.request.Request(f"{self._base}/models", headers=self._headers), until_answered=True)

    def answers(self, questions: Sequence[Question]) -> list[Answers]:
        """The answers to each question, in their order; what is known is not asked again, nor is a question twice.

        Raises UnreachableError where the server is not there, refuses the key, or answers none of many.
        """
        different = list(dict.fromkeys(questions))
        known = {question: self._kept(question) for question in different}
        unknown = [question for question in different if known[question] is None]
        with ThreadPoolExecutor(max(1, min(self.parallel, len(unknown)))) as pool:
            waiting = {pool.submit(self._ask, question): question for question in unknown}
            try:
                for done in as_completed(waiting):
                    known[waiting[done]] = done.result()
                    alive.sign()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self._last.clear()
        self._last.update({question: cast(Answers, answer) for question, answer in known.items()})
        failures = [answer for answer in known.values() if isinstance(answer, Failure)]
        if len(unknown) >= _FEW and len(failures) == len(unknown):
            raise UnreachableError(
                f"The judge at {without_secrets(self.address)} answered none of {len(unknown)} questions:"
                f" {failures[0].reason}. What it answered before is kept: the same command goes on."
            )
        return [cast(Answers, known[question]) for question in questions]

    def known(self, questions: Sequence[Question]) -> list[Answers]:
        """What is known of each question: nobody is asked."""
        unknown = Failure(reason="it was not answered")
        return [self._last.get(question) or self._kept(question) or unknown for question in questions]

    @functools.cached_property
    def _last(self) -> dict[Question, Answers]:
        """What came of the questions that were asked last."""
        return {}

    def _kept(self, question: Question) -> Answers | None:
        data = self.storage.get(question.key) if self.storage is not None else None
        if data is None:
            return None
        try:
            return tuple(str(text) for text in json.loads(data)["answers"])
        except (ValueError, KeyError, TypeError):  # it is not what we wrote
            return None

    def _ask(self, question: Question) -> Answers:
        request = urllib.request.Request(
            f"{self._base}/chat/completions", json.dumps(question.body()).encode(), self._headers, method="POST"
        )
        data = self._tried(request)
        if isinstance(data, Failure):
            return data
        texts = _texts(data)
        assert texts is not None, "a reply without an answer was tried again"
        if self.storage is not None:
            self.storage.put_if_absent(question.key, json.dumps({"answers": texts, "asked": question.body()}).encode())
        return texts

    def _tried(self, request: urllib.request.Request, *, until_answered: bool = False) -> bytes | Failure:
        """The reply, of a question one with an answer in it; what may go by itself is tried again."""
        reason = ""
        for attempt in range(self.retries + 1):
            self._limit.wait()
            wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    data = reply.read()
                if until_answered or _texts(data) is not None:
                    return data
                reason = f"its reply has no answer in it: {data[:200]!r}"
            except urllib.error.HTTPError as error:
                with error:
                    detail = _shortened(error.read())
                if error.code in _FATAL and not (until_answered and error.code in (404, 405)):
                    raise self._unreachable(f"{_FATAL[error.code]} ({error.code}: {detail})") from error
                if until_answered and error.code < 500 and error.code != 429:
                    return b""  # somebody is there
                if error.code in _OF_THE_QUESTION:
                    return Failure(reason=f"the question is refused ({error.code}: {detail})")
                reason = f"{error.code}: {detail}"
                if error.code in (429, 503):
                    wait = _seconds(error.headers, wait)
                    self._limit.hold(wait)
            except TimeoutError:
                reason = f"no answer within {self.timeout:g} seconds"
            except (OSError, ValueError) as error:  # urllib's own errors are among them
                reason = str(getattr(error, "reason", error))
                if attempt == self.retries and isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                    raise self._unreachable(f"does not answer: {reason}") from error
            if attempt < self.retries:
                _sleep(wait)
        if until_answered:
            raise self._unreachable(f"does not answer: {reason}")
        return Failure(reason=reason)

    def _unreachable(self, problem: str) -> UnreachableError:
        return UnreachableError(f"The judge at {without_secrets(self.address)} {problem}.")

    @property
    def _base(self) -> str:
        return self.address.rstrip("/")

    @functools.cached_property
    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable)
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    @functools.cached_property
    def _limit(self) -> "Limit":
        name = hashlib.sha256(self._base.encode()).hexdigest()[:16]
        return Limit(storage=self.storage, key=f"{FOLDER}limits/{name}.json", per_minute=self.per_minute)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At most so many questions a minute, of all who share the object at a key; and none while a server wants peace.

    The object says when the next question may be sent, in seconds since 1970 by the clock of whoever wrote it last.
    """

    storage: Storage | None
    key: str
    per_minute: float | None

    def wait(self) -> None:
        """Returns when the next question may be sent."""
        gap = 60 / self.per_minute if self.per_minute else 0.0
        now, start = self._moved(gap, 0.0)
        if start > now:
            _sleep(start - now)

    def hold(self, seconds: float) -> None:
        """Nobody sends a question for so long."""
        self._moved(0.0, seconds)

    def _moved(self, gap: float, hold: float) -> tuple[float, float]:
        """Now, and when the caller's turn is, once that turn is taken."""
        if self.storage is None or (not gap and not hold and self.storage.get(self.key) is None):
            return 0.0, 0.0
        while True:
            data, now = self.storage.get(self.key), _clock()
            following = float(json.loads(data)["next"]) if data is not None else 0.0
            following = min(following, now + _MOST_AHEAD)  # whoever wrote it may have a clock that is ahead
            start = max(now, following)
            moved = json.dumps({"next": max(start + gap, now + hold)}).encode()
            if data is None:
                if self.storage.put_if_absent(self.key, moved):
                    return now, start
            elif data == moved or self.storage.compare_and_swap(self.key, data, moved):
                return now, start


def check_address(address: str, where: str) -> None:
    """Raises PolicyError for what is no address of a server, or has a secret in it."""
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s?#@]*)?", address):
        raise PolicyError(
            f"{where}: {without_secrets(address)!r} is no address of a server. Write http://host:port/v1, and put a key"
            " into an environment variable."
        )


def _texts(data: bytes) -> tuple[str, ...] | None:
    """The answers in a reply; None where it is no reply of this protocol, or has an answer without text."""
    try:
        reply = json.loads(data)
        texts = tuple(choice["message"]["content"] for choice in reply["choices"])
    except (ValueError, KeyError, TypeError):
        return None
    return cast(tuple[str, ...], texts) if texts and all(isinstance(text, str) for text in texts) else None


def _seconds(headers: Message, otherwise: float) -> float:
    """What a server says of how long to wait."""
    try:
        return min(max(float(headers.get("Retry-After", otherwise)), 0.0), _LONGEST_WAIT)
    except ValueError:  # a date
        return otherwise


def _shortened(data: bytes) -> str:
    return " ".join(data[:200].decode("utf-8", "replace").split())


_sleep = time.sleep
_clock = time.time
