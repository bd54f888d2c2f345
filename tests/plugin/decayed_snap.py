"""A rule as another package adds it: SnAp-1 whose traces fade, J <- R * (rho D J + I)."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="decayed_snap",
    doc="SnAp-1 with influences that count rho times less with each step.",
    arguments=(Argument("rho", "what an influence is multiplied by from step to step", kind="factor", field="decay"),),
    window=1,
    every=1,
    tracing=Tracing("support", read="post"),
)
