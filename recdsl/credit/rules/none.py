"""No credit through time."""

from recdsl.credit.rule import Rule

RULE = Rule(
    name="none",
    doc="No credit through time: each loss sees the carried values as constants. The same as tbptt(window=1).",
    arguments=(),
    window=1,
    every=1,
)
