"""Synthetic gradients at the ends of windows."""

from recdsl.credit.plan import Answering
from recdsl.credit.rule import Argument, Rule

RULE = Rule(
    name="synthetic",
    doc=(
        "Synthetic gradients (decoupled neural interfaces, Jaderberg et al. 2017): tbptt(window), and at the end of "
        "each window but the last a small net, `credit.synthetic`, answers for the losses behind it. The net learns "
        "with the model, from the gradient that arrives at the start of each window."
    ),
    arguments=(
        Argument("window", "steps of a window"),
        Argument("hidden", "hidden units of the net; 0: a linear one", field="hidden", low=0),
        Argument(
            "condition", "an input or target that the net reads besides the states", kind="name", field="condition"
        ),
        Argument("scale", "what answers are multiplied by where they enter (default 1)", kind="real", field="scale"),
        Argument("learn", "from what: the next answer", kind="choice", choices=("bootstrap",), later=("bp_lambda",)),
        Argument("lr", "learning rate of the net (default: that of the optimizer)", kind="real", field="lr"),
    ),
    window="window",
    every="window",
    answering=Answering(),
)
