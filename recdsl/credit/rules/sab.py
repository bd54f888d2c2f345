"""Sparse attentive backtracking."""

from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="sab",
    doc=(
        "Sparse attentive backtracking (Ke et al. 2018), in the form of its released code: what is carried is cut on "
        "entering every `truncate`-th step of a call, but memories are not, so credit goes to the steps whose items "
        "are read, however long ago, and from there back to the next cut."
    ),
    arguments=(Argument("truncate", "steps from one cut to the next"),),
    window="truncate",
    every="truncate",
    spares=True,
)
