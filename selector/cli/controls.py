"""Controls: the policies of random orders that match a finished run, so that the worth of its order can be measured."""

from selector.policy import Policy


def control(policy: Policy, run: str, draw: int) -> Policy:
    """The policy of a control of a finished run of this policy: its visits, at random within its phases.

    It is a policy like any other, and its manifest has that of the run as its parent. Everything up to the choice is
    found finished in the run's root.
    """
    written = policy.model_dump(mode="json", by_alias=True)
    using = {"matched": {"inner": written["order"]["using"], "draw": draw}}
    return Policy.of({**written, "order": {"using": using, "parent": run}})
