"""Unbiased online recurrent optimisation."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import DRIFT, Argument, Rule

BATCH = Argument(
    "batch",
    "whether each sample of a batch has an estimate of its own, or all have one, with less memory and more noise",
    kind="choice",
    field="batch",
    choices=("sample", "joint"),
)

RULE = Rule(
    name="uoro",
    doc=(
        "Unbiased online recurrent optimisation (Tallec and Ollivier 2018): for each sample the influence on all "
        "states is estimated by one product of two vectors with random signs. Unbiased, at the cost of noise. With "
        "batch=joint one product stands for all samples together, and they share its vector over the parameters."
    ),
    arguments=(BATCH, DRIFT),
    window=1,
    every=1,
    tracing=Tracing("rank"),
)
