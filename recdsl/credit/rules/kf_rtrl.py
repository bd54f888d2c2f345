"""Kronecker-factored real-time recurrent learning."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Rule

RULE = Rule(
    name="kf_rtrl",
    doc=(
        "Kronecker-factored real-time recurrent learning (KF-RTRL, Mujika et al. 2018): for each matrix and sample the "
        "influence on all states is estimated by one Kronecker product with random signs. Unbiased, with less noise "
        "than uoro. Parameters are matrices in products with vectors, or are added."
    ),
    arguments=(DRIFT,),
    window=1,
    every=1,
    tracing=Tracing("kronecker"),
)
