"""The centroids of another run: `cluster.from`."""

from dataclasses import dataclass
from typing import Any

from selector import tables
from selector.engine.store import Store
from selector.errors import DamagedError, NotFoundError, PolicyError
from selector.manifest import Manifest
from selector.models.find import checksum, find_model, settings_checksum
from selector.policy.sections import ClusterPolicy


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where centroids come from: the root of a run, and their fingerprint in it."""

    root: str
    fingerprint: str

    @property
    def key(self) -> str:
        return f"centroids/{self.fingerprint}"


def of(policy: ClusterPolicy, model: str) -> Origin:
    """The centroids of the run that the policy names. Raises PolicyError where it has none that fit."""
    uri = str(policy.from_)
    where = f"cluster.from: {uri!r}"
    try:
        manifest = Manifest.open(uri)
        header = manifest.header
    except (NotFoundError, DamagedError) as error:
        raise PolicyError(f"{where} is no finished run: {error}") from error
    fingerprint = header.lineage.get("centroids")
    if fingerprint is None:
        raise PolicyError(f"{where} has no centroids: nothing in its policy reads clusters. Give a run that has them.")
    _check_model(where, header.models.get("embed") or {}, model)
    origin = Origin(root=manifest.root, fingerprint=fingerprint)
    store = Store.open(origin.root)
    try:
        seal = store.find(origin.key)
        centroids = None if seal is None else store.table(seal, "centroids")
    except DamagedError as error:
        raise PolicyError(f"{where}: its centroids are damaged: {error} Run its policy again.") from error
    if centroids is None:
        raise PolicyError(f"{where}: its centroids are gone. Run its policy again; what is missing is made.")
    if not centroids.schema.equals(tables.centroids(centroids.schema.field("centroid").type.list_size)):
        raise PolicyError(f"{where}: its centroids are those of an older Selector. Run its policy again with this one.")
    wanted = policy.num_clusters
    if wanted not in ("auto", centroids.num_rows):
        raise PolicyError(
            f"cluster.num_clusters is {wanted}, and {uri!r} has {centroids.num_rows} centroids. Leave out one of"
            " cluster.num_clusters and cluster.from."
        )
    return origin


def _check_model(where: str, identity: dict[str, Any], model: str) -> None:
    """Vectors of the policy's model can be compared with those of this identity, whatever computed them."""
    folder = find_model(model)
    own = {"model_sha256": checksum(folder), "settings_sha256": settings_checksum(folder)}
    if any(identity.get(name) != value for name, value in own.items()):
        raise PolicyError(
            f"{where} embedded with another model than {model!r}, whose vectors cannot be compared with its"
            " centroids. Give a run of the same model, or leave cluster.from out."
        )
