"""Long calls of forward rules, some steps at a time: what a step leaves for later is in states and traces alone.

Nothing is kept over the whole call but inputs, outputs and random draws, so the memory of a call does not grow by what
its loops compute. The text of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from recdsl.backends.torch.call import Call


def pieces(call: Call) -> Iterator[tuple[Call, int, int]]:
    """(a call of some steps, its first step, the step behind it); each begins with what the one before it has left."""
    given, timed = dict(call.data), timed_in(call)
    for lo in range(0, call.steps, call.chunk):
        hi = min(lo + call.chunk, call.steps)
        piece = piece_of(call, given, timed, lo, hi)
        yield piece, lo, hi
        given |= {call.storages["state " + name]: value for name, value in left_by(piece).items()}
        given["fresh"] = call.like.new_full((), 0.0)
        piece.lease.close()


def piece_of(call: Call, given: dict[str, Any], timed: set[str], lo: int, hi: int) -> Call:
    """A call of the steps lo:hi, with room of its own."""
    piece = copy(call)
    piece.steps = hi - lo
    piece.data = {name: value[lo:hi] if name in timed else value for name, value in given.items()}
    piece.data |= piece.windows()
    piece.lease = call.model.recdsl_arena.lease(call.like, (call.variant, hi - lo, call.size, call.like.dtype))
    return piece


def timed_in(call: Call) -> set[str]:
    """What has a row for each step."""
    about = call.model.recdsl_about
    found = {storage for name, storage in call.storages.items() if " " not in name}
    found |= {name for kind in ("signs", "thinned", "gridded") for name in about[kind][call.variant]}
    found |= {f"{kind}{k}" for kind in "wg" for k in range(len(about["losses"]))}
    return found | {f"c{k}" for k in range(len(about["outputs"]))}


def left_by(piece: Call) -> dict[str, Tensor]:
    """What a piece leaves of states and traces; its own room is used again."""
    about = piece.model.recdsl_about
    shapes = about["carries"] | about["traces"]
    found = {name: piece.data[piece.storages["next " + name]] for name in shapes}
    return {name: value.detach().expand(piece.extents(name, shapes[name])).clone() for name, value in found.items()}


def in_pieces(call: Call) -> dict[str, Any]:
    """Results of the entry `forward` for the whole call; gradients go to `call.learned`, last traces to `call.left`."""
    found: dict[str, Any] = {}
    places: dict[str, list[Tensor]] = {}
    for piece, lo, hi in pieces(call):
        call.lookups.kept = places
        made = piece.run("forward")
        call.lookups.kept = None
        piece.data.update(made)
        gather(call, piece, found, lo, hi)
        add_up(call.learned, piece.learn())
        if hi == call.steps:
            left = left_by(piece)
            call.left = {name: left[name] for name in call.model.recdsl_about["traces"]}
            found |= {call.storages["next " + name]: value for name, value in left.items()}
    call.places = places
    return found


def gather(call: Call, piece: Call, found: dict[str, Any], lo: int, hi: int) -> None:
    """Add to the results of a call what `forward` has made of its steps lo:hi."""
    for k in range(len(call.model.recdsl_about["outputs"])):
        name, made = f"out{k}", piece.data[f"out{k}"]
        if piece.fixed(k):
            found[name] = made.clone()
            continue
        if lo == 0:
            found[name] = made.new_empty((call.steps, *made.shape[1:]))
        found[name][lo:hi] = made
    losses = [f"loss{k}" for k in range(len(call.model.recdsl_about["losses"]))]
    add_up(found, {name: piece.data[name] for name in losses})


def in_pieces_again(call: Call) -> dict[str, Tensor]:
    """The gradient of loss and outputs, once their cotangents are known: the call is run again. Stores for all samples
    have been written since: searches find the places that they found, and rows are those of that time."""
    found: dict[str, Tensor] = {}
    again = {read: iter(places) for read, places in call.places.items()}
    bygone(call)
    for piece, _, _ in pieces(call):
        call.lookups.again = again
        piece.data.update(piece.run("forward"))
        call.lookups.again = None
        made = piece.trace("_outputs")
        piece.data.update(made)
        add_up(found, {name: value for name, value in made.items() if name.startswith("grad_")})
    return found


@dataclass(frozen=True)
class Bygone:
    """Rows as they were when a call began, in the place of those that are there now."""

    column: Any

    def rows(self, table: Tensor, place: Tensor) -> Tensor:
        """Those at [*lead, rank] (-1: any). Returns [*lead, rank, *axes]."""
        return self.column[place.clamp_min(0).reshape(-1)].reshape(*place.shape, *table.shape[1:])


def bygone(call: Call) -> None:
    """Have the call fetch rows as they were, of stores that are written in place."""
    for name, seen in call.seen.items():
        keeper = call.model.recdsl_keepers[name]
        for part in keeper.info["rows"] if keeper.searched else ():
            call.lookups.anew.setdefault(call.values[f"{name}.{part}"].data_ptr(), Bygone(seen[part]))


def add_up(total: dict[str, Any], more: dict[str, Any]) -> None:
    """Sums by name."""
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value.clone()
