"""Selectors: each chooses documents within a budget, and says why. One file here is one selector, named like the file.

A selector sees only documents that may be chosen: duplicates, documents that a rule left out and documents without a
needed score have had their verdict already. It passes over shards of columns, and answers with a function that says the
verdict on any batch of them; so the corpus is never held, and the answer does not depend on how it is cut.

Most selectors are a `Ranked` (groups are queues, the lowest key first, until a quota is spent) or a `Grouped` (a key
for each document, from all of its group at once).
"""

from selector.exact.spend import Budget
from selector.plugins.options import Columns, ManifestPath, ModelPath, ScoreName, SignalName, TablePath, TextsPath
from selector.plugins.pool import Pool
from selector.select._check import Checker
from selector.select._contract import Decisions, Ended, InRounds, IsTaken, Reason, Round, Selector, reasons, verdicts
from selector.select._grouped import Grouped, Keys
from selector.select._mixed import Mixed
from selector.select._ranked import Group, Ranked, Reasons
from selector.select._weighted import Weighted

__all__ = [
    "Budget", "Checker", "Columns", "Decisions", "Ended", "Group", "Grouped", "InRounds", "IsTaken", "Keys",
    "ManifestPath", "Mixed", "ModelPath", "Pool", "Ranked", "Reason", "Reasons", "Round", "ScoreName", "Selector",
    "SignalName", "TablePath", "TextsPath", "Weighted", "reasons", "verdicts",
]  # fmt: skip
