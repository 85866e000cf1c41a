"""A cluster of several machines that are none: raylets on this one, on the loopback interface, that can be lost one by
one. For measurements and tests."""

import contextlib
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
_HEAD = f"{'f' * 51}00000"  # the head's id, where machines are brought by an autoscaler
_COMMANDS = (
    "cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands",
    "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


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
    """A head that does no work itself, and machines of one CPU. A context manager: leaving ends all of them.

    Where it `grows_to` some machines, Ray's autoscaler brings up to so many of them, once they are asked for.
    """

    def __init__(self, *, grows_to: int = 0) -> None:
        self._undo = contextlib.ExitStack()
        self._grows_to = grows_to
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
            options = self._autoscaler(Path(folder), undo) if self._grows_to else {}
            self._head = Machine(node=self._started(num_cpus=0, include_dashboard=False, **options))
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

    def _autoscaler(self, folder: Path, undo: contextlib.ExitStack) -> dict[str, Any]:
        """Options of a head that has one. What Ray has for tests itself ends every Ray on the machine as it begins."""
        undo.enter_context(connection.environment(RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1"))
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        config = {
            **{name: [] for name in _COMMANDS},
            "file_mounts": {},
            "cluster_name": "loopback",
            "max_workers": self._grows_to,
            "upscaling_speed": 10.0,
            "idle_timeout_minutes": 60,
            "auth": {},
            "provider": {
                "type": "fake_multinode",
                "gcs_address": f"127.0.0.1:{port}",
                "head_node_id": _HEAD,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "head_node_type": "ray.head.default",
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "machine": {
                    "resources": {"CPU": 1, "object_store_memory": _OBJECTS},
                    "node_config": {}, "min_workers": 0, "max_workers": self._grows_to,
                },
            },
        }  # fmt: skip
        path = folder / "autoscaler.json"
        path.write_text(json.dumps(config), "utf-8")
        named = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD}
        return {"gcs_server_port": port, "autoscaling_config": str(path), "env_vars": named}

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
        """Ends what is stopped, or has lost its raylet, and what the autoscaler has brought."""
        if self._grows_to:
            monitor = self._head.node.all_processes["monitor"][0].process.pid
            for process in [process for process, _ in processes(monitor)]:  # the autoscaler first
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        for machine in [*self.machines, self._head]:
            with contextlib.suppress(ProcessLookupError):
                machine.go_on()
            self._end(machine)

    def _end(self, machine: Machine) -> None:
        for process in machine.gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
