"""A cluster of several machines that are none: raylets on this one, on the loopback interface, that can be lost one by
one. For measurements and tests."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray as _ray
from ray import _raylet
from ray.cluster_utils import Cluster as _Cluster
from ray.core.generated import autoscaler_pb2 as _autoscaler_pb2

from jobs import connection
from jobs.bench.meter import processes

ray: Any = _ray  # whose own types are partly unknown
raylet_module: Any = _raylet
Cluster: Any = _Cluster
autoscaler_pb2: Any = _autoscaler_pb2

_OBJECTS = 80 * 2**20  # bytes of each raylet's memory for objects: only receipts travel
_COMING = 60.0  # seconds that a machine may take to join


@dataclass(kw_only=True, eq=False)
class Machine:
    """A raylet, and the workers below it."""

    node: Any
    gone: set[int] = field(default_factory=set[int])  # processes that were at work on it when it was killed

    @property
    def id(self) -> str:
        """As Ray calls it."""
        return self.node.node_id

    @property
    def raylet(self) -> int:
        """Its process."""
        return self.node.all_processes["raylet"][0].process.pid

    def processes(self) -> list[int]:
        """The raylet and all below it."""
        return [process for process, _ in processes(self.raylet)]

    def kill(self) -> None:
        """The raylet is gone at once; its workers end by themselves, except those that are stopped."""
        self.gone.update(self.processes())
        os.kill(self.raylet, signal.SIGKILL)

    def stop(self) -> None:
        """All of it stands still, as a machine does that is frozen."""
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        """All of it goes on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


class Loopback:
    """A head that does no work itself, and machines of one CPU. A context manager: leaving ends all of them."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self.machines: list[Machine] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            folder = undo.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
            )
            undo.enter_context(connection.environment(RAY_TMPDIR=folder))
            connection.keep_to_ourselves(undo)
            self._cluster = Cluster()
            undo.callback(self._cluster.shutdown)
            undo.callback(self._let_go)
            self._head = Machine(node=self._started(num_cpus=0, include_dashboard=False))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._undo.close()

    @property
    def address(self) -> str:
        """Of the head."""
        return str(self._cluster.address)

    def add(self, *environments: Mapping[str, str], gpus: int = 0) -> list[Machine]:
        """Another machine for each of these environments of its workers: of one CPU, or of GPUs that are declared and
        need not be there."""
        nodes = [
            self._started(num_cpus=0 if gpus else 1, num_gpus=gpus, env_vars=dict(values), wait=False)
            for values in environments
        ]
        for node in nodes:
            self._cluster._wait_for_node(node, timeout=_COMING)
        machines = [Machine(node=node) for node in nodes]
        self.machines += machines
        return machines

    def drain(self, machine: Machine, seconds: float) -> None:
        """Says that it will be taken away after so many seconds."""
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = raylet_module.GcsClient(address=self.address)
        is_accepted, refusal = client.drain_node(machine.id, reason, "spot", int((time.time() + seconds) * 1000))
        assert is_accepted, refusal

    def lose_head(self) -> None:
        """The head is gone at once."""
        self._head.gone.update(self._head.processes())
        for name in ("gcs_server", "raylet"):
            os.kill(self._head.node.all_processes[name][0].process.pid, signal.SIGKILL)

    def retire(self, machine: Machine) -> None:
        """Ends a machine that works, which says so to the head."""
        self.machines.remove(machine)
        machine.gone.update(machine.processes())
        self._cluster.remove_node(machine.node)
        self._end(machine)

    def remove(self, machine: Machine) -> None:
        """Ends a machine, whatever state it is in."""
        self.machines.remove(machine)
        with contextlib.suppress(ProcessLookupError):
            machine.go_on()
        machine.kill()
        self._end(machine)
        self._cluster.remove_node(machine.node, allow_graceful=False)

    def _started(self, **options: Any) -> Any:
        return self._cluster.add_node(node_ip_address="127.0.0.1", object_store_memory=_OBJECTS, **options)

    def _let_go(self) -> None:
        """Ends what is stopped, or has lost its raylet."""
        for machine in [*self.machines, self._head]:
            with contextlib.suppress(ProcessLookupError):
                machine.go_on()
            self._end(machine)

    def _end(self, machine: Machine) -> None:
        for process in machine.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
