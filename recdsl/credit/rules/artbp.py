"""Anticipated reweighted truncated backpropagation."""

from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="artbp",
    doc=(
        "Anticipated reweighted truncated backpropagation (Tallec and Ollivier 2017): between two steps credit is cut "
        "at random, on average once in `mean` steps, and what passes is scaled up. Unbiased."
    ),
    arguments=(Argument("mean", "steps between two random truncations, on average"),),
    window=None,
    every=1,
    thinning="mean",
)
