"""The laws that the plug-ins of every family keep, for the tests of any package: `pip install "selector[test]"`.

A test of yours is three lines long, and puts your plug-in before every law with every combination of its options (of
many, with every value of each):

    from selector.testing import check_selector

    def test_my_selector_keeps_the_laws() -> None:
        check_selector("my_package.mine:Mine")

The name is anything that a policy may say: a dotted name, or that of an entry point. Likewise `check_rater`, also for a
`Fit`, and `check_order`.

An option's type says what is tried for it: a `Literal` and a bool with every value, a `ScoreName` with a computed score
and an exact one, a table with made-up rows (an optional one also without), a plug-in with every one of its family and
with an awkward one, which a plug-in around others has to cope with. Any other option with a default keeps it. What
cannot be made up you give, by the option's name:

    check_rater("my_package.mine:Perplexity", model="tests/tiny_model")

and likewise what a column of the corpus may hold, if your plug-in cannot read just anything:

    check_rater("my_package.mine:Written", corpus={"written": ["2024-01-31", "unknown", None]})

A law is a function of a plug-in; `RATER_LAWS`, `SELECTOR_LAWS` and `ORDER_LAWS` list them, and their first lines say
what each of them wants. `documents` makes a table of documents, and `variants` the plug-ins that are tried, for tests
of your own.
"""

import importlib

try:
    importlib.import_module("hypothesis")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "selector.testing tries plug-ins with hypothesis, which is not installed. Type: pip install hypothesis",
        name="hypothesis",
    ) from error

from selector.testing._trials import EXACT, SCORE, TOPIC, documents, variants
from selector.testing.orders import ORDER_LAWS, check_order
from selector.testing.raters import RATER_LAWS, check_rater
from selector.testing.selectors import SELECTOR_LAWS, check_selector

__all__ = [
    "EXACT", "ORDER_LAWS", "RATER_LAWS", "SCORE", "SELECTOR_LAWS", "TOPIC", "check_order", "check_rater",
    "check_selector", "documents", "variants",
]  # fmt: skip
