"""Real-time recurrent learning."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Argument, Rule

RULE = Rule(
    name="rtrl",
    doc=(
        "Real-time recurrent learning (Williams and Zipser 1989): the influence of every parameter on every state is "
        "carried along. Exact without looking back; its cost a step does not grow with time. Where influence is dense, "
        "long calls carry it from window to window, by reverse passes inside (block-deferred): the same gradient."
    ),
    arguments=(
        Argument("window", "steps of these windows; 1: step by step; left out: by cost", default=1),
        Argument("every", "steps between two reverse passes", like="window"),
        DRIFT,
    ),
    window="window",
    every="every",
    tracing=Tracing("all"),
)
