"""Sparse n-step approximation."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Argument, Rule

RULE = Rule(
    name="snap",
    doc=(
        "Sparse n-step approximation (SnAp-n, Menick et al. 2021): an influence is carried along only on the states "
        "that the parameter reaches within n steps, read from the states that a step leaves."
    ),
    arguments=(Argument("n", "steps within which a state is reached", field="depth"), DRIFT),
    window=1,
    every=1,
    tracing=Tracing("support", read="post"),
)
