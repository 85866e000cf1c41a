"""How commands read a policy: their own, or one from elsewhere that may not run code or look where it likes."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from selector.policy import Policy

NoForeign = Annotated[
    bool,
    typer.Option(
        "--no-foreign-plugins",
        envvar="SELECTOR_NO_FOREIGN_PLUGINS",
        help="Refuse a policy that names Python code: only plug-ins that are installed may be used.",
    ),
]
Allowed = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed",
        metavar="ROOT",
        envvar="SELECTOR_ALLOWED",
        help="Refuse a policy that names anything outside of these folders or addresses, or sends a key that is not "
        "among them (env:NAME); may be given several times.",
    ),
]


def load(policy: Path, overrides: list[str] | None, no_foreign: bool, allowed: list[str] | None) -> "Policy":
    """The policy in a file. Raises PolicyError, before anything that it names is imported or opened."""
    from selector import plugins
    from selector.policy import Policy, elsewhere

    with contextlib.ExitStack() as limits:
        if no_foreign:
            limits.enter_context(plugins.installed_only())
        if allowed:
            limits.enter_context(plugins.only_below(allowed))
        loaded = Policy.load(policy, overrides or ())
    if allowed:
        elsewhere.check_within(loaded, allowed)
    return loaded
