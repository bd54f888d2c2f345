"""Timeline -> program: each item of the schedule becomes statements; what outlives its place gets a storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recdsl.graph.types import Type
from recdsl.program import crossing, tapes
from recdsl.program.affine import add
from recdsl.program.ir import Add, Affine, Bound, For, If, Load, Op, Range, Stmt, Storage, Store, VType
from recdsl.program.schedule import Item
from recdsl.program.timeline import TNode, here, pooled, sampled
from recdsl.program.uses import SUMMED, VIEWS, only_collected

ZERO = Affine()
STEPS = Affine(0, (("T", 1),))
BATCH = ("B", Affine(0, (("B", 1),)))


def affine(symbol: str, coefficient: int = 1, const: int = 0) -> Affine:
    return Affine(const, ((symbol, coefficient),))


def shifted(value: Affine, by: int) -> Affine:
    return Affine(value.const + by, value.terms)


@dataclass(frozen=True)
class Domain:
    """The steps an entry works on: lo .. hi; `extent` is the length of its sequences."""

    lo: Bound
    hi: Bound
    extent: Affine

    def range(self, shift: int = 0) -> Range:
        return Range(
            Bound(self.lo.kind, tuple(shifted(part, shift) for part in self.lo.parts)),
            Bound(self.hi.kind, tuple(shifted(part, shift) for part in self.hi.parts)),
        )


WHOLE = Domain(Bound("max", (ZERO,)), Bound("min", (STEPS,)), STEPS)


@dataclass(frozen=True)
class Place:
    """Where a sequence is stored: row `t + offset` of `storage` holds step t."""

    storage: str
    offset: int


class Emitter:
    """Writes the statements of one entry. `given` are sequences that already have a place (inputs, tape, histories)."""

    def __init__(
        self,
        nodes: tuple[TNode, ...],
        given: Mapping[int, Place],
        names: Mapping[int, str],
        prefix: str,
        domain: Domain = WHOLE,
    ) -> None:
        self.nodes, self.names, self.prefix, self.domain = nodes, names, prefix, domain
        self.places: dict[int, Place] = dict(given)
        self.values: dict[int, str] = {}
        self.storages: dict[str, Storage] = {}
        self.body: list[Stmt] = []
        self.stored: set[int] = set()
        self.carried: dict[int, str] = {}
        self.last: dict[int, str] = {}
        self.totals: dict[int, str] = {}
        self.pasts: dict[int, tuple[int, Place]] = {}
        self.incoming: dict[int, str] = {}
        self.tapes: dict[tuple[int, Affine], str] = {}
        self.fronts: Mapping[int, str] = {}
        self.crossed: dict[str, str] | None = None  # in pieces: what is given from behind, and what is left for it
        self.leaving: list[tuple[str, str, VType]] = []
        self._filled: set[str] = set()
        self._ended: set[tuple[str, int]] = set()
        self.lazy: set[int] = set()
        self.sampled = sampled(nodes)
        self.pooled = pooled(nodes)
        self.newest: dict[tuple[int, int], str] = {}

    # -- names and types ------------------------------------------------------------------------------------------
    def label(self, k: int) -> str:
        name = self.names.get(k) or self.nodes[k].name
        safe = "".join(c if c.isalnum() else "_" for c in name)
        return f"{self.prefix}{k}_{safe}" if safe else f"{self.prefix}{k}"

    def vtype(self, k: int, *, step: bool = False) -> VType:
        node = self.nodes[k]
        stepwise = step or k in self.sampled
        lead = () if not node.time else self.each(k) if stepwise else (("t", self.domain.extent), *self.each(k))
        return VType(node.type.dtype, lead, node.type.axes)

    def each(self, k: int) -> tuple[tuple[str, Affine], ...]:
        """What a value of one step is given for."""
        return () if k in self.pooled else (BATCH,)

    def declare(self, name: str, kind: str, type: Type, lead: tuple[tuple[str, Affine], ...], lifetime: str) -> str:
        self.storages[name] = Storage(name, kind, VType(type.dtype, lead, type.axes), lifetime)
        return name

    def buffer(self, k: int, extra: int = 0) -> str:
        """A sequence storage for node k, with `extra` rows more than there are steps."""
        name = f"{self.label(k)}_seq"
        if name not in self.storages:
            lead = (("t", shifted(STEPS, extra)), *self.each(k))
            self.declare(name, "buffer", self.nodes[k].type, lead, "call")
        return name

    # -- reading --------------------------------------------------------------------------------------------------
    def whole(self, k: int) -> str:
        """Node k for all steps of the domain (or, if it does not vary, its value)."""
        if k in self.values:
            return self.values[k]
        if k not in self.places and self.nodes[k].op in VIEWS:
            self._op(k, tuple(self.whole(arg) for arg in self.nodes[k].args), self.nodes[k].attrs)
            return self.values[k]
        place = self.places[k]
        result = f"{self.label(k)}_all"
        index = (self.domain.range(place.offset),) if self.nodes[k].time else ()
        self.body.append(Load(result, place.storage, index, self.vtype(k)))
        self.values[k] = result
        return result

    def late(self, k: int, short: int) -> str:
        """Node k at the steps of the domain but its first `short` (fewer where step 0 cuts the window off)."""
        if not short or not self.nodes[k].time or k in self.sampled:
            return self.whole(k)
        if (k, short) not in self.newest:
            node, name = self.nodes[k], f"{self.label(k)}_last{short}"
            vtype = VType(node.type.dtype, (("t", affine(f"W{short}")), BATCH), node.type.axes)
            if k not in self.places and node.op in VIEWS:
                args = tuple(self.late(arg, short) for arg in node.args)
                self.body.append(Op((name,), node.op, args, node.attrs, (vtype,), node.span))
            else:
                rows = self._shortened(short).range(self.placed(k).offset)
                self.body.append(Load(name, self.places[k].storage, (rows,), vtype))
            self.newest[k, short] = name
        return self.newest[k, short]

    def _shortened(self, short: int) -> Domain:
        start = shifted(self.domain.lo.parts[-1], short)
        return Domain(Bound("max", (ZERO, start)), self.domain.hi, affine(f"W{short}"))

    def placed(self, k: int) -> Place:
        """A storage with node k's steps, making one of a value that has none."""
        if k not in self.places:
            value = self.whole(k)
            name = self.buffer(k)
            self.body.append(Store(name, (self.domain.range(),), value))
            self.places[k] = Place(name, 0)
        return self.places[k]

    # -- writing --------------------------------------------------------------------------------------------------
    def run(self, items: Iterable[Item]) -> None:
        items = tuple(items)
        self.lazy |= only_collected(self.nodes, items) - self.stored - self.pooled
        for item in items:
            if item.direction == 0:
                self.single(item.nodes[0])
            else:
                self.loop(item)

    def single(self, k: int) -> None:
        node = self.nodes[k]
        if node.op != "prev" and (k in self.places or k in self.values or k in self.lazy):
            return
        if node.op == "constant":
            self._op(k, (), node.attrs)
        elif node.op == "prev":
            self._past(k)
        elif node.op == "next":
            self._shift(k)
        elif node.op in ("collect", "first"):
            self._collect(k)
        elif node.op == "arrive":
            self._arrive(k)
        elif node.op == "held":
            self.values[k] = self.label(k)
            self.body.append(Load(self.label(k), self.incoming[k], (), self.vtype(k)))
        elif node.op == "tally":
            self.values[k] = self._joint(node.args[0], ("t",))
        else:
            self._op(k, tuple(self.whole(arg) for arg in node.args), node.attrs)
        if k in self.stored and k not in self.places:
            self.placed(k)

    def _op(self, k: int, args: tuple[str, ...], attrs: tuple[tuple[str, object], ...]) -> None:
        name = self.label(k)
        node = self.nodes[k]
        self.body.append(Op((name,), node.op, args, attrs, (self.vtype(k),), node.span))
        self.values[k] = name

    def _past(self, k: int) -> None:
        """A `prev` outside of any loop reads a history that is filled here, once, from the whole sequence."""
        self.fill(*self.pasts[k])

    def fill(self, source: int, place: Place) -> None:
        """The rows of a history, where no loop has written them."""
        if place.storage not in self._filled and self.places.get(source) != place:
            self._filled.add(place.storage)
            self.body.append(Store(place.storage, (self.domain.range(place.offset),), self.whole(source)))

    def _shift(self, k: int) -> None:
        """`next` outside of any loop: a view of the sequence some rows later, zeros behind the last step."""
        node = self.nodes[k]
        source, lag = node.args[0], node.attr("lag")
        name = self.tail(source, lag, k)
        if self.places.get(source) != Place(name, 0):
            self.body.append(Store(name, (self.domain.range(),), self.whole(source)))
        result = self.label(k)
        self.body.append(Load(result, name, (self.domain.range(lag),), self.vtype(k)))
        self.values[k] = result

    def tail(self, source: int, lag: int, move: int) -> str:
        """The buffer of a cotangent sequence with zeros behind its last step, or with what is given there."""
        given = self.nodes[move].args[1:]
        name = f"{self.label(move if given else source)}_tail"
        if name not in self.storages:
            lead = (("t", shifted(STEPS, lag)), *self.each(move))
            self.declare(name, "buffer", self.nodes[source].type, lead, "call")
        else:
            extent = self.storages[name].type.lead[0][1].const
            lead = (("t", shifted(STEPS, max(lag, extent))), *self.each(move))
            self.declare(name, "buffer", self.nodes[source].type, lead, "call")
        zero = self._given(given[0], name) if given else f"{name}_zero{lag}"
        if (name, lag) in self._ended:
            return name
        self._ended.add((name, lag))
        hi = self.domain.hi
        if not given and self.crossed is not None:
            zero = crossing.entering(self, name, move, (("t", Affine(lag)),))
        elif not given:
            self.body.append(
                Op((zero,), "constant", (), (("value", 0.0),), (VType("float", (), self.nodes[source].type.axes),))
            )
        end = Range(
            Bound("max", tuple(shifted(part, 0) for part in hi.parts)) if len(hi.parts) == 1 else hi,
            Bound(hi.kind, tuple(shifted(part, lag) for part in hi.parts)),
        )
        self.body.append(Store(name, (end,), zero))
        return name

    def _given(self, leaf: int, name: str) -> str:
        """What comes from behind window u, or what is known to stand there."""
        if leaf in self.values:
            return self.values[leaf]
        place, value = self.places[leaf], f"{name}_behind"
        self.body.append(Load(value, place.storage, (affine("u", 1, place.offset),), self.vtype(leaf, step=True)))
        return value

    def _arrive(self, k: int) -> None:
        """What a window leaves at its first step: a carry's last value, or a row of a sequence."""
        source = self.nodes[k].args[0]
        result, vtype = self.label(k), VType("float", self.each(k), self.nodes[k].type.axes)
        if source in self.last:
            self.body.append(Load(result, self.last[source], (), vtype))
        else:
            place = self.placed(source)
            row = shifted(self.domain.lo.parts[-1], place.offset)  # windows that do not overlap begin at their own step
            self.body.append(Load(result, place.storage, (row,), vtype))
        self.values[k] = result

    def _collect(self, k: int) -> None:
        """Sums over steps and samples leave the entry's windows through an accumulate."""
        node = self.nodes[k]
        source, short = node.args[0], dict(node.attrs).get("short", 0)
        total = self.declare(f"{self.label(k)}_sum", "accumulate", node.type, (), "call")
        self.totals[k] = total
        if node.op == "collect":
            self.body.append(Add(total, (), self._joint(source, short=short), ("", str(k), self.prefix, ""), node.span))
            return
        stmts: list[Stmt] = []
        value = self._early(k, stmts)
        fresh, wide, weighted = (f"{self.label(k)}_{part}" for part in ("fresh", "wide", "fresh_in"))
        axes = node.type.axes
        vtype = VType("float", (), axes)
        stmts.append(Load(fresh, "fresh", (), VType("float", (), ())))
        if axes:
            stmts.append(Op((wide,), "broadcast", (fresh,), (("at", ()), ("axes", axes)), (vtype,)))
        stmts.append(Op((weighted,), "mul", (value, wide if axes else fresh), (), (vtype,)))
        stmts.append(Add(total, (), weighted, ("", str(k), self.prefix, ""), node.span))
        if len(self.domain.lo.parts) > 1:
            self.body.append(If(("le", shifted(self.domain.lo.parts[-1], short), ZERO), tuple(stmts)))
        else:
            self.body.extend(stmts)

    def _early(self, k: int, stmts: list[Stmt]) -> str:
        """The sum over samples of what arrives at the first steps, from a carry's last value or from its rows."""
        node = self.nodes[k]
        source, lag = node.args[0], node.attr("lag")
        loaded, result = f"{self.label(k)}_in", f"{self.label(k)}_rows"
        vtype = VType("float", (), node.type.axes)
        if source in self.last and lag == 1:
            stmts.append(Load(loaded, self.last[source], (), self.vtype(source, step=True)))
            stmts.append(Op((result,), "collect", (loaded,), (), (vtype,), node.span, "", ("B",)))
            return result
        rows = Range(Bound("max", (ZERO,)), Bound("min", (Affine(lag), *self.domain.hi.parts)))
        lead = (("t", affine("E")), BATCH)  # a call may have fewer steps than `lag`
        stmts.append(Load(loaded, self.placed(source).storage, (rows,), VType("float", lead, node.type.axes)))
        stmts.append(Op((result,), "collect", (loaded,), (), (vtype,), node.span, "", ("t", "B")))
        return result

    def _joint(self, source: int, over: tuple[str, ...] = ("t", "B"), short: int = 0) -> str:
        """A node's sum over steps (but `short`) and samples, or over either; a contraction sums while it multiplies."""
        node = self.nodes[source]
        name = f"{self.label(source)}_total" + (f"_last{short}" if short else "")
        over = ("B",) if source in self.sampled else over
        vtype = VType("float", self.each(source) if over == ("t",) else (), node.type.axes)
        if node.op in SUMMED["collect"] and source not in self.places and source not in self.values:
            args = tuple(self.late(arg, short) for arg in node.args)
            self.body.append(Op((name,), node.op, args, node.attrs, (vtype,), node.span, "", over))
        else:
            args = (self.late(source, short),)
            self.body.append(Op((name,), "collect", args, (), (vtype,), node.span, "", over))
        return name

    # -- loops ----------------------------------------------------------------------------------------------------
    def loop(self, item: Item, steps: Domain | None = None) -> None:
        """One loop over the steps (of the domain); reads rows, writes rows of what is asked for outside."""
        members = set(item.nodes)
        outer = self._prepare(item, members)
        body: list[Stmt] = []
        local: dict[int, str] = dict(outer)
        for k in item.nodes:
            node = self.nodes[k]
            if node.op == "prev":
                local[k] = self._row(body, k, self.places[k])
            elif node.op == "next":
                local[k] = self._crossing(body, k)
            elif node.op == "trace":
                local[k] = self._held(body, k)
            elif node.op in tapes.TAPES:
                local[k] = tapes.written(self, body, local, k)
            elif node.op == "collect":
                self.collected(body, k, local)
                continue
            elif node.op == "pool":
                local[k] = self._over_samples(body, node.args[0], local)
            elif k in self.lazy:
                continue
            else:
                args = tuple(self.operand(body, local, a) for a in node.args)
                name = self.label(k)
                body.append(Op((name,), node.op, args, node.attrs, (self.vtype(k, step=True),), node.span))
                local[k] = name
            self._put(body, k, local[k])
        for k in item.nodes:
            if self.nodes[k].op == "unfetch":
                tapes.send_back(self, body, local, k)
            elif self.nodes[k].op in ("next", "trace") and k in self.carried:
                body.append(Store(self.carried[k], (), self.operand(body, local, self.nodes[k].args[0])))
        steps = steps or self.domain
        self.body.append(For("t", steps.lo, steps.hi, item.direction, tuple(body)))

    def _put(self, body: list[Stmt], k: int, value: str) -> None:
        """What a node has made of a step, where it is read later."""
        for place in self._destinations(k):
            self._filled.add(place.storage)
            body.append(Store(place.storage, (affine("t", 1, place.offset),), value))
        for (source, first), name in self.tapes.items():
            if source == k and first.terms:
                body.append(Store(name, (add(affine("t"), first),), value))

    def _prepare(self, item: Item, members: set[int]) -> dict[int, str]:
        """Before the loop: outside operands get a place, the loop's own results a buffer, crossings a carry."""
        outer: dict[int, str] = {}
        for k in item.nodes:
            for arg in _read(self.nodes[k]):
                if arg not in members:
                    if self.nodes[arg].time:
                        self.placed(arg)
                    else:
                        outer[arg] = self.whole(arg)
        tapes.open_tapes(self, item.nodes)
        for k in item.nodes:
            if self.nodes[k].op == "trace":
                self._open_trace(k)
            if self.nodes[k].op == "next":
                self._open(k)
                if k in self.stored:
                    self.places[k] = self._crossed(k)
        for k in item.nodes:
            if k in self.stored and k not in self.places and self.nodes[k].op not in ("prev", "next"):
                self.places[k] = Place(self.buffer(k), 0)
        return outer

    def _destinations(self, k: int) -> list[Place]:
        """Every storage that takes node k's steps: its own place and the histories that it is the source of."""
        node = self.nodes[k]
        made = node.op not in ("prev", "next") or k in self.carried
        found = [self.places[k]] if k in self.places and made else []
        for source, place in self.pasts.values():
            if source == k and place not in found:
                found.append(place)
        tape = self.tapes.get((k, ZERO))
        if tape is not None and Place(tape, 0) not in found:
            found.append(Place(tape, 0))
        return found

    def _open(self, k: int) -> None:
        node = self.nodes[k]
        source, lag = node.args[0], node.attr("lag")
        if lag == 1:
            name = f"{self.label(k)}_carry"
            self.declare(name, "carry", node.type, self.each(k), "call")
            crosses = self.crossed is not None and not node.args[1:]
            zero = self._given(node.args[1], name) if node.args[1:] else f"{name}_zero"
            vtype = VType("float", (), node.type.axes)
            if crosses:
                zero = crossing.entering(self, name, k, ())
            elif not node.args[1:]:
                self.body.append(Op((zero,), "constant", (), (("value", 0.0),), (vtype,)))
            self.body.append(Store(name, (), zero))
            self.carried[k] = name
            self.last[source] = name
        else:
            self.places[source] = Place(self.tail(source, lag, k), 0)

    def _open_trace(self, k: int) -> None:
        """A trace begins with what the call was given."""
        name = f"{self.label(k)}_carry"
        self.declare(name, "carry", self.nodes[k].type, self.each(k), "call")
        given = f"{name}_in"
        self.body.append(Load(given, self.incoming[k], (), self.vtype(k, step=True)))
        self.body.append(Store(name, (), given))
        self.carried[k] = name

    def _held(self, body: list[Stmt], k: int) -> str:
        name = f"{self.label(k)}_held"
        body.append(Load(name, self.carried[k], (), self.vtype(k, step=True)))
        return name

    def collected(self, body: list[Stmt], k: int, local: dict[int, str], at: str = "t") -> None:
        """A sum over samples, added up from step to step (or from one value of the loop variable `at` to the next)."""
        node, source = self.nodes[k], self.nodes[k].args[0]
        total = self.declare(f"{self.label(k)}_sum", "accumulate", node.type, (), "call")
        self.totals[k] = total
        name = local[source] if source in self.pooled else self._over_samples(body, source, local)
        body.append(Add(total, (), name, ("", str(k), self.prefix, ""), node.span, "", (affine(at),)))

    def _over_samples(self, body: list[Stmt], source: int, local: dict[int, str]) -> str:
        """A node's sum over samples at a step; a product is summed while it is made."""
        made, name = self.nodes[source], f"{self.label(source)}_total"
        op, attrs, args = (made.op, made.attrs, made.args) if source in self.lazy else ("collect", (), (source,))
        given, vtype = tuple(self.operand(body, local, arg) for arg in args), VType("float", (), made.type.axes)
        body.append(Op((name,), op, given, attrs, (vtype,), made.span, "", ("B",)))
        return name

    def _crossed(self, k: int) -> Place:
        """Where the steps of a `next` are for readers outside its loop."""
        if k in self.carried:
            return Place(self.buffer(k), 0)
        source = self.places[self.nodes[k].args[0]]
        return Place(source.storage, source.offset + self.nodes[k].attr("lag"))

    def _row(self, body: list[Stmt], k: int, place: Place) -> str:
        name = f"{self.label(k)}_t"
        vtype = self.vtype(k, step=True)
        body.append(Load(name, place.storage, (affine("t", 1, place.offset),), vtype))
        return name

    def operand(self, body: list[Stmt], local: dict[int, str], k: int) -> str:
        """A node's value at step t."""
        if k not in local:
            local[k] = self._row(body, k, self.places[k]) if self.nodes[k].time else self.values[k]
        return local[k]

    def _crossing(self, body: list[Stmt], k: int) -> str:
        node = self.nodes[k]
        if k in self.carried:
            name = f"{self.label(k)}_in"
            body.append(Load(name, self.carried[k], (), self.vtype(k, step=True)))
            return name
        place = self.places[node.args[0]]
        return self._row(body, k, Place(place.storage, place.offset + node.attr("lag")))


def _read(node: TNode) -> tuple[int, ...]:
    """What a node of a loop reads at its own step, or (a trace) hands on as it is."""
    return node.args[:1] if node.op == "trace" else () if node.op == "prev" else here(node)
