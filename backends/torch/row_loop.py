"""Traces that go from window to window: reverse passes whose rows lie behind the samples, and products once a window.

Values have up to three leading axes here, in the order steps, samples, rows. An operand without rows gets an axis of
one entry in their place; what is missing in front is repeated by PyTorch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from recdsl.backends.torch.operations import VIEWS, Operand, expression, full, in_place, matrix_vector
from recdsl.backends.torch.room import read_by
from recdsl.backends.torch.texts import affine_text, bound_text
from recdsl.program.ir import Add, Affine, For, Load, Op, Range, Stmt, Storage, Store, VType

if TYPE_CHECKING:
    from recdsl.backends.torch.trace_entry import TraceEntry

ORDER = {"t": 0, "B": 1}
"""Rows stand behind them."""
LETTERS = ("T", "Z", "R")
ALIASES = ("rename", "view", "stop", "straight_through")


class RowLoop:
    """Writes one loop over windows of an entry."""

    def __init__(self, entry: TraceEntry, loop: For, window: Range) -> None:
        self.entry, self.loop = entry, loop
        self.window = window
        self.leads: dict[str, tuple[str, ...]] = {}
        self.local = {s.storage for s in _inside(loop.body) if isinstance(s, Store)} - _carries(entry)
        self.rooms: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.names: dict[str, None] = {}
        self.made = {s.results[0]: s for s in loop.body if isinstance(s, Op)}
        self.uses = _uses(loop.body)
        self.text: list[str] = []
        self.rows: dict[str, str] = {}
        self.stored: dict[str, str] = {}

    def lines(self) -> list[str]:
        """The loop's text, line by line."""
        entry = self.entry
        entry.windowed, entry.range = True, self.window
        for statement in self.loop.body:
            self._statement(statement)
        entry.windowed = False
        for part in self.loop.hi.parts:
            for name, _ in part.terms:
                entry.argument(name)
        bounds = f"lo, hi = {bound_text(self.window.lo)}, {bound_text(self.window.hi)}"
        freed = [f"del {', '.join(self.names)}"] if self.names else []  # a window's values are as large as traces
        body = [bounds, "W = hi - lo", *self.text, *freed]
        return [f"for u in range({bound_text(self.loop.hi)}):", *(f"    {line}" for line in body)]

    # -- statements -----------------------------------------------------------------------------------------------
    def _statement(self, statement: Stmt) -> None:
        if isinstance(statement, Load):
            self._load(statement)
        elif isinstance(statement, Op):
            self._op(statement)
        elif isinstance(statement, Store):
            self._store(statement)
        elif isinstance(statement, Add):
            self.text.append(self.entry.summed(statement))
        elif isinstance(statement, For):
            self._steps(statement)
        else:
            raise NotImplementedError(type(statement).__name__)

    def _name(self, name: str, text: str) -> None:
        self.names.setdefault(name)
        self.text.append(f"{name} = {text}")

    def _value(self, name: str, text: str, vtype: VType) -> None:
        self.leads[name] = tuple(label for label, _ in vtype.lead)
        self.entry.values[name] = Operand(text, len(vtype.lead), vtype.axes)

    def _load(self, load: Load) -> None:
        storage = self.entry.storages[load.storage]
        if storage.kind == "carry":
            text = load.storage
        elif load.storage in self.local:
            text = f"{self.aliases.get(load.storage, load.storage)}{self._place(storage, load.index)}"
        else:
            text = f"{self.entry.source(storage)}{self.entry.index(storage, load.index)}"
        if not text.isidentifier():
            self._name(load.result, text)
            text = load.result
        self._value(load.result, text, load.type)
        plain = storage.kind == "input" and not self.entry.loose(storage)
        self.entry.values[load.result] = replace(self.entry.values[load.result], plain=plain)

    def _place(self, storage: Storage, index: Sequence[object]) -> str:
        """Rows of a sequence that holds the steps of this window alone."""
        (part,) = index
        if isinstance(part, Affine):
            return f"[{affine_text(part)} - lo]"
        assert isinstance(part, Range)
        lo, hi = self.entry.bound(part.lo), self.entry.bound(part.hi)
        if (lo, hi) == ("lo", "hi") and not storage.type.lead[0][1].const:
            return ""
        return f"[{lo} - lo:{hi} - lo]"

    def _store(self, store: Store) -> None:
        storage, value = self.entry.storages[store.storage], self.entry.values[store.value]
        if storage.kind == "carry":
            sizes = ", ".join(["B", *(affine_text(n) for _, n in storage.type.lead[1:]), *_sizes(storage.type)])
            if value.number:
                self.text.append(f"{store.storage} = like.new_full(({sizes}), {value.text})")
            else:
                whole = len(self.leads.get(store.value, ())) == len(storage.type.lead)
                self.text.append(f"{store.storage} = {value.text}{'' if whole else f'.expand({sizes})'}")
            return
        if self._stands(storage, store):
            self.aliases[store.storage] = value.text
            return
        self._room(storage)
        lifted = self._lifted(store.value, tuple(label for label, _ in storage.type.lead))
        self.text.append(f"{store.storage}{self._place(storage, store.index) or '[:]'} = {lifted.text}")

    def _stands(self, storage: Storage, store: Store) -> bool:
        """Whether a value of the whole window can take the place of the sequence that it is stored in."""
        leads = self.leads.get(store.value, ())
        whole = leads == tuple(label for label, _ in storage.type.lead)
        return whole and not self._place(storage, store.index) and storage.name not in self.rooms

    def _room(self, storage: Storage) -> None:
        """Room for the steps of a window, made once and kept for all of them."""
        if storage.name not in self.rooms:
            self.rooms.add(storage.name)
            (_, extent), *others = storage.type.lead
            more = f" + {extent.const}" if extent.const else ""
            sizes = ", ".join([f"W{more}", *(affine_text(n) for _, n in others), *_sizes(storage.type)])
            self._name(storage.name, f"like.new_empty(({sizes}))")

    # -- operations -----------------------------------------------------------------------------------------------
    def _lifted(self, name: str, wanted: tuple[str, ...]) -> Operand:
        """An operand whose leading axes are at the places of those of the result."""
        value = self.entry.values[name]
        own = self.leads.get(name, ())
        if value.number or not own:
            return value
        text, started = value.text, False
        lead = 0
        for label in wanted:
            if label in own:
                started = True
            elif started:
                text += f".unsqueeze({lead})"
            lead += started
        return replace(value, text=text, lead=lead)

    def _op(self, op: Op) -> None:
        name, vtype = op.results[0], op.types[0]
        if op.op == "constant":
            self.entry.constant(op)
            return
        if name in self.absorbed():
            return
        if op.op in ALIASES:
            self._value(name, self.entry.values[op.args[0]].text, vtype)
            return
        if op.joint and op.joint != ("t",):
            self.names.setdefault(name)
            self.text.append(self.entry.joint(op))
            return
        self._name(name, self._text(op))
        self._value(name, name, vtype)

    def absorbed(self) -> set[str]:
        """Products that are added where they are made."""
        return {product for op in self.made.values() if (product := self._added(op))}

    def _added(self, op: Op) -> str:
        """The product of matrices, one for each sample, that a sum adds to something."""
        for name in op.args if op.op == "add" and op.args[0] != op.args[1] else ():
            product = self.made.get(name)
            if product is None or product.op != "contract" or product.joint or self.uses.get(name) != 1:
                continue
            attrs, lead = dict(product.attrs), [label for label, _ in product.types[0].lead]
            x, y, out = (tuple(attrs[side]) for side in ("x", "y", "out"))
            flat = len(x) == len(y) == len(out) == 2 and x[1] == y[0] and out == (x[0], y[1])
            if flat and lead == ["B"] and all(self.leads.get(arg) == ("B",) for arg in product.args):
                return name
        return ""

    def _text(self, op: Op) -> str:
        """An operation for all steps of the window, or once in it."""
        labels = _ordered({label for arg in op.args for label in self.leads.get(arg, ())})
        product = self._added(op)
        if product:
            other = next(arg for arg in op.args if arg != product)
            left, right = (self.entry.values[arg].text for arg in self.made[product].args)
            base = self.entry.values[other]
            fresh = other in self.made and self.uses.get(other) == 1 and self.made[other].op in ("concat", "add")
            if fresh:
                return f"{base.text}.baddbmm_({left}, {right})"
            if not base.number and self.leads.get(other) == ("B",):
                return f"torch.baddbmm({base.text}, {left}, {right})"
            return f"{base.text} + torch.bmm({left}, {right})"
        if op.joint == ("t",):
            return self._summed(op, labels)
        args = [self._lifted(arg, labels) for arg in op.args]
        return self._plain(op, args)

    def _plain(self, op: Op, args: Sequence[Operand]) -> str:
        if op.op == "contract":
            attrs = dict(op.attrs)
            x, y, out = (tuple(attrs[side]) for side in ("x", "y", "out"))
            simple = set(x) | set(y) == set(out) or 0 in (args[0].lead, args[1].lead)
            if not simple or (matrix_vector(args, x, y, out) is None and max(arg.lead for arg in args) > 2):
                return self._einsum(op, [self.leads.get(arg, ()) for arg in op.args])
        return expression(op, args)

    def _summed(self, op: Op, labels: tuple[str, ...]) -> str:
        """A sum over the steps of the window, for each sample and row."""
        if op.op == "collect":
            return f"{self.entry.values[op.args[0]].text}.sum(0)"
        if op.op == "scatter":
            x, index = (self.entry.values[arg] for arg in op.args)
            at, axis = dict(op.attrs)["at"], dict(op.attrs)["axis"]
            hit = f"({index.text}[..., None] == torch.arange({axis.size}, device=like.device)).to(like.dtype)"
            own = "abcdefghijk"[: len(x.axes)]
            front = "".join(LETTERS[_rank(label)] for label in self.leads[op.args[0]])
            side = "".join(LETTERS[_rank(label)] for label in self.leads[op.args[1]])
            made = "".join(LETTERS[_rank(label)] for label in labels if label != "t")
            return f"torch.einsum('{front}{own},{side}v->{made}{own[:at]}v{own[at:]}', {x.text}, {hit})"
        return self._einsum(op, [self.leads.get(arg, ()) for arg in op.args])

    def _einsum(self, op: Op, leads: Sequence[tuple[str, ...]]) -> str:
        letters, attrs = "abcdefghijklmnopqrs", dict(op.attrs)
        sides = [
            "".join(LETTERS[_rank(label)] for label in lead) + "".join(letters[k] for k in attrs[side])
            for lead, side in zip(leads, ("x", "y"), strict=True)
        ]
        own = {label for lead in leads for label in lead} - set(op.joint)
        kept = _ordered(own - {"1"} if own - {"1", *ORDER} else own)  # what all rows share stands beside rows
        made = "".join(LETTERS[_rank(label)] for label in kept) + "".join(letters[k] for k in attrs["out"])
        texts = [full(self.entry.values[arg]).text for arg in op.args]
        return f"torch.einsum('{','.join(sides)}->{made}', {', '.join(texts)})"

    # -- steps ----------------------------------------------------------------------------------------------------
    def _steps(self, loop: For) -> None:
        """The loop over the steps of the window, rows of sequences zipped together."""
        outer, self.text, self.rows = self.text, [], {}
        self.stored = {}
        for statement in loop.body:
            if isinstance(statement, Store) and statement.index:
                storage = self.entry.storages[statement.storage]
                kept, self.text = self.text, outer
                self._room(storage)
                self.text = kept
                if _writes(loop.body, statement.value) and statement.value not in self.stored:
                    row = self._row(storage.name, statement.index[0], len(storage.type.lead) - 1, ())
                    self.stored[statement.value] = row
        for statement in loop.body:
            self._step(statement)
        body, self.text = self.text, outer
        direction = "" if loop.step > 0 else "[::-1]"
        self.text.append("with torch.inference_mode():")
        if self.rows:
            self.text.append(f"    for {', '.join(self.rows.values())}{',' * (len(self.rows) == 1)} in zip(")
            self.text += [f"        {text}.unbind(0){direction}," for text in self.rows]
            self.text.append("    ):")
        else:
            self.text.append("    for _ in range(W):")
        self.text += [f"        {line}" for line in body or ["pass"]]

    def _row(self, storage: str, part: object, lead: int, lifts: tuple[int, ...]) -> str:
        """The loop variable that runs over the rows of a sequence, with axes of one entry put in."""
        entry, held = self.entry, self.entry.storages[storage]
        assert isinstance(part, Affine)
        moved = Range(*(replace(b, parts=tuple(replace(p, const=p.const + part.const) for p in b.parts))
                        for b in (self.window.lo, self.window.hi)))  # fmt: skip
        if storage in self.local:
            text = self.aliases.get(storage, storage) + self._place(held, (moved,))
        else:
            text = entry.source(held) + entry.rows(held, moved)
        text += "".join(f".unsqueeze({place + 1})" for place in lifts)
        name = f"{storage}{part.const or ''}{'_wide' if lifts else ''}_t"
        return self.rows.setdefault(text, name)

    def _step(self, statement: Stmt) -> None:
        entry = self.entry
        if isinstance(statement, Load) and statement.index:
            leads = tuple(label for label, _ in statement.type.lead)
            lifts = () if len(leads) > 1 else (1,)
            row = self._row(statement.storage, statement.index[0], len(leads), lifts)
            self._value(statement.result, row, statement.type)
            if lifts:  # read by what has rows
                self.leads[statement.result] = ("B", "1")
                entry.values[statement.result] = replace(entry.values[statement.result], lead=2)
        elif isinstance(statement, Load):
            self._value(statement.result, statement.storage, statement.type)
        elif isinstance(statement, Store) and statement.index:
            row = self.stored.get(statement.value)
            target = self._row(statement.storage, statement.index[0], 0, ())
            if row != target:
                value = self._lifted(statement.value, ("B", "row'"))
                self.text.append(f"{target}.fill_({value.text})" if value.number else f"{target}.copy_({value.text})")
        elif isinstance(statement, Store):
            self._store(statement)
        elif isinstance(statement, Op):
            self._step_op(statement)
        else:
            raise NotImplementedError(type(statement).__name__)

    def _step_op(self, op: Op) -> None:
        name, vtype = op.results[0], op.types[0]
        if op.op == "constant":
            self.entry.constant(op)
            return
        if op.op in ALIASES and name not in self.stored:
            self._value(name, self.entry.values[op.args[0]].text, vtype)
            self.leads[name] = self.leads.get(op.args[0], ())
            self.entry.values[name] = replace(self.entry.values[name], lead=self.entry.values[op.args[0]].lead)
            return
        args = [self._operand(arg) for arg in op.args]
        room = self.stored.get(name)
        text = self._product(op, args, room)
        if text is None:
            made = None if room is None or op.op == "contract" else in_place(op, args, room)
            text = made or (f"{name} = " if room is None else f"{room}.copy_(") + self._plain(op, args)
            text += ")" if room is not None and made is None else ""
        self.text.append(text)
        leads = tuple(label for label, _ in vtype.lead)
        narrow = leads == ("B",)
        self._value(name, room or name, vtype)
        if narrow:
            self.leads[name] = ("B", "1")
            self.entry.values[name] = replace(self.entry.values[name], lead=2)
        if room is None:
            self.names.setdefault(name)

    def _operand(self, name: str) -> Operand:
        return self.entry.values[name]

    def _product(self, op: Op, args: Sequence[Operand], room: str | None) -> str | None:
        """All rows of all samples times one matrix."""
        if op.op != "contract" or op.joint:
            return None
        attrs = dict(op.attrs)
        found = matrix_vector(args, *(tuple(attrs[side]) for side in ("x", "y", "out")))
        if found is None or found[0].lead != 2 or self.leads.get(_named(op, args, found[0])) == ("B", "1"):
            return None
        value, weight, transposed = found
        matrix = f"{weight.text}{'.t()' if transposed else ''}"
        size, into = value.axes[0].size, op.types[0].axes[0].size
        left = f"{value.text}.reshape(-1, {size})"
        if room is not None:
            return f"torch.mm({left}, {matrix}, out={room}.view(-1, {into}))"
        rows = affine_text(op.types[0].lead[1][1])
        return f"{op.results[0]} = torch.mm({left}, {matrix}).view(B, {rows}, {into})"


def _named(op: Op, args: Sequence[Operand], value: Operand) -> str:
    return op.args[0] if args[0] is value else op.args[1]


def _rank(label: str) -> int:
    return ORDER.get(label, 2)


def _ordered(labels: set[str]) -> tuple[str, ...]:
    return tuple(sorted(labels, key=_rank))


def _sizes(vtype: VType) -> list[str]:
    return [str(axis.size) for axis in vtype.axes]


def _carries(entry: TraceEntry) -> set[str]:
    return {name for name, storage in entry.storages.items() if storage.kind == "carry"}


def _inside(body: Sequence[Stmt]) -> list[Stmt]:
    """Statements at any depth."""
    return [s for one in body for s in (_inside(one.body) if isinstance(one, For) else [one])]


def _uses(body: Sequence[Stmt]) -> dict[str, int]:
    found: dict[str, int] = {}
    for statement in body:
        args = statement.args if isinstance(statement, Op) else tuple(read_by([statement]))
        for name in args:
            found[name] = found.get(name, 0) + 1
    return found


def _writes(body: Sequence[Stmt], name: str) -> bool:
    """Whether a value is made in this loop by something that can write in place."""
    return any(isinstance(s, Op) and s.results[0] == name and s.op not in (*VIEWS, *ALIASES, "constant") for s in body)
