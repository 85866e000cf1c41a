"""A run's progress as Prometheus reads it: `selector run --metrics 9464`, then http://127.0.0.1:9464/metrics.

Names begin with `selector_`, in base units, and end in `_total` where they only grow. They tell of one process, from
when it began; what lies in the root, `selector watch` tells. A run's name is in no label, since Prometheus keeps every
label for good.
"""

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from selector import __version__, counts
from selector.cli.progress import Watch
from selector.engine.alive import Stall
from selector.engine.part import Receipt
from selector.engine.runner import Progress
from selector.engine.step import Result
from selector.errors import UsageError

if TYPE_CHECKING:
    from prometheus_client import Metric

_LOOPBACK = "127.0.0.1"
_NOTICED = 0.05  # seconds until the server notices that it is to end
_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # of parts


@contextlib.contextmanager
def watched(address: str | None) -> Generator[Progress]:
    """Who watches a run: a person, and whoever reads metrics at this address, if one is given. Raises UsageError."""
    with Watch() as watch:
        if address is None:
            yield watch
            return
        with served(address, watch) as metrics:
            print(f"Metrics are at {metrics.address}", file=sys.stderr)
            yield metrics


@contextlib.contextmanager
def served(address: str, watch: Progress) -> Generator["Metrics"]:
    """Metrics of what a run says, which passes on to who else watches it, at an address until this is left."""
    host, port = parsed(address)
    try:
        from prometheus_client import disable_created_metrics, make_wsgi_app
    except ImportError as error:
        raise UsageError(
            "--metrics needs the package prometheus-client. Type: pip install 'selector[metrics]'"
        ) from error
    disable_created_metrics()
    metrics = Metrics(watch)
    try:
        server = _listening(host, port, make_wsgi_app(metrics.registry))
    except OSError as error:
        raise UsageError(
            f"--metrics {address}: nothing can listen at port {port} of {host}: {error.strerror or error}. Give "
            "another port, or 0 for any that is free."
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(_NOTICED,), daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        metrics.address = f"http://{shown}:{server.server_port}/metrics"
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listening(host: str, port: int, answer: Any) -> WSGIServer:
    """A server that answers many at once, and asks no name server what this machine is called. Raises OSError."""
    from prometheus_client.exposition import ThreadingWSGIServer

    class Server(ThreadingWSGIServer):
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]

        def server_bind(self) -> None:
            TCPServer.server_bind(self)
            self.server_name, self.server_port = host, self.server_address[1]
            self.setup_environ()

    server = Server((host, port), _Silent)
    server.set_app(answer)
    return server


class _Silent(WSGIRequestHandler):
    """Answers, and prints nothing of it between the lines of the run."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        del format, args


def parsed(address: str) -> tuple[str, int]:
    """The host and the port of `[HOST:]PORT`; without a host, that of this machine alone. Raises UsageError."""
    match = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):)?([0-9]{1,5})", address, re.ASCII)
    if match is None or int(match[3]) > 65535:
        raise UsageError(
            f"--metrics {address!r:.80} is no port. Write e.g. 9464, or with the address to listen at: 0.0.0.0:9464 "
            "for all of this machine's."
        )
    return match[1] or match[2] or _LOOPBACK, int(match[3])


class Metrics:
    """Watches a run for Prometheus, and passes everything on."""

    address = ""  # where they are served

    def __init__(self, watch: Progress) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

        self._watch = watch
        self.registry = registry = CollectorRegistry()
        of_step: dict[str, Any] = {"labelnames": ("step",), "registry": registry}
        Info("selector_build", "The version of Selector.", registry=registry).info({"version": __version__})
        ProcessCollector(registry=registry)
        began = Gauge(
            "selector_began_timestamp_seconds", "When this process began to serve metrics.", registry=registry
        )
        began.set(time.time())
        self._sign = Gauge("selector_sign_timestamp_seconds", "When anything happened last.", registry=registry)
        self._sign.set(time.time())
        self._documents = Counter("selector_documents", "Documents, or rows, that steps have done.", **of_step)
        self._tokens = Counter(
            "selector_tokens", "Their tokens, by the average of the corpus; none before that is counted.", **of_step
        )
        self._quarantined = Counter("selector_quarantined_rows", "Rows that went into quarantine.", **of_step)
        self._rate = Gauge("selector_documents_per_second", "Documents a second, since the step began.", **of_step)
        self._parts = Gauge(
            "selector_parts", "Parts of a step, by state: open, done or stalled.",
            labelnames=("step", "state"), registry=registry,
        )  # fmt: skip
        self._part = Histogram(
            "selector_part_seconds", "Seconds that a worker was at a part.", buckets=_SECONDS, **of_step
        )
        self._seconds = Gauge("selector_step_seconds", "Seconds that a step took, or takes up to now.", **of_step)
        self._left = Gauge("selector_step_left_seconds", "Seconds left of a step, if it goes on as it did.", **of_step)
        self._steps = Counter(
            "selector_steps",
            "Steps that are finished, by state: run or cached.",
            labelnames=("state",),
            registry=registry,
        )
        self._stalls = Counter("selector_stalls", "Times that a worker gave no sign of life for long.", **of_step)
        registry.register(_Counted(self))
        self.steps: dict[str, _Step] = {}  # that are going on

    def began(self, name: str, num_parts: int) -> None:
        step = self._step(name)
        if step.num_done < step.num_parts or not step.num_parts:  # or else it begins to add up what its parts say
            step.num_parts, step.num_done = num_parts, 0
        step.stalled = set()
        for other in self.steps.values():  # until it is heard of again
            other.is_shown = other is step
        self._show(step)
        self._watch.began(name, num_parts)

    def advanced(self, name: str, receipt: Receipt) -> None:
        step = self._step(name)
        step.num_done += 1
        step.num_rows += receipt.num_rows
        self._part.labels(name).observe(receipt.seconds)
        self._quarantined.labels(name).inc(receipt.num_quarantined)
        self._count(step, 0)
        self._watch.advanced(name, receipt)

    def at_work(self, name: str, num_rows: int | None) -> None:
        if num_rows is not None:
            self._count(self._step(name), num_rows)
        self._sign.set(time.time())
        self._watch.at_work(name, num_rows)

    def waiting(self, name: str, awaited: str) -> None:
        self._sign.set(time.time())
        self._watch.waiting(name, awaited)

    def stalled(self, name: str, stalls: Sequence[Stall]) -> None:
        stalled = {(stall.part, stall.worker) for stall in stalls}
        step = self._step(name)
        self._stalls.labels(name).inc(len(stalled - step.stalled))
        step.stalled = stalled
        self._parts.labels(name, "stalled").set(len(stalled))
        self._watch.stalled(name, stalls)

    def ended(self, result: Result) -> None:
        step = self.steps.pop(result.name, None) or _Step(result.name)
        self._steps.labels("cached" if result.cached else "run").inc()
        self._seconds.labels(result.name).set(result.seconds)
        self._left.labels(result.name).set(0)
        for state, number in (("open", 0), ("done", step.num_parts), ("stalled", 0)):
            self._parts.labels(result.name, state).set(number)
        self._sign.set(time.time())
        self._watch.ended(result)

    def _step(self, name: str) -> "_Step":
        """The step of this name, which may not have said that it began."""
        step = self.steps.setdefault(name, _Step(name))
        step.is_shown = True
        return step

    def _count(self, step: "_Step", num_rows: int) -> None:
        """Counts documents, which never goes down, though a part may be begun again."""
        more = max(0, step.num_rows + num_rows - step.num_counted)
        step.num_counted += more
        self._documents.labels(step.name).inc(more)
        self._tokens.labels(step.name).inc(more * counts.level(counts.TOKENS).get("", 0))
        self._show(step)

    def _show(self, step: "_Step") -> None:
        """Sets what a step is at."""
        self._sign.set(time.time())
        seconds = step.seconds
        for state, number in (("open", max(0, step.num_parts - step.num_done)), ("done", step.num_done)):
            self._parts.labels(step.name, state).set(number)
        self._rate.labels(step.name).set(step.num_counted / max(1e-3, seconds))
        if step.num_done and step.num_parts:
            self._left.labels(step.name).set(seconds / step.num_done * max(0, step.num_parts - step.num_done))

    def seconds_so_far(self) -> None:
        """Sets what goes on while nothing happens."""
        for step in [step for step in list(self.steps.values()) if step.is_shown]:
            self._seconds.labels(step.name).set(step.seconds)


class _Step:
    """A step that is going on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_parts = self.num_done = 0
        self.num_rows = 0  # of parts that are done
        self.num_counted = 0
        self.is_shown = True  # since another one began
        self.stalled: set[tuple[str, str]] = set()  # parts and workers that were told of
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


class _Counted:
    """What this process counts by itself, as of now."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        self._metrics.seconds_so_far()
        requests = CounterMetricFamily("selector_store_requests", "Requests to the object store, every try of each.")
        requests.add_metric([], counts.counted(counts.REQUESTS).get("", 0))
        yield requests
        retries = CounterMetricFamily("selector_store_retries", "Requests to the object store that were made again.")
        retries.add_metric([], counts.counted(counts.RETRIES).get("", 0))
        yield retries
        failures = CounterMetricFamily(
            "selector_failed_attempts",
            "Attempts at work that failed and were made again, or blamed on rows.",
            labels=["reason"],
        )
        for reason in ("deadline", "exception", "worker_died"):
            failures.add_metric([reason], counts.counted(counts.FAILURES).get(reason, 0))
        yield failures
        workers = GaugeMetricFamily("selector_workers", "Workers, by state: starting, idle or busy.", labels=["state"])
        for state in ("starting", "idle", "busy"):
            workers.add_metric([state], counts.level(counts.WORKERS).get(state, 0))
        yield workers
