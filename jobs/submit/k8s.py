"""Kubernetes with KubeRay: a job is a RayJob, with a cluster of its own that goes when it is done.

The job's files travel in a ConfigMap. A run that somebody cancels sees the mark in the root and ends by itself, since
Kubernetes would signal the head's first process and not ours.
"""

import base64
import importlib.metadata
import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from jobs.submit._parcel import START, files
from jobs.submit._states import OF_RAY
from jobs.submit._tools import answer_of, outcome_of
from selector.engine.job import Job, State
from selector.engine.target import Parcel, Target, Written
from selector.errors import UnreachableError, UsageError

_FILE = "rayjob.yaml"
_MOST_BYTES = 900_000  # of a ConfigMap, which may have 1 MiB with all that is around its files
_FOLDER = "/job"  # where the files lie in every pod
_GRACE = 60  # seconds that a pod has to end


@dataclass(frozen=True, kw_only=True)
class KubernetesTarget(Target):
    """Kubernetes with KubeRay, by a namespace.

    --on k8s=NAMESPACE --with image=…. Writes a RayJob; --apply hands it to kubectl.
    """

    namespace: str = "default"
    image: str
    claim: str | None = None  # a volume claim, mounted at `mount` in every pod: where root and corpus lie
    mount: str = "/shared"
    workers: int = 2  # at most
    cpus: int = 4  # of a worker
    memory: str = "16Gi"
    gpus: int = 0
    queue: str | None = None  # of Kueue
    tries: int = 2  # clusters that may be begun after the first one failed

    def __post_init__(self) -> None:
        for name in ("namespace", "claim", "queue"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", value):
                raise UsageError(f"--on k8s: {name}={value!r:.80} is no name that Kubernetes takes.")
        if not re.fullmatch(r"[\w.:/@-]{1,400}", self.image):
            raise UsageError(f"--on k8s: image={self.image!r:.80} is no image. Write --with image=registry/name:tag.")
        for name, least in (("workers", 1), ("cpus", 1), ("gpus", 0), ("tries", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--on k8s: {name}={getattr(self, name)} is too few. Give at least {least}.")
        if not re.fullmatch(r"[1-9][0-9]*(Mi|Gi|Ti)", self.memory):
            raise UsageError(f"--on k8s: memory={self.memory!r:.80} is no amount. Write e.g. 16Gi.")

    def check(self, job: Job, parcel: Parcel) -> None:
        size = sum(map(len, parcel.files.values()))
        if size > _MOST_BYTES:
            raise UsageError(
                f"What travels with the job has {size / 1e6:.1f} MB, and a ConfigMap holds less than 1 MB. Install "
                f"{', '.join(parcel.carries) or 'it'} in the image."
            )
        if "://" not in job.root and self.claim is None:
            raise UsageError(
                f"--root {job.root} is a path, and pods have none of this machine's. Name the volume claim that holds "
                "it, --with claim=NAME --with mount=PATH, or give an address such as s3://bucket/runs."
            )
        if "://" not in job.root and not f"{job.root}/".startswith(f"{self.mount.rstrip('/')}/"):
            raise UsageError(f"--root {job.root} does not lie below {self.mount}, where the claim is mounted.")

    def written(self, job: Job, parcel: Parcel) -> Written | None:
        documents = [self._config_map(job, parcel), self._ray_job(job, parcel)]
        text = yaml.safe_dump_all(documents, sort_keys=False, width=100)
        return Written(files={_FILE: text.encode()}, command=("kubectl", "create", "-f", f"{job.id}/{_FILE}"))

    def start(self, job: Job, parcel: Parcel, written: str | None) -> None:
        if self.state(job.id) is not None:
            return
        written_for = self.written(job, parcel)  # anew, since an attempt has an id of its own
        assert written_for is not None
        status, _, problem = outcome_of("kubectl", "create", "-f", "-", data=written_for.files[_FILE])
        if status and "AlreadyExists" not in problem:
            raise UnreachableError(f"kubectl create ended with {status}: {problem.strip()[-400:]}.")

    def state(self, job_id: str) -> State | None:
        status, printed, problem = outcome_of(*self._get("rayjob", job_id))
        if status:
            if "NotFound" in problem:
                return None
            raise UnreachableError(f"kubectl get rayjob ended with {status}: {problem.strip()[-400:]}.")
        status_now: dict[str, Any] = json.loads(printed).get("status") or {}
        deployed, message = str(status_now.get("jobDeploymentStatus") or ""), str(status_now.get("message") or "")
        if deployed == "Failed":
            return State(word="failed", detail=self._why(job_id) or message or str(status_now.get("reason") or ""))
        if deployed in ("", "New", "Initializing", "Waiting", "Suspended", "Suspending", "Retrying"):
            why = "a queue holds it" if deployed.startswith("Suspend") else self._pending(job_id)
            return State(word="queued", detail=f"pending because {why or message or 'its cluster starts'}")
        word = OF_RAY.get(str(status_now.get("jobStatus")), "queued")
        return State(word=word, detail=message if word == "failed" else "")

    def logs(self, job_id: str) -> str | None:
        status, printed, problem = outcome_of("kubectl", "logs", "-n", self.namespace, f"job/{job_id}", "--tail=-1")
        if status and "NotFound" in problem:
            return None
        if status:
            raise UnreachableError(f"kubectl logs ended with {status}: {problem.strip()[-400:]}.")
        return printed

    def stop(self, job_id: str) -> None:
        state = self.state(job_id)
        if state is not None and state.word == "queued":
            self.kill(job_id)

    def kill(self, job_id: str) -> None:
        answer_of("kubectl", "delete", "rayjob", job_id, "-n", self.namespace, "--ignore-not-found", "--wait=false")

    def _get(self, kind: str, name: str) -> tuple[str, ...]:
        return ("kubectl", "get", kind, name, "-n", self.namespace, "-o", "json")

    def _pods(self, job_id: str) -> list[dict[str, Any]]:
        label = f"ray.io/originated-from-cr-name={job_id}"
        status, printed, _ = outcome_of("kubectl", "get", "pods", "-n", self.namespace, "-l", label, "-o", "json")
        return [] if status else json.loads(printed).get("items") or []

    def _why(self, job_id: str) -> str:
        """Whether a pod of the job was killed for memory."""
        for pod in self._pods(job_id):
            for container in (pod.get("status") or {}).get("containerStatuses") or []:
                for state in (container.get("state") or {}, container.get("lastState") or {}):
                    if (state.get("terminated") or {}).get("reason") == "OOMKilled":
                        return f"the pod {pod['metadata']['name']} was killed for memory"
        return ""

    def _pending(self, job_id: str) -> str:
        """Why a pod of the job has no node."""
        for pod in self._pods(job_id):
            for condition in (pod.get("status") or {}).get("conditions") or []:
                if condition.get("reason") == "Unschedulable":
                    return str(condition.get("message") or "no node has room")
        return ""

    def _config_map(self, job: Job, parcel: Parcel) -> dict[str, Any]:
        data = {key: base64.b64encode(content).decode() for key, _, content in _keyed(files(job, parcel))}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self._metadata(job), "binaryData": data}

    def _metadata(self, job: Job) -> dict[str, Any]:
        labels = {"app.kubernetes.io/name": "selector", "selector/job": job.id}
        if self.queue is not None:
            labels["kueue.x-k8s.io/queue-name"] = self.queue
        return {"name": job.id, "namespace": self.namespace, "labels": labels}

    def _ray_job(self, job: Job, parcel: Parcel) -> dict[str, Any]:
        worker = {
            "groupName": "workers",
            "replicas": self.workers,
            "minReplicas": 0,
            "maxReplicas": self.workers,
            "rayStartParams": {},
            "template": self._pod(job, parcel, is_head=False),
        }
        cluster = {
            "rayVersion": importlib.metadata.version("ray"),
            "authOptions": {"mode": "token"},
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 60},
            "headGroupSpec": {
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                "template": self._pod(job, parcel, is_head=True),
            },
            "workerGroupSpecs": [worker],
        }
        spec = {
            "entrypoint": f"python {_FOLDER}/{START}",
            "jobId": job.id,
            "submissionMode": "K8sJobMode",
            "backoffLimit": self.tries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
            "rayClusterSpec": cluster,
        }
        return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": self._metadata(job), "spec": spec}

    def _pod(self, job: Job, parcel: Parcel, *, is_head: bool) -> dict[str, Any]:
        """A pod that runs as nobody special, writes to its scratch alone, and has time to end."""
        amounts = {"cpu": "2", "memory": "8Gi"} if is_head else {"cpu": str(self.cpus), "memory": self.memory}
        if self.gpus and not is_head:
            amounts["nvidia.com/gpu"] = str(self.gpus)
        items = [{"key": key, "path": path} for key, path, _ in _keyed(files(job, parcel))]
        volumes: list[dict[str, Any]] = [
            {"name": "job", "configMap": {"name": job.id, "items": items}},
            {"name": "scratch", "emptyDir": {}},
        ]
        mounts = [
            {"name": "job", "mountPath": _FOLDER, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ]
        if self.claim is not None:
            volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": self.claim}})
            mounts.append({"name": "shared", "mountPath": self.mount})
        container = {
            "name": "ray-head" if is_head else "ray-worker",
            "image": self.image,
            "env": [
                {"name": "PYTHONPATH", "value": _FOLDER},
                {"name": "HOME", "value": "/tmp"},
                {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
            ],
            "resources": {"requests": dict(amounts), "limits": dict(amounts)},
            "volumeMounts": mounts,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        pod: dict[str, Any] = {
            "terminationGracePeriodSeconds": _GRACE,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": volumes,
        }  # fmt: skip
        if not is_head:
            pod["automountServiceAccountToken"] = False
        if self.gpus and not is_head:
            pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        return {"spec": pod}


def _keyed(contents: dict[str, bytes]) -> list[tuple[str, str, bytes]]:
    """Every file with a key that a ConfigMap takes, and its path."""
    return [(f"file-{number}", path, contents[path]) for number, path in enumerate(sorted(contents))]
