"""A root on a storage of objects: whether races have one winner, and what a run costs there beside a local root.

Without a root this is an S3 in memory on loopback (moto), so the seconds are those of requests and not of a network.
Races are what makes a storage fit for a root: one who creates an object, no swap that is lost or done twice, and one
manifest however many drivers are at it.
"""

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from selector import counts
from selector.engine import copies
from selector.engine.local import LocalExecutor
from selector.errors import UsageError
from selector.pipeline import build
from selector.policy import Policy
from selector.storage import check, open_storage

_RACERS = 8
_WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away", "home"]


def stores(root: str | None, num_races: int, num_drivers: int, raters: Sequence[str]) -> None:
    """Prints the outcome of all races, and seconds and requests of a run."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = f"{root or stack.enter_context(_in_memory())}/{uuid.uuid4().hex}"
        storage = open_storage(address)
        check(storage, "probe", b"probe")
        print(f"{num_races} races of {_RACERS} to create an object: {_created(address, num_races)}")
        print(f"{num_races} swaps by {_RACERS} of one object: {_swapped(address, num_races)}")
        corpus = _corpus(folder / "corpus.jsonl")
        if num_drivers:
            print(f"{num_drivers} drivers of one policy: {_driven(address, corpus, num_drivers)}")
        for rows_per_part in (200, 50):
            _compared(f"{address}/{rows_per_part}", folder / f"{rows_per_part}", corpus, rows_per_part, raters)
        storage.delete_folder("")


def _created(address: str, num_races: int) -> str:
    storage = open_storage(address)
    double = lost = 0
    began = time.monotonic()
    with ThreadPoolExecutor(_RACERS) as threads:
        for race in range(num_races):
            key = f"races/{race}"
            wins = list(threads.map(lambda n, key=key: storage.put_if_absent(key, b"%d" % n), range(_RACERS)))
            double += sum(wins) > 1
            lost += sum(wins) < 1 or storage.get(key) != b"%d" % wins.index(True)
    return f"{lost} lost, {double} double, {time.monotonic() - began:.1f} s"


def _swapped(address: str, num_swaps: int) -> str:
    storage = open_storage(address)
    storage.put_if_absent("count", b"0")
    began = time.monotonic()

    def add(_: int) -> None:
        while True:
            now = storage.get("count") or b""
            if storage.compare_and_swap("count", now, b"%d" % (int(now) + 1)):
                return

    with ThreadPoolExecutor(_RACERS) as threads:
        list(threads.map(add, range(num_swaps)))
    counted = int(storage.get("count") or b"-1")
    seconds = time.monotonic() - began
    return f"{max(0, num_swaps - counted)} lost, {max(0, counted - num_swaps)} double, {seconds:.1f} s"


def _driven(address: str, corpus: Path, num_drivers: int) -> str:
    began = time.monotonic()
    with ProcessPoolExecutor(num_drivers, mp_context=get_context("spawn")) as pool:
        policy = _policy(corpus, 200, ["readability"])
        driven = list(pool.map(_digest, [policy] * num_drivers, [f"{address}/drivers"] * num_drivers))
    keys = [key for key, _ in open_storage(f"{address}/drivers").list("")]
    manifests = sum(key.endswith("manifest/manifest.json") for key in keys)
    seconds = time.monotonic() - began
    return f"{len(set(driven))} digest, {manifests} manifest, {seconds:.1f} s"


def _digest(policy: Any, root: str) -> str:
    return build(Policy.of(policy), root=root, executor=LocalExecutor()).manifest.digest


def _compared(address: str, folder: Path, corpus: Path, rows_per_part: int, raters: Sequence[str]) -> None:
    policy = _policy(corpus, rows_per_part, raters)
    num_parts = -(-1200 // rows_per_part)
    seconds: dict[str, float] = {}
    requests: dict[str, int] = {}
    digests: set[str] = set()
    for name, root, setting in (
        ("local", str(folder), ""), ("far", address, ""), ("local, cached", str(folder), ""),
        ("far, cached, without copies", address, "0"),
    ):  # fmt: skip
        os.environ[copies.SETTING] = setting
        before, began = _requests(), time.process_time()
        digests.add(_digest(policy, root))
        seconds[name], requests[name] = time.process_time() - began, _requests() - before
    del os.environ[copies.SETTING]
    allowed = 12 * num_parts + 200 + 3 * num_parts * max(0, len(raters) - 2)
    print(
        f"{num_parts} parts, {len(raters)} raters: {requests['far']} requests of {allowed}, "
        f"{requests['far, cached, without copies']} of 60 where all is there; {len(digests)} digest; CPU seconds: "
        + ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    )


def _requests() -> int:
    return sum(counts.counted(counts.REQUESTS).values())


def _corpus(path: Path) -> Path:
    rows = [{"text": " ".join(_WORDS[(n * 7 + k * (n % 5 + 1)) % len(_WORDS)] for k in range(30))} for n in range(1200)]
    path.write_text("".join(f"{json.dumps({**row, 'number': n})}\n" for n, row in enumerate(rows)))
    return path


def _policy(corpus: Path, rows_per_part: int, raters: Sequence[str]) -> dict[str, Any]:
    return {
        "corpus": {"paths": [str(corpus)], "key": "number", "rows_per_part": rows_per_part},
        "rate": list(raters),
        "select": {"budget": {"fraction": 0.2}, "using": {"top": {"score": raters[0]}}},
    }


@contextlib.contextmanager
def _in_memory() -> Generator[str]:
    """The address of a bucket in an S3 that lives as long as this."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise UsageError("An S3 in memory needs moto: pip install 'selector[test]', or give --root.") from error
    import http.client
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }  # fmt: skip
        connection = http.client.HTTPConnection(host, port, timeout=60)
        connection.request("PUT", "/bucket")
        connection.getresponse().read()
        connection.close()
        yield "s3://bucket"
    finally:
        server.stop()
