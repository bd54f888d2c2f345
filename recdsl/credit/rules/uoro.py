"""Unbiased online recurrent optimisation."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Rule

RULE = Rule(
    name="uoro",
    doc=(
        "Unbiased online recurrent optimisation (Tallec and Ollivier 2018): for each sample the influence on all "
        "states is estimated by one product of two vectors with random signs. Unbiased, at the cost of noise."
    ),
    arguments=(DRIFT,),
    window=1,
    every=1,
    tracing=Tracing("rank"),
)
