"""An order over shards. A placed one is a distributed sort by (group, key, id), then arithmetic on ranks.

Every shard deals its rows into ranges of the sort key, every range is sorted on its own, and what comes before a range
is known by counting. Where the order says places of its own, the ranges deal again, by place. At last each shard gets
back the positions of its rows. An order around it goes on from what the shards got back: one that sorts its visits anew
is one more such sort, one that moves them by their groups reads those in line, and one that weighs them leaves them
where they are. One with parts arranges each over the rows that it has, and puts them after each other. The answer is
that of `arrange`, bit for bit.
"""

from selector.steps.ranges.back import POSITIONS
from selector.steps.ranges.kinds import arranged

__all__ = ["POSITIONS", "arranged"]
