"""Columnar traces."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Argument, Rule

RULE = Rule(
    name="columns",
    doc=(
        "Columnar traces (Javed et al. 2021): the influence of a parameter is carried along on its own column of its "
        "own layer. Exact where columns do not influence each other."
    ),
    arguments=(
        Argument("axis", "the axis that numbers columns, where states have several", kind="name", field="axis"),
        DRIFT,
    ),
    window=1,
    every=1,
    tracing=Tracing("column"),
)
