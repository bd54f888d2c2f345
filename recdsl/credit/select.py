"""Selectors: which parameters a pattern names, which edges a use of a state is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from recdsl.diagnostics import suggest
from recdsl.graph.step import Carry, StepGraph

_USE = re.compile(r"([A-Za-z_][A-Za-z0-9_.]*)\[ *t *- *([0-9]+) *\]")


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern names a parameter: itself, by wildcards, or as the block that holds it."""
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def parameters(graph: StepGraph, pattern: str) -> tuple[str, ...]:
    """Names of the parameters that a pattern selects, in the graph's order."""
    return tuple(p.name for p in graph.parameters if matches(pattern, p.name))


def near(graph: StepGraph, pattern: str) -> str:
    """What may have been meant by a pattern without a match, or the first names there are."""
    names = [p.name for p in graph.parameters]
    blocks = {name.rpartition(".")[0] + ".*" for name in names if "." in name}
    return suggest(pattern, {*names, *blocks}) or f"parameters: {', '.join(names[:8]) or 'none'}"


def as_use(text: str) -> tuple[str, int] | None:
    """("h", 2) for `h[t-2]`; None if the text is no use of a state."""
    found = _USE.fullmatch(text.strip())
    return (found[1], int(found[2])) if found else None


def read_by(graph: StepGraph, name: str, lag: int) -> Carry | None:
    """The carry that holds `name[t-lag]`, if the graph has it."""
    wanted = name if lag == 1 else f"{name}[t-{lag}]"
    found = [c for c in graph.carries if c.name == wanted and c.credited]
    return found[0] if found else None


def uses(graph: StepGraph, carry: Carry) -> tuple[tuple[int, int], ...]:
    """The edges by which a step reads a carried value.

    (leaf, consumer), and (leaf, other leaf) where another state takes the value over as it is. The link that hands
    the value down a delay line is none of them, nor is what keeps a tape's slots where they are.
    """
    inside = [(carry.read, node.id) for node in graph.nodes if carry.read in node.args and node.op != "append"]
    taken = [(carry.read, c.read) for c in graph.carries if c.write == carry.read and c.kind == "state"]
    return (*inside, *taken)


def state_uses(graph: StepGraph) -> list[str]:
    """The uses of states that the step makes, as written: `h[t-1]`, `h[t-3]`."""
    return [label(carry) for carry in graph.carries if carry.credited and uses(graph, carry)]


def label(carry: Carry) -> str:
    """How the user writes the value that a carry holds."""
    return carry.name if carry.name.endswith("]") else f"{carry.name}[t-1]"


def all_uses(graph: StepGraph, carries: Iterable[Carry]) -> frozenset[tuple[int, int]]:
    return frozenset(edge for carry in carries for edge in uses(graph, carry))
