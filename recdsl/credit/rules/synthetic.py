"""Synthetic gradients at the ends of windows."""

from recdsl.credit.plan import Answering
from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="synthetic",
    doc=(
        "Synthetic gradients (decoupled neural interfaces, Jaderberg et al. 2017): tbptt(window), and at the end of "
        "each window but the last a small net, `credit.synthetic`, answers for the losses behind it. The net learns "
        "with the model, from the gradient that arrives at the start of each window: there the next answer stands for "
        "what lies further on (bootstrap), or to a share what arrives at the next window, and so on to the end of the "
        "call (bp_lambda, Pemberton and Costa 2024): lambda-returns, for one more pass over the states."
    ),
    arguments=(
        Argument("window", "steps of a window"),
        Argument("hidden", "hidden units of the net; 0: a linear one", field="hidden", low=0),
        Argument(
            "condition", "an input or target that the net reads besides the states", kind="name", field="condition"
        ),
        Argument("scale", "what answers are multiplied by where they enter (default 1)", kind="real", field="scale"),
        Argument("learn", "from what: bootstrap (the next answer) or bp_lambda(share)", kind="learning"),
        Argument("lr", "learning rate of the net (default: that of the optimizer)", kind="real", field="lr"),
    ),
    window="window",
    every="window",
    answering=Answering(),
)
