"""Truncated backpropagation through time."""

from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="tbptt",
    doc=(
        "Truncated backpropagation through time (Williams and Peng 1990): every `every` steps the losses since then "
        "look back over the last `window` steps, where whatever is carried is held constant."
    ),
    arguments=(
        Argument("window", "steps that a loss looks back over, its own included"),
        Argument("every", "steps between two reverse passes", like="window"),
    ),
    window="window",
    every="every",
)
