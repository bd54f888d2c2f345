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


@dataclass(frozen=True)
class Assembled:
    """`program` has the entries "forward", "backward" (losses only) and "backward_outputs" (outputs too)."""

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
