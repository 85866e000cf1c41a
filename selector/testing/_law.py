"""How a law is tried, and what is said of a plug-in that breaks one.

A law is a function of a plug-in that raises AssertionError where it is broken. An answer that has not even the right
form raises SelectorError, as it would in a run: that breaks the law of form, whichever law met it.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, TypeVar

import pyarrow as pa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from selector.errors import SelectorError

P = TypeVar("P")
Law = Callable[[P], None]
Values = Sequence[Any] | pa.Array

EXAMPLES = 40
"""How often a law is tried with a plug-in, by default."""
_FEWEST = 3  # with each variant of it

_PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How laws are tried just now."""

    examples: int = EXAMPLES
    phases: tuple[Phase, ...] = _PHASES
    corpus: Mapping[str, Values] = field(default_factory=dict[str, Values])  # what columns of the corpus may hold


_TRIAL: ContextVar[Trial] = ContextVar("trial", default=Trial())  # noqa: B039 (it is frozen)


@contextmanager
def trying(**changes: Any) -> Generator[None]:
    """Laws are tried like this meanwhile."""
    before = _TRIAL.set(replace(_TRIAL.get(), **changes))
    try:
        yield
    finally:
        _TRIAL.reset(before)


def corpus_values(name: str) -> pa.Array | None:
    """What a column of the corpus may hold, where whoever tries the plug-in said so."""
    values = _TRIAL.get().corpus.get(name)
    return values if values is None or isinstance(values, pa.Array) else pa.array(values)


def tries() -> settings:
    """Hypothesis's settings for one law."""
    trial = _TRIAL.get()
    return settings(
        max_examples=trial.examples,
        phases=trial.phases,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )


def law(
    *plugins: st.SearchStrategy[Any], about: type[Any] = object
) -> Callable[[Callable[Concatenate[P, ...], None]], Law[P]]:
    """Makes a law of what it says of a plug-in and of values that Hypothesis makes up; others than `about` keep it."""

    def of(check: Callable[Concatenate[P, ...], None]) -> Law[P]:
        def every(plugin: P) -> None:
            if not isinstance(plugin, about):
                return

            @tries()
            @given(st.tuples(*plugins))
            def tried(values: tuple[Any, ...]) -> None:
                check(plugin, *values)

            tried()

        every.__name__, every.__doc__ = check.__name__, check.__doc__
        return every

    return of


@contextmanager
def asserting(message: str) -> Generator[None]:
    """Whatever goes wrong here breaks the law that is tried, and no other."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{message}: {type(error).__name__}: {error}") from error


def check(laws: Sequence[Law[P]], variants: Iterable[P], examples: int, corpus: Mapping[str, Values] | None) -> None:
    """Raises what the first law raises that one of the variants breaks; a note says which law, and which variant."""
    plugins = list(variants)
    assert plugins, "there is nothing to try: give values for the options that cannot be made up"
    with trying(examples=max(_FEWEST, examples // max(len(plugins), 1)), corpus=corpus or {}):
        for plugin in plugins:
            for each in laws:
                try:
                    each(plugin)
                except Exception as error:
                    error.add_note(f"{plugin} breaks {each.__name__}.")
                    raise


def broken(laws: Sequence[Law[P]], plugin: P, expected: Sequence[str] = ()) -> list[str]:
    """The names of the laws that a plug-in breaks, found without looking for the smallest example. The first of `laws`
    is the law of form; those that are `expected` to be broken are tried more often than the others."""
    failed = set[str]()
    for each in laws:
        examples = EXAMPLES if each.__name__ in expected else _FEWEST
        with trying(examples=examples, phases=(Phase.generate,)):
            try:
                each(plugin)
            except SelectorError:
                failed.add(laws[0].__name__)
            except Exception:  # a plug-in may raise anything
                failed.add(each.__name__)
    return [each.__name__ for each in laws if each.__name__ in failed]
