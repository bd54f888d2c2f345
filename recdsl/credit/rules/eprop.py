"""Eligibility propagation."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, FEEDBACK, FILTER, Argument, Rule

RULE = Rule(
    name="eprop",
    doc=(
        "Eligibility propagation (e-prop, Bellec et al. 2020): traces over a neuron's own states, past the recurrent "
        "products and the reset by its output, read from the states that a step leaves. Errors come back through the "
        "readout, or (feedback=random) past it. A readout that leaks low-passes the traces (filter=readout); with "
        "filter=none nothing of them passes it."
    ),
    arguments=(
        FEEDBACK,
        FILTER,
        Argument("axis", "the axis that numbers neurons, if states have several", kind="name", field="axis"),
        DRIFT,
    ),
    window=1,
    every=1,
    tracing=Tracing("column", read="post", cuts="spikes"),
)
