"""Problems of the loss `td`."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class NoPrediction(Problem):
    """A `td` loss of something that cannot be learned."""

    code = "RD0321"
    message = "`td` learns predictions, but `{value}` depends on no parameter"
    hint = "the first argument is the prediction, the second what it predicts: `td(v, cumulant, discount=0.9)`"
    explain = (
        "A temporal difference changes the prediction of the step before; no gradient goes to the second argument. A "
        "path from a parameter to the prediction must carry gradient: `stop`, comparisons and `sign` do not."
    )

    value: str


@dataclass(frozen=True)
class DiscountLearned(Problem):
    """A discount that depends on what is trained."""

    code = "RD0322"
    message = "the discount of `td` depends on the parameter `{name}`"
    hint = "write a number or an input, or freeze the parameter"
    explain = "The discount says what is to be predicted, so it is given: a number, an input, or made of these."

    name: str


@dataclass(frozen=True)
class DiscountRange(Problem):
    """A discount that is no factor between 0 and 1."""

    code = "RD0323"
    message = "the discount of `td` is {value}"
    hint = "it is between 0 and 1"
    explain = "Above 1 the discounted sum that `td` predicts grows without bound, and below 0 it changes its sign."

    value: str
