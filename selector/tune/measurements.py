"""What was measured of the arms of a study, by arm, condition, setting and seed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from selector.errors import SelectorError
from selector.exact import Floats, keyed
from selector.tune.arms import Arm, Condition, conditions_for, conditions_of
from selector.tune.evidence import Evidence, rows_of
from selector.tune.objectives import HeldOut
from selector.tune.study import Study


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One measurement of a study."""

    arm: Arm
    condition: Condition
    setting: str
    seed: int
    evidence: Evidence


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was measured by the seeds that count: those by which every arm was measured at all its conditions."""

    study: Study
    arms: Sequence[Arm]
    held_out: HeldOut
    by_place: dict[tuple[str, Condition, str, int], Evidence]
    seeds: list[int]

    @classmethod
    def of(cls, study: Study, arms: Sequence[Arm], observed: Sequence[Observed], held_out: HeldOut) -> "Measurements":
        by_place = {(one.arm.name, one.condition, one.setting, one.seed): one.evidence for one in observed}
        conditions = conditions_of(study)
        places = [
            (arm.name, condition, setting)
            for arm in arms
            for condition in conditions_for(arm, conditions)
            for setting in study.plugin.settings
        ]
        seeds = [seed for seed in study.seed_numbers if all((*place, seed) in by_place for place in places)]
        return cls(study=study, arms=arms, held_out=held_out, by_place=by_place, seeds=seeds)

    @property
    def competing(self) -> list[Arm]:
        """The arms of which one may be the best."""
        return [arm for arm in self.arms if arm.competes]

    def values(self, metric: str, arm: Arm, condition: Condition, setting: str) -> tuple[Floats, Floats]:
        """A metric by seed and held-out document, (seeds, documents), and the weights of those."""
        evidence = (self.by_place[arm.name, condition, setting, seed] for seed in self.seeds)
        rows = [_rows(one.measured, metric, self.held_out) for one in evidence]
        return np.stack([values for values, _ in rows]), rows[0][1]

    def pooled(self, metric: str, arm: Arm, condition: Condition) -> tuple[Floats, Floats]:
        """The same, the mean over all settings."""
        of_settings = [self.values(metric, arm, condition, setting) for setting in self.study.plugin.settings]
        return np.mean([values for values, _ in of_settings], axis=0), of_settings[0][1]

    def tokens(self, arm: Arm, condition: Condition) -> int:
        """How many tokens were trained on."""
        places = [(setting, seed) for setting in self.study.plugin.settings for seed in self.seeds]
        return sum(self.by_place[arm.name, condition, setting, seed].tokens for setting, seed in places)


def _rows(measured: pa.Table, metric: str, held_out: HeldOut) -> tuple[Floats, Floats]:
    """The values of a metric and their weights: of the held-out documents in their order, or one."""
    table = rows_of(measured, metric).combine_chunks()
    if table.num_rows == 1 and table["doc_id"].null_count:
        return table["value"].to_numpy(), table["weight"].to_numpy()
    words = keyed.words(table["doc_id"])
    table = table.take(pa.array(np.lexsort((words[:, 1], words[:, 0]))))
    if not table["doc_id"].combine_chunks().equals(held_out.documents["doc_id"].combine_chunks()):
        raise SelectorError(f"The objective did not measure {metric} of every held-out document once.")
    return table["value"].to_numpy(), table["weight"].to_numpy()
