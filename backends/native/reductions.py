"""Sums, maxima and softmax: nests in which several entries of an argument make one of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from recdsl.backends.native.kernel import Kernel, nest
from recdsl.backends.native.ops import writer
from recdsl.backends.native.values import Ix, NotLoweredError, Ref, Value, contiguous, numel, of_sample, product
from recdsl.program.ir import Op

if TYPE_CHECKING:
    from recdsl.backends.native.nests import Nests

Loops = list[tuple[str, str]]
PART = 64
"""Terms of a sum that are added up by themselves."""
AT_ONCE = 1024
"""Entries of which sums are made in parts, held on the stack."""


def reduction(w: Nests, op: Op | None, args: Sequence[Value], value: Value, dest: Ref, adds: bool) -> None:
    """`dest (+)= op(args)`, summed over the leading axes that the result lacks."""
    w.flush()
    name = op.op if op is not None else "collect"
    if name in ("softmax", "logsumexp", "reduce_max"):
        assert op is not None
        if op.joint or adds:
            raise NotLoweredError(f"`{name}` over leading axes")
        _compared(w, op, args[0], value, dest)
        return
    if name == "rank":
        assert op is not None
        if op.joint or adds:
            raise NotLoweredError("`rank` over leading axes")
        _ranked(w, op, args, value, dest)
        return
    if name == "scatter" and args[1].dtype == "int":
        assert op is not None
        _scattered(w, op, args, value, dest, adds)
        return
    over: tuple[int, ...] = ()
    source = args[0]
    if name == "sum":
        assert op is not None
        over = tuple(dict(op.attrs)["over"])
    elif name != "collect":
        assert op is not None
        source = _inner(op, args)
    _sum(w, source, over, value, dest, adds)


def _inner(op: Op, args: Sequence[Value]) -> Value:
    """An op of one entry each, before its leading axes are summed."""
    write, cost = writer(op, args)
    lead = {name: text for arg in args for name, text in arg.lead.items()}
    reads = frozenset(region for arg in args for region in arg.reads)
    axes = tuple(axis.size for axis in op.types[0].axes)
    return Value(op.types[0].dtype, lead, axes, write, reads, cost, parts=tuple(args))


def zeros(w: Nests, value: Value, dest: Ref) -> None:
    """Fill the target with zeros."""
    zero = Value(value.dtype, value.lead, value.axes, lambda k, lead, own: "", number=0)
    w.assign(dest, zero)
    w.flush()


def _sum(w: Nests, source: Value, over: tuple[int, ...], value: Value, dest: Ref, adds: bool) -> None:
    kept_lead = [name for name in source.lead if name in value.lead]
    lost_lead = [name for name in source.lead if name not in value.lead]
    kept = [k for k in range(len(source.axes)) if k not in over]
    where = {name: f"l{k}" for k, name in enumerate({**source.lead, **value.lead})}
    axes = tuple(Ix(f"i{k}", f"i{k}", 0, size) for k, size in enumerate(source.axes))
    kernel = Kernel(w.names, sample=where.get("B", ""))
    text = source.entry(kernel, where, axes)
    own = "B" in value.lead and of_sample(dest) and not kernel.mixed
    target = f"{dest.base}[{dest.address(where, tuple(axes[k] for k in kept))}]"
    outer: Loops = [(where[name], source.lead[name]) for name in kept_lead]
    extra: Loops = [(where[name], value.lead[name]) for name in value.lead if name not in source.lead]
    lost: Loops = [(where[name], source.lead[name]) for name in lost_lead]
    mine: Loops = [(f"i{k}", str(source.axes[k])) for k in kept]
    summed: Loops = [(f"i{k}", str(source.axes[k])) for k in over]
    wide = kept and (not over or max(kept) > max(over)) and source.axes[max(kept)] > 1
    if wide and (lost or summed):
        if not adds:
            zeros(w, value, dest)
        size = tuple(source.axes[k] for k in kept)
        if lost and numel(size) <= AT_ONCE and source.dtype == "float":
            place = " + ".join(product(axes[k].text, str(by)) for k, by in zip(kept, contiguous(size), strict=True))
            inner = nest(mine, [*kernel.lines, f"part[{place}] += {text};"], "SIMD")
            done = nest(mine, [f"{target} += part[{place}];", f"part[{place}] = 0;"], "SIMD")
            body = [f"real part[{numel(size)}] = {{0}};", *_in_parts([*lost, *summed], inner, done)]
            w.marked(own, nest([*outer, *extra], body))
        else:
            loops = [*outer, *extra, *lost, *summed, *mine]
            w.marked(own, nest(loops, [*kernel.lines, f"{target} += {text};"], "SIMD"))
        return
    loops, final = [*lost, *summed], f"{target} {'+=' if adds else '='} total;"
    if len(loops) > 1 and source.dtype == "float":
        inner = nest(loops[-1:], [*kernel.lines, f"part += {text};"], '_Pragma("omp simd reduction(+ : part)")')
        body = ["real total = 0, part = 0;", *_in_parts(loops[:-1], inner, ["total += part;", "part = 0;"])]
    else:
        inner = [*kernel.lines, f"total += {text};"]
        inner = nest(loops, inner, '_Pragma("omp simd reduction(+ : total)")') if loops else inner
        body = [f"{'real' if source.dtype == 'float' else 'integer'} total = 0;", *inner]
    w.marked(own, nest([*outer, *extra, *mine], [*body, final]))


def _in_parts(loops: Loops, inner: Sequence[str], done: Sequence[str]) -> list[str]:
    """Loops that sum up to `PART` terms, then do what makes them part of a sum of such: rounding errors grow with the
    length of the longer of the two sums, not with their product (Higham 1993, blocked summation)."""
    often = [f"if (++count == {PART}) {{", "count = 0;", *done, "}"]
    return ["long count = 0;", *nest(loops, [*inner, *often]), *done]


def _compared(w: Nests, op: Op, arg: Value, value: Value, dest: Ref) -> None:
    """Along one axis: the largest entry, and sums of exponentials of what is below it."""
    at = dict(op.attrs)["at"]
    if arg.cost > 2 and arg.ref is None:
        w.settle(arg)
        w.flush()
    where = {name: f"l{k}" for k, name in enumerate(value.lead)}
    axes = tuple(Ix(f"i{k}", f"i{k}", 0, size) for k, size in enumerate(arg.axes))
    size = str(arg.axes[at])
    mixed = False

    def along(line: Callable[[str], str], pragma: str = "") -> list[str]:
        nonlocal mixed
        kernel = Kernel(w.names, sample=where.get("B", ""))
        text = arg.entry(kernel, where, axes)
        mixed |= kernel.mixed
        return nest([(f"i{at}", size)], [*kernel.lines, line(text)], pragma)

    body = ["real top = R(-INFINITY);", *along(lambda x: f"top = {x} > top || {x} != {x} ? {x} : top;")]
    rest = tuple(ix for k, ix in enumerate(axes) if k != at)
    if op.op == "reduce_max":
        body.append(f"{dest.base}[{dest.address(where, rest)}] = top;")
    elif op.op == "logsumexp":
        body += ["top = top - top == R(0) ? top : R(0);", "real total = 0;"]  # what is infinite is its own sum
        body += along(lambda x: f"total += r_exp({x} - top);", PLUS)
        body.append(f"{dest.base}[{dest.address(where, rest)}] = r_log(total) + top;")
    else:
        target = f"{dest.base}[{dest.address(where, axes)}]"
        body += ["real total = 0;"]
        body += along(lambda x: f"const real raised = r_exp({x} - top); {target} = raised; total += raised;", PLUS)
        body += nest([(f"i{at}", size)], [f"{target} = {target} / total;"], "SIMD")
    loops: Loops = [(where[name], value.lead[name]) for name in value.lead]
    loops += [(f"i{k}", str(n)) for k, n in enumerate(arg.axes) if k != at]
    w.marked("B" in value.lead and of_sample(dest) and not mixed, nest(loops, body))


def _ranked(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref) -> None:
    """How many entries along an axis come before each."""
    at = dict(op.attrs)["at"]
    for arg in args:
        w.settle(arg)
    w.flush()
    where = {name: f"l{k}" for k, name in enumerate(value.lead)}
    axes = tuple(Ix(f"i{k}", f"i{k}", 0, size) for k, size in enumerate(value.axes))
    other = (*axes[:at], Ix("j", "j", 0, value.axes[at]), *axes[at + 1 :])
    outer, inner = (Kernel(w.names, sample=where.get("B", "")) for _ in range(2))
    x, age = (arg.entry(outer, where, axes) for arg in args)
    y, older = (arg.entry(inner, where, other) for arg in args)
    tie = f"{older} < {age} | {older} == {age} & j < i{at}"
    count = [*inner.lines, f"total += {y} > {x} | {y} == {x} & ({tie}) ? R(1) : R(0);"]
    body = [*outer.lines, "real total = 0;", *nest([("j", str(value.axes[at]))], count, PLUS)]
    loops: Loops = [(where[name], value.lead[name]) for name in value.lead]
    loops += [(f"i{k}", str(n)) for k, n in enumerate(value.axes)]
    own = "B" in value.lead and of_sample(dest) and not (outer.mixed or inner.mixed)
    w.marked(own, nest(loops, [*body, f"{dest.base}[{dest.address(where, axes)}] = total;"]))


PLUS = '_Pragma("omp simd reduction(+ : total)")'


def _scattered(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref, adds: bool) -> None:
    """A sum of scatters: each entry is added where its index says."""
    at, (x, index) = dict(op.attrs)["at"], args
    if not adds:
        zeros(w, value, dest)
    lead = {**index.lead, **x.lead}
    where = {name: f"l{k}" for k, name in enumerate({**lead, **value.lead})}
    axes = tuple(Ix(f"i{k}", f"i{k}", 0, size) for k, size in enumerate(x.axes))
    head, body = (Kernel(w.names, sample=where.get("B", "")) for _ in range(2))
    found = head.integer(f"(long){index.entry(head, where, ())}")
    text = x.entry(body, where, axes)
    address = dest.address(where, (*axes[:at], Ix(found), *axes[at:]))
    inner = nest([(f"i{k}", str(n)) for k, n in enumerate(x.axes)], [*body.lines, f"{dest.base}[{address}] += {text};"])
    own = "B" in lead and of_sample(dest) and not (head.mixed or body.mixed)
    loops = [(where[name], lead[name]) for name in lead]
    w.marked(own, nest(loops, [*head.lines, f"if ({found} >= 0) {{", *inner, "}"]))
