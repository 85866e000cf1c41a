"""The Ray side of Selector, and the only package that imports ray."""
