"""Types of carried states, by an optimistic fixpoint over the equations.

A state that is read before its type is known counts as unknown; what is assigned to it then gives it a type, and the
equations that read it are looked at again until nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

from recdsl.graph.context import Context
from recdsl.graph.declare import top_scope
from recdsl.graph.order import names_in, ordered
from recdsl.graph.scope import Ref, Scope
from recdsl.graph.steps import assign
from recdsl.graph.types import Type
from recdsl.syntax.ast import BlockDecl, Equation, Spec


def state_types(spec: Spec, sizes: Mapping[str, int], library: dict[str, BlockDecl | None]) -> dict[str, Type]:
    """The types of all states read at earlier steps that can be found."""
    ctx = Context(spec, sizes, {}, True, library)
    scope = top_scope(ctx)
    equations, _, _ = ordered(ctx.equations)
    users, owner = dict[str, list[int]](), dict[str, int]()
    for place, equation in enumerate(equations):
        for name in names_in(equation.value, delayed=True):
            users.setdefault(name, []).append(place)
        owner.update({target.text: place for target in equation.targets})
    queue, waiting = list(range(len(equations))), set(range(len(equations)))
    while queue:
        place = heappop(queue)
        waiting.discard(place)
        for name in _evaluate(ctx, scope, equations[place]):
            inside = "." in name and name not in users
            again = [owner.get(name.partition(".")[0], place)] if inside else users.get(name, [])
            for user in again:
                if user not in waiting:
                    waiting.add(user)
                    heappush(queue, user)
    return ctx.inferred


def _evaluate(ctx: Context, scope: Scope, equation: Equation) -> list[str]:
    """Names whose type this equation has changed."""
    before = [_type(ctx, scope, target.text) for target in equation.targets]
    ctx.changed.clear()
    assign(ctx, scope, equation)
    changed = list(ctx.changed)
    for target, old in zip(equation.targets, before, strict=True):
        if old != _type(ctx, scope, target.text):
            changed.append(target.text)
    own = equation.targets[0].text
    return [*changed, *(f"{own}." for name in ctx.changed if name in {t.text for t in equation.targets})]


def _type(ctx: Context, scope: Scope, name: str) -> Type | None:
    entry = scope.names.get(name)
    return ctx.emit.type(entry.id) if isinstance(entry, Ref) and ctx.known(entry.id) else None
