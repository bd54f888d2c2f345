"""The entries of forward rules: one loop in which traces are carried along and gradients added up step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod

from recdsl.backends.torch.codegen import ALIASING, Entry, span_of
from recdsl.backends.torch.operations import TENSORS, Operand, expression, full, spread
from recdsl.backends.torch.row_loop import RowLoop
from recdsl.backends.torch.texts import affine_text, bound_text
from recdsl.backends.torch.trace_plan import Host, folded, hosts, parts, readers, renamed, rooms, thin
from recdsl.program.ir import Add, Affine, Bound, For, If, Load, Op, Range, Stmt, Storage, Store, VType

FILLED = (*TENSORS, "broadcast", "rename", "reshape")
"""Ops whose operands cannot be numbers in the text."""


@dataclass
class TraceEntry(Entry):
    """An entry whose loop makes new tensors instead of writing into rows: traces are read and replaced as a whole."""

    thin: set[str] = field(default_factory=set[str])
    thin_ops: dict[str, Op] = field(default_factory=dict[str, Op])
    folded: dict[str, str] = field(default_factory=dict[str, str])
    products: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    stacked: dict[str, Op] = field(default_factory=dict[str, Op])
    inner: dict[str, Op] = field(default_factory=dict[str, Op])
    fresh: set[str] = field(default_factory=set[str])
    hosts: dict[str, Host] = field(default_factory=dict[str, Host])
    links: dict[str, Host] = field(default_factory=dict[str, Host])
    added: set[str] = field(default_factory=set[str])
    lent: set[str] = field(default_factory=set[str])
    sizes: dict[str, int] = field(default_factory=dict[str, int])

    def plan(self, statements: Sequence[Stmt]) -> None:
        """Nothing lies in rows of a loop's results."""

    def vacant(self, op: Op, args: Sequence[Operand], vtype: VType) -> str | None:
        return None

    def op(self, op: Op) -> None:
        if op.op == "view":
            self.values[op.results[0]] = replace(
                self.values[op.args[0]], lead=len(op.types[0].lead), axes=op.types[0].axes
            )
            return
        self._fill(op)
        super().op(op)

    def _fill(self, op: Op) -> None:
        """Numbers become tensors where an op needs them."""
        if op.op in FILLED:
            self.values.update({name: full(self.values[name]) for name in op.args if name in self.values})

    def carry(self, storage: Storage, value: Operand) -> None:
        """What a trace begins with; vectors that go back through the steps begin with a number, or with one for all
        samples, and are written in place."""
        if value.number or (storage.type.lead and not value.lead):
            super().carry(storage, value)
            return
        self.allocated.add(storage.name)
        self.line(f"{storage.name} = {value.text}")

    def loop(self, loop: For) -> None:
        """A loop over steps, one over windows with such a loop as its last statement, or one that does a window at
        once."""
        if loop.step < 0:
            super().loop(loop)
            return
        if loop.var == "u" and not isinstance(loop.body[-1], For):
            lines = RowLoop(self, loop, span_of(loop.body)).lines()
        else:
            lines = self._rounds(loop) if loop.var == "u" else self._steps(loop)
        for text in lines:
            self.line(text)

    def _rounds(self, loop: For) -> list[str]:
        """From boundary to boundary: what is read there, then the steps up to the next."""
        steps = loop.body[-1]
        assert isinstance(steps, For), "traces are carried on behind what is read"
        self.windowed, self.range = True, Range(steps.lo, steps.hi)
        inner = self._steps(steps)
        reading = self._there(loop.body[:-1])
        self.windowed = False
        for part in loop.hi.parts:
            for name, _ in part.terms:
                self.argument(name)
        bounds = [f"lo = {bound_text(steps.lo)}", f"hi = max(lo, {bound_text(steps.hi)})"]
        return [f"for u in range({bound_text(loop.hi)}):", *(f"    {line}" for line in (*bounds, *reading, *inner))]

    def _there(self, statements: Sequence[Stmt]) -> list[str]:
        """What is read at a boundary, if there is a window that begins there."""
        if not statements or not isinstance(statements[0], If):
            return self._block(statements)
        (kind, left, right), body = statements[0].predicate, self._block(statements[0].body)
        assert kind == "lt", "windows are counted"
        return [f"if {affine_text(left)} < {affine_text(right)}:", *(f"    {line}" for line in body)]

    def _block(self, statements: Sequence[Stmt]) -> list[str]:
        """Statements of one window, behind those of its steps: these say where traces lie."""
        self._look(renamed(statements))
        body: list[str] = []
        for statement in renamed(statements):
            if isinstance(statement, Load) and self.storages[statement.storage].kind != "carry":
                storage = self.storages[statement.storage]
                self.values[statement.result] = Operand(statement.result, 1, statement.type.axes)
                body.append(f"{statement.result} = {self.source(storage)}{self.index(storage, statement.index)}")
            elif isinstance(statement, Load):
                self.values[statement.result] = Operand(statement.storage, 1, statement.type.axes)
            elif isinstance(statement, Op):
                self._fill(statement)
                body += self._made(statement).split("\n")
            elif isinstance(statement, Add):
                body.append(self.summed(statement))
        return [line for line in body if line]

    def _look(self, statements: Sequence[Stmt]) -> None:
        """What needs no statement of its own."""
        self.stacked = rooms(statements)
        self.inner = parts(statements, self.stacked)
        self.thin, self.folded = thin(statements) - self.inner.keys(), folded(statements)
        self.thin_ops = {s.results[0]: s for s in statements if isinstance(s, Op) and s.results[0] in self.thin}
        self.fresh = {name for name, users in readers(statements).items() if len(users) == 1}

    def _steps(self, loop: For) -> list[str]:
        rows: dict[str, str] = {}
        body: list[str] = []
        left: list[tuple[str, str]] = []
        statements = renamed(loop.body)
        self._look(statements)
        self.hosts = hosts(statements, self.stacked)
        self.links = {name: host for host in self.hosts.values() for name in host.chain}
        self.added = {op.results[0] for host in self.hosts.values() for op in host.products.values()}
        self._rooms()
        self.lent = self._views(statements)
        for statement in statements:
            if isinstance(statement, Load):
                self._row(statement, loop, rows)
            elif isinstance(statement, Op):
                self._fill(statement)
                self.sizes[statement.results[0]] = _last(statement.types[0])
                body += self._made(statement).split("\n")
            elif isinstance(statement, Add):
                body.append(self.summed(statement))
            elif isinstance(statement, Store):
                left += self._left(statement)
        return self._written(rows, [line for line in body if line], left)

    def _views(self, statements: Sequence[Stmt]) -> set[str]:
        """Values that are steps of sequences, whose room others get behind the loop, or views of them."""
        found: set[str] = set()
        for statement in statements:
            if isinstance(statement, Load) and self.storages[statement.storage].kind != "carry":
                found.add(statement.result)
            elif isinstance(statement, Op) and statement.op in ALIASING and statement.args[0] in found:
                found.add(statement.results[0])
        return found

    def _rooms(self) -> None:
        """Two rooms for each trace that is made in place, one for its last step and one for the next."""
        for name, host in self.hosts.items():
            axes, stack = self.storages[name].type.axes, host.stack
            if host.products:  # matrix products want the state's axis first
                sizes = ", ".join(["B", *(str(axis.size) for axis in axes)])
                self.line(f"{name}, {stack} = like.new_empty(({sizes})).copy_({name}), like.new_empty(({sizes}))")
                self.line(f"{name}_base, {stack}_base = {name}.movedim(-1, 1), {stack}.movedim(-1, 1)")
                continue
            sizes = ", ".join(["B", str(axes[-1].size), *(str(axis.size) for axis in axes[:-1])])
            self.line(f"{name}_base, {stack}_base = like.new_empty(({sizes})), like.new_empty(({sizes}))")
            self.line(f"{name}, {stack} = {name}_base.movedim(1, -1).copy_({name}), {stack}_base.movedim(1, -1)")

    def _left(self, store: Store) -> list[tuple[str, str]]:
        """What a trace is behind a step; where it was made in place, the rooms change places."""
        host = self.hosts.get(store.storage)
        if host is None:
            value = full(self.values[store.value])
            text = batched(value) if self.storages[store.storage].type.lead else value.text
            return [(store.storage, f"{text}.clone()" if store.value in self.lent else text)]
        pairs = ((store.storage, host.stack), (f"{store.storage}_base", f"{host.stack}_base"))
        return [swap for one, other in pairs for swap in ((one, other), (other, one))]

    def _written(self, rows: dict[str, str], body: Sequence[str], left: Sequence[tuple[str, str]]) -> list[str]:
        lines = ["for _ in range(hi - lo):" if self.windowed else "for _ in range(T):"]
        if rows:
            names = f"{', '.join(rows.values())}{',' if len(rows) == 1 else ''}"
            lines = [f"for {names} in zip(", *(f"    {text}," for text in rows), "):"]
        lines += [f"    {line}" for line in body]
        if left:
            lines.append(f"    {', '.join(name for name, _ in left)} = {', '.join(text for _, text in left)}")
        return lines if left or body else [*lines, "    pass"]

    def _row(self, load: Load, loop: For, rows: dict[str, str]) -> None:
        """A trace as it stands, or one step of a sequence."""
        storage = self.storages[load.storage]
        if storage.kind == "carry":
            self.values[load.result] = Operand(load.storage, len(load.type.lead), load.type.axes)
            return
        (index,) = load.index
        assert isinstance(index, Affine)
        lo = Bound(loop.lo.kind, tuple(Affine(p.const + index.const, p.terms) for p in loop.lo.parts))
        hi = Bound(loop.hi.kind, tuple(Affine(p.const + index.const, p.terms) for p in loop.hi.parts))
        text = self.source(storage) + self.rows(storage, Range(lo, hi))
        name = rows.setdefault(text, load.result)
        plain = storage.kind == "input" and not self.loose(storage)
        self.values[load.result] = Operand(name, 1, load.type.axes, plain=plain)

    def _made(self, op: Op) -> str:
        name, vtype = op.results[0], op.types[0]
        if op.op == "constant":
            self.constant(op)
            return ""
        if name in self.inner or name in self.added:
            return ""
        if name in self.stacked:
            return self._stack(op)
        if op.joint and op.op == "contract":
            return self.joint(op)
        if name in self.thin:
            self.values[name] = self._narrow(op)
            return ""
        if name in self.folded.values():
            self.products[name] = op.args
            return ""
        if name in self.folded:
            return self._accumulated(op)
        if name in self.links and op.op == "add":
            first, second = (op.args[0], op.args[1]) if op.args[0] in self.links else (op.args[1], op.args[0])
            self.values[name] = Operand(name, 1, vtype.axes)
            product = self.links[name].products.get(name)
            if product is not None:
                left, right = (self.values[arg] for arg in product.args)
                return f"{name} = {self.values[first].text}.baddbmm_({batched(left)}, {batched(right)})"
            return f"{name} = {self.values[first].text}.add_({self.values[second].text})"
        text = expression(op, [self.values[arg] for arg in op.args])
        self.values[name] = Operand(name, len(vtype.lead), vtype.axes)
        return f"{name} = {text}"

    def _narrow(self, op: Op) -> Operand:
        """A repetition that the ops which read it make by themselves."""
        arg, at, axes = self.values[op.args[0]], dict(op.attrs)["at"], op.types[0].axes
        if arg.number:
            return Operand(arg.text, 0, axes, number=True)
        index = [":"] * arg.lead + [":" if k in at else "None" for k in range(len(axes))]
        while index and index[-1] == ":":
            index.pop()
        return Operand(f"{arg.text}[{', '.join(index)}]" if index else arg.text, arg.lead, axes)

    def _accumulated(self, op: Op) -> str:
        """A product that is added to something, in one go."""
        product = self.folded[op.results[0]]
        other = op.args[1] if op.args[0] == product else op.args[0]
        texts = [full(self.values[arg]).text for arg in (other, *self.products[product])]
        self.values[op.results[0]] = Operand(op.results[0], len(op.types[0].lead), op.types[0].axes)
        if (other in self.folded and other in self.fresh) or op.results[0] in self.links:
            return f"{op.results[0]} = {texts[0]}.addcmul_({texts[1]}, {texts[2]})"
        return f"{op.results[0]} = torch.addcmul({', '.join(texts)})"

    def _stack(self, op: Op) -> str:
        """Parts written side by side, the lane in front of the state's axes: long rows, and no copy of the whole."""
        name, axes = op.results[0], op.types[0].axes
        if name not in self.links:
            sizes = ", ".join(["B", str(axes[-1].size), *(str(axis.size) for axis in axes[:-1])])
            self.line(f"{name}_base = like.new_empty(({sizes}))")
            self.line(f"{name} = {name}_base.movedim(1, -1)")
        self.values[name] = Operand(name, 1, axes)
        lines: list[str] = []
        columns: list[tuple[int, str]] = []
        start = 0
        for arg in op.args:
            size = self.sizes[arg] if arg in self.sizes else self.values[arg].axes[-1].size
            if self._is_column(arg):
                columns.append((start, self.values[self.inner[arg].args[0]].text))
            else:
                lines += [*self._columns(name, columns), *self._part(name, arg, start, start + size)]
                columns = []
            start += size
        return "\n".join([*lines, *self._columns(name, columns)])

    def _is_column(self, arg: str) -> bool:
        return arg in self.inner and self.inner[arg].op == "broadcast"

    def _columns(self, name: str, columns: Sequence[tuple[int, str]]) -> list[str]:
        """Neighbouring lanes of one entry each."""
        if not columns:
            return []
        start, stop = columns[0][0], columns[-1][0] + 1
        if len(columns) == 1:
            return [f"{name}_base[:, {start}] = {columns[0][1]}"]
        return [f"torch.stack(({', '.join(text for _, text in columns)}), 1, out={name}_base[:, {start}:{stop}])"]

    def _part(self, name: str, arg: str, start: int, stop: int) -> list[str]:
        """One part of a stack."""
        place = f"{name}_base[:, {start}:{stop}]"
        if arg in self.inner and self.inner[arg].op == "reshape":
            product = self.inner[self.inner[arg].args[0]]
            rows = self.values[name].axes[:-1]
            sizes = ", ".join(str(axis.size) for axis in product.types[0].axes[len(rows) :])
            texts = [self.values[side].text for side in product.args]
            return [f"torch.mul({', '.join(texts)}, out={name}[..., {start}:{stop}].unflatten(-1, ({sizes})))"]
        if arg in self.inner:
            texts = [self._in_front(side) for side in self.inner[arg].args]
            return [f"torch.mul({', '.join(texts)}, out={place})"]
        value = self.values[arg]
        if value.number:
            return [f"{place} = {value.text}"]
        return [f"{place} = {value.text}.movedim(-1, {value.lead})"]

    def _in_front(self, name: str) -> str:
        """An operand with the lane in front of the state's axes."""
        value = self.values[name]
        if value.number:
            return value.text
        source = self.thin_ops.get(name)
        at = tuple(dict(source.attrs)["at"]) if source is not None else ()
        last = len(value.axes) - 1
        if source is None or (last in at and len(at) > 1):
            return f"{value.text}.movedim(-1, {value.lead})"
        base = self.values[source.args[0]]
        index = [":"] * base.lead + [":" if k in at else "None" for k in (last, *range(last))]
        while index[-1] == ":":
            index.pop()
        return f"{base.text}[{', '.join(index)}]"

    def _base(self, text: str) -> str:
        """The room of a trace as it stood, or as it has become; empty for other values and for dense traces."""
        if text in self.hosts:
            return "" if self.hosts[text].products else f"{text}_base"
        host = self.links.get(text)
        return f"{host.stack}_base" if host is not None and text == host.chain[0] and not host.products else ""

    def _read_in_place(self, name: str, cotangent: Operand, trace: Operand, base: str) -> str:
        """A trace weighted and summed over samples, without new room for the product."""
        sizes = [trace.axes[-1].size, *(axis.size for axis in trace.axes[:-1])]
        room = f"product_{'_'.join(map(str, sizes))}"
        if room not in self.allocated:
            self.allocated.add(room)
            self.line(f"{room} = like.new_empty((B, {', '.join(map(str, sizes))}))")
        product = f"torch.mul({cotangent.text}[:, None], {base}, out={room})"
        return f"{name} = {product}.sum(0).movedim(0, -1)"

    def joint(self, op: Op) -> str:
        """A sum over samples: without einsum, which copies a trace to multiply it."""
        name, attrs = op.results[0], dict(op.attrs)
        args = [self.values[arg] for arg in op.args]
        x, y, out = tuple(attrs["x"]), tuple(attrs["y"]), tuple(attrs["out"])
        self.values[name] = Operand(name, 0, op.types[0].axes)
        base = self._base(args[1].text)
        if base and y == (*x, y[-1]) and out == y and args[0].lead == 1:
            return self._read_in_place(name, args[0], args[1], base)
        if len(x) == len(y) == 1 and x != y and set(out) == {*x, *y} and args[0].lead == args[1].lead == 1:
            first, second = args if out == (*x, *y) else (args[1], args[0])
            return f"{name} = {first.text}.t() @ {second.text}"
        if set(x) | set(y) == set(out) and args[0].lead == args[1].lead == 1:
            return f"{name} = ({spread(args[0], x, out)} * {spread(args[1], y, out)}).sum(0)"
        if args[0].lead == args[1].lead == 1 and y[: len(x)] == x and out == y[len(x) :] and out:
            sizes = [str(axis.size) for axis in op.types[0].axes]
            flat = "" if len(out) == 1 else f".view({', '.join(sizes)})"
            count = prod(axis.size for axis in op.types[0].axes)
            return f"{name} = ({args[0].text}.reshape(-1) @ {args[1].text}.reshape(-1, {count})){flat}"
        return f"{name} = {expression(op, args)}"

    def summed(self, add: Add) -> str:
        """A sum over samples, added up."""
        storage, value = self.storages[add.storage], self.values[add.value]
        if storage.name not in self.allocated:
            self.allocated.add(storage.name)
            sizes = "".join(f"{axis.size}, " for axis in storage.type.axes)
            self.line(f"{storage.name} = like.new_zeros(({sizes}))")
        return f"{storage.name} += {value.text}"


def carries_traces(body: Sequence[Stmt]) -> bool:
    """Whether an entry has a loop that carries traces forward."""
    return any(isinstance(statement, For) and statement.step > 0 for statement in body)


def _last(vtype: VType) -> int:
    """The extent of a value's last axis."""
    return vtype.axes[-1].size if vtype.axes else 1


def batched(value: Operand) -> str:
    """A value with the batch in front."""
    sizes = ", ".join(["B", *(str(axis.size) for axis in value.axes)])
    return value.text if value.lead else f"{value.text}.expand({sizes})"
