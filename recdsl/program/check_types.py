"""Names and types: single assignment, scope, leading and own axes, calls, conditions, effects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from recdsl.ops import catalogue
from recdsl.ops.base import ShapeError
from recdsl.program.affine import add, symbols_of
from recdsl.program.derive import DERIVED, own
from recdsl.program.ir import (
    Add,
    Affine,
    At,
    Bound,
    Call,
    Effect,
    For,
    Function,
    If,
    Index,
    Load,
    Op,
    Program,
    Range,
    Scalar,
    Stmt,
    Storage,
    Store,
    VType,
)
from recdsl.program.text import line, vtype

Lead = tuple[tuple[str, Affine], ...]
# Where each kind of effect acts: kinds of storage, or nothing where the resource is only a name.
RESOURCES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("read", "append", "overwrite", "evict", "touch", "search"), ("store",)),
    "update": ("parameter", "carry"),
    "guard": (),
    "emit": (),
}
# The extent of a range with several ends: no affine expression, so whatever the value's type says.
ANY = Affine(0, (("?", 1),))
PREDICATES = ("lt", "le", "eq", "ge", "ne", "divides", "indivisible")


class Scope:
    """The values that an entry's statements may use, block by block, and what was found wrong."""

    def __init__(self, program: Program) -> None:
        self.storages: Mapping[str, Storage] = {storage.name: storage for storage in program.storages}
        self.functions: Mapping[str, Function] = {function.name: function for function in program.functions}
        self.symbols = {"T", "B", *program.scalars}
        for storage in program.storages:
            for _, extent in storage.type.lead:
                self.symbols |= symbols_of(extent)
        self.derived: dict[tuple[str, str], Function] = {}

    def function(self, label: str, mode: str) -> Function:
        if (label, mode) not in self.derived:
            self.derived[label, mode] = DERIVED[mode](self.functions[label])
        return self.derived[label, mode]


def check_function(function: Function) -> Iterator[str]:
    """A function is closed and free of effects: ops on its arguments, and nothing else."""
    known = dict(function.args)
    for stmt in function.body:
        # A text may hold any statement here; the type of `body` cannot be trusted.
        if type(stmt) is not Op:
            yield f"function `{function.name}`: `{_first(stmt)}` is an effect or a load"
            continue
        missing = [arg for arg in stmt.args if arg not in known]
        yield from (f"function `{function.name}`: `{arg}` is neither argument nor value" for arg in missing)
        if stmt.results[0] in known:
            yield f"function `{function.name}`: `{stmt.results[0]}` is assigned twice"
        if not missing:
            yield from (f"function `{function.name}`: {message}" for message in op_types(stmt, known))
        known[stmt.results[0]] = stmt.types[0]
    yield from (f"function `{function.name}`: no value `{r}`" for r in function.results if r not in known)


def _first(stmt: Stmt) -> str:
    return type(stmt).__name__.lower() if isinstance(stmt, For | If) else line(stmt)


def merged(types: Sequence[VType]) -> tuple[dict[str, Affine], list[str]]:
    """The union of leading axes, and those whose extents disagree."""
    found: dict[str, Affine] = {}
    wrong: list[str] = []
    for kind in types:
        for label, extent in kind.lead:
            if found.setdefault(label, extent) != extent:
                wrong.append(label)
    return found, wrong


def op_types(stmt: Op, known: Mapping[str, VType]) -> Iterator[str]:
    """The declared type of an op against the one it infers, and the leading axes that it keeps."""
    shown = f"`{line(stmt)}`"
    args, kind = [known[arg] for arg in stmt.args], stmt.types[0]
    lead, wrong = merged([*args, kind])
    yield from (f"{shown}: leading axis `{label}` has two extents" for label in wrong)
    if stmt.op == "constant":
        return
    if stmt.op == "view":
        have = sorted({**dict.fromkeys(lead), **dict.fromkeys(a.name for a in args[0].axes)})
        want = sorted([*(label for label, _ in kind.lead), *(a.name for a in kind.axes), *stmt.joint])
        if have != want:
            yield f"{shown}: a view has the axes of its operand"
        return
    lost = [label for arg in args for label, _ in arg.lead if label not in dict(kind.lead)]
    if stmt.op != "collect":
        yield from (f"{shown}: leading axis `{x}` is lost" for x in dict.fromkeys(lost) if x not in stmt.joint)
    yield from (f"{shown}: `{x}` is summed and kept" for x in stmt.joint if x in dict(kind.lead))
    yield from (f"{shown}: no operand has leading axis `{x}`" for x in stmt.joint if x not in lead)
    if stmt.op not in catalogue():
        yield f"{shown}: no primitive `{stmt.op}`"
        return
    try:
        inferred = catalogue()[stmt.op].infer([own(arg) for arg in args], stmt.attrs)
    except (ShapeError, KeyError, IndexError, ValueError) as error:
        yield f"{shown}: {error}"
        return
    if inferred.axes != kind.axes or (inferred.dtype != kind.dtype and stmt.op not in LOOSE):
        yield f"{shown}: its type is {inferred}"


# Index maps move numbers of any kind; their `infer` says float.
LOOSE = ("gather", "scatter", "concat", "where", "pad", "add", "sub", "mul")


def check_entry(scope: Scope, body: Sequence[Stmt]) -> Iterator[str]:
    yield from _block(scope, body, {}, set(scope.symbols))


def _block(scope: Scope, body: Sequence[Stmt], known: dict[str, VType], symbols: set[str]) -> Iterator[str]:
    """Checks a block; `known` grows as values are assigned."""
    for stmt in body:
        match stmt:
            case For():
                yield from _unknown([stmt.lo, stmt.hi], symbols, f"for {stmt.var}")
                if stmt.step == 0 or (abs(stmt.step) > 1 and len(stmt.lo.parts) > 1):
                    yield f"for {stmt.var}: a step needs one lower end, and not to be 0"
                if stmt.var in symbols:
                    yield f"for {stmt.var}: the variable is taken"
                yield from _block(scope, stmt.body, dict(known), symbols | {stmt.var})
            case If():
                if stmt.predicate[0] not in PREDICATES:
                    yield f"if: no condition `{stmt.predicate[0]}`"
                if "divis" in stmt.predicate[0] and (stmt.predicate[1].terms or not stmt.predicate[1].const):
                    yield "if: the divisor is a positive number"
                yield from _unknown(list(stmt.predicate[1:]), symbols, "if")
                yield from _block(scope, stmt.body, dict(known), symbols)
            case _:
                yield from _simple(scope, stmt, known, symbols)


def _unknown(values: Sequence[Affine | Bound], symbols: set[str], where: str) -> Iterator[str]:
    """Conditions and bounds are over sizes, scalars and loop variables alone: the same for every sample."""
    for name in sorted({name for value in values for name in symbols_of(value)} - symbols):
        yield f"{where}: `{name}` is no size, scalar or loop variable"


def _simple(
    scope: Scope, stmt: Op | Scalar | Load | Store | Add | Call | Effect, known: dict[str, VType], symbols: set[str]
) -> Iterator[str]:
    shown = f"`{line(stmt)}`"
    used = stmt.args if isinstance(stmt, Op | Call | Effect) else (stmt.value,) if isinstance(stmt, Store | Add) else ()
    used = (*used, *(p.value for p in getattr(stmt, "index", ()) if isinstance(p, At)))
    missing = [arg for arg in used if arg not in known and not (arg == "_" and isinstance(stmt, Call))]
    yield from (f"{shown}: no value `{arg}` here" for arg in missing)
    produced: list[tuple[str, VType]] = []
    if not missing:
        yield from _CHECKS[type(stmt)](scope, stmt, known, symbols, produced)
    for label, kind in produced:
        if label != "_" and label in known:
            yield f"{shown}: `{label}` is assigned twice"
        known[label] = kind


def _check_op(
    scope: Scope, stmt: Op, known: dict[str, VType], symbols: set[str], out: list[tuple[str, VType]]
) -> Iterator[str]:
    out.append((stmt.results[0], stmt.types[0]))
    yield from op_types(stmt, known)


def _check_scalar(
    scope: Scope, stmt: Scalar, known: dict[str, VType], symbols: set[str], out: list[tuple[str, VType]]
) -> Iterator[str]:
    out.append((stmt.result, stmt.type))
    yield from _unknown([stmt.value], symbols, f"`{line(stmt)}`")


def _rest(scope: Scope, index: Sequence[Index], storage: Storage, known: Mapping[str, VType]) -> Lead:
    """The leading axes that an access keeps."""
    lead = storage.type.lead
    found: list[tuple[str, Affine]] = []
    for k, (label, extent) in enumerate(lead):
        part = index[k] if k < len(index) else None
        if part is None:
            found.append((label, extent))
        elif isinstance(part, Range):
            plain = len(part.lo.parts) == len(part.hi.parts) == 1
            found.append((label, add(part.hi.parts[0], part.lo.parts[0], -1) if plain else ANY))
    rows = [known[part.value].lead for part in index if isinstance(part, At)]
    taken = {label for one in rows for label, _ in one}
    return (*(item for one in rows for item in one), *(item for item in found if item[0] not in taken))


def _access(
    scope: Scope,
    name: str,
    index: Sequence[Index],
    kinds: tuple[str, ...],
    known: Mapping[str, VType],
    symbols: set[str],
) -> Iterator[str]:
    """Whether a storage may be accessed so."""
    storage = scope.storages.get(name)
    if storage is None:
        yield f"no storage `{name}`"
        return
    if storage.kind not in kinds:
        yield f"`{name}` is a {storage.kind}"
    if len(index) > len(storage.type.lead):
        yield f"`{name}` has {len(storage.type.lead)} leading axes"
    for k, part in enumerate(index):
        if isinstance(part, At) and (k or known[part.value].dtype != "int" or known[part.value].axes):
            yield "rows are chosen on the first axis, by one integer a row"
        elif isinstance(part, Affine):
            yield from _unknown([part], symbols, "index")
        elif isinstance(part, Range):
            yield from _unknown([part.lo, part.hi], symbols, "index")


_READABLE = ("input", "output", "parameter", "constant", "carry", "buffer", "ring", "accumulate", "noise")
_WRITABLE = ("carry", "buffer", "ring", "accumulate", "output")


def _check_load(
    scope: Scope, stmt: Load, known: dict[str, VType], symbols: set[str], out: list[tuple[str, VType]]
) -> Iterator[str]:
    shown = f"`{line(stmt)}`"
    out.append((stmt.result, stmt.type))
    wrong = list(_access(scope, stmt.storage, stmt.index, _READABLE, known, symbols))
    yield from (f"{shown}: {message}" for message in wrong)
    if wrong:
        return
    storage = scope.storages[stmt.storage]
    kind = VType(storage.type.dtype, _rest(scope, stmt.index, storage, known), storage.type.axes)
    if (kind.dtype, kind.axes) != (stmt.type.dtype, stmt.type.axes) or not _within(kind.lead, stmt.type.lead):
        yield f"{shown}: its type is {vtype(kind)}"


def _within(inner: Lead, outer: Lead) -> bool:
    return all(label in dict(outer) and extent in (ANY, dict(outer)[label]) for label, extent in inner)


def _check_store(
    scope: Scope, stmt: Store | Add, known: dict[str, VType], symbols: set[str], out: list[tuple[str, VType]]
) -> Iterator[str]:
    shown = f"`{line(stmt)}`"
    kinds = _WRITABLE if isinstance(stmt, Store) else ("accumulate",)
    wrong = list(_access(scope, stmt.storage, stmt.index, kinds, known, symbols))
    if isinstance(stmt, Store) and any(isinstance(part, At) for part in stmt.index):
        wrong.append("rows chosen by a value are loaded or added to")
    yield from (f"{shown}: {message}" for message in wrong)
    if wrong:
        return
    storage, value = scope.storages[stmt.storage], known[stmt.value]
    if value.axes != storage.type.axes or value.dtype != storage.type.dtype:
        yield f"{shown}: `{stmt.value}` is {vtype(value)}, the storage {vtype(storage.type)}"
    rest = dict(_rest(scope, stmt.index, storage, known))
    for label, extent in value.lead:
        if label not in rest and isinstance(stmt, Store):
            yield f"{shown}: leading axis `{label}` is lost"
        if rest.get(label, extent) not in (ANY, extent):
            yield f"{shown}: leading axis `{label}` has two extents"


def _check_call(
    scope: Scope, stmt: Call, known: dict[str, VType], symbols: set[str], out: list[tuple[str, VType]]
) -> Iterator[str]:
    shown = f"`{line(stmt)}`"
    if stmt.function not in scope.functions or stmt.mode not in DERIVED:
        yield f"{shown}: no function `{stmt.function}`"
        return
    function = scope.function(stmt.function, stmt.mode)
    if len(function.args) != len(stmt.args) or len(function.results) != len(stmt.results):
        yield f"{shown}: takes {len(function.args)} and gives {len(function.results)} values"
        return
    given = [known[arg] for arg in stmt.args if arg != "_"]
    lead, wrong = merged(given)
    yield from (f"{shown}: leading axis `{label}` has two extents" for label in wrong)
    if set(lead) != set(stmt.over):
        yield f"{shown}: maps over ({', '.join(lead)})"
    for arg, (label, kind) in zip(stmt.args, function.args, strict=True):
        if arg != "_" and own(known[arg]) != own(kind):
            yield f"{shown}: `{label}` is {own(kind)}, not {own(known[arg])}"
    kinds = {op.results[0]: op.types[0] for op in function.body} | dict(function.args)
    over = tuple((label, lead[label]) for label in stmt.over if label in lead)
    for result, inner in zip(stmt.results, function.results, strict=True):
        out.append((result, VType(kinds[inner].dtype, over, kinds[inner].axes)))


def _check_effect(
    scope: Scope, stmt: Effect, known: dict[str, VType], symbols: set[str], out: list[tuple[str, VType]]
) -> Iterator[str]:
    shown = f"`{line(stmt)}`"
    if stmt.kind not in RESOURCES:
        yield f"{shown}: no effect `{stmt.kind}`"
        return
    storage, kinds = scope.storages.get(stmt.resource), RESOURCES[stmt.kind]
    if kinds and (storage is None or storage.kind not in kinds):
        yield f"{shown}: `{stmt.resource}` is no {' or '.join(kinds)}"
        return
    if len(stmt.results) != len(stmt.types):
        yield f"{shown}: {len(stmt.results)} results, {len(stmt.types)} types"
        return
    out.extend(zip(stmt.results, stmt.types, strict=True))
    if storage is not None and stmt.kind in ("read", "append", "overwrite"):
        yield from (f"{shown}: {message}" for message in _store_types(stmt, storage, [known[a] for a in stmt.args]))
    if storage is not None and stmt.kind == "update" and known[stmt.args[0]] != storage.type:
        yield f"{shown}: the new value is {vtype(known[stmt.args[0]])}, not {vtype(storage.type)}"


def _store_types(stmt: Effect, storage: Storage, args: Sequence[VType]) -> Iterator[str]:
    """The fields that a store's effect takes or gives."""
    fields = [kind for _, kind in storage.fields]
    if stmt.kind == "read":
        if len(stmt.types) != len(fields) + 1:
            yield f"a read gives {len(fields)} fields and validity"
        for kind, field in zip(stmt.types, fields, strict=False):
            if kind.dtype != field.dtype or kind.axes[len(kind.axes) - len(field.axes) :] != field.axes:
                yield f"a row holds {vtype(field)}"
        return
    given = list(args[1:] if stmt.kind == "overwrite" else args)
    if [own(kind) for kind in given[: len(fields)]] != [own(kind) for kind in fields]:
        yield f"a row holds ({', '.join(map(vtype, fields))})"


_CHECKS: dict[type, Callable[..., Iterator[str]]] = {
    Op: _check_op,
    Scalar: _check_scalar,
    Load: _check_load,
    Store: _check_store,
    Add: _check_store,
    Call: _check_call,
    Effect: _check_effect,
}
