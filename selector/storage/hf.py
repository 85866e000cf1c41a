"""Datasets on the Hugging Face Hub: `hf://datasets/owner/name@revision/file`. They are read, and not written.

A revision is a branch, a tag or a commit; without one it is the main branch. What is read is the commit to which it
leads when it is first looked at. A token is that of the environment (HF_TOKEN), the address of the hub too
(HF_ENDPOINT).
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast
from urllib.parse import quote

from selector import counts
from selector.errors import SelectorError, UnreachableError, UsageError, line_of, without_secrets
from selector.storage import Entry, Stale, Storage, _patience

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REVISION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HfStorage(Storage):
    """The files of a dataset, as one revision has them."""

    is_far: ClassVar[bool] = True
    num_names: ClassVar[int] = 3
    has_revisions: ClassVar[bool] = True

    def __init__(self, path: str) -> None:
        parts = re.fullmatch(rf"datasets/({_NAME}/{_NAME})(?:@({_REVISION}))?/?", path)
        if parts is None:
            raise UsageError(
                f"The address {without_secrets(f'hf://{path}')!r:.120} is not that of a dataset. Write "
                "hf://datasets/owner/name, and @revision after it for another than the main branch."
            )
        self.dataset, self.revision = parts[1], parts[2] or "main"

    def __getstate__(self) -> dict[str, str]:
        return {"dataset": self.dataset, "revision": self.revision}  # a connection is not sent to workers

    @property
    def address(self) -> str:
        return f"hf://datasets/{self.dataset}@{self.revision}"

    def fixed(self) -> "HfStorage":
        if _COMMIT.fullmatch(self.revision):
            return self
        commit = self._answer("GET", self._api("revision")).json()["sha"]
        return HfStorage(f"datasets/{self.dataset}@{commit}")

    def _api(self, verb: str, *names: str) -> str:
        """The address at which the hub says something of the revision."""
        path = "/".join(quote(name, safe="/") for name in (verb, self.revision, *names))
        return f"{endpoint()}/api/datasets/{self.dataset}/{path}"

    def get(self, key: str) -> bytes | None:
        entry = self.entry(key)
        try:
            return None if entry is None else self.get_of(entry, 0, entry.num_bytes)
        except Stale:
            return None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for entry in self.entries(prefix):
            yield entry.key, entry.num_bytes

    def entries(self, prefix: str) -> Iterator[Entry]:
        from huggingface_hub.errors import EntryNotFoundError

        folder = prefix.rstrip("/")
        page = f"{self._api('tree', *([folder] if folder else []))}?recursive=true"
        files: list[Entry] = []
        while page:
            try:
                answer = self._answer("GET", page)
            except EntryNotFoundError:
                break
            files += [_entry(one) for one in answer.json() if one["type"] == "file"]
            page = answer.links.get("next", {}).get("url", "")
            if page and not page.startswith(f"{endpoint()}/"):  # which would be sent the token
                raise UnreachableError(
                    f"{self.address} is listed elsewhere than at {endpoint()}. Copy it, and give a path."
                )
        yield from sorted(files)

    def entry(self, key: str) -> Entry | None:
        answer = self._answer("POST", self._api("paths-info"), json={"paths": [key], "expand": False})
        return next((_entry(one) for one in answer.json() if one["type"] == "file"), None)

    def get_of(self, entry: Entry, start: int, length: int) -> bytes:
        from huggingface_hub.errors import EntryNotFoundError

        end = min(start + length, entry.num_bytes)
        if end <= start:
            return b""
        url = f"{endpoint()}/datasets/{self.dataset}/resolve/{quote(self.revision)}/{quote(entry.key)}"
        try:
            return bytes(self._answer("GET", url, span=(start, end)).content)[: end - start]
        except EntryNotFoundError as error:
            raise Stale(entry.key) from error

    def put_if_absent(self, key: str, data: bytes) -> bool:
        raise self._refused()

    def compare_and_swap(self, key: str, expected: bytes, data: bytes) -> bool:
        raise self._refused()

    def delete(self, key: str) -> bool:
        raise self._refused()

    def _refused(self) -> UsageError:
        return UsageError(f"{self.address} is only read. Give a folder, or an address such as s3://bucket/runs.")

    def _answer(self, method: str, url: str, span: tuple[int, int] | None = None, **more: Any) -> Any:
        """The response to a request, of so many bytes where a span of them is asked for. Raises the hub's
        EntryNotFoundError, UsageError and UnreachableError."""
        from huggingface_hub import errors, get_session, get_token
        from huggingface_hub.utils import hf_raise_for_status

        # Those of whichever library the hub's own is built upon.
        of_network = cast(tuple[type[Exception], ...], errors.HfHubHTTPError.__bases__)
        token = get_token()
        headers = {"User-Agent": "selector"} | ({"Authorization": f"Bearer {token}"} if token else {})
        if span is not None:
            headers |= {"Range": f"bytes={span[0]}-{span[1] - 1}", "Accept-Encoding": "identity"}
        until = time.monotonic() + _patience.SECONDS
        for pause in (*_patience.PAUSES, None):
            try:
                counts.add(counts.REQUESTS)
                response = get_session().request(method, url, headers=headers, timeout=_patience.TRY, **more)
                hf_raise_for_status(response)
                if span is not None and (response.status_code, len(response.content)) != (206, span[1] - span[0]):
                    raise OSError(f"{len(response.content)} of {span[1] - span[0]} bytes came")
                return response
            except errors.EntryNotFoundError:
                raise
            except (*of_network, errors.OfflineModeIsEnabled, OSError) as error:
                final = self._final(error)
                if final is not None:
                    raise final from error
                if pause is None or time.monotonic() + pause >= until:
                    raise UnreachableError(
                        f"{self.address} does not answer as it should at {endpoint()}: "
                        f"{line_of(error)}. Run the same command again, what is finished is kept; or check HF_ENDPOINT "
                        "and the network, or copy the files and give a path."
                    ) from error
            counts.add(counts.RETRIES)
            time.sleep(pause)
        raise AssertionError(url)

    def _final(self, error: Exception) -> SelectorError | None:
        """What to raise where there is no use in another try."""
        from huggingface_hub import errors

        if isinstance(error, errors.OfflineModeIsEnabled):
            return UnreachableError(
                f"{self.address} cannot be reached: HF_HUB_OFFLINE is set. Unset it, or copy the files and give a path."
            )
        if isinstance(error, errors.GatedRepoError):
            return UnreachableError(
                f"{self.address} does not let us in: its owner lets in who has agreed to conditions. Agree on its "
                "page, and set HF_TOKEN."
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return UsageError(f"{self.address}: there is no revision {self.revision!r}. Give one that the dataset has.")
        if isinstance(error, errors.RepositoryNotFoundError):
            return UnreachableError(
                f"{self.address} does not let us in: there is no such dataset, or it is not open to all. Check its "
                "name, and set HF_TOKEN."
            )
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if _patience.is_final(status):
            return UnreachableError(
                f"{self.address} does not let us in: {line_of(error).removesuffix(': None')}. Check its name, and "
                "HF_TOKEN."
            )
        return None


def endpoint() -> str:
    """The address of the hub. Raises UsageError for one that is none, or that carries a password."""
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not re.fullmatch(r"https?://[^/?#@]+(/[^?#@]*)?", address):
        raise UsageError(
            f"HF_ENDPOINT is {without_secrets(address)!r}, which is not the address of a host alone. Write "
            "https://host, and a token into HF_TOKEN."
        )
    return address


def _entry(file: Mapping[str, Any]) -> Entry:
    return Entry(file["path"], file["size"], file["lfs"]["oid"] if file.get("lfs") else file["oid"])
