"""A storage of objects: an S3 on loopback, behind a proxy that does to requests what networks and servers do."""

import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from objects import CREDENTIALS, Proxy, s3
from runs import CONTEXT, policy_of, run, uncached, write_corpus
from selector.corpus import files
from selector.engine import copies, journal
from selector.engine.local import LocalExecutor
from selector.errors import SelectorError, UnreachableError, UsageError
from selector.manifest import Manifest
from selector.models.find import find_model
from selector.pipeline import FinishedRun, build
from selector.policy import Policy
from selector.policy.resolve import resolve
from selector.storage import Storage, _patience, check, open_storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Proxy]:
    with s3() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: Proxy) -> Iterator[Proxy]:
    yield server
    server.fault, server.ignores_conditions = lambda *_: "", False


@pytest.fixture
def storage(proxy: Proxy, tmp_path: Path) -> Storage:
    """A folder of its own in the bucket."""
    assert proxy.port
    return open_storage(f"s3://bucket/{tmp_path.name}")


def once(fault: str, method: str) -> Callable[[str, int], str]:
    """The fault at the first request of a kind for each object."""
    return lambda request, number: fault if request.startswith(method) and not number else ""


def test_the_verbs_of_a_storage_hold(storage: Storage) -> None:
    assert storage.get("a/b") is None and storage.get_range("a/b", 0, 4) is None and not storage.delete("a/b")
    assert storage.put_if_absent("a/b", b"first") and not storage.put_if_absent("a/b", b"second")
    assert storage.get("a/b") == b"first" and storage.get_range("a/b", 1, 3) == b"irs"
    assert storage.get_range("a/b", 3, 100) == b"st" and storage.get_range("a/b", 9, 3) == b""
    assert not storage.compare_and_swap("a/b", b"other", b"new") and storage.compare_and_swap("a/b", b"first", b"new")
    assert not storage.compare_and_swap("a/none", b"", b"new") and storage.get("a/none") is None
    storage.ensure("a/b", b"right")
    storage.ensure("a.c", b"x" * (1 << 17))
    storage.ensure("a.c", b"y" * (1 << 17))
    assert storage.get_many(["a/b", "none", "a.c"]) == [b"right", None, b"y" * (1 << 17)]
    assert [key for key, _ in storage.list("")] == ["a.c", "a/b"] and list(storage.list("a/")) == [("a/b", 5)]
    large = os.urandom(1 << 20) * 20
    assert storage.put_if_absent("a/large", large) and not storage.put_if_absent("a/large", b"")
    assert storage.get("a/large") == large and storage.get_range("a/large", 5, 18 << 20) == large[5 : 5 + (18 << 20)]
    storage.delete_folder("a/")
    assert storage.delete("a.c") and list(storage.list("")) == []
    again = pickle.loads(pickle.dumps(storage))  # noqa: S301 - as it goes to workers
    assert again == storage and again.put_if_absent("a/b", b"")


@pytest.mark.parametrize("fault", ["500", "503", "409", "reset", "lost", "truncated"])
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "POST"])
def test_a_fault_at_any_kind_of_request_changes_no_answer(
    fault: str, method: str, storage: Storage, proxy: Proxy
) -> None:
    proxy.requests.clear()
    proxy.fault = once(fault, method)
    assert storage.put_if_absent("a", b"first") and not storage.put_if_absent("a", b"second")
    assert storage.get("a") == b"first" and storage.compare_and_swap("a", b"first", b"second")
    assert storage.get_range("a", 0, 3) == b"sec" and [key for key, _ in storage.list("")] == ["a"]
    assert storage.delete("a") and storage.get("a") is None


def test_a_storage_that_never_answers_is_an_error_in_words_in_time(
    storage: Storage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_patience, "PAUSES", (0.01, 0.01))
    for fault in ("503", "reset"):
        proxy.fault = lambda *_, fault=fault: fault
        for request in (
            lambda: storage.get("a"), lambda: storage.put_if_absent("a", b""), lambda: list(storage.list("")),
            lambda: storage.delete("a"), lambda: storage.compare_and_swap("a", b"", b"1"),
            lambda: check(storage, "a", b""),
        ):  # fmt: skip
            with pytest.raises(SelectorError, match="does not answer as it should") as raised:
                request()
            assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(raised.value)
    assert _patience.SECONDS + _patience.TRY < 60


def test_an_answer_that_stalls_is_asked_for_again(
    storage: Storage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_patience, "TRY", 0.3)
    proxy.stall, proxy.fault = 1.5, once("stall", "PUT")
    assert storage.put_if_absent("a", b"first") and storage.get("a") == b"first"


def test_a_bucket_that_is_not_there_is_said_at_once(proxy: Proxy) -> None:
    proxy.requests.clear()
    with pytest.raises(UnreachableError, match="does not let us in"):
        open_storage("s3://nobodys-bucket/runs").put_if_absent("a", b"")
    assert len(proxy.requests) == 1


REFUSALS = {
    "403 AccessDenied": "Check the bucket's name, what the credentials in the environment allow",
    "400 ExpiredToken": "Renew the credentials in the environment",
    "400 InvalidToken": "Check the bucket's name",
    "403 SignatureDoesNotMatch": "Check the bucket's name",
    "403 RequestTimeTooSkewed": "Set this machine's clock",
    "301 PermanentRedirect": "Set AWS_REGION",
    "405 MethodNotAllowed": "Check the bucket's name",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_said_at_once_with_its_reason_and_the_cure_and_no_secret(
    refusal: str, storage: Storage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put_if_absent("a", b"first")
    monkeypatch.setattr(_patience, "PAUSES", (60.0,))
    proxy.fault = lambda *_: refusal
    verbs: dict[str, Callable[[], Any]] = {
        "list": lambda: list(storage.list("")), "GET": lambda: storage.get("a"), "HEAD": lambda: storage.entry("a"),
        "PUT": lambda: storage.ensure("a", b""), "PUT ": lambda: storage.put_if_absent("b", b""),
        "POST": lambda: storage.delete_many(["a"]),
        "GET ": lambda: storage.compare_and_swap("a", b"first", b""), "GET  ": lambda: storage.get_range("a", 1, 3),
    }  # fmt: skip
    for verb, use in verbs.items():
        proxy.requests.clear()
        with pytest.raises(UnreachableError, match="does not let us in") as raised:
            use()
        text = str(raised.value)
        assert storage.address in text and len(proxy.requests) <= 2 and CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in text
        status, code = refusal.split()
        if verb != "HEAD":  # whose answers have no words
            assert REFUSALS[refusal] in text
            assert status == "301" or (f"{status} " in text and f"{code}: in words" in text and verb.strip() in text)


def test_an_endpoint_with_a_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_patience, "PAUSES", (0.01,))
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": "http://user:hunter2@127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnreachableError, match="does not answer as it should") as raised:
        open_storage("s3://bucket/runs").get("a")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("refusal", ["400 ExpiredToken", "403 AccessDenied"])
def test_credentials_that_end_amid_a_run_end_it_and_no_document_is_lost(
    refusal: str, storage: Storage, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "corpus").mkdir()
    corpus = {"paths": [str(write_corpus(tmp_path / "corpus"))], "rows_per_part": 40}
    policy = {"corpus": corpus, "rate": ["length"], "select": {"budget": {"fraction": 0.4}}}
    proxy.requests.clear()
    proxy.fault = lambda *_: refusal if len(proxy.requests) > 40 else ""  # in ingest
    with pytest.raises(UnreachableError, match=refusal.split()[1]):
        build(Policy.of(policy), root=storage.address, executor=LocalExecutor())
    proxy.fault = lambda *_: ""
    assert list(storage.list("attempts/")) == [], "it is nobody's fault"
    again = build(Policy.of(policy), root=storage.address, executor=LocalExecutor())
    assert again.manifest.digest == run(policy, tmp_path / "root").manifest.digest


def test_one_of_many_who_create_an_object_is_the_first(storage: Storage) -> None:
    for number in range(20):
        with ThreadPoolExecutor(8) as threads:
            wins = list(threads.map(lambda n, key=f"a/{number}": storage.put_if_absent(key, b"%d" % n), range(8)))
        assert sum(wins) == 1 and storage.get(f"a/{number}") == b"%d" % wins.index(True)


def test_no_swap_is_lost_and_none_is_made_twice(storage: Storage) -> None:
    storage.put_if_absent("count", b"0")

    def add(_: int) -> None:
        while True:
            now = storage.get("count") or b""
            if storage.compare_and_swap("count", now, b"%d" % (int(now) + 1)):
                return

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(20)))
    assert storage.get("count") == b"20"


def test_a_root_that_ignores_conditions_is_refused_when_it_is_first_used(
    storage: Storage, proxy: Proxy, tmp_path: Path, tiny_model: Path
) -> None:
    proxy.ignores_conditions = True
    with pytest.raises(UsageError, match="ignores conditions"):
        check(storage, "probe/x", b"probe")
    (tmp_path / "corpus").mkdir()
    policy = policy_of(write_corpus(tmp_path / "corpus"), tiny_model)
    with pytest.raises(UsageError, match="ignores conditions"):
        build(Policy.of(policy), root=storage.address, executor=LocalExecutor())


def test_a_run_is_the_same_bytes_on_files_and_on_objects_whatever_goes_wrong_on_the_way(
    storage: Storage, proxy: Proxy, tmp_path: Path
) -> None:
    """Every ninth request meets a fault, a different one each time."""
    (tmp_path / "corpus").mkdir()
    policy = {
        "corpus": {"paths": [str(write_corpus(tmp_path / "corpus"))], "rows_per_part": 40},
        "rate": ["readability"],
        "select": {"budget": {"fraction": 0.4}},
    }
    faults = ("500", "503", "reset", "lost", "truncated", "409")
    lock, numbers = threading.Lock(), iter(range(10**9))

    def fault(*_: object) -> str:
        with lock:
            turn = next(numbers)
        return faults[turn // 9 % len(faults)] if turn % 9 == 0 else ""

    proxy.fault = fault
    made = build(Policy.of(policy), root=storage.address, executor=LocalExecutor())
    assert made.manifest.digest == run(policy, tmp_path / "root").manifest.digest
    assert made.manifest.verify().problems == []
    keys = {key for key, _ in storage.list("") if not key.startswith(("journals/", "fresh/"))}
    local = {path.relative_to(tmp_path / "root").as_posix() for path in (tmp_path / "root").rglob("*.parquet")}
    assert local <= keys
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert not any(secret in (storage.get(key) or b"") for key in keys)


def test_a_run_asks_its_root_for_as_little_as_it_must_and_its_record_says_how_often(
    storage: Storage, proxy: Proxy, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 12 requests a part and 200, 3 more a part for each rater beyond two; 60 where everything is there, also
    with vectors, clusters and more raters."""
    (tmp_path / "corpus").mkdir()
    corpus = {"paths": [str(write_corpus(tmp_path / "corpus"))], "rows_per_part": 10}
    raters = ["readability", "word_length", "sentence_length"]
    policy = {"corpus": corpus, "rate": raters, "select": {"budget": {"fraction": 0.4}}}
    all_of_it = policy | {
        "rate": [*raters, "length", "lexical_diversity", "density"],
        "embed": {"model": str(tiny_model)}, "cluster": {"num_clusters": 4},
    }  # fmt: skip

    def built(policy: dict[str, Any], executor: LocalExecutor) -> tuple[FinishedRun, int]:
        proxy.requests.clear()
        finished = build(Policy.of(policy), root=storage.address, executor=executor)
        num_requests = len(proxy.requests)
        assert num_requests - 4 <= journal.read(storage)[-1].requests < num_requests  # not those that write it down
        return finished, num_requests

    assert built(policy, LocalExecutor())[1] <= 12 * 12 + 200 + 3 * 12
    first, _ = built(all_of_it, LocalExecutor(workers=2, deadline=60.0))  # the requests of workers count too
    monkeypatch.setenv(copies.SETTING, "0")  # as on a machine that has none
    again, num_requests = built(all_of_it, LocalExecutor())
    assert num_requests <= 60 and uncached(again) == [] and again.manifest.digest == first.manifest.digest


def _drive(policy: Any, root: str, environment: Mapping[str, str], start: Any, digests: Any) -> None:
    os.environ.update(environment)
    start.wait()
    digests.put(build(Policy.of(policy), root=root, executor=LocalExecutor()).manifest.digest)


def test_of_many_drivers_on_one_root_all_have_one_manifest(storage: Storage, proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    policy = {
        "corpus": {"paths": [str(write_corpus(tmp_path / "corpus"))]}, "select": {"budget": {"fraction": 0.4}}
    }  # fmt: skip
    environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy.address}
    start, digests = CONTEXT.Barrier(6), CONTEXT.Queue()
    drivers = [
        CONTEXT.Process(target=_drive, args=(policy, storage.address, environment, start, digests)) for _ in range(6)
    ]
    for driver in drivers:
        driver.start()
    assert len({digests.get(timeout=240) for _ in drivers}) == 1
    for driver in drivers:
        driver.join()
    keys = [key for key, _ in storage.list("")]
    assert len([key for key in keys if key.endswith("/manifest/manifest.json")]) == 1


def test_many_are_asked_for_at_once(storage: Storage) -> None:
    for number in range(40):
        storage.put_if_absent(f"a/{number}", b"%d" % number)
    assert storage.get_many([f"a/{number}" for number in range(40)]) == [b"%d" % number for number in range(40)]


def hostile(port: int) -> list[str]:
    """Addresses that would have us ask somebody, or look somewhere, that the address of a root does not name."""
    host = f"127.0.0.1:{port}"
    return [
        f"http://{host}/x", f"https://{host}/x", f"ftp://{host}/x", f"gopher://{host}/x", f"ws://{host}/x", f"//{host}/x://y",
        f"s3://user:secret@{host}/x", "s3://user:secret@bucket/x", "s3://:secret@bucket/x", f"s3://{host}/x",
        f"s3://bucket/x?endpoint_override=http://{host}", f"s3://bucket?endpoint=http://{host}", "s3://bucket/x#secret",
        "s3://bucket/../other/x", "s3://bucket/a/../../x", "s3://bucket/./x", "s3://../x", "s3://bucket//x", "s3:///x", "s3://",
        "s3://bucket/%2e%2e/x", "s3://bucket/a%2f..%2fb", "s3://bucket/\\..\\x", "s3://bucket/\x00x", "s3://bucket/\nx",
        f"simplecache::http://{host}/x", f"filecache::s3://bucket/x::http://{host}", f"s3://bucket/x::http://{host}/x",
        f"zip://x::http://{host}/x.zip", f"github://{host}/x", "memory://x", "data://text/plain,x", f"hdfs://{host}/x",
        f"file://{host}/x", "file://host/x", f"gs://{host}/x", f"az://user:secret@{host}/x", f"gs://bucket/x?u=http://{host}",
        "az://container/../x", f"_objects://{host}/x", "S3://bucket/x", "s3://BUCKET/x", "s3://buc ket/x", "s3://ü/x",
        "s3://bucket/x\r\nHost: other/x", "s3://bucket/x%0d%0aHost:%20other", "s3://bucket%2fother/x", "s3://bucket/a%2Fb",
        "s3://bucket/x\u202egpj", "s3://bucket/x\u2028y", "s3://\uff42ucket/x", f"s3://{host}@bucket/x", f"hf://{host}/x",
        f"hf://datasets/owner/name@main@{host}/x", f"hf://datasets/user:secret@{host}/name/x", "hf://datasets/../name/x",
        f"hf://datasets/owner/name@..%2f/x?endpoint=http://{host}", f"az://{host}/x", f"s3://user:se/secret@{host}/x",
    ]  # fmt: skip


def test_an_address_that_is_more_than_a_place_is_refused_and_nobody_is_asked() -> None:
    requests: list[str] = []

    class Canary(BaseHTTPRequestHandler):
        def handle(self) -> None:
            requests.append("somebody came")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Canary)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        addresses = hostile(server.server_address[1])
        assert len(addresses) >= 40
        for number, address in enumerate(addresses):
            for use in (_used, _read, *(USES[(3 * number + more) % len(USES)] for more in range(3))):
                with pytest.raises(UsageError) as raised:
                    use(address)
                assert "secret" not in str(raised.value) or "#secret" in address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert requests == []


def _used(address: str) -> Any:
    return check(open_storage(address), "probe/x", b"")


def _resolved(section: str, **values: Any) -> Any:
    """The policy made whole that has this section."""
    policy = {"corpus": {"paths": [__file__]}, "select": {"budget": {"fraction": 0.4}}}
    return resolve(Policy.of(policy | {section: policy.get(section, {}) | values}))


USES: list[Callable[[str], Any]] = [
    find_model,
    Manifest.open,
    lambda address: _resolved("embed", model=address),
    lambda address: _resolved("corpus", tokenizer=address),
    lambda address: _resolved("corpus", paths=[address]),
    lambda address: _resolved("select", exclude=[address]),
    lambda address: _resolved("select", include=[address]),
    lambda address: _resolved("order", parent=address, using="shuffled"),
    lambda address: _resolved("cluster", **{"from": address}),
    lambda address: _resolved("select", using={"matching": {"queries": [address]}}),
]
"""Where a policy or a command names a place."""


def _read(address: str) -> Any:
    """As a corpus: none of these is one."""
    return files.expand([address])
