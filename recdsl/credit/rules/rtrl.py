"""Real-time recurrent learning."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Rule

RULE = Rule(
    name="rtrl",
    doc=(
        "Real-time recurrent learning (Williams and Zipser 1989): the influence of every parameter on every state is "
        "carried along. Exact without looking back; its cost a step does not grow with time."
    ),
    arguments=(DRIFT,),
    window=1,
    every=1,
    tracing=Tracing("all"),
)
