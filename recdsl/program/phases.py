"""Which parts of an entry run when: once a call, in each window of a reverse pass, behind all of them."""

from __future__ import annotations

from recdsl.credit.plan import RoutingClass
from recdsl.program.ir import Affine, Bound, Load, Op, Range, Store, VType
from recdsl.program.lower import BATCH, STEPS, ZERO, Domain, Emitter, Place, affine
from recdsl.program.schedule import Item
from recdsl.program.timeline import TNode


def immediate(routing: RoutingClass) -> bool:
    """A window of one step has nothing to loop over: every crossing is cut, and nothing comes from behind it."""
    return routing.window.size == 1 and not routing.grid and routing.head is None


def windowed(routing: RoutingClass) -> bool:
    return routing.window.size is not None and not immediate(routing) and not routing.grid


def facts(index: int, every: int) -> tuple[Affine, Affine]:
    """The number of windows is `every` into T, rounded up: the last one has a step, and none is left out."""
    name = f"windows{index}"
    return Affine(every - 1, (("T", 1), (name, -every))), Affine(0, (("T", -1), (name, every)))


def domain(routing: RoutingClass) -> Domain:
    """The steps of window u: from where its carried values are cut to its last loss."""
    size, every = routing.window.size or 0, routing.window.every
    lo = Bound("max", (ZERO, affine("u", every, every - size)))
    hi = Bound("min", (STEPS, affine("u", every, every)))
    return Domain(lo, hi, affine("W"))


def split(nodes: tuple[TNode, ...], items: tuple[Item, ...]) -> tuple[list[Item], list[Item]]:
    """What is computed once a call, then the rest; the order within each is kept."""
    late = _late(nodes, items)
    early = [not nodes[item.nodes[0]].time and item.nodes[0] not in late for item in items]
    first = [item for item, known in zip(items, early, strict=True) if known]
    return first, [item for item, known in zip(items, early, strict=True) if not known]


def _late(nodes: tuple[TNode, ...], items: tuple[Item, ...]) -> set[int]:
    """Nodes that need a sum over steps."""
    late: set[int] = set()
    for item in items:
        for k in item.nodes:
            if nodes[k].op in ("collect", "first") or any(arg in late for arg in nodes[k].args):
                late.add(k)
    return late


def phases(nodes: tuple[TNode, ...], items: tuple[Item, ...]) -> tuple[list[Item], list[Item], list[Item]]:
    """Before, inside and after the windows of a reverse pass."""
    late = _late(nodes, items)
    before, inside, after = list[Item](), list[Item](), list[Item]()
    for item in items:
        node = nodes[item.nodes[0]]
        if node.time or node.op in ("collect", "first", "arrive"):
            inside.append(item)
        elif item.nodes[0] in late:
            after.append(item)
        else:
            before.append(item)
    return before, inside, after


def mask_seeds(emitter: Emitter, routing: RoutingClass, wanted: set[int], prefix: str) -> None:
    """In overlapping windows only the losses of the newest `every` steps count."""
    size, every, nodes = routing.window.size, routing.window.every, emitter.nodes
    if size is None or size == every:
        return
    used = {arg for k in wanted for arg in nodes[k].args if nodes[arg].op == "cotangent" and nodes[arg].time}
    new = Bound("max", (affine("u", every),))
    for k in sorted(used):
        node, place = nodes[k], emitter.places[k]
        name = emitter.declare(f"{prefix}{node.name}_due", "buffer", node.type, (("t", STEPS), BATCH), "call")
        zero, due = f"{name}_zero", f"{name}_in"
        emitter.body.append(Op((zero,), "constant", (), (("value", 0.0),), (VType("float", (), node.type.axes),)))
        emitter.body.append(Store(name, (Range(emitter.domain.lo, Bound("min", new.parts)),), zero))
        rows = Range(new, emitter.domain.hi)
        lead = (("t", affine("W")), BATCH)
        emitter.body.append(Load(due, place.storage, (rows,), VType("float", lead, node.type.axes)))
        emitter.body.append(Store(name, (rows,), due))
        emitter.places[k] = Place(name, 0)


def follows(name: str, *, hybrid: bool) -> tuple[tuple[str, str], ...]:
    """The entries that an entry runs behind."""
    if name in ("start", "forward"):
        return ()
    inside = name.replace("traces", "windows")
    return ((name, "forward"), (name, inside)) if hybrid and inside != name else ((name, "forward"),)
