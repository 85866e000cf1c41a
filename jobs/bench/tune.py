"""Nine policies of a real corpus compared by a study, with small models that are trained on what each chooses.

The short form takes some minutes: models of 0.3 and 1.3 million parameters, a few hundred steps each. The long form has
forty times the text. Neither says which policy is good for a large model: see the line about the floor.
"""

import sys
from collections.abc import Sequence
from typing import Any

from selector.cli.studies import print_study
from selector.engine.local import LocalExecutor
from selector.tune import kept
from selector.tune.run import run
from selector.tune.study import Study

_SCORE = "prototypicality"
_BY_SCORE = {"score": _SCORE}
ARMS: dict[str, dict[str, Any]] = {
    "top": {"select.using": {"top": _BY_SCORE}},
    "kmeans quality": {"select.using": {"kmeans_quality": _BY_SCORE}},
    "quality sampling": {"select.using": {"quality_sampling": _BY_SCORE}},
    "iterative": {"select.using": {"iterative": {"inner": {"kmeans_quality": _BY_SCORE}, "signal": _SCORE}}},
    "pruned": {"select.using": {"prune": {"most": 0.8}}},
    "curriculum": {"order.using": {"by_score": {"score": "readability"}}},
    "anti-curriculum": {"order.using": {"by_score": {"score": "readability", "direction": "anti_curriculum"}}},
    "interleaved": {"order.using": {"interleaved": {"by": "cluster", "score": "readability"}}},
}
"""What each policy says otherwise than the control, which draws at random and shuffles."""


def tune(paths: Sequence[str], *, root: str, source: str | None, objective: str, is_long: bool) -> None:
    """Prints the table of a study of all arms at two budgets and two sizes, by five seeds."""
    budgets = [160_000, 640_000] if is_long else [4_000, 16_000]
    rates = [0.003, 0.001]
    objectives: dict[str, dict[str, Any]] = {
        "proxy": {"sizes": ["0.3M", "1.3M"], "learning_rates": rates, "evaluated": 512}, "probe": {"orders": [4, 6]},
    }  # fmt: skip
    corpus = {"paths": list(paths), **({"source": source} if source else {})}
    study = Study.of(
        {
            "base": {
                "corpus": corpus, "cluster": {"num_clusters": 64}, "rate": [_SCORE, "readability"],
                "select": {"budget": {"tokens": budgets[0]}}, "order": {"using": "shuffled"},
            },
            "arms": ARMS, "budgets": [{"tokens": budget} for budget in budgets], "controls": {"all": False},
            "objective": {objective: objectives[objective]}, "seeds": {"least": 5, "most": 5},
            "held_out": {"share": 0.02, "most": 2 if source else 100},
        }
    )  # fmt: skip
    outcome = run(
        study, root=root, executor=LocalExecutor(), tell=lambda line: print(line, file=sys.stderr, flush=True)
    )
    print_study(kept.keep(root, study, outcome))
