"""The optimising passes and their one order. Each is timeline -> timeline and keeps the meaning."""

from __future__ import annotations

from recdsl.program.adjoint import Adjoint
from recdsl.program.forward import Forward

Cuts = tuple[frozenset[tuple[int, int]], ...]


def forward_passes(forward: Forward, cuts: Cuts) -> tuple[Forward, Cuts]:
    """Passes on the forward timeline; cut edges follow their nodes."""
    return forward, cuts


def backward_passes(adjoint: Adjoint, own: int) -> Adjoint:
    """Passes on the adjoint; nodes below `own` are the forward's and stay as they are."""
    return adjoint
