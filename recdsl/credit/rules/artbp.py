"""Anticipated reweighted truncated backpropagation."""

from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="artbp",
    doc=(
        "Anticipated reweighted truncated backpropagation (Tallec and Ollivier 2017): between two steps credit is cut "
        "at random, about once in `mean` steps, and what passes is scaled up. Unbiased. As published, under "
        "schedule=decreasing(alpha), the chance is alpha / ((alpha - 1) mean + k) where the last cut lies k steps back."
    ),
    arguments=(
        Argument("mean", "steps between two random truncations, on average"),
        Argument("schedule", "how the chance of a truncation goes on: constant or decreasing(alpha)", kind="schedule"),
    ),
    window=None,
    every=1,
    thinning="mean",
)
