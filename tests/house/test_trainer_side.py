"""What a trainer has to install: NumPy and PyArrow, and torch for the dataset alone."""

import subprocess
import sys
from pathlib import Path

BLOCKED = """
import importlib.abc, sys
ALLOWED = {"numpy", "pyarrow", "selector", *sys.stdlib_module_names}
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""

WORK = """
import pyarrow as pa
from selector import tables
from selector.consume import PADDING, Layout, ManifestBatchSampler, Texts
from selector.engine.step import Done
from selector.engine.store import Store
from selector.exact import keyed
from selector.manifest import Manifest, Visits, commit
from selector.manifest.format import canonical
from selector.storage import open_storage

texts = [f"document {n}" for n in range(3)]
with open("corpus.jsonl", "w") as file:
    file.writelines('{"text": "%s"}\\n' % text for text in texts)
ids = pa.array([keyed.digest(text.encode()) for text in texts], tables.DOC_ID)
kept = pa.array(["kept"] * 3).dictionary_encode()
given = {
    "doc_id": ids, "file": [0] * 3, "row": range(3), "outcome": kept, "reason": kept, "visits": [1] * 3,
    "round": [0] * 3, "source": kept, "num_tokens": [2] * 3, "visit": [0] * 3, "phase": kept, "loss_weight": [1.0] * 3,
    "uri": ["corpus.jsonl"], "format": ["jsonl"], "num_rows": [3], "size": [69],
}
def table(schema):
    return pa.table({field.name: given.get(field.name, pa.nulls(3, field.type)) for field in schema})
files = pa.table({field.name: given.get(field.name, [None]) for field in tables.FILES}, schema=tables.FILES)
columns = [name for name in given if name in tables.MANIFEST.names]
visits = table([tables.MANIFEST.field(name) for name in columns]).take([2, 0, 1])
store = Store(open_storage("runs"))
decided = canonical(table(tables.DECISIONS), tables.DECISIONS)
decisions = store.seal("decisions/all", [("decisions", decided)], form="parquet")
commit(
    Done(store), "run", parts=[Visits(read=lambda: visits, rows=3, tokens=6)],
    files=files, counts={}, lineage={}, models={}, versions={}, decisions=[decisions],
    policy={"corpus": {"text": "text", "key": None}},
)
manifest = Manifest.open("runs")
assert manifest.verify().ok
print(*Texts(manifest).read(manifest.batch(0, global_batch_size=2)), sep=", ")
manifest.explain(manifest.at(1)["doc_id"]), manifest.describe()
print(list(ManifestBatchSampler(manifest, global_batch_size=2, last="drop")), Layout(global_batch_size=2).num_steps(3))
from selector.consume import Feedback
from selector.consume.feedback import append
with Feedback("reports", manifest) as feedback:
    feedback.write(position=[0, 1], step=0, loss=[1.0, 2.0])
print(append("reports", manifest, "fed.parquet"))
try:
    from selector.consume import ManifestDataset
except ModuleNotFoundError as error:
    print(error.name, error.__notes__)
"""


def test_a_trainer_needs_numpy_and_pyarrow_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", BLOCKED + WORK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    texts, batches, reported, refused = done.stdout.splitlines()
    assert reported == "Appended(rows=2, changed=2, not_finite=0)"
    assert texts == "document 2, document 0"
    assert batches == "[[0, 1]] 2"
    assert refused.startswith("torch ") and "ManifestDataset needs torch: pip install torch" in refused
