"""Spec to step graph: the second stage of the compiler."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recdsl.diagnostics import Note
from recdsl.errors.axes import CannotInfer, TooLarge
from recdsl.errors.memory import NeverRead
from recdsl.errors.names import Unreached
from recdsl.graph import histories, losses, temporal
from recdsl.graph.context import Context
from recdsl.graph.declare import top_scope
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.infer import state_types
from recdsl.graph.reach import reached
from recdsl.graph.scope import Ref, Scope
from recdsl.graph.step import Carry, Loss, StepGraph
from recdsl.graph.steps import evaluator, run
from recdsl.graph.types import FLOAT, Type
from recdsl.syntax.ast import BlockDecl, Spec

LARGEST = 2**33
"""Bytes that one parameter or value may take (as 32-bit floats)."""


def build(spec: Spec, sizes: Mapping[str, int] | None = None) -> StepGraph:
    """The step graph of a spec. `sizes` gives the sizes declared as `data`.

    Raises SpecError with all problems that were found.
    """
    built = _inferred(spec, dict(sizes or {}))
    ctx, scope = built.ctx, built.scope
    if not ctx.problems.found:
        _check_reach(ctx, built.carries, built.losses)
        temporal.check(ctx, built.carries, built.losses)
        _check_memory(ctx)
        _check_reads(ctx)
    ctx.problems.check()
    inputs = {carry.read for carry in built.carries if not carry.credited}
    outputs = tuple(
        (target.text, entry.id if entry.id in inputs else ctx.emit.used(entry.id, target.text))
        for equation in spec.step
        for target in equation.targets
        if isinstance(entry := scope.names.get(target.text), Ref)
    )
    memories = tuple(store.summary(ctx) for store in ctx.stores)
    outputs += tuple((made.output, made.item) for memory in memories for made in memory.written)
    return StepGraph(
        spec.name,
        tuple(ctx.emit.nodes),
        tuple(ctx.inputs),
        tuple(ctx.parameters.values()),
        tuple(built.carries),
        outputs,
        tuple(built.losses),
        spec.reduce,
        memories,
    )


@dataclass(frozen=True)
class _Built:
    """What one pass over the spec has made; problems are in its context."""

    ctx: Context
    scope: Scope
    losses: list[Loss]
    carries: list[Carry]


def _inferred(spec: Spec, sizes: Mapping[str, int]) -> _Built:
    """States whose axes nothing determines, such as a counter's, are scalars if that fits every equation."""
    library: dict[str, BlockDecl | None] = {}
    types = state_types(spec, sizes, library)
    built = _pass(spec, sizes, types, library)
    if built.ctx.unknown and all(isinstance(problem, CannotInfer) for problem in built.ctx.problems.found):
        scalars = _pass(spec, sizes, types | dict.fromkeys(built.ctx.unknown, FLOAT), library)
        return built if scalars.ctx.problems.found else scalars
    return built


def _pass(spec: Spec, sizes: Mapping[str, int], types: dict[str, Type], library: dict[str, BlockDecl | None]) -> _Built:
    ctx = Context(spec, sizes, types, False, library)
    scope = top_scope(ctx)
    run(ctx, scope, ctx.equations)
    found = _losses(ctx, scope)
    carries = histories.carries(ctx, evaluator(ctx, scope))
    if not ctx.problems.found:
        _check_known(ctx, scope)
    return _Built(ctx, scope, found, carries)


def _losses(ctx: Context, scope: Scope) -> list[Loss]:
    """All losses, in a scope that sees the targets too."""
    scope.losses = True
    found = [losses.build(ctx, scope, decl) for decl in ctx.spec.losses]
    for decl in ctx.spec.losses:
        losses.check_selectors(ctx, decl)
    scope.losses = False
    return [loss for loss in found if loss is not None]


def _check_known(ctx: Context, scope: Scope) -> None:
    """Every state and every equation has a type."""
    for full, span in ctx.unknown.items():
        ctx.problems.add(CannotInfer(span, full))
    for equation in [] if ctx.problems.found else ctx.spec.step:
        for target in equation.targets:
            if scope.names.get(target.text) in (None, Ref(UNKNOWN)):
                ctx.problems.add(CannotInfer(target.span, target.text))


def _check_reach(ctx: Context, carries: Sequence[Carry], found: Sequence[Loss]) -> None:
    """Each trainable parameter needs a path to a loss that trains it."""
    if not found:
        return
    nodes = ctx.emit.nodes
    leaf = {node.name: node.id for node in nodes if node.op == "parameter"}
    stores = [store.summary(ctx) for store in ctx.stores]
    reach = {loss.name: reached(nodes, carries, [loss], stores) for loss in found}
    for name, parameter in ctx.parameters.items():
        if parameter.frozen or parameter.span is None:
            continue
        own = [loss for loss in found if not loss.trains or any(losses.matches(s, name) for s in loss.trains)]
        if not any(leaf[name] in reach[loss.name] for loss in own):
            if own or not found:
                ctx.problems.add(Unreached(parameter.span, name))
            else:
                ctx.problems.add(Unreached(parameter.span, name, "no `trains` names it: add it, or write `frozen`"))


def _check_reads(ctx: Context) -> None:
    """Every read of a memory is used somewhere."""
    written = [*(e.value for e in ctx.equations), *(loss.value for loss in ctx.spec.losses)]
    nodes = [node for expression in written for node in expression.nodes]
    used = {str(n.value[0] if isinstance(n.value, tuple) else n.value) for n in nodes if n.kind in ("name", "delay")}
    for read in (read for made in ctx.stores for read in made.store.reads):
        if read.name not in used:
            ctx.problems.add(NeverRead(read.span, read.name, f"for example `h = ... + {read.name}` in the step"))


def _check_memory(ctx: Context) -> None:
    """Bytes in Python integers, before anything is allocated."""
    whole = sum(4 * parameter.type.numel for parameter in ctx.parameters.values())
    large = {node.id for node in ctx.emit.nodes if 4 * node.type.numel > LARGEST}
    for place in sorted(large):
        node = ctx.emit.nodes[place]
        if node.span is None or node.op == "constant" or any(arg in large for arg in node.args):
            continue
        what = f"parameter `{node.name}`" if node.op == "parameter" else f"a value of type {node.type}"
        calls = [span for start, end, span in ctx.expansions if start <= place < end]
        notes = (Note(node.span, "here, inside the block"),) if calls else ()
        span = calls[-1] if calls else node.span
        ctx.problems.add(TooLarge(span, what, node.type.numel, 4 * node.type.numel, LARGEST, notes=notes))
    limit = _memory() * 4 // 5
    if not ctx.problems.found and whole > limit:
        numel = whole // 4
        ctx.problems.add(TooLarge(ctx.spec.span, "all parameters together", numel, whole, limit))


def _memory() -> int:
    """Bytes of physical memory; where the system does not say, a number that never limits."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**62
