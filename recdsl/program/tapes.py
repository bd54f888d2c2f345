"""Reads of tapes in a loop over steps: places found among earlier steps, rows fetched from them, credit sent back.

A tape is a sequence whose earlier steps are read by place; its storage has row t for step t. What is sent back to it is
added up in a sequence of its own, from which each step takes its share when the reverse loop comes to it.

Where a call is run in pieces, a tape lasts longer than a piece: what earlier ones have left stands in the `front` rows,
as many as the scalar of its store says, and the piece's step t in row `front + t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from recdsl.graph.types import Axis, Type
from recdsl.program.affine import add
from recdsl.program.ir import Add, Affine, At, Bound, Load, Op, Range, Stmt, Store, VType
from recdsl.program.timeline import EARLIER, TNode

if TYPE_CHECKING:
    from recdsl.program.lower import Emitter

TAPES = ("nearest", "fetch", "unfetch")
STEP = Affine(0, (("t", 1),))
STEPS = Affine(0, (("T", 1),))
BATCH = ("B", Affine(0, (("B", 1),)))
Local = dict[int, str]


def finds(nodes: Sequence[TNode], k: int) -> int:
    """The search that says which rows a node is about."""
    return {"nearest": k, "fetch": nodes[k].args[-1], "unfetch": nodes[k].args[-1]}[nodes[k].op]


def fronts(nodes: Sequence[TNode]) -> dict[int, str]:
    """By the stamps of each store: the scalar that counts the rows that stand in front of a piece."""
    stamps = dict.fromkeys(node.args[1] for node in nodes if node.op == "nearest")
    return {source: f"front{place}" for place, source in enumerate(stamps)}


def front(e: Emitter, k: int) -> Affine:
    """How many rows of its tapes stand in front of step 0."""
    name = e.fronts.get(e.nodes[finds(e.nodes, k)].args[1])
    return Affine() if name is None else Affine(0, ((name, 1),))


def rows(e: Emitter, first: Affine) -> Range:
    """The rows of a tape that are those of the entry's steps."""
    lo, hi = e.domain.lo, e.domain.hi
    return Range(
        Bound(lo.kind, tuple(add(first, part) for part in lo.parts)),
        Bound(hi.kind, tuple(add(first, part) for part in hi.parts)),
    )


def sources(node: TNode) -> tuple[int, ...]:
    """The tapes that a node reads."""
    return node.args[: EARLIER[node.op]] if node.op in ("nearest", "fetch") else ()


def open_tapes(e: Emitter, members: tuple[int, ...]) -> None:
    """Before a loop: each tape has a storage, each way back one of zeros."""
    for k in members:
        for source in sources(e.nodes[k]):
            _open(e, source, k, set(members))
        if e.nodes[k].op == "unfetch":
            _open_back(e, k, set(members))


def _open(e: Emitter, source: int, k: int, members: set[int]) -> None:
    first = front(e, k)
    if (source, first) in e.tapes:
        return
    name = f"{e.label(source)}_tape"
    if first.terms:
        name = f"{name}_{first.terms[0][0]}"
        e.declare(name, "buffer", e.nodes[source].type, (("t", add(STEPS, first)), BATCH), "stream")
    else:
        place = e.places.get(source)
        if source not in members and e.nodes[source].time:
            place = e.placed(source)
        if place is not None and place.offset == 0 and source not in members:
            e.tapes[source, first] = place.storage
            return
        e.declare(name, "buffer", e.nodes[source].type, (("t", STEPS), BATCH), "call")
        # Which rows are read, numbers decide; that only earlier ones are, `nearest` sees to.
        e.storages[name] = replace(e.storages[name], attrs=(("init", 0.0),))
    e.tapes[source, first] = name
    if source not in members:
        e.body.append(Store(name, (rows(e, first),), e.whole(source)))


def _open_back(e: Emitter, k: int, members: set[int]) -> None:
    node, first = e.nodes[k], front(e, k)
    name = f"{e.label(k)}_back"
    e.declare(name, "accumulate", node.type, (("t", add(STEPS, first)), BATCH), "stream" if first.terms else "call")
    if not first.terms:
        zero = f"{name}_zero"
        e.body.append(Op((zero,), "constant", (), (("value", 0.0),), (VType("float", (), node.type.axes),)))
        e.body.append(Store(name, (e.domain.range(),), zero))
    e.carried[k] = name
    if node.args[0] not in members and e.nodes[node.args[0]].time:
        e.placed(node.args[0])


def written(e: Emitter, body: list[Stmt], local: Local, k: int) -> str:
    """The value of one of the ops at step t."""
    return {"nearest": _nearest, "fetch": _fetch, "unfetch": _unfetch}[e.nodes[k].op](e, body, local, k)


def _nearest(e: Emitter, body: list[Stmt], local: Local, k: int) -> str:
    """The scores of all earlier steps, then the places of the best."""
    node = e.nodes[k]
    keys, stamps, since, *others = node.args
    every = (("t", add(STEP, front(e, k))), BATCH)
    known = [_slots(e, body, k, keys, "keys"), *(e.operand(body, local, arg) for arg in others)]
    types = [e.nodes[keys].type, *(e.nodes[arg].type for arg in others)]
    for number, (op, args, attrs) in enumerate(node.attr("body")):
        name = f"{e.label(k)}_score{number}"
        varies = op != "constant"
        types.append(_inferred(op, [types[arg] for arg in args], attrs))
        kind = VType(types[-1].dtype, every if varies else (), types[-1].axes)
        body.append(Op((name,), op, tuple(known[arg] for arg in args), attrs, (kind,), node.span))
        known.append(name)
    given = (known[-1], _slots(e, body, k, stamps, "stamps"), e.operand(body, local, since))
    name = e.label(k)
    # rows in front are slots one and all
    attrs = (("axis", node.attr("axis")), ("every", 1 if e.fronts else node.attr("every")))
    body.append(Op((name,), "search", given, attrs, (e.vtype(k, step=True),), node.span, "", ("t",)))
    return name


def _inferred(op: str, types: list[Type], attrs: tuple[tuple[str, object], ...]) -> Type:
    from recdsl.ops import primitive

    return primitive(op).infer(types, attrs)


def _slots(e: Emitter, body: list[Stmt], k: int, source: int, what: str) -> str:
    """A tape's steps before t."""
    name, type = f"{e.label(k)}_{what}", e.nodes[source].type
    first = front(e, k)
    end = add(STEP, first)
    before = Range(Bound("max", (Affine(),)), Bound("min", (end,)))
    body.append(Load(name, e.tapes[source, first], (before,), VType(type.dtype, (("t", end), BATCH), type.axes)))
    return name


def _places(e: Emitter, body: list[Stmt], local: Local, k: int, place: int) -> tuple[str, Axis]:
    """The places with their axis in front, as rows are chosen by."""
    axis = e.nodes[place].type.axes[0]
    name = f"{e.label(k)}_at"
    kind = VType("int", (BATCH, (axis.name, Affine(axis.size))), ())
    body.append(Op((name,), "view", (e.operand(body, local, place),), (), (kind,)))
    return name, axis


def _fetch(e: Emitter, body: list[Stmt], local: Local, k: int) -> str:
    node = e.nodes[k]
    at, axis = _places(e, body, local, k, node.args[1])
    rows, type = f"{e.label(k)}_rows", e.nodes[node.args[0]].type
    kind = VType(type.dtype, (BATCH, (axis.name, Affine(axis.size))), type.axes)
    body.append(Load(rows, e.tapes[node.args[0], front(e, k)], (At(at),), kind, node.span))
    body.append(Op((e.label(k),), "view", (rows,), (), (e.vtype(k, step=True),), node.span))
    return e.label(k)


def _unfetch(e: Emitter, body: list[Stmt], local: Local, k: int) -> str:
    name = f"{e.label(k)}_in"
    body.append(Load(name, e.carried[k], (add(STEP, front(e, k)),), e.vtype(k, step=True)))
    return name


def send_back(e: Emitter, body: list[Stmt], local: Local, k: int) -> None:
    """At the end of a step: what its rows ask of the steps they came from."""
    node = e.nodes[k]
    rows, type = e.operand(body, local, node.args[0]), node.type
    at, axis = _places(e, body, local, k, node.args[1])
    name = f"{e.label(k)}_given"
    kind = VType("float", (BATCH, (axis.name, Affine(axis.size))), type.axes)
    if not e.nodes[node.args[0]].time:
        return  # no credit for any row
    body.append(Op((name,), "view", (rows,), (), (kind,), node.span))
    body.append(Add(e.carried[k], (At(at),), name, ("", str(k), e.prefix, ""), node.span))
