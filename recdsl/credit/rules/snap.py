"""Sparse n-step approximation."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Argument, Rule

RULE = Rule(
    name="snap",
    doc=(
        "Sparse n-step approximation (SnAp-n, Menick et al. 2021): an influence is carried along only on the states "
        "that the parameter reaches within n steps, through the masks of its weights if they have any (`sparse`, "
        "`blocks`), read from the states that a step leaves. With a window, credit "
        "inside it goes back on every path, and traces are read where the window begins. Long calls carry what a "
        "parameter has on all states from window to window, as under `rtrl`."
    ),
    arguments=(
        Argument("n", "steps within which a state is reached", field="depth"),
        Argument("window", "steps that a loss looks back over on every path, its own included", default=1),
        Argument("every", "steps between two reverse passes", like="window"),
        DRIFT,
    ),
    window="window",
    every="every",
    tracing=Tracing("support", read="post"),
)
