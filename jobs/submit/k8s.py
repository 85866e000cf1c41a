"""Kubernetes with KubeRay: a job is a RayJob, with a cluster of its own that goes when it is done.

What is handed over is what `deploy/kubernetes` has, filled in for one job (`kubernetes` beside this file is that
folder). The job's files travel in a ConfigMap. A run that somebody cancels sees the mark in the root and ends by
itself, since Kubernetes would signal the head's first process and not ours.
"""

import base64
import importlib.metadata
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from jobs.submit._parcel import START, files
from jobs.submit._states import OF_RAY
from jobs.submit._tools import answer_of, outcome_of
from selector.engine.job import Job, State
from selector.engine.target import Parcel, Target, Written
from selector.errors import UnreachableError, UsageError
from selector.storage import is_address

logger = logging.getLogger(__name__)

_FILE = "rayjob.yaml"
_MOST_BYTES = 900_000  # of a ConfigMap, which may have 1 MiB with all that is around its files
_FOLDER = "/job"  # where the files lie in every pod
_DEPLOYED = Path(__file__).parent / "kubernetes"
_INSTANCE, _JOB, _QUEUE = "app.kubernetes.io/instance", "selector/job", "kueue.x-k8s.io/queue-name"
_KINDS = "rayjob,configmap,networkpolicy,poddisruptionbudget"  # all that a job is made of


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
        if not is_address(job.root) and self.claim is None:
            raise UsageError(
                f"--root {job.root} is a path, and pods have none of this machine's. Name the volume claim that holds "
                "it, --with claim=NAME --with mount=PATH, or give an address such as s3://bucket/runs."
            )
        if not is_address(job.root) and not self._holds(job.root):
            raise UsageError(f"--root {job.root} does not lie below {self.mount}, where the claim is mounted.")
        for key, path in parcel.paths:
            if not self._holds(path):
                logger.warning(
                    "%s: %s lies in no volume of the job, so its pods find it only where the image has it. Name the "
                    "volume claim that holds it, --with claim=NAME --with mount=PATH, or give an address such as "
                    "s3://bucket/….", key, path,
                )  # fmt: skip

    def _holds(self, path: str) -> bool:
        """Whether the volume claim has what lies at a path."""
        mount = os.path.normpath(self.mount).rstrip("/")
        return self.claim is not None and f"{os.path.normpath(path)}/".startswith(f"{mount}/")

    def written(self, job: Job, parcel: Parcel) -> Written | None:
        documents = [self._config_map(job, parcel), *self._guards(job), self._ray_job(job, parcel)]
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
        of_it = ("-l", f"{_JOB}={job_id}", "-n", self.namespace)
        answer_of("kubectl", "delete", _KINDS, *of_it, "--ignore-not-found", "--wait=false")

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
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self._metadata(job, job.id), "binaryData": data}

    def _metadata(self, job: Job, name: str) -> dict[str, Any]:
        labels = {"app.kubernetes.io/name": "selector", _INSTANCE: job.id, _JOB: job.id}
        return {"name": name, "namespace": self.namespace, "labels": labels}

    def _guards(self, job: Job) -> list[dict[str, Any]]:
        """Who may talk to the job's pods, and which of them may be moved: rules for these pods alone."""
        guards: list[dict[str, Any]] = []
        for guard in [*_deployed("guard/disruption-budget.yaml"), *_deployed("guard/network-policies.yaml")]:
            name = guard["metadata"]["name"].replace("selector", job.id, 1)
            guards.append({**_of_instance(guard, job.id), "metadata": self._metadata(job, name)})
        return guards

    def _ray_job(self, job: Job, parcel: Parcel) -> dict[str, Any]:
        """The RayJob that `deploy/kubernetes` has, with the workers of this target, for this job."""
        (ray_job,) = _deployed("cpu/rayjob.yaml")
        ray_job = {**_of_instance(ray_job, job.id), "metadata": self._metadata(job, job.id)}
        spec = ray_job["spec"]
        cluster = spec["rayClusterSpec"]
        head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
        if self.gpus:
            ((added,),) = _deployed("gpu/workers.yaml")
            workers = _of_instance(added["value"], job.id)
        cluster |= {"rayVersion": importlib.metadata.version("ray"), "workerGroupSpecs": [workers]}
        workers |= {"replicas": self.workers, "maxReplicas": self.workers}
        if self.queue is not None:  # Kueue admits a job whole: nothing may grow or shrink
            ray_job["metadata"]["labels"][_QUEUE] = self.queue
            spec["suspend"] = True
            del cluster["autoscalerOptions"]
            cluster["enableInTreeAutoscaling"] = False
            workers["minReplicas"] = self.workers
        spec |= {"entrypoint": f"python {_FOLDER}/{START}", "jobId": job.id, "backoffLimit": self.tries}
        self._fill(spec["submitterPodTemplate"]["spec"], None)
        for group in (head, workers):
            self._fill(group["template"]["spec"], _volume(job, parcel))
        amounts = {"cpu": str(self.cpus), "memory": self.memory}
        if self.gpus:
            amounts["nvidia.com/gpu"] = str(self.gpus)
        workers["template"]["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": dict(amounts)}
        return ray_job

    def _fill(self, pod: dict[str, Any], volume: dict[str, Any] | None) -> None:
        """Gives a pod its image, and its volumes if it takes part in the work."""
        (container,) = pod["containers"]
        container["image"] = self.image
        if volume is None:
            return
        pod["volumes"] = [volume if one["name"] == volume["name"] else one for one in pod["volumes"]]
        container["env"].append({"name": "PYTHONPATH", "value": _FOLDER})
        if self.claim is not None:
            pod["volumes"].append({"name": "shared", "persistentVolumeClaim": {"claimName": self.claim}})
            container["volumeMounts"].append({"name": "shared", "mountPath": self.mount})


def _deployed(path: str) -> list[Any]:
    """The documents of a file of `deploy/kubernetes`."""
    return list(yaml.safe_load_all((_DEPLOYED / path).read_text("utf-8")))


def _of_instance(value: Any, name: str) -> Any:
    """The same, where every label and selector that names an instance names this one."""
    if isinstance(value, list):
        return [_of_instance(one, name) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: name if key == _INSTANCE else _of_instance(one, name) for key, one in value.items()}


def _volume(job: Job, parcel: Parcel) -> dict[str, Any]:
    """The volume with the job's files."""
    items = [{"key": key, "path": path} for key, path, _ in _keyed(files(job, parcel))]
    return {"name": "job", "configMap": {"name": job.id, "items": items}}


def _keyed(contents: dict[str, bytes]) -> list[tuple[str, str, bytes]]:
    """Every file with a key that a ConfigMap takes, and its path."""
    return [(f"file-{number}", path, contents[path]) for number, path in enumerate(sorted(contents))]
