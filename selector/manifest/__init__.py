"""The order as data: the finished list of visits, immutable, and how it is written, opened and checked.

header.py      manifest.json as one frozen type
format.py      the tables: how each is named, written, and checked when it is read
ids.py         where a document is in the order
publish.py     objects into their places, manifest.json last
digest.py      the order digest
places.py      where in the corpus a row is
ledger.py      what the rows add up to
match.py       whether what is kept is what is visited or left
ranks.py       which positions each rank of a trainer sees
commit.py      a manifest from what the steps decided
verify.py      whether it is what was committed
describe.py    what is told of it, of a document, and of a reason
manifest.py    a finished manifest, opened
"""

from selector.manifest.commit import Visits, commit
from selector.manifest.describe import heading, sentence
from selector.manifest.manifest import Manifest
from selector.manifest.ranks import PADDING, Layout
from selector.manifest.verify import Verification

__all__ = ["PADDING", "Layout", "Manifest", "Verification", "Visits", "commit", "heading", "sentence"]
