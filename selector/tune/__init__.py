"""Tune: policies are tried beside each other, and it is said which is better, how sure that is, and at which sizes.

Think of a study as a table with an arm to a row: every arm is a policy, all are measured by the same seeds on the same
held-out documents, and a number stands beside its interval and its random control. "Undecided" is a result.
"""
