"""Losses: the loss of one step of one sample, its own axes averaged."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from recdsl.diagnostics import suggest
from recdsl.errors.axes import LossAxes, WrongKind
from recdsl.errors.names import NoMatch, NotALoss, UnknownLoss
from recdsl.graph import align, temporal
from recdsl.graph.calls import Builtin, Call, Given, bind
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.functions import Maths
from recdsl.graph.histories import read
from recdsl.graph.reductions import log_softmax, mean, total
from recdsl.graph.scope import Item, Ref, Scope, Silent, Stop
from recdsl.graph.sizes import Number
from recdsl.graph.step import TD, Loss
from recdsl.graph.steps import evaluator
from recdsl.syntax.ast import LossDecl

FLOOR = Number(1e-6)


def build(ctx: Context, scope: Scope, decl: LossDecl) -> Loss | None:
    """One loss, or None where problems were found."""
    found, made = list[Item](), list[TD]()

    def call(ev: Evaluator, call: Call, root: bool) -> Item:
        if not root:
            return plain.call(ev, call, False)
        if call.name == "td":
            place, parts = temporal.build(ev, call, decl.name.text)
            made.append(parts)
            found.append(Ref(place))
        else:
            found.append(_loss(ev, call))
        return found[0]

    plain = evaluator(ctx, scope)
    ctx.emit.span = decl.value.span
    Evaluator(ctx, scope, call, read).run(decl.value)
    if decl.value.root.kind != "call":
        ctx.problems.add(NotALoss(decl.value.span))
    if not found or not isinstance(found[0], Ref) or found[0].id == UNKNOWN:
        return None
    trains = tuple(name.text for name in decl.trains)
    return Loss(decl.name.text, found[0].id, decl.weight, trains, decl.at, decl.span, made[0] if made else None)


def check_selectors(ctx: Context, decl: LossDecl) -> None:
    """Each entry of `trains` names a parameter that can be trained."""
    names = [name for name, parameter in ctx.parameters.items() if not parameter.frozen]
    names += sorted(ctx.common)  # a loss that trains rows trains what has made them
    for selector in decl.trains:
        if not any(matches(selector.text, name) for name in names):
            frozen = any(matches(selector.text, name) for name in ctx.parameters)
            listed = f"parameters: {', '.join(names[:8]) or 'none'}"
            hint = "it is frozen" if frozen else suggest(selector.text, names) or listed
            ctx.problems.add(NoMatch(selector.span, selector.text, hint))


def matches(selector: str, name: str) -> bool:
    """Whether a selector of parameters takes that one; a block's name takes all that is inside."""
    return fnmatchcase(name, selector) or name.startswith(f"{selector}.")


def _loss(ev: Evaluator, call: Call) -> Item:
    builtin = LOSSES.get(call.name)
    if builtin is None:
        near = suggest(call.name, [*LOSSES, "td"])
        raise Stop(UnknownLoss(call.span, call.name, near or f"one of {', '.join([*LOSSES, 'td'])}"))
    return builtin.work(ev, call, bind(call, builtin.use))


# operands


def _averaged(ev: Evaluator, item: Item) -> Item:
    """The mean over all axes."""
    if not isinstance(item, Ref) or not ev.ctx.known(item.id):
        return Ref(UNKNOWN)
    axes = ev.b.type(item.id).axes
    return Ref(mean(ev, item.id, tuple(range(len(axes))))) if axes else item


def _pair(ev: Evaluator, call: Call, left: Item, right: Item) -> tuple[Item, Item]:
    """Two operands with the same axes; numbers stay numbers."""
    found: list[Item] = []
    for item in (left, right):
        item = ev.look(item)
        value = (
            item if isinstance(item, Number) else Ref(ev.floats(ev.node(item, call.span), f"`{call.name}`", call.span))
        )
        if value == Ref(UNKNOWN):
            raise Silent
        found.append(value)
    types = [ev.b.type(item.id) for item in found if isinstance(item, Ref)]
    if len(types) == 2 and not align.same_set(*types):
        raise Stop(LossAxes(call.span, call.name, str(types[0]), str(types[1])))
    return found[0], found[1]


def _error(ev: Evaluator, call: Call, given: Given) -> tuple[Maths, Item]:
    m = Maths(ev, call)
    left, right = _pair(ev, call, given["a"], given["b"])
    return m, Ref(ev.node(m.bin("-", left, right), call.span))


def _class(ev: Evaluator, call: Call, item: Item) -> int:
    """The integer behind a class, or UNKNOWN if the operand is a vector."""
    value = ev.node(item, call.span)
    if value == UNKNOWN:
        raise Silent
    value = ev.ctx.onehot.get(value, value)
    return value if value in ev.ctx.index_axis else UNKNOWN


def _chosen(ev: Evaluator, call: Call, scores: int, index: int) -> tuple[int, int]:
    """The entry of the class, and where its axis stands."""
    axis, type = ev.ctx.index_axis[index], ev.b.type(scores)
    if type.axes.count(axis) != 1:
        hint = f"the first operand needs the axis `{axis}` of the class"
        raise Stop(LossAxes(call.span, call.name, str(type), f"class[{axis.name}]", hint))
    at = type.axes.index(axis)
    return ev.b.op("gather", scores, index, at=at), at


def _scores(ev: Evaluator, call: Call, item: Item) -> int:
    value = ev.floats(ev.node(item, call.span), f"`{call.name}`", call.span)
    if value == UNKNOWN:
        raise Silent
    return value


# the losses


def _mse(ev: Evaluator, call: Call, given: Given) -> Item:
    m, error = _error(ev, call, given)
    return _averaged(ev, m.bin("*", error, error))


def _mae(ev: Evaluator, call: Call, given: Given) -> Item:
    m, error = _error(ev, call, given)
    return _averaged(ev, m.op("abs", error))


def _huber(ev: Evaluator, call: Call, given: Given) -> Item:
    m, error = _error(ev, call, given)
    delta = ev.number(given.get("delta", Number(1.0)), "`delta`", call.span)
    if delta.value <= 0:
        raise Stop(WrongKind(call.span, "`delta`", f"{delta.value:g}", "it is above 0"))
    size = m.op("abs", error)
    near = m.bin("*", Number(0.5), m.bin("*", error, error))
    far = m.bin("*", delta, m.bin("-", size, Number(0.5 * delta.value)))
    return _averaged(ev, m.where(size, "<=", delta, near, far))


def _cross_entropy(ev: Evaluator, call: Call, given: Given) -> Item:
    logits, index = _scores(ev, call, given["logits"]), _class(ev, call, given["y"])
    if index != UNKNOWN:
        hit, at = _chosen(ev, call, logits, index)
        return _averaged(ev, Ref(ev.b.op("sub", ev.b.op("logsumexp", logits, at=at), hit)))
    left, right = _pair(ev, call, Ref(logits), given["y"])
    axes = ev.b.type(logits).axes
    if not axes:
        raise Stop(
            LossAxes(call.span, call.name, str(ev.b.type(logits)), "a distribution", "it needs an axis of classes")
        )
    assert isinstance(left, Ref)
    logp = Ref(log_softmax(ev, left.id, (len(axes) - 1,)))
    product = ev.node(Maths(ev, call).bin("*", right, logp), call.span)
    return _averaged(ev, Ref(ev.b.op("neg", total(ev, product, (len(axes) - 1,)))))


def _binary_cross_entropy(ev: Evaluator, call: Call, given: Given) -> Item:
    m = Maths(ev, call)
    logits, y = _pair(ev, call, given["logits"], given["y"])
    soft = Ref(ev.node(m.op("softplus", logits), call.span))
    return _averaged(ev, m.bin("-", soft, m.bin("*", logits, y)))


def _nll(ev: Evaluator, call: Call, given: Given) -> Item:
    m, p, index = Maths(ev, call), _scores(ev, call, given["p"]), _class(ev, call, given["y"])
    if index == UNKNOWN:
        found = str(ev.b.type(ev.node(given["y"], call.span)))
        raise Stop(LossAxes(call.span, call.name, str(ev.b.type(p)), found, "the second operand is a class"))
    hit, _ = _chosen(ev, call, p, index)
    return _averaged(ev, m.op("neg", m.op("log", m.op("maximum", Ref(hit), FLOOR))))


def _kl(ev: Evaluator, call: Call, given: Given) -> Item:
    m = Maths(ev, call)
    p, q = _pair(ev, call, given["p"], given["q"])
    logs = [m.op("log", m.op("maximum", item, FLOOR)) for item in (p, q)]
    product = ev.node(m.bin("*", p, m.bin("-", *logs)), call.span)
    axes = ev.b.type(product).axes
    if not axes:
        raise Stop(LossAxes(call.span, call.name, "float", "float", "distributions need an axis"))
    return _averaged(ev, Ref(total(ev, product, (len(axes) - 1,))))


LOSSES: Mapping[str, Builtin] = {
    "mse": Builtin("mse(a, b)", _mse),
    "mae": Builtin("mae(a, b)", _mae),
    "huber": Builtin("huber(a, b, delta=1)", _huber),
    "cross_entropy": Builtin("cross_entropy(logits, y)", _cross_entropy),
    "binary_cross_entropy": Builtin("binary_cross_entropy(logits, y)", _binary_cross_entropy),
    "nll": Builtin("nll(p, y)", _nll),
    "kl": Builtin("kl(p, q)", _kl),
}
