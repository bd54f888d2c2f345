"""What can be wrong with credit through a store that lasts as long as the model (RD053x)."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class StoreCreditArgument(Problem):
    """A word or argument that says nothing about credit through such a store."""

    code = "RD0531"
    message = "{reason}"
    hint = "{usage}"
    explain = (
        "What earlier calls have written can get credit in five ways: `stop` (none), `through` (their own graphs are "
        "kept), `param(lr)` (the rows are parameters of their own), `synthetic(hidden, condition, lr)` (a net predicts "
        "the gradient when an item is written), `reinstate(exact | approximate, encode, decode, chunk)` (the encoder "
        "is run again on a reconstructed observation)."
    )

    reason: str
    usage: str


@dataclass(frozen=True)
class CannotReinstate(Problem):
    """An encoder or decoder that cannot be run again on its own."""

    code = "RD0532"
    message = "{reason}"
    hint = "{advice}"
    explain = (
        "`reinstate` runs the encoder again long after its step, on an observation that was stored (`decode=stored`) "
        "or is decoded from the stored code. So the encoder is a function of inputs and parameters alone, the decoder "
        "one of the code and parameters alone, and what it gives has the axes of the observation."
    )

    reason: str
    advice: str


@dataclass(frozen=True)
class NoCreditThrough(Problem):
    """Credit for items that no parameter has made."""

    code = "RD0533"
    message = "no parameter makes what `{memory}` stores, so `{word}` has nothing to give credit to"
    hint = "write `{memory}: stop`, or `param(lr=0.1)`, under which the rows themselves learn"
    explain = (
        "`through` and `synthetic` pass the gradient of a stored item on to the parameters that have made it. An item "
        "that is an input or a target as it is, or stands behind a `stop`, has none."
    )

    memory: str
    word: str
