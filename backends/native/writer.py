"""An entry of a program -> one C function.

Ops of one entry each are not executed where they stand: they become text when something is stored that needs them, in
the loops of that store. Only what sums over entries, what is dear and read twice, and what is stored has memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recdsl.backends.native.access import Access
from recdsl.backends.native.kernel import STORED, Kernel
from recdsl.backends.native.ops import IN_ROWS, REDUCED, viewed, writer
from recdsl.backends.native.products import contract
from recdsl.backends.native.reductions import reduction
from recdsl.backends.native.rows import WRITERS
from recdsl.backends.native.strips import HIGH, LOW, SPAN, Strips
from recdsl.backends.native.tapes import search
from recdsl.backends.native.team import EDGE, SHARED, alone, each, looped, marked, plain, several, together
from recdsl.backends.native.texts import bound_text, comment, condition_text, indent
from recdsl.backends.native.uses import from_outside, made, statements
from recdsl.backends.native.values import Ix, NotLoweredError, Ref, Value, contiguous, flat, literal, numel, overlap
from recdsl.program.ir import Add, At, Call, Effect, For, If, Load, Op, Range, Scalar, Stmt, Store

DEAR = 6.0  # cost from which a value that is read twice gets memory
LONG = 120.0  # cost from which any value does: text stays short and shallow
REPEATED = 1.5  # cost from which a value that is repeated along an axis is computed before
EXPORT = '__attribute__((visibility("default"))) long'
SIGNATURE = "void *const *p, const long *n"
Scope = tuple[list[dict[str, Any]], list[str], dict[str, str]]
"""What names mean outside of a body, the names that it gives a meaning, and the sizes that have a variable."""


@dataclass
class Lowered:
    """One C function: its text, that of one thread alone, and the storages whose memory it takes, in order: arguments,
    then results. requests: what it asks the runtime for (`rows.py`)."""

    text: str
    single: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    requests: tuple[tuple[Any, ...], ...] = ()


@dataclass
class EntryWriter(Access):
    """One function being written."""

    def write(self, function: str) -> Lowered:
        self._statements(self.body)
        self.flush()
        sizes = ["const long T = GIVEN_T(n), B = GIVEN_B(n);", "(void)T; (void)B;"]
        sizes += [f"const long s{k} = n[{k + 2}]; (void)s{k};" for k in range(len(self.scalars))]
        sizes += [*self.head, *self.memory.declarations()]
        body = [*marked("alone", self.memory.zeros()), *self.blocks[0]]
        note, end = f"/* {comment(self.name)} of {comment(self.program.name)} */", [*self.memory.left, "return 0;", "}"]
        outside = f"{EXPORT} {function}({SIGNATURE}) {{"
        single = indent([note, outside, *sizes, *alone(body), *end])
        shared = together(body) if several(body) else []
        inside = f"static long {function}_of({SIGNATURE}, const team *us) {{"
        whole = [outside, f"return all_of({function}_of, p, n, {self.effort:.0f}.0);", "}"]
        text = indent([note, inside, *sizes, *SHARED, *shared, *end, *whole])
        given = tuple(self.memory.arguments), tuple(self.memory.results), tuple(self.memory.requests)
        return Lowered(text if shared else single, single, *given)

    # -- statements -----------------------------------------------------------------------------------------------
    def _statements(self, body: Sequence[Stmt]) -> None:
        for stmt in body:
            self.place = self.uses.at[id(stmt)]
            match stmt:
                case Op():
                    self._op(stmt)
                case Scalar():
                    self._scalar(stmt)
                case Load():
                    self._load(stmt)
                case Store():
                    self._store(stmt)
                case Add():
                    self._add(stmt)
                case Strips():
                    self._strips(stmt)
                case For():
                    self._loop(stmt)
                case If():
                    self._condition(stmt)
                case Call() | Effect():
                    raise NotLoweredError(f"no C for `{type(stmt).__name__.lower()}` statements")

    def _scalar(self, stmt: Scalar) -> None:
        name = self.names("c")
        self.lines([f"const {STORED[stmt.type.dtype]} {name} = {self.text(stmt.value)};"])
        axes = tuple(axis.size for axis in stmt.type.axes)
        self._define(stmt, stmt.result, Value(stmt.type.dtype, {}, axes, lambda k, lead, own: name), stmt.type)

    def _loop(self, stmt: For) -> None:
        self.flush()
        self._enter(stmt)
        lo, hi = bound_text(stmt.lo, self.symbols), bound_text(stmt.hi, self.symbols)
        first, last, var, step = self.names("lo"), self.names("hi"), self.names("t"), abs(stmt.step)
        outer, symbols = self._scope(stmt.body), dict(self.symbols)
        self.lines([f"const long {first} = {lo}, {last} = {hi};"])
        self.blocks.append([])
        self.symbols[stmt.var] = var
        if step == 1:
            up = f"for (long {var} = {first}; {var} < {last}; {var}++) {{"
            head = [up if stmt.step > 0 else f"for (long {var} = {last} - 1; {var} >= {first}; {var}--) {{"]
        else:
            count = f"({last} - {first} + {step - 1}) / {step}"
            up = f"for (long q{var} = 0; q{var} < {count}; q{var}++) {{"
            down = f"for (long q{var} = {count} - 1; q{var} >= 0; q{var}--) {{"
            head = [up if stmt.step > 0 else down, f"const long {var} = {first} + q{var} * {step};"]
        self._statements(stmt.body)
        self.flush()
        body = self.blocks.pop()
        self.lines(looped(head, body, len(self.blocks) - self.around == 1))
        self.symbols = symbols
        self._leave(outer)
        self.place = self.uses.ends[id(stmt)]

    def _strips(self, stmt: Strips) -> None:
        self.flush()
        self._enter(stmt)
        rows, var, low, high, span = (self.names(letter) for letter in ("k", "q", "lo", "hi", "k"))
        self.head.append(f"const long {rows} = strip(T, B, {stmt.numbers[0]}, {stmt.numbers[1]});")
        up = f"{low} = {var}, {high} = MIN(T, {var} + {rows})"
        down = f"{high} = T - {var}, {low} = MAX(0, {high} - {rows})"
        ends = f"const long {up if stmt.step > 0 else down}, {span} = {high} - {low};"
        outer, symbols = self._scope(stmt.body), dict(self.symbols)
        self.symbols |= {LOW: low, HIGH: high, SPAN: span}
        self.most[span] = rows
        self.own, self.around = dict(stmt.own), 1
        self.memory.short |= dict.fromkeys(self.own, rows)
        self.blocks.append([])
        self._statements(stmt.body)
        self.flush()
        body = self.blocks.pop()
        self.lines([EDGE, f"for (long {var} = 0; {var} < T; {var} += {rows}) {{", ends, *body, EDGE, "}"])
        self.symbols, self.own, self.around = symbols, {}, 0
        self._leave(outer)
        self.place = self.uses.ends[id(stmt)]

    def _enter(self, stmt: For) -> None:
        """Before a loop: what it reads from outside and is not just a view is computed once; what it overwrites and
        is read later is kept."""
        self._made_before(found.name for found in self.uses.entering.get(id(stmt), []))
        for storage in {s.storage for s in statements(stmt.body) if isinstance(s, Store | Add)}:
            if storage not in self.deferred:
                self.protect((storage, None))
        self.flush()

    def _made_before(self, names: Iterable[str]) -> None:
        """Give values memory outside of a body: what is put there inside has none where the body is not run."""
        for value in (self.values[name] for name in names):
            if value.number is None and value.ref is None and value.cost > 0:
                self.settle(value)

    def _condition(self, stmt: If) -> None:
        self.flush()
        self._made_before(from_outside(stmt.body))
        for storage in {s.storage for s in statements(stmt.body) if isinstance(s, Store | Add)}:
            self.protect((storage, None))
        self.flush()
        outer = self._scope(stmt.body)
        self.blocks.append([])
        self._statements(stmt.body)
        self.flush()
        body = self.blocks.pop()
        condition = f"if ({condition_text(stmt.predicate, self.symbols)}) {{"
        self.marked(each(body), [condition, *plain(body), "}"])
        self._leave(outer)

    def _scope(self, body: Sequence[Stmt]) -> Scope:
        """What names of a body mean outside of it."""
        names = [name for stmt in body for name in made(stmt)]
        tables: tuple[dict[str, Any], ...] = (self.values, self.types, self.made)
        return [{name: table[name] for name in names if name in table} for table in tables], names, dict(self.named)

    def _leave(self, outer: Scope) -> None:
        """Behind a body: its names are gone."""
        kept, names, self.named = outer
        tables: tuple[dict[str, Any], ...] = (self.values, self.types, self.made)
        for table, old in zip(tables, kept, strict=True):
            for name in names:
                table.pop(name, None)
            table.update(old)

    # -- ops ------------------------------------------------------------------------------------------------------
    def _op(self, op: Op) -> None:
        if op.op == "constant":
            self._constant(op)
            return
        args = [self.values[arg] for arg in op.args]
        if op.op == "view":
            value = self._view(op, args[0])
        elif op.joint or op.op in (*REDUCED, *IN_ROWS) or (op.op == "contract" and sums(op)):
            self._summed(op, args)
            return
        else:
            for arg in args if op.op in ("broadcast", "contract") else ():
                if numel(arg.axes) * 8 <= size(op) and arg.cost > REPEATED:
                    self.settle(arg)
            write, cost = writer(op, args)
            value = self._result(op, args)
            value.at, value.ref = write, viewed(op, args[0]) if args else None
            value.cost = cost + sum(arg.cost for arg in args) if value.ref is None else args[0].cost
        self._define(op, op.results[0], value, op.types[0])
        found = self.uses.defs[id(op)]
        many = len(found.readers) > 1 and value.cost >= DEAR and not disjoint([stmt for stmt, _ in found.readers])
        if value.ref is None and (many or value.cost >= LONG):
            self._forward_to_store(op, value)

    def _result(self, op: Op, args: Sequence[Value]) -> Value:
        """The result without its text: type, extents, and what it reads."""
        kind = op.types[0]
        extents = {name: text for arg in args for name, text in arg.lead.items()}
        lead = {name: extents[name] if name in extents else self.text(size) for name, size in kind.lead}
        reads = frozenset(region for arg in args for region in arg.reads)
        return Value(kind.dtype, lead, tuple(a.size for a in kind.axes), lambda k, le, o: "", reads, parts=tuple(args))

    def _constant(self, op: Op) -> None:
        number, kind = dict(op.attrs)["value"], op.types[0]
        axes = tuple(axis.size for axis in kind.axes)
        value = Value(kind.dtype, {}, axes, lambda k, lead, own: "")
        if isinstance(number, bool | int | float):
            value.number = number
        else:
            base = self.names("c")
            entries = ", ".join(literal(x, kind.dtype) for x in flat(number))
            self.blocks[0].insert(0, f"static const {STORED[kind.dtype]} {base}[] = {{{entries}}};")
            value.place(Ref((base, None), base, "0", {}, contiguous(axes)))
        self._define(op, op.results[0], value, kind)

    def _view(self, op: Op, arg: Value) -> Value:
        """Leading axes become own ones, or the reverse; `joint` ones are summed before."""
        if op.joint:
            raise NotLoweredError("a view that sums")
        names = [axis.name for axis in self.types[op.args[0]].axes]
        value = self._result(op, [arg])
        sizes = dict(zip(names, arg.axes, strict=True))
        value.lead = {name: value.lead.get(name) or str(sizes[name]) for name, _ in op.types[0].lead}
        mine = [axis.name for axis in op.types[0].axes]

        def at(kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
            places = {**{name: Ix(text) for name, text in lead.items()}, **dict(zip(mine, own, strict=True))}
            inner = {name: places[name].text for name in arg.lead}
            return arg.entry(kernel, inner, tuple(places[name] for name in names))

        value.at, value.cost = at, arg.cost + 0.1
        return value

    def _summed(self, op: Op, args: Sequence[Value]) -> None:
        """What sums over entries goes to memory, if possible where it is stored or added to."""
        value = self._result(op, args)
        self._define(op, op.results[0], value, op.types[0])
        dest, adds = self._destination(op, value, adding=op.op not in WRITERS)
        if op.op == "search":
            search(self, op, args, value, dest)
        elif op.op in WRITERS:
            WRITERS[op.op](self, op, args, value, dest)
        elif op.op == "contract":
            contract(self, op, args, value, dest, adds)
        else:
            reduction(self, op, args, value, dest, adds)
        self.live.place(value, dest)

    def _forward_to_store(self, op: Op, value: Value) -> None:
        dest, _ = self._destination(op, value, adding=False)
        self.assign(dest, value)
        self.live.place(value, dest)

    def _destination(self, op: Op, value: Value, *, adding: bool = True) -> tuple[Ref, bool]:
        """Where a result goes: where it is stored soon, or to the sum that it alone is added to, or to new memory."""
        found = self.uses.defs[id(op)]
        for stmt, place in found.readers:
            add = isinstance(stmt, Add) and adding and len(found.readers) == 1
            if not (add or isinstance(stmt, Store)) or self.uses.parents[id(stmt)] != found.parent:
                continue
            assert isinstance(stmt, Store | Add)
            dest = self._target(stmt, value, place)
            if dest is not None:
                self.filled.add(id(stmt))
                return dest, add
        return self.scratch(value), False

    def _target(self, stmt: Store | Add, value: Value, place: int) -> Ref | None:
        """A store's memory, if the value fills it just as it is and nothing touches it until then."""
        storage = self.memory.storages[stmt.storage]
        if any(isinstance(part, At) for part in stmt.index) or self._defers(stmt, value):
            return None
        lead = [name for k, (name, _) in enumerate(storage.type.lead) if k >= len(stmt.index) or indexed(stmt, k)]
        if lead != list(value.lead) or storage.type.dtype != value.dtype:
            return None
        for touched in (*self.uses.stores.get(stmt.storage, ()), *self.uses.loads.get(stmt.storage, ())):
            if self.place < touched[0] < place:
                return None
        dest = self._region(stmt.storage, stmt.index)[0]
        if any(other is not value for other in self.live.reading(dest.region, self.place)):
            return None
        if any(overlap(region, dest.region) for region in value.reads):
            return None
        return dest


def size(op: Op) -> int:
    """Entries of an op's result, leading axes aside."""
    return numel(tuple(axis.size for axis in op.types[0].axes))


def disjoint(readers: Sequence[Stmt]) -> bool:
    """Whether each entry is read by one of them: slices along one axis that do not overlap."""
    ranges: list[tuple[int, int]] = []
    along = set[int]()
    for stmt in readers:
        if not isinstance(stmt, Op) or stmt.op != "slice":
            return False
        attrs = dict(stmt.attrs)
        along.add(attrs["at"])
        ranges.append((attrs["start"], attrs["start"] + stmt.types[0].axes[attrs["at"]].size))
    ranges.sort()
    return len(along) == 1 and all(one[1] <= other[0] for one, other in itertools.pairwise(ranges))


def sums(op: Op) -> bool:
    """Whether a contraction sums over a label."""
    attrs = dict(op.attrs)
    return not {*attrs["x"], *attrs["y"]} <= {*attrs["out"]}


def indexed(stmt: Store | Add, k: int) -> bool:
    """Whether an access keeps the axis."""
    return isinstance(stmt.index[k], Range)
