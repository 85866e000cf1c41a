"""What the storages of a cloud have in common: objects in a bucket, written on conditions, over a network that fails.

Every request is tried again for a while, by us and not by the library, since what a second try means depends on the
first: an object that is there after an answer was lost may be our own. So what is unclear is settled by reading.
Credentials come from the environment, as each cloud's own tools read them, and are never part of an address.
"""

import abc
import contextlib
import datetime
import functools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

from selector import counts
from selector.errors import UnreachableError, UsageError, line_of
from selector.storage import Entry, Stale, Storage, _patience
from selector.storage._aside import asked_aside, used_here

Answer = TypeVar("Answer")

_SMALL = 64 * 2**10  # bytes of an object that is rather written again than compared
_LARGE = 16 * 2**20  # bytes of an object that is read in pieces, and that has more time to be written
_PIECE, _PIECES_AT_ONCE = 8 * 2**20, 8
_SLOWEST = 2**20  # bytes a second of a network that is good enough to write a large object over
_AT_ONCE = 32  # requests of `get_many`
_IS_THERE = r"status code: 412|BlobAlreadyExists"  # in the error of a create; another 409 asks for another try
_NAME = re.compile(r"[A-Za-z0-9._=+,!()' -]{1,255}")


_NOT_LET_IN = r"NoSuchBucket|AccessDenied|InvalidAccessKey|Signature|/169\.254\.169\.254/|incorrectly configured region"
"""Words of errors by which another try is of no use. The address is asked for credentials where there are none."""

_HALF_SENT = r"RequestTimeout<|IncompleteBody|BadDigest|SHA256Mismatch"
"""Words of a refusal (400) that is about bytes which did not arrive as they were sent."""

_CURES = {
    r"[Ee]xpired": "Renew the credentials in the environment, and run the same command again: what is finished is kept",
    r"TimeTooSkewed": "Set this machine's clock",
    r"region|Region|PermanentRedirect|AuthorizationHeaderMalformed": "Set AWS_REGION to where the bucket is",
    r"/169\.254\.169\.254/": "There are no credentials in the environment: set them, e.g. AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY",
    "": "Check the bucket's name, what the credentials in the environment allow, and whether they have expired",
}
"""What to do about a refusal, by its words."""


class ObjectStorage(Storage):
    """Objects in a bucket, below a prefix."""

    scheme: str
    is_far: ClassVar[bool] = True

    def __init__(self, path: str) -> None:
        bucket, _, prefix = path.partition("/")
        names = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
        is_sound = re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,254}", bucket) is not None
        if not is_sound or any(name in (".", "..") or not _NAME.fullmatch(name) for name in names):
            raise UsageError(
                f"The address {f'{self.scheme}://{path}'!r:.120} is not that of a bucket and a folder in it. Write "
                f"{self.scheme}://bucket/runs."
            )
        self.bucket, self.prefix = bucket, "/".join(names)

    @abc.abstractmethod
    def open_bucket(self, **options: Any) -> Any:
        """The bucket as obstore knows it, with credentials of the environment."""

    def __getstate__(self) -> dict[str, str]:
        return {"bucket": self.bucket, "prefix": self.prefix}  # a connection is not sent to workers

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__getstate__() == self.__getstate__()

    def __hash__(self) -> int:
        return hash((self.scheme, self.bucket, self.prefix))

    @property
    def address(self) -> str:
        return f"{self.scheme}://{self.bucket}{f'/{self.prefix}' if self.prefix else ''}"

    @functools.cached_property
    def _store(self) -> Any:
        return self._opened(_patience.TRY)

    def _opened(self, seconds: float) -> Any:
        """The bucket, each request to which has so many seconds."""
        used_here()
        try:
            return self.open_bucket(
                prefix=self.prefix or None,
                client_options={
                    "timeout": datetime.timedelta(seconds=seconds),
                    "connect_timeout": datetime.timedelta(seconds=5),
                    "allow_http": True,  # where the environment names such an endpoint
                },
                retry_config={"max_retries": 0, "retry_timeout": datetime.timedelta(seconds=seconds)},
            )
        except ImportError as error:
            raise UsageError(
                f"{self.address} needs the package obstore. Type: pip install 'selector[objects]'"
            ) from error
        except _errors().BaseError as error:
            raise UsageError(f"{self.address} cannot be used: {line_of(error)}.") from error

    @asked_aside
    def get(self, key: str) -> bytes | None:
        answer = self._get(key)
        return None if answer is None else answer[0]

    def _get(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """The object's bytes, and what the storage says of it."""
        import obstore

        def read() -> tuple[bytes | None, dict[str, Any]]:
            answer = obstore.get(self._store, key)
            if answer.meta["size"] > _LARGE:
                return None, dict(answer.meta)
            data = bytes(answer.bytes())
            if len(data) != answer.meta["size"]:
                raise _Unclear(f"{len(data)} of {answer.meta['size']} bytes came")
            return data, dict(answer.meta)

        try:
            data, meta = self._tried(read, key)
            return self._in_pieces(_entry(key, meta), 0, meta["size"]) if data is None else data, meta
        except FileNotFoundError:
            return None

    def _in_pieces(self, entry: Entry, start: int, length: int) -> bytes:
        """So many bytes of a large object, several pieces of it at a time."""
        starts = range(start, start + length, _PIECE)
        lengths = [min(_PIECE, start + length - at) for at in starts]
        with ThreadPoolExecutor(_PIECES_AT_ONCE) as threads:
            try:
                return b"".join(threads.map(self.get_of, [entry] * len(lengths), starts, lengths))
            except Stale as error:
                raise UnreachableError(f"{self.address}: {entry.key} was changed as it was read. {_CURE}") from error

    @asked_aside
    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        if len(keys) < 2:
            return [self.get(key) for key in keys]
        with ThreadPoolExecutor(min(_AT_ONCE, len(keys))) as threads:
            return list(threads.map(self.get, keys))

    @asked_aside
    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        import obstore

        if length <= 0:
            return b"" if self._size(key) is not None else None
        if length > _LARGE:
            entry = self.entry(key)
            return None if entry is None else self._in_pieces(entry, start, min(length, entry.num_bytes - start))
        try:
            return self._tried(lambda: bytes(obstore.get_range(self._store, key, start=start, length=length)), key, 2)
        except FileNotFoundError:
            return None
        except UnreachableError:  # past its end, or the storage does not answer: which of them, reading tells
            data = self.get(key)
            return None if data is None else data[start : start + length]

    @asked_aside
    def put_if_absent(self, key: str, data: bytes) -> bool:
        import obstore

        is_unclear = False
        more = len(data) / _SLOWEST if len(data) > _LARGE else 0.0
        store = self._opened(_patience.TRY + more) if more else self._store
        until = time.monotonic() + _patience.SECONDS + more
        for pause in (*_patience.PAUSES, None):
            try:
                counts.add(counts.REQUESTS)
                obstore.put(store, key, data, mode="create", use_multipart=False)
                return True
            except _errors().AlreadyExistsError as error:
                if is_unclear:
                    stored = self.get(key)
                    if stored is not None:
                        return stored == data
                elif re.search(_IS_THERE, str(error)) or self._size(key) is not None:
                    return False
                # Or else the storage asks for another try (409), and the object is not there.
            except (FileNotFoundError, _errors().BaseError) as error:
                self._check_final(error, pause, until)
                is_unclear = True
            if pause is None:
                break
            time.sleep(pause)
        raise UnreachableError(f"{self.address} refuses to create {key}, which is not there. {_CURE}")

    @asked_aside
    def compare_and_swap(self, key: str, expected: bytes, data: bytes) -> bool:
        import obstore

        is_unclear = False
        until = time.monotonic() + _patience.SECONDS
        for pause in (*_patience.PAUSES, None):
            answer = self._get(key)
            if answer is None:
                return False
            stored, meta = answer
            if stored != expected:
                return is_unclear and stored == data
            version = {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
            try:
                counts.add(counts.REQUESTS)
                obstore.put(self._store, key, data, mode=version, use_multipart=False)  # pyright: ignore[reportArgumentType]
                return True
            except (_errors().PreconditionError, _errors().AlreadyExistsError):
                pass  # somebody else was first, or the storage wants it asked again: reading tells
            except (FileNotFoundError, _errors().BaseError) as error:
                self._check_final(error, pause, until)
                is_unclear = True
            if pause is None:
                break
            time.sleep(pause)
        raise UnreachableError(f"{self.address} refuses to change {key}, which nobody else changes. {_CURE}")

    @asked_aside
    def ensure(self, key: str, data: bytes) -> None:
        import obstore

        if len(data) > _SMALL:  # to read what is there is cheaper, and mostly it is not
            super().ensure(key, data)
        else:
            self._tried(lambda: obstore.put(self._store, key, data, use_multipart=False), key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for entry in self.entries(prefix):
            yield entry.key, entry.num_bytes

    def entries(self, prefix: str) -> Iterator[Entry]:
        assert prefix == "" or prefix.endswith("/"), prefix
        yield from self._entries(prefix)

    @asked_aside
    def _entries(self, prefix: str) -> Sequence[Entry]:
        import obstore

        def read() -> list[Entry]:
            chunks = obstore.list(self._store, prefix.rstrip("/") or None)
            return sorted(_entry(meta["path"], meta) for chunk in chunks for meta in chunk)

        return self._tried(read, prefix)

    @asked_aside
    def keys_if_few(self, prefix: str, most: int) -> set[str] | None:
        import obstore

        def read() -> set[str] | None:
            keys: set[str] = set()
            for chunk in obstore.list(self._store, prefix.rstrip("/") or None, chunk_size=1000):
                keys |= {meta["path"] for meta in chunk}
                if len(keys) > most:
                    return None
            return keys

        return self._tried(read, prefix)

    @asked_aside
    def entry(self, key: str) -> Entry | None:
        import obstore

        try:
            return _entry(key, self._tried(lambda: obstore.head(self._store, key), key))
        except FileNotFoundError:
            return None

    @asked_aside
    def get_of(self, entry: Entry, start: int, length: int) -> bytes:
        import obstore

        length = min(length, entry.num_bytes - start)
        if length <= 0:
            return b""
        options: Any = {"if_match": entry.version, "range": (start, start + length)}

        def read() -> bytes:
            data = bytes(obstore.get(self._store, entry.key, options=options).bytes())
            if len(data) != length:
                raise _Unclear(f"{len(data)} of {length} bytes came")
            return data

        try:
            return self._tried(read, entry.key)
        except (FileNotFoundError, _errors().PreconditionError) as error:
            raise Stale(entry.key) from error

    @asked_aside
    def delete(self, key: str) -> bool:
        import obstore

        if self._size(key) is None:
            return False
        with contextlib.suppress(FileNotFoundError):
            self._tried(lambda: obstore.delete(self._store, key), key)
        return True

    @asked_aside
    def delete_many(self, keys: Sequence[str]) -> None:
        import obstore

        for start in range(0, len(keys), 1000):
            some = list(keys[start : start + 1000])
            with contextlib.suppress(FileNotFoundError):
                self._tried(lambda some=some: obstore.delete(self._store, some), some[0])

    def _size(self, key: str) -> int | None:
        entry = self.entry(key)
        return None if entry is None else entry.num_bytes

    def _tried(self, request: Callable[[], Answer], key: str, most: int | None = None) -> Answer:
        """The answer to a request that may be made twice. Raises FileNotFoundError, obstore's PreconditionError and
        UnreachableError."""
        until = time.monotonic() + _patience.SECONDS
        for pause in (*_patience.PAUSES[: None if most is None else most - 1], None):
            try:
                counts.add(counts.REQUESTS)
                return request()
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    self._check_final(error, None, until)
                raise
            except _errors().PreconditionError:
                raise
            except (_Unclear, _errors().BaseError) as error:
                self._check_final(error, pause, until)
            assert pause is not None
            time.sleep(pause)
        raise AssertionError(key)

    def _check_final(self, error: Exception, pause: float | None, until: float) -> None:
        """Raises UnreachableError where there is no use in another try, or no time for one."""
        kinds = (_errors().PermissionDeniedError, _errors().UnauthenticatedError, _errors().NotSupportedError)
        text = str(error)
        status = re.search(r"status code: (\d{3})", text)
        is_refused = status is not None and _patience.is_final(int(status[1])) and not re.search(_HALF_SENT, text)
        if is_refused or isinstance(error, kinds) or re.search(_NOT_LET_IN, text):
            cure = next(cure for words, cure in _CURES.items() if re.search(words, text))
            raise UnreachableError(f"{self.address} does not let us in: {_reason(error)}. {cure}.") from error
        if pause is None or time.monotonic() + pause >= until:
            raise UnreachableError(f"{self.address} does not answer as it should: {_reason(error)}. {_CURE}") from error
        counts.add(counts.RETRIES)


def _entry(key: str, meta: Any) -> Entry:
    return Entry(key, meta["size"], meta.get("e_tag") or meta.get("version") or f"{meta['last_modified']}")


def _reason(error: Exception) -> str:
    """What was asked for and how it was answered, as far as the error tells, without what may be a secret."""
    request, status, code, message = (
        re.search(pattern, str(error))
        for pattern in (
            r"Error performing (list|[A-Z]+) ", r"status code: (\d{3}[^:<\n]*)", r"<Code>(\w{1,80})</Code>",
            r"<Message>([^<]{1,200})</Message>",
        )
    )  # fmt: skip
    if status is None:
        return line_of(error)
    words = ": ".join(match[1].strip(" .") for match in (status, code, message) if match is not None)
    return f"{request[1]} was answered {words}" if request is not None else words


class _Unclear(Exception):
    """An answer that is not whole."""


_CURE = "Run the same command again: what is finished is kept."


def _errors() -> Any:
    """The errors of obstore, which is imported where a bucket is used."""
    from obstore import exceptions

    return exceptions
