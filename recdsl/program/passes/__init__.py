"""The optimising passes and their one order. Each is timeline -> timeline and keeps the meaning.

Constant folding, common subexpressions and the algebra of zeros and ones happen as nodes are built (`timeline`);
dead code is what no result needs (`schedule.needed`); hoisting out of time is the schedule itself.
"""

from __future__ import annotations

from collections.abc import Callable

from recdsl.program.adjoint import Adjoint
from recdsl.program.forward import Forward
from recdsl.program.passes.factor import factor
from recdsl.program.passes.fetched import fetched
from recdsl.program.passes.pack import pack

FORWARD: tuple[Callable[[Forward], Forward], ...] = (pack,)
BACKWARD: tuple[Callable[[Adjoint, int], Adjoint], ...] = (factor,)


def forward_passes(forward: Forward, *, whole: bool = True) -> Forward:
    """The passes on the forward timeline, in order. whole: no window ends credit between a slot and its readers."""
    for step in (fetched, *FORWARD) if whole else FORWARD:
        forward = step(forward)
    return forward


def backward_passes(adjoint: Adjoint, own: int) -> Adjoint:
    """The passes on an adjoint, in order; nodes below `own` are the forward's and stay as they are."""
    for step in BACKWARD:
        adjoint = step(adjoint, own)
    return adjoint
