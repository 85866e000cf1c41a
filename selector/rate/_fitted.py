"""What a Fit learned and the rater that it made of it: checked, before either is used."""

from typing import Any

import pyarrow as pa

from selector.engine.store import to_parquet
from selector.plugins.blame import blamed, fault
from selector.plugins.pool import Pool
from selector.rate import Fit, Rater


def learned(name: str, fit: Fit, sample: Pool, seed: int) -> pa.Table:
    """What the fit, called `name` in the policy, says of the corpus. Raises SelectorError where it is no table that
    can be stored."""
    with blamed("fit", name, fit):
        learned_table: Any = fit.fit(sample, seed)
    if not isinstance(learned_table, pa.Table):
        raise fault("fit", name, fit, f"returned a {type(learned_table).__name__} instead of a pyarrow.Table")
    try:
        to_parquet(learned_table)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise fault("fit", name, fit, f"returned a table that cannot be stored: {reason}") from error
    return learned_table


def rater_of(name: str, fit: Fit, fitted: pa.Table) -> Rater:
    """The rater that the fit makes of what it returned."""
    with blamed("fit", name, fit):
        answer: Any = fit.rater(fitted)
    if not isinstance(answer, Rater):
        raise fault("fit", name, fit, f"made a {type(answer).__name__} instead of a rater")
    return answer
