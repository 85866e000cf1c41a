"""Orders: each arranges the chosen documents in time. One file here is one order; its name is the file's.

Think of the result as the list of visits from first to last. A simple order is a permutation; one with repeats lists a
document several times, one with phases names a stretch of the list, one with loss weights gives every visit a weight.

Most orders are a `Placed`: documents sorted by (group, key, id), then put in their places by arithmetic on ranks; one
that draws documents again and again is a `Dealt`, which says its visits itself. One around another order is a
`Resorted` where it sorts the visits of that one anew, a `Weighted` where it weighs them, and a `Moved` where a visit's
place follows from the groups of all visits. A `Parted` divides the visits among others, which arrange a part each. None
of them ever holds all visits' documents.

A docstring ends with two paragraphs that the gallery shows apart: "Evidence:", the source, the setting and the effect,
also where there was none; and "When:", where that supports the order, and where a random one is as good.
"""

from selector.order._around import Along
from selector.order._check import arranged, check
from selector.order._contract import Order, Positions, numbered
from selector.order._cuts import Cuts, cut_at
from selector.order._difficulty import Direction, difficulty_keys, is_high_first
from selector.order._groups import GroupName, Groups, GroupSummary, InGroups, groups_in
from selector.order._placed import Dealt, Drawn, Placed, random_keys, random_visits
from selector.order._resorted import Resorted
from selector.order._shaped import Shaped
from selector.plugins.options import Columns, ManifestPath, ModelPath, ScoreName, SignalName, TablePath, TextsPath
from selector.plugins.pool import Pool

__all__ = [
    "Along", "Columns", "Cuts", "Dealt", "Direction", "Drawn", "GroupName", "GroupSummary", "Groups", "InGroups",
    "ManifestPath", "ModelPath", "Order", "Placed", "Pool", "Positions", "Resorted", "ScoreName", "Shaped",
    "SignalName", "TablePath", "TextsPath", "arranged", "check", "cut_at", "difficulty_keys", "groups_in",
    "is_high_first", "numbered", "random_keys", "random_visits",
]  # fmt: skip
