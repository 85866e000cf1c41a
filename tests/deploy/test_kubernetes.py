"""The manifests in deploy/kubernetes, and those that `selector submit` writes: checked against KubeRay's own schema."""

import importlib.metadata
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployed import KUBERNETES, ROOT, Document, cluster_of, documents, pods_of, problems, rendered, together
from jobs.submit.k8s import KubernetesTarget
from selector import __version__
from selector.engine.job import Job
from selector.engine.target import Parcel
from selector.policy import Policy

FOLDERS = sorted(path.parent for path in KUBERNETES.glob("*/kustomization.yaml"))
RUNS = [folder for folder in FOLDERS if folder.name != "guard"]
JOB = Job(id="selector-0123456789ab", target="k8s", root="s3://bucket/runs", requires={"selector": __version__})
PARCEL = Parcel(files={"policy.json": b"{}", "mine/rates.py": b"X = 1\n"})
TARGETS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "cards": {"gpus": 2, "workers": 4},
    "claim": {"claim": "shared", "mount": "/data"},
    "queue": {"queue": "team", "workers": 3},
}


def submitted(**options: Any) -> list[Document]:
    files = KubernetesTarget(image=f"registry.example/selector:{__version__}", **options).written(JOB, PARCEL)
    assert files is not None
    return documents(files.files["rayjob.yaml"])


def of_kind(everything: list[Document], *kinds: str) -> Document:
    (document,) = [document for document in everything if document["kind"] in kinds]
    return document


def ray_of(folder: str) -> Document:
    return of_kind(rendered(KUBERNETES / folder), "RayJob", "RayCluster")


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: folder.name)
def test_every_base_is_taken_by_the_api_server_and_the_operator_and_is_safe(folder: Path) -> None:
    everything = rendered(folder)
    assert [problem for document in everything for problem in problems(document)] == []
    assert [*together(everything)] == []


@pytest.mark.parametrize("name", TARGETS)
def test_what_submit_writes_is_taken_as_well(name: str) -> None:
    everything = submitted(**TARGETS[name])
    assert [problem for document in everything for problem in problems(document)] == []
    assert [*together(everything)] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_kustomize_makes_the_same_of_a_folder(folder: Path) -> None:
    ended = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    assert sorted(documents(ended.stdout), key=json.dumps) != []
    key = lambda document: (document["kind"], document["metadata"]["name"])  # noqa: E731
    assert sorted(documents(ended.stdout), key=key) == sorted(rendered(folder), key=key)


def at(document: Any, path: str) -> tuple[Any, Any]:
    """The last mapping or list on a path with dots, and the last key."""
    *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in above:
        document = document[step]
    return document, last


def put(kind: str, path: str, value: Any) -> Callable[[list[Document]], None]:
    def plant(everything: list[Document]) -> None:
        place, last = at(of_kind([one for one in everything if one["kind"] == kind][:1], kind), path)
        place[last] = value

    return plant


def drop(kind: str, path: str) -> Callable[[list[Document]], None]:
    def plant(everything: list[Document]) -> None:
        place, last = at(of_kind([one for one in everything if one["kind"] == kind][:1], kind), path)
        del place[last]

    return plant


CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec.template.spec"
WORKERS = f"{CLUSTER}.workerGroupSpecs.0"
WORKER = f"{WORKERS}.template.spec"
PLANTED: Mapping[str, tuple[Callable[[list[Document]], None], str]] = {
    "a field that is misspelt": (put("RayJob", "spec.shutdownAfterJobFinish", True), "'shutdownAfterJobFinish'"),
    "a field in another's place": (put("RayJob", f"{WORKER}.containers.0.terminationGracePeriodSeconds", 60), "unex"),
    "a number in quotes": (put("RayJob", f"{WORKERS}.maxReplicas", "8"), "is not of type 'integer'"),
    "a word that is none of its words": (put("RayJob", f"{CLUSTER}.authOptions.mode", "tokens"), "is not one of"),
    "a list that is a mapping": (put("RayJob", f"{HEAD}.containers.0.env", {"HOME": "/tmp"}), "is not of type 'array'"),
    "no containers": (drop("RayJob", f"{HEAD}.containers"), "'containers' is a required property"),
    "an old version": (put("RayJob", "apiVersion", "ray.io/v1alpha1"), "'ray.io/v1' was expected"),
    "a name that is too long": (put("RayJob", "metadata.name", "s" * 48), "no name of at most 47"),
    "more at least than at most": (put("RayJob", f"{WORKERS}.minReplicas", 9), "is not from 9 to 8"),
    "a pod that is begun again": (put("RayJob", f"{WORKER}.restartPolicy", "Always"), "takes Never"),
    "a mount without a volume": (put("RayJob", f"{WORKER}.volumes", []), "there is no volume job"),
    "no token": (put("RayJob", f"{CLUSTER}.authOptions.mode", "disabled"), "may run code on it"),
    "a token in clear": (
        put("RayJob", f"{HEAD}.containers.0.env.0", {"name": "RAY_AUTH_TOKEN", "value": "x"}), "secret in clear",
    ),
    "root": (drop("RayJob", f"{WORKER}.securityContext.runAsNonRoot"), "it may run as root"),
    "an image that can be changed": (
        put("RayJob", f"{HEAD}.containers.0.securityContext.readOnlyRootFilesystem", False), "readOnlyRootFilesystem",
    ),
    "nowhere to write": (drop("RayJob", f"{HEAD}.containers.0.volumeMounts.1"), "nothing can be written"),
    "no grace": (drop("RayJob", f"{WORKER}.terminationGracePeriodSeconds"), "KubeRay sets none"),
    "any image": (put("RayJob", f"{WORKER}.containers.0.image", "registry.example:5000/selector"), "tomorrow"),
    "no limits": (drop("RayJob", f"{WORKER}.containers.0.resources.limits"), "all of its node"),
    "a cluster that stays": (put("RayJob", "spec.shutdownAfterJobFinishes", False), "hold a queue's quota"),
    "a rule that is misspelt": (put("NetworkPolicy", "spec.ingres", []), "'ingres' was unexpected"),
    "a port that is none": (put("NetworkPolicy", "spec.egress.1.ports.0.port", [53]), "is not valid under any"),
    "a percentage of nothing": (put("PodDisruptionBudget", "spec.minAvailable", "50%"), "not of type 'integer'"),
    "a budget for nobody": (
        put("PodDisruptionBudget", "spec.selector.matchLabels", {"app": "selector"}), "is for nobody",
    ),
    "a policy that is not there": (put("ConfigMap", "metadata.name", "other"), "there is no ConfigMap"),
    "a pod under no rule": (
        put("RayJob", f"{WORKERS}.template.metadata.labels", {"app.kubernetes.io/instance": "other"}), "under no",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_caught(name: str) -> None:
    plant, message = PLANTED[name]
    everything = rendered(KUBERNETES / "cpu")
    plant(everything)
    reasons = [problem for document in everything for problem in problems(document)] or [*together(everything)]
    assert any(message in reason for reason in reasons), reasons


def test_a_key_that_is_given_twice_is_caught() -> None:
    with pytest.raises(AssertionError, match="given twice"):
        documents("spec: {suspend: true, suspend: false}")


def test_versions_are_those_of_the_constraints() -> None:
    pinned = dict(re.findall(r"^(\S+?)==(\S+)$", (ROOT / "deploy/constraints.txt").read_text("utf-8"), re.MULTILINE))
    assert pinned["ray"] == importlib.metadata.version("ray")
    for folder in RUNS:
        ray = ray_of(folder.name)
        assert cluster_of(ray)["rayVersion"] == pinned["ray"]
        for _, template in pods_of(ray):
            (container,) = template["spec"]["containers"]
            assert container["image"].removesuffix("-gpu") == f"registry.example/selector:{__version__}"


def test_the_standing_cluster_has_the_same_pods_as_the_jobs() -> None:
    def without_job(group: Document) -> Document:
        """A pod as it would be if it had no policy with it, and were not counted yet."""
        text = json.loads(json.dumps(group))
        pod = text["template"]["spec"]
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "job"]
        (container,) = pod["containers"]
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "job"]
        container["env"] = [one for one in container["env"] if one["name"] != "SELECTOR_METRICS"]
        if "ports" in container:
            container["ports"] = [port for port in container["ports"] if port["name"] != "run-metrics"]
        return {**text, "replicas": 0} if "replicas" in text else text

    standing = ray_of("cluster")["spec"]
    jobs = [cluster_of(ray_of(folder)) for folder in ("gpu", "spot")]
    groups = {group["groupName"]: without_job(group) for job in jobs for group in job["workerGroupSpecs"]}
    assert {group["groupName"]: group for group in standing["workerGroupSpecs"]} == groups
    assert standing["headGroupSpec"] == without_job(jobs[0]["headGroupSpec"])
    assert standing["autoscalerOptions"] == jobs[0]["autoscalerOptions"]


def test_submit_fills_in_the_base_and_changes_nothing_that_protects_it() -> None:
    for options, folder, groups in (({}, "cpu", [0]), ({"gpus": 1, "cpus": 8, "memory": "32Gi"}, "gpu", [1])):
        base, own = ray_of(folder), of_kind(submitted(**options), "RayJob")
        text = json.dumps(own).replace(JOB.id, "selector")
        filled = json.loads(text)
        image = f"registry.example/selector:{__version__}"
        for part in ("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "rayVersion"):
            assert cluster_of(filled)[part] == cluster_of(base)[part]
        wanted = [cluster_of(base)["workerGroupSpecs"][index] for index in groups]
        pairs = [
            (cluster_of(filled)["headGroupSpec"], cluster_of(base)["headGroupSpec"]),
            *zip(cluster_of(filled)["workerGroupSpecs"], wanted, strict=True),
        ]
        for pod, expected in [(a["template"], b["template"]) for a, b in pairs]:
            (container,), (other,) = pod["spec"]["containers"], expected["spec"]["containers"]
            assert container.pop("env") == [*other.pop("env"), {"name": "PYTHONPATH", "value": "/job"}]
            assert container.pop("image") == image and other.pop("image").removesuffix("-gpu") == image
            assert pod["spec"].pop("volumes")[1:] == expected["spec"].pop("volumes")[1:]
            assert pod == expected


def test_a_job_has_rules_for_its_own_pods_alone() -> None:
    everything = submitted()
    assert [document["kind"] for document in everything][-1] == "RayJob"  # what it needs is there before it
    for document in everything:
        assert document["metadata"]["labels"]["selector/job"] == JOB.id
        instances = re.findall(r'"app.kubernetes.io/instance": "([^"]*)"', json.dumps(document))
        assert instances and {*instances} == {JOB.id}
    names = [document["metadata"]["name"] for document in everything]
    assert names == [JOB.id, f"{JOB.id}-head", JOB.id, f"{JOB.id}-head", JOB.id]


def test_nothing_comes_in_but_from_the_runs_own_pods_and_to_three_ports() -> None:
    policies = [one for one in rendered(KUBERNETES / "guard") if one["kind"] == "NetworkPolicy"]
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    opened = [
        (sorted(source), [port["port"] for port in rule.get("ports", [])])
        for policy in policies
        for rule in policy["spec"]["ingress"]
        for source in rule["from"]
    ]
    assert opened == [
        (["podSelector"], []),
        (["namespaceSelector", "podSelector"], [8265]),
        (["namespaceSelector"], [9464, 8080]),
    ]
    blocks = [
        to["ipBlock"] for one in policies for rule in one["spec"]["egress"] for to in rule["to"] if "ipBlock" in to
    ]
    assert all(block["except"] == ["169.254.0.0/16"] for block in blocks)


def test_the_policy_of_the_base_can_be_read() -> None:
    config = of_kind(rendered(KUBERNETES / "cpu"), "ConfigMap")
    policy = Policy.model_validate(yaml.safe_load(config["data"]["policy.yaml"]))
    assert policy.select.budget.fraction == 0.2
