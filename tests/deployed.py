"""Manifests of Kubernetes, looked at where there is none: what `kustomize` makes of a folder, and what is wrong with a
document.

Three kinds of things can be wrong. The API server refuses what its schema does not have; KubeRay's operator refuses
more, which is in its code and in no schema; and some of what both take is not safe.
"""

import copy
import functools
import json
import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy/kubernetes"
SCHEMAS = ROOT / "tests/deploy/kuberay/v1.7.0.json.xz"
KUSTOMIZED = ("apiVersion", "kind", "resources", "patches")  # all of a kustomization that `rendered` knows

Document = dict[str, Any]

_SELECTOR: Document = {
    "type": "object",
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
}
_OF_BUDGETS: Document = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector"],
    "properties": {
        "minAvailable": {"type": "integer"},
        "selector": _SELECTOR,
    },  # all that pods without a scale can have
}
_OF_CONFIG: Document = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "v1"},
        "kind": {},
        "metadata": {},
        "data": {"additionalProperties": {"type": "string"}},
        "binaryData": {"additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9+/]*={0,2}$"}},
    },
}


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key is given twice: {keys}"
        return super().construct_mapping(node, deep)


def documents(text: str | bytes) -> list[Any]:
    """The documents of a YAML file, each key of which is given once."""
    return list(yaml.load_all(text, Loader=_OnceLoader))


def rendered(folder: Path) -> list[Document]:
    """What `kustomize build` makes of a folder that uses resources and JSON patches, and no more."""
    (kustomization,) = documents((folder / "kustomization.yaml").read_text("utf-8"))
    assert set(kustomization) <= set(KUSTOMIZED), f"{folder} uses {set(kustomization) - set(KUSTOMIZED)}"
    result: list[Document] = []
    for name in kustomization["resources"]:
        path = folder / name
        result += rendered(path) if path.is_dir() else documents(path.read_text("utf-8"))
    for patch in kustomization.get("patches", []):
        assert set(patch) == {"path", "target"} and set(patch["target"]) == {"kind"}
        (operations,) = documents((folder / patch["path"]).read_text("utf-8"))
        targets = [document for document in result if document["kind"] == patch["target"]["kind"]]
        assert targets, f"{folder}: nothing is a {patch['target']['kind']}"
        for target in targets:
            for operation in operations:
                patched(target, operation)
    return result


def patched(document: Document, operation: Mapping[str, Any]) -> None:
    """Does one operation of a JSON patch to a document."""
    *above, last = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
    place: Any = document
    for step in above:
        place = place[int(step) if isinstance(place, list) else step]
    key: Any = last
    if isinstance(place, list) and last != "-":
        key = int(last)
    if operation["op"] == "remove":
        del place[key]
    elif key == "-":
        place.append(copy.deepcopy(operation["value"]))
    else:
        assert operation["op"] == "add" or key in place or isinstance(place, list), f"{operation['path']} is not there"
        place[key] = copy.deepcopy(operation["value"])


@functools.cache
def _schemas() -> dict[str, Any]:
    """The schema of each kind, in which a field that it does not name is an error, as the API server says with
    `--validate=strict`."""
    published: dict[str, Any] = json.loads(lzma.decompress(SCHEMAS.read_bytes()))
    cluster = published["RayCluster"]["properties"]["spec"]["properties"]
    rules = cluster["networkPolicy"]["properties"]["head"]["properties"]
    policy = {
        "type": "object",
        "required": ["podSelector", "policyTypes"],
        "properties": {
            "podSelector": _SELECTOR,
            "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
            "ingress": rules["ingressRules"],
            "egress": rules["egressRules"],
        },
    }
    whole = {"type": "object", "required": ["spec"]}
    kinds = {
        **published,
        "NetworkPolicy": {**whole, "properties": {**_head("networking.k8s.io/v1"), "spec": policy}},
        "PodDisruptionBudget": {**whole, "properties": {**_head("policy/v1"), "spec": _OF_BUDGETS}},
        "ConfigMap": _OF_CONFIG,
    }
    for kind in published:
        kinds[kind] = {**published[kind], "properties": {**published[kind]["properties"], **_head("ray.io/v1")}}
    return {kind: jsonschema.Draft202012Validator(_strict(schema)) for kind, schema in kinds.items()}


def _head(version: str) -> Document:
    return {"apiVersion": {"const": version}, "kind": {}, "metadata": {"type": "object"}}


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and schema.get("type") == "object":
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
        if "required" in schema:  # what has a default is filled in before it is looked at
            strict["required"] = [name for name in schema["required"] if "default" not in properties.get(name, {})]
    return strict


def problems(document: Document) -> list[str]:
    """All that is wrong with a document, in words."""
    kind = document.get("kind")
    if kind not in _schemas():
        return [f"{kind} is no kind that is known here"]
    refused = [f"{error.json_path}: {error.message[:200]}" for error in _schemas()[kind].iter_errors(document)]
    if refused:
        return refused
    return [*_named(document), *(list(_ray_problems(document)) if kind in ("RayJob", "RayCluster") else [])]


def _named(document: Document) -> Iterator[str]:
    metadata, most = document["metadata"], {"RayJob": 47, "RayCluster": 53}.get(document["kind"], 63)
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{most - 2}}}[a-z0-9])?", metadata["name"]):
        yield f"metadata.name: {metadata['name']!r} is no name of at most {most} letters, digits and hyphens"
    for key, value in metadata.get("labels", {}).items():
        if not re.fullmatch(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?", value):
            yield f"metadata.labels: {key} is {value!r}"


def cluster_of(document: Document) -> Document:
    """The spec of the Ray cluster that a RayJob or a RayCluster is of."""
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


def pods_of(document: Document) -> Iterator[tuple[str, Document]]:
    """Every pod template of a RayJob or a RayCluster, with its name."""
    cluster = cluster_of(document)
    yield "head", cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]
    if "submitterPodTemplate" in document["spec"]:
        yield "submitter", document["spec"]["submitterPodTemplate"]


def _ray_problems(document: Document) -> Iterator[str]:
    spec, cluster = document["spec"], cluster_of(document)
    if document["kind"] == "RayJob":
        if not spec.get("shutdownAfterJobFinishes"):
            yield "shutdownAfterJobFinishes: a cluster would stay when its job is done, and hold a queue's quota"
        if "submitterPodTemplate" not in spec:
            yield "submitterPodTemplate: the pod that submits would run as KubeRay likes"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: whoever reaches the head may run code on it"
    grows = cluster.get("enableInTreeAutoscaling", False)
    if document["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name"):
        if grows or "autoscalerOptions" in cluster:
            yield "enableInTreeAutoscaling: Kueue admits a job whole"
        if not spec.get("suspend"):
            yield "suspend: the job would not wait for its queue"
    if cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams.num-cpus: work would take the memory of the head's own processes"
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    if len(names) != len(set(names)) or len(names) > 7:
        yield f"workerGroupSpecs: {names} are not up to 7 different ones"
    for group in cluster["workerGroupSpecs"]:
        least, most = group["minReplicas"], group["maxReplicas"]
        if not least <= group.get("replicas", least) <= most:
            yield f"{group['groupName']}.replicas: {group.get('replicas')} is not from {least} to {most}"
        if not grows and "replicas" not in group:
            yield f"{group['groupName']}.replicas: nothing else says how many there are"
        if "priority" in group and cluster.get("autoscalerOptions", {}).get("version") != "v2":
            yield f"{group['groupName']}.priority: only the autoscaler v2 knows it"
    for name, template in pods_of(document):
        yield from (f"{name}: {problem}" for problem in _pod_problems(template, grows=grows, name=name))


def _pod_problems(template: Document, *, grows: bool, name: str) -> Iterator[str]:
    pod = template["spec"]
    if grows and name != "submitter" and pod.get("restartPolicy", "Never") != "Never":
        yield "restartPolicy: the autoscaler v2 takes Never"
    if not pod.get("terminationGracePeriodSeconds"):
        yield "terminationGracePeriodSeconds: KubeRay sets none"
    whole = pod.get("securityContext", {})
    if not whole.get("runAsNonRoot") or not whole.get("runAsUser"):
        yield "securityContext: it may run as root"
    if whole.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "securityContext.seccompProfile: it is not RuntimeDefault"
    if name != "head" and pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken: it could talk to the API server"
    if any(pod.get(one) for one in ("hostNetwork", "hostPID", "hostIPC")):
        yield "it shares namespaces of its node"
    volumes = [volume["name"] for volume in pod.get("volumes", [])]
    yield from _doubles("volumes", volumes)
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"volumes: {volume['name']} is a folder of the node"
    for container in pod["containers"]:
        yield from _container_problems(container, volumes, is_worker=name not in ("head", "submitter"))


def _container_problems(container: Document, volumes: Sequence[str], *, is_worker: bool) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "allowPrivilegeEscalation: it could become root"
    if not own.get("readOnlyRootFilesystem"):
        yield "readOnlyRootFilesystem: it could change its own image"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or "add" in own.get("capabilities", {}):
        yield "capabilities: it keeps some"
    mounts = container.get("volumeMounts", [])
    yield from _doubles("volumeMounts", [mount["mountPath"] for mount in mounts])
    for mount in mounts:
        if mount["name"] not in volumes:
            yield f"volumeMounts: there is no volume {mount['name']}"
    if not any(mount["mountPath"] == "/tmp" and not mount.get("readOnly") for mount in mounts):
        yield "volumeMounts: nothing can be written, and Ray writes below /tmp"
    yield from _doubles("env", [variable["name"] for variable in container.get("env", [])])
    for variable in container.get("env", []):
        if re.search(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY", variable["name"]) and "value" in variable:
            yield f"env: {variable['name']} holds a secret in clear"
    image = container["image"]
    if not re.search(r"@sha256:[0-9a-f]{64}$|:[^/:]+$", image) or image.endswith(":latest"):
        yield f"image: {image} is another one tomorrow"
    limits, requests = (container.get("resources", {}).get(side, {}) for side in ("limits", "requests"))
    if not {"cpu", "memory"} <= limits.keys() & requests.keys():
        yield "resources: it may take all of its node"
    if is_worker and "lifecycle" not in container:
        yield "lifecycle.preStop: nothing tells the raylet that its pod is to go"


def _doubles(place: str, names: Sequence[str]) -> Iterator[str]:
    yield from (f"{place}: {name} is given twice" for name in sorted({n for n in names if names.count(n) > 1}))


def together(everything: Sequence[Document]) -> Iterator[str]:
    """What is wrong with documents beside each other: a rule that is for nobody, a pod that no rule is for."""
    rays = [document for document in everything if document["kind"] in ("RayJob", "RayCluster")]
    configs = {document["metadata"]["name"] for document in everything if document["kind"] == "ConfigMap"}
    for ray in rays:
        labels = {name: _labels(name, template) for name, template in pods_of(ray)}
        for kind in ("NetworkPolicy", "PodDisruptionBudget"):
            guards = [_selected(document) for document in everything if document["kind"] == kind]
            if kind == "NetworkPolicy" and not all(any(_fits(one, of) for one in guards) for of in labels.values()):
                yield f"a pod of {ray['metadata']['name']} is under no {kind}"
            for guard in guards:
                if not any(_fits(guard, of) for of in labels.values()):
                    yield f"a {kind} is for nobody: {guard}"
        for name, template in pods_of(ray):
            for volume in template["spec"].get("volumes", []):
                if "configMap" in volume and volume["configMap"]["name"] not in configs:
                    yield f"{name}: there is no ConfigMap {volume['configMap']['name']}"


def _labels(name: str, template: Document) -> dict[str, str]:
    """The labels of a pod, with those that KubeRay gives it."""
    kind = {"head": "head", "submitter": ""}.get(name, "worker")
    return {**template.get("metadata", {}).get("labels", {}), "ray.io/node-type": kind}


def _selected(guard: Document) -> dict[str, str]:
    spec = guard["spec"]
    return (spec.get("selector") or spec.get("podSelector"))["matchLabels"]


def _fits(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()
