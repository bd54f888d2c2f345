"""The top of a spec: sizes, inputs, targets, parameters and states."""

from __future__ import annotations

from collections.abc import Mapping

from recdsl.errors.axes import BadSize, WrongKind
from recdsl.errors.keys import NotSupported
from recdsl.errors.names import NotConstant, ReservedName, SizeFromData
from recdsl.graph import histories
from recdsl.graph.blocks import define_step
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.memory.check import checked
from recdsl.graph.memory.searched import common, refuse_disk, refuse_index
from recdsl.graph.memory.slots import Lowering
from recdsl.graph.memory.tape import Tape, refuse
from recdsl.graph.names import INPUT_NAMES
from recdsl.graph.order import ordered
from recdsl.graph.scope import Argument, Ref, Scope, Stop, Target
from recdsl.graph.sizes import LIMIT, Number, Size
from recdsl.graph.step import Input
from recdsl.graph.steps import evaluator
from recdsl.graph.types import BOOL, INT, Axis, Type
from recdsl.syntax.ast import Declared, Equation, SizeDecl, StoreDecl


def top_scope(ctx: Context) -> Scope:
    """The scope of the spec's step, with everything but the equations."""
    spec = ctx.spec
    scope = Scope(assigned=frozenset(target.text for equation in spec.step for target in equation.targets))
    ev = evaluator(ctx, scope)
    _sizes(ev, spec.sizes, ctx.sizes)
    for declared, target in [*((d, False) for d in spec.inputs), *((d, True) for d in spec.targets)]:
        ev.attempt(declared.name.span, lambda: _leaf(ev, declared, target))  # noqa: B023
        scope.names.setdefault(declared.name.text, Ref(UNKNOWN))
    _memory(ev)
    define_step(ev, spec.params, ctx.equations)
    for state in spec.states:
        ev.attempt(state.name.span, lambda: histories.declare(ev, state))  # noqa: B023
    return scope


def _memory(ev: Evaluator) -> None:
    """The equations of the step, with those of each memory; the names that these assign."""
    ctx, made = ev.ctx, list[Equation]()
    for decl in ctx.spec.memory:
        seen = len(made)
        ev.attempt(decl.name.span, lambda: made.extend(_store(ev, decl)))  # noqa: B023
        if len(made) == seen:  # what its reads would be is unknown
            ev.scope.names.update({f"{decl.name.text}.{read.name.text}": Ref(UNKNOWN) for read in decl.reads})
    ctx.equations = (*ctx.spec.step, *made)
    ev.scope.assigned |= {target.text for equation in made for target in equation.targets}


def _store(ev: Evaluator, decl: StoreDecl) -> tuple[Equation, ...]:
    """One memory as equations. Raises Stop."""
    ev.scope.claim(decl.name)
    store = checked(ev, decl)
    if store is None:
        return ()
    refuse_disk(store)
    refuse_index(store)
    if store.slots is None:
        refuse(store)
    if store.life != "model" and decl.write is not None and decl.write.eval is False:
        advice = "a store of its own for each sample is written in evaluation too, or it would stay empty"
        raise Stop(NotSupported(decl.write.span, "eval: false", advice))
    if decl.write is not None and decl.write.merge is not None and (store.life != "model" or store.slots is None):
        advice = "values are merged in one store for all samples: `life: model`, with a number of slots"
        raise Stop(NotSupported(decl.write.merge.span, f"merge` in a store whose life is a `{store.life}", advice))
    lowering = Tape(store) if store.slots is None else common(store) if store.life == "model" else Lowering(store)
    ev.ctx.stores.append(lowering)
    lowering.declare(ev.ctx)
    return lowering.equations()


def _sizes(ev: Evaluator, sizes: tuple[SizeDecl, ...], given: Mapping[str, int]) -> None:
    """Sizes in the order in which they need each other."""
    equations = {
        size.name.text: Equation((size.name,), size.value, size.name.span) for size in sizes if size.value is not None
    }
    order, _, cycles = ordered(list(equations.values()))
    for cycle in cycles:
        what = f"size `{cycle.span.text}`"
        ev.ctx.problems.add(NotConstant(cycle.span, what, "known without itself", "write a number", notes=cycle.notes))
    for size in sizes:
        ev.attempt(size.name.span, lambda: _given(ev, size, given))  # noqa: B023
        if size.value is None or cycles:
            ev.scope.names.setdefault(size.name.text, Ref(UNKNOWN))
    for equation in [] if cycles else order:
        (name,) = equation.targets
        ev.attempt(equation.value.span, lambda: _computed(ev, equation))  # noqa: B023
        ev.scope.names.setdefault(name.text, Ref(UNKNOWN))


def _given(ev: Evaluator, size: SizeDecl, given: Mapping[str, int]) -> None:
    ev.scope.claim(size.name)
    if size.value is not None:
        return
    if size.name.text not in given:
        raise Stop(SizeFromData(size.name.span, size.name.text))
    value = given[size.name.text]
    if not 1 <= value <= LIMIT:
        raise Stop(BadSize(size.name.span, f"size `{size.name.text}`", f"{value:,}"))
    ev.scope.names[size.name.text] = Number(value, Size(size.name.text, value))


def _computed(ev: Evaluator, equation: Equation) -> None:
    (name,) = equation.targets
    value = ev.size_of(equation.value, f"size `{name.text}`").value
    ev.scope.names.setdefault(name.text, Number(value, Size(name.text, value)))


def _leaf(ev: Evaluator, declared: Declared, target: bool) -> None:
    """An input or target: its leaf, and for `onehot` the vector made of it."""
    name, kind, b = declared.name.text, declared.type.kind, ev.b
    if name in INPUT_NAMES:
        raise Stop(ReservedName(declared.name.span, name, "an input", f"every model takes `{name}` besides its inputs"))
    ev.scope.claim(declared.name)
    axes = ev.type_of(declared.type).axes
    if kind in ("onehot", "class", "token") and len(axes) != 1:
        hint = f"write `{kind}[n]`, n being the number of classes"
        raise Stop(WrongKind(declared.type.span, f"`{kind}`", f"{len(axes)} axes", hint))
    type = Type("float", axes) if kind == "float" else Type(BOOL.dtype, axes) if kind == "bool" else INT
    b.span = declared.name.span
    leaf = value = b.leaf("target" if target else "input", name, type)
    size = axes[0].size if type == INT else 0
    if type == INT:
        ev.ctx.index_axis[leaf] = axes[0]
    if kind == "onehot":
        value = _vector(ev, leaf, axes[0])
    ev.ctx.inputs.append(Input(name, kind, type, size, target, declared.name.span))
    ev.scope.names[name] = Target(value) if target else Argument(value)


def _vector(ev: Evaluator, leaf: int, axis: Axis) -> int:
    found = ev.b.op("one_hot", leaf, axis=axis)
    ev.ctx.onehot[found] = leaf
    return found
