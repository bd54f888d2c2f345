"""What a program looks like from outside: which storage holds what, and how storages are called."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.program.ir import Program


@dataclass(frozen=True)
class Interface:
    """Which storage holds what, for a backend: pairs of (storage, name).

    traced: parameters whose gradient the entry "traces" makes. traces: what it carries, with shapes.
    thinned: (storage, class, lag) of weights of credit that crosses `lag` steps, where cuts are random or spare some.
    signs: storages of random signs, with shapes. forgotten: traces that the next call begins without.
    heads: classes k with a net that answers for what lies behind their windows. It takes, over boundaries and samples,
    `goes<k>`, what its answers are multiplied by (0 where nothing follows), and `learn<k>`, how much a boundary counts
    in its own loss; `share<k>`, what cotangents are multiplied by to be compared with its answers; and `unit<k>`, what
    the loss is multiplied by.
    found: of calls that are run in pieces, (output of `forward`, input of `again`) with the places that a search has
    found. tapes: (storage, scalar that counts the rows in front of a piece, "stamps" | "tape" | "back"), which last as
    long as the call. spacing: by such a scalar, how many steps there are from one item to the next, at least. crossed:
    (input, output) of cotangents that go to the piece before.
    """

    inputs: tuple[tuple[str, str], ...]
    parameters: tuple[tuple[str, str], ...]
    states: tuple[tuple[str, str], ...]
    weights: tuple[str, ...]
    cotangents: tuple[str, ...]
    output_cotangents: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    losses: tuple[str, ...]
    next_states: tuple[tuple[str, str], ...]
    inits: tuple[tuple[str, tuple[str, ...]], ...]
    gradients: tuple[tuple[str, str], ...]
    traced: tuple[str, ...] = ()
    traces: tuple[tuple[str, tuple[int, ...]], ...] = ()
    thinned: tuple[tuple[str, int, int], ...] = ()
    signs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    forgotten: tuple[str, ...] = ()
    heads: tuple[int, ...] = ()
    found: tuple[tuple[str, str], ...] = ()
    tapes: tuple[tuple[str, str, str], ...] = ()
    spacing: tuple[tuple[str, int], ...] = ()
    crossed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Assembled:
    """`program` has the entries "forward", "backward" (losses only) and "backward_outputs" (outputs too); where calls
    are run in pieces, backward ones read what `again` leaves."""

    program: Program
    interface: Interface
    loose: tuple[str, ...] = ()


def safe(name: str) -> str:
    """The user's name with nothing but letters, digits and underscores."""
    return "".join(c if c.isalnum() else "_" for c in name)


class Tags:
    """Storage names: the user's name made safe, with a number where two would fall together."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def __call__(self, kind: str, name: str) -> str:
        if (kind, name) not in self._given:
            base = f"{kind}_{safe(name)}"
            tag, number = base, 1
            while tag in self._taken:
                number += 1
                tag = f"{base}_{number}"
            self._taken.add(tag)
            self._given[kind, name] = tag
        return self._given[kind, name]
