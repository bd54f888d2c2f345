"""Sparse attentive backtracking."""

from recdsl.credit.rule import REPLAY, SLIDES, Argument, Rule

RULE = Rule(
    name="sab",
    doc=(
        "Sparse attentive backtracking (Ke et al. 2018). chunk, the form of its released code: what is carried is cut "
        "on entering every `truncate`-th step of a call, but memories are not, so credit goes to the steps whose items "
        "are read, however long ago, and from there back to the next cut. sliding: from each loss, and from each step "
        "whose item is read, it goes back over `truncate` steps, at about that many times the cost."
    ),
    arguments=(
        Argument("truncate", "steps from one cut to the next, or from a loss or an item to where credit ends"),
        Argument("variant", "where credit ends", kind="choice", field=SLIDES, choices=("chunk", "sliding")),
        REPLAY,
    ),
    window="truncate",
    every="truncate",
    spares=True,
)
