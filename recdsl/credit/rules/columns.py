"""Columnar traces."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Argument, Rule

RULE = Rule(
    name="columns",
    doc=(
        "Columnar traces (Javed et al. 2021): the influence of a parameter is carried along on its own column of its "
        "own layer. Exact where columns do not influence each other. With a window, credit goes back on every path "
        "inside it, and traces carry what is older."
    ),
    arguments=(
        Argument("window", "steps that a loss looks back over on every path, its own included", default=1),
        Argument("every", "steps between two reverse passes", like="window"),
        Argument("axis", "the axis that numbers columns, where states have several", kind="name", field="axis"),
        DRIFT,
    ),
    window="window",
    every="every",
    tracing=Tracing("column"),
)
