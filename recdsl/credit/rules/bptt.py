"""Backpropagation through time."""

from recdsl.credit.rule import Rule

RULE = Rule(
    name="bptt",
    doc="Full backpropagation through time over the call: every path carries credit. Exact (Werbos 1990).",
    arguments=(),
    window=None,
    every=1,
)
