"""Random-feedback local online learning."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, FEEDBACK, Argument, Rule

RULE = Rule(
    name="rflo",
    doc=(
        "Random-feedback local online learning (Murray 2019): own-unit traces without the recurrent products, read "
        "from the states that a step leaves. Errors come back through the readout, or (feedback=random) past it."
    ),
    arguments=(
        FEEDBACK,
        Argument("axis", "the axis that numbers units, where states have several", kind="name", field="axis"),
        DRIFT,
    ),
    window=1,
    every=1,
    tracing=Tracing("column", read="post", cuts="products"),
)
