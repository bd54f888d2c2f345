"""Long calls of rules that go back, some steps at a time: each piece is run again, from the state that it began with,
when credit comes to it. What a call keeps over time is that state, tapes, and the places that searches have found.

The text of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends.torch.chunks import add_up, gather, left_by, piece_of, timed_in

if TYPE_CHECKING:
    from recdsl.backends.torch.call import Call


@dataclass(frozen=True)
class Boundary:
    """Where a piece begins. given: what it begins with, by storage; places: what its searches have found."""

    lo: int
    hi: int
    given: dict[str, Any]
    places: dict[str, Tensor]


class Shelf:
    """The tapes of one store. The slots of all pieces so far stand in front, without the steps that wrote none; behind
    them there is room for a piece, whose steps are all there while it runs.

    Samples may have written different numbers of items: where one has fewer, the stamp of a row is -1.
    """

    def __init__(self, about: dict[str, Any], call: Call) -> None:
        self.about, self.like, self.size = about, call.like, call.size
        self.most = -(-call.steps // about["every"]) + 1 + call.chunk
        self.front = 0
        self.orders: list[Tensor] = []
        self.tapes: dict[str, Tensor] = {}
        self.backs: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}

    def lend(self, kind: str, size: int) -> dict[str, Any]:
        """What functions of a piece of `size` steps get: the rows in front and room for their own."""
        stored = self.tapes if kind == "tapes" else self.backs
        rooms = self.about[kind]
        for name in rooms:
            if name not in stored:
                stored[name] = self.like.new_zeros((self.most, self.size, *rooms[name]))
        return {name: stored[name][: self.front + size] for name in rooms} | {self.about["front"]: self.front}

    def put_away(self, size: int) -> None:
        """After the first run of a piece: of its rows, those that hold an item move to the front."""
        stamps = self.tapes[self.about["stamps"]][self.front : self.front + size]
        there = stamps >= 0
        order = (~there).to(torch.uint8).argsort(dim=0, stable=True)[: int(there.sum(0).max())]
        self.orders.append(order)
        for tape in self.tapes.values():
            rows = tape[self.front : self.front + size]
            rows[: len(order)] = rows.gather(0, spread(order, rows))
        self.front += len(order)

    def open(self, number: int, size: int) -> None:
        """Before a piece is run again: cotangents of its items go to the rows of the steps that wrote them."""
        order = self.orders[number]
        self.front -= len(order)
        own = slice(self.front, self.front + size)
        self.held = {name: tape[own].clone() for name, tape in self.tapes.items()}
        for back in self.backs.values():
            rows = back[own]
            items = rows[: len(order)].clone()
            back[own] = torch.zeros_like(rows).scatter_(0, spread(order, items), items)

    def close(self, size: int) -> None:
        """Afterwards, the rows of later pieces stand where they stood, so that a call can be gone back over again."""
        for name, rows in self.held.items():
            self.tapes[name][self.front : self.front + size] = rows


def spread(order: Tensor, rows: Tensor) -> Tensor:
    """Steps [row, batch] for each entry of rows [step, batch, *axes]."""
    return order.reshape(*order.shape, *(1,) * (rows.dim() - 2)).expand(*order.shape, *rows.shape[2:])


def kept_in_pieces(call: Call) -> dict[str, Any]:
    """Results of the entry `forward` for the whole call; `call.boundaries` and `call.shelves` are for the way back."""
    about = call.model.recdsl_about["boundaries"][call.variant]
    call.shelves += [Shelf(store, call) for store in about["stores"]]
    found, timed, left = dict[str, Any](), timed_in(call), dict[str, Tensor]()
    states = [call.storages["state " + name] for name in call.model.recdsl_about["carries"]]
    given = {name: call.data[name] for name in (*states, "fresh")}
    for lo in range(0, call.steps, call.chunk):
        hi = min(lo + call.chunk, call.steps)
        piece = piece_of(call, call.data | given, timed, lo, hi)
        for shelf in call.shelves:
            piece.data |= shelf.lend("tapes", hi - lo)
        piece.data.update(piece.run("forward"))
        gather(call, piece, found, lo, hi)
        places = {place: piece.data[name].to(torch.int32) for name, place in about["found"]}
        call.boundaries.append(Boundary(lo, hi, given, places))
        left = left_by(piece)
        given = {call.storages["state " + name]: value for name, value in left.items()}
        given["fresh"] = call.like.new_full((), 0.0)
        for shelf in call.shelves:
            shelf.put_away(hi - lo)
        piece.lease.close()
    return found | {call.storages["next " + name]: value for name, value in left.items()}


def back_in_pieces(call: Call, entry: str) -> dict[str, Tensor]:
    """The gradients of a call: from the last piece to the first."""
    about = call.model.recdsl_about["boundaries"][call.variant]
    found, timed = dict[str, Tensor](), timed_in(call)
    behind = {given: call.like.new_zeros(shape) for given, _, shape in _crossed(call, about, entry)}
    for number, boundary in reversed(list(enumerate(call.boundaries))):
        piece = piece_of(call, call.data | boundary.given, timed, boundary.lo, boundary.hi)
        piece.data |= behind | {name: place.long() for name, place in boundary.places.items()}
        for shelf in call.shelves:
            shelf.open(number, piece.steps)
            piece.data |= shelf.lend("tapes", piece.steps) | shelf.lend(entry, piece.steps)
        piece.data.update(piece.run("again"))
        made = piece.run(entry)
        add_up(found, {name: value for name, value in made.items() if name.startswith("grad_")})
        behind = {given: made[left].clone() for given, left, _ in _crossed(call, about, entry)}
        for shelf in call.shelves:
            shelf.close(piece.steps)
        piece.lease.close()
    for shelf in call.shelves:
        shelf.backs.clear()
        shelf.front = sum(map(len, shelf.orders))
    return found


def _crossed(call: Call, about: dict[str, Any], entry: str) -> list[tuple[str, str, list[int]]]:
    """(input, output, shape) of the cotangents that go from a piece to the one before."""
    crossed = about["crossed"][entry]
    return [(given, made, [call.size if n is None else n for n in shape]) for given, made, shape in crossed]
