"""Cotangents that cross from one piece of a call to the one before it.

A call that is run in pieces goes back over the last one first. What its first steps send to earlier ones is given to
the next pass in the place of the zeros that stand behind the last step of a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recdsl.program.ir import Affine, Bound, Load, Range, Store, VType

if TYPE_CHECKING:
    from recdsl.program.lower import Emitter


def entering(e: Emitter, name: str, move: int, lead: tuple[tuple[str, Affine], ...]) -> str:
    """The value that a crossing's storage `name` begins with: what the piece behind has left. lead: of sequences, the
    steps that it is given for."""
    assert e.crossed is not None
    suffix = f"_{lead[0][1].const}" if lead else ""
    type, whole = e.nodes[move].type, (*lead, *e.each(move))
    given = e.declare(f"behind_{name}{suffix}", "input", type, whole, "call")
    # no carry has a name that begins with a digit
    made = e.declare(f"next_0{name}{suffix}", "output", type, whole, "call")
    e.crossed[given] = made
    e.leaving.append((name, made, VType("float", whole, type.axes)))
    e.body.append(Load(f"{given}_in", given, (), e.leaving[-1][2]))
    return f"{given}_in"


def leave(e: Emitter) -> None:
    """At the end of an entry: what the piece before goes on from."""
    for name, made, vtype in e.leaving:
        lags = [extent for label, extent in vtype.lead if label == "t"]
        rows = tuple(Range(Bound("max", (Affine(),)), Bound("min", (extent,))) for extent in lags)
        e.body.append(Load(f"{made}_out", name, rows, vtype))
        e.body.append(Store(made, (), f"{made}_out"))
