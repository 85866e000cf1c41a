"""The wall between the flow and its plug-ins: how one is found and made, what its options mean, what it is given."""

from selector.plugins.allowed import only_below
from selector.plugins.catalogue import Catalogue, Column
from selector.plugins.families import (
    FAMILIES,
    describe,
    document,
    family_of,
    find,
    identity,
    installed_only,
    is_part,
    make,
    name_of,
    names,
    options_spelt_out,
    ours,
    wanted,
)
from selector.plugins.options import (
    ArtefactPath,
    Columns,
    Endpoint,
    ManifestPath,
    ModelPath,
    Option,
    ScoreName,
    SignalName,
    TablePath,
    TextsPath,
    options_of,
    plugins_in,
    replaced,
)
from selector.plugins.pool import Pool

__all__ = [
    "FAMILIES", "ArtefactPath", "Catalogue", "Column", "Columns", "Endpoint", "ManifestPath", "ModelPath", "Option",
    "Pool", "ScoreName", "SignalName", "TablePath", "TextsPath", "describe", "document", "family_of", "find",
    "identity", "installed_only", "is_part", "make", "name_of", "names", "only_below", "options_of",
    "options_spelt_out", "ours", "plugins_in", "replaced", "wanted",
]  # fmt: skip
