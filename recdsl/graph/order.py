"""Equations in the order in which they can be computed."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from recdsl.diagnostics import Note, Problem
from recdsl.errors.names import Cycle
from recdsl.syntax.ast import Equation, Expression

AXIS_WORDS = ("axis", "over", "surrogate")
"""Keywords whose values are names of axes or options, not of values."""


def _words(expression: Expression) -> frozenset[int]:
    """Indices of nodes that stand where an axis or option is named."""
    found: set[int] = set()
    for node in expression.nodes:
        if node.kind != "call":
            continue
        for keyword, index in node.keywords:
            if node.value == "rename" or keyword in AXIS_WORDS:
                found.add(index)
                found.update(expression.nodes[index].args)
    return frozenset(found)


def names_in(expression: Expression, delayed: bool = False) -> list[str]:
    """Names whose value this step an expression uses; with `delayed` those that it reads at earlier steps too."""
    words, found = _words(expression), dict[str, None]()
    for index, node in enumerate(expression.nodes):
        if node.kind == "name" and index not in words:
            found[str(node.value)] = None
        elif node.kind == "delay" and delayed and isinstance(node.value, tuple):
            found[node.value[0]] = None
    return list(found)


def ordered(equations: Sequence[Equation]) -> tuple[list[Equation], list[Equation], list[Problem]]:
    """Equations after those they need, otherwise as written; those that need a cycle; a problem for each cycle."""
    home = {target.text: place for place, equation in enumerate(equations) for target in equation.targets}
    needs = [sorted({home[name] for name in names_in(equation.value) if name in home}) for equation in equations]
    users: list[list[int]] = [[] for _ in equations]
    for place, wanted in enumerate(needs):
        for other in wanted:
            users[other].append(place)
    missing = [len(wanted) for wanted in needs]
    ready = [place for place, count in enumerate(missing) if count == 0]
    done: list[int] = []
    while ready:
        place = heappop(ready)
        done.append(place)
        for user in users[place]:
            missing[user] -= 1
            if missing[user] == 0:
                heappush(ready, user)
    left = sorted(set(range(len(equations))) - set(done))
    stuck = [equations[place] for place in left]
    return [equations[place] for place in done], stuck, _cycles(equations, needs, left)


def _cycles(equations: Sequence[Equation], needs: list[list[int]], left: list[int]) -> list[Problem]:
    """One problem for each cycle met when following first needs."""
    problems, seen, stuck = list[Problem](), set[int](), set(left)
    for start in left:
        path, place = list[int](), start
        while place not in seen:
            seen.add(place)
            path.append(place)
            place = next(other for other in needs[place] if other in stuck)
        if place in path:
            problems.append(_cycle([equations[k] for k in path[path.index(place) :]]))
    return problems


def _cycle(chain: list[Equation]) -> Problem:
    chain = chain[(first := chain.index(min(chain, key=lambda e: e.span.start))) :] + chain[:first]
    names = [equation.targets[0].text for equation in chain]
    notes = [
        Note(equation.span, f"`{name}` needs `{after}`")
        for equation, name, after in zip(chain, names, [*names[1:], names[0]], strict=True)
    ]
    text = " -> ".join(f"`{name}`" for name in [*names, names[0]])
    return Cycle(chain[0].targets[0].span, text, names[0], notes=tuple(notes))
