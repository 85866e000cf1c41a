"""Where `selector submit --on TARGET` hands jobs to: one file for each kind of cluster, none of which imports ray.

The contract is `selector.engine.target.Target`. Names with an underscore are the family's own.
"""
