"""C text of every primitive: one entry of the result from entries of the arguments. One place an op.

What sums or compares many entries (`sum`, `softmax`, `contract` with a sum) is in `reductions.py` and `products.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from recdsl.backends.native.kernel import Kernel
from recdsl.backends.native.values import At, Ix, NotLoweredError, Ref, Value, fixed, literal, numel
from recdsl.program.ir import Op

Own = tuple[Ix, ...]
Lead = Mapping[str, str]

# (text with arguments as {0}, {1}, ..., cost)
ELEMENTWISE: dict[str, tuple[str, float]] = {
    "add": ("{0} + {1}", 1), "sub": ("{0} - {1}", 1), "mul": ("{0} * {1}", 1), "div": ("{0} / {1}", 4),
    "neg": ("-{0}", 1), "abs": ("r_fabs({0})", 1), "sign": ("r_sign({0})", 1), "floor": ("r_floor({0})", 1),
    "sqrt": ("r_sqrt({0})", 6), "exp": ("r_exp({0})", 12), "expm1": ("r_expm1({0})", 20), "log": ("r_log({0})", 20),
    "log1p": ("r_log1p({0})", 20), "sin": ("r_sin({0})", 20), "cos": ("r_cos({0})", 20), "erf": ("r_erf({0})", 30),
    "tanh": ("r_tanh({0})", 15), "sigmoid": ("r_sigmoid({0})", 15), "softplus": ("r_softplus({0})", 30),
    "relu": ("r_relu({0})", 1), "maximum": ("{0} >= {1} | {0} != {0} ? {0} : {1}", 1),
    "minimum": ("{0} <= {1} | {0} != {0} ? {0} : {1}", 1),
    "mod": ("r_mod({0}, {1})", 30), "pow": ("r_pow({0}, {1})", 60), "lt": ("{0} < {1}", 1), "le": ("{0} <= {1}", 1),
    "gt": ("{0} > {1}", 1), "ge": ("{0} >= {1}", 1), "eq": ("{0} == {1}", 1), "ne": ("{0} != {1}", 1),
    "and": ("{0} & {1}", 1), "or": ("{0} | {1}", 1), "not": ("!{0}", 1), "where": ("{0} ? {1} : {2}", 1),
    "spike": ("{0} > R(0) ? R(1) : R(0)", 1), "to_float": ("(real){0}", 1),
}  # fmt: skip
POWERS = {
    0.0: "R(1)", 1.0: "{0}", 2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", -1.0: "R(1) / {0}",
    -2.0: "R(1) / ({0} * {0})", 0.5: "r_sqrt({0})",
}  # fmt: skip


def elementwise(text: str, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    """Entries at the same index."""
    return text.format(*(arg.entry(kernel, lead, own) for arg in args))


# -- index maps: from an index of the result to one of the argument --------------------------------------------------
def _slice(op: Op, own: Own, sizes: Sequence[tuple[int, ...]]) -> Own:
    attrs = dict(op.attrs)
    at = attrs["at"]
    return (*own[:at], own[at].shifted(attrs["start"]), *own[at + 1 :])


def _transpose(op: Op, own: Own, sizes: Sequence[tuple[int, ...]]) -> Own:
    order = dict(op.attrs)["order"]
    return tuple(own[order.index(k)] for k in range(len(order)))


def _broadcast(op: Op, own: Own, sizes: Sequence[tuple[int, ...]]) -> Own:
    return tuple(own[k] for k in dict(op.attrs)["at"])


def _reshape(op: Op, own: Own, sizes: Sequence[tuple[int, ...]]) -> Own:
    """Groups of axes with equal products go into each other."""
    source, target = sizes[0], tuple(axis.size for axis in op.types[0].axes)
    found: list[Ix] = []
    for into, second in groups(source, target):
        found += _regroup([(own[k], target[k]) for k in second], [source[k] for k in into])
    return tuple(found)


def groups(source: Sequence[int], target: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes that go into each other where extents change: groups with equal products."""
    a = b = 0
    while a < len(source) or b < len(target):
        first, second = [a] if a < len(source) else [], [b] if b < len(target) else []
        left, right = source[a] if first else 1, target[b] if second else 1
        a, b = a + 1, b + 1
        while left != right:
            if left < right:
                left, a = left * source[a], a + 1
                first.append(a - 1)
            else:
                right, b = right * target[b], b + 1
                second.append(b - 1)
        yield first, second


def _regroup(given: Sequence[tuple[Ix, int]], sizes: Sequence[int]) -> list[Ix]:
    """One linear index, taken apart for other extents."""
    wide = [(ix, size) for ix, size in given if size != 1]
    if len([s for s in sizes if s != 1]) == 1 and len(wide) == 1:
        return [fixed(0) if size == 1 else wide[0][0] for size in sizes]
    text = "0"
    for ix, size in wide:
        text = ix.text if text == "0" else f"({text}) * {size} + {ix.text}"
    left, found = numel(tuple(sizes)), list[Ix]()
    for size in sizes:
        left //= size
        part = f"({text}) / {left}" if left > 1 else f"({text})"
        part = part if left * size == numel(tuple(sizes)) else f"{part} % {size}"
        found.append(fixed(0) if size == 1 else Ix(part, "", 0, size))
    return found


def _same(op: Op, own: Own, sizes: Sequence[tuple[int, ...]]) -> Own:
    return own


MAPS: dict[str, Callable[[Op, Own, Sequence[tuple[int, ...]]], Own]] = {
    "slice": _slice, "transpose": _transpose, "broadcast": _broadcast, "reshape": _reshape, "rename": _same,
    "stop": _same, "straight_through": _same,
}  # fmt: skip


def mapped(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    return args[0].entry(kernel, lead, MAPS[op.op](op, own, [arg.axes for arg in args]))


# -- ops that look at the index ---------------------------------------------------------------------------------------
def _concat(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    at, start = dict(op.attrs)["at"], 0
    parts: list[tuple[int, int, Callable[[Ix], str]]] = []
    for arg in args:
        write = partial(_at_axis, arg, kernel, lead, own, at)
        parts.append((start, start + arg.axes[at], write))
        start += arg.axes[at]
    return kernel.pieces(op.types[0].dtype, own[at], parts, lambda: literal(0, op.types[0].dtype))


def _at_axis(arg: Value, kernel: Kernel, lead: Lead, own: Own, at: int, ix: Ix) -> str:
    return arg.entry(kernel, lead, (*own[:at], ix, *own[at + 1 :]))


def _pad(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    attrs, (arg,) = dict(op.attrs), args
    at, start = attrs["at"], attrs["start"]
    part = (start, start + arg.axes[at], partial(_at_axis, arg, kernel, lead, own, at))
    return kernel.pieces(op.types[0].dtype, own[at], [part], lambda: literal(0, op.types[0].dtype))


def _eye(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    return f"{own[0].text} == {own[1].text} ? R(1) : R(0)"


def _one_hot(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    return f"{args[0].entry(kernel, lead, own[:-1])} == {own[-1].text} ? R(1) : R(0)"


def _gather(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    """Entry 0 stands in for an absent index, so that there is no branch."""
    at = dict(op.attrs)["at"]
    index = args[1].entry(kernel, lead, ())
    there = Ix(kernel.integer(f"{index} < 0 ? 0 : (long){index}"), "", 0, 0)
    found = args[0].entry(kernel, lead, (*own[:at], there, *own[at:]))
    return f"{index} < 0 ? {literal(0, op.types[0].dtype)} : {found}"


def _scatter(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    at = dict(op.attrs)["at"]
    index = args[1].entry(kernel, lead, ())
    found = args[0].entry(kernel, lead, (*own[:at], *own[at + 1 :]))
    return f"{index} == {own[at].text} ? {found} : {literal(0, op.types[0].dtype)}"


def _outer(op: Op, args: Sequence[Value], kernel: Kernel, lead: Lead, own: Own) -> str:
    """A contraction without a sum."""
    attrs = dict(op.attrs)
    places = {label: own[k] for k, label in enumerate(attrs["out"])}
    texts = [
        arg.entry(kernel, lead, tuple(places[k] for k in attrs[side])) for arg, side in zip(args, "xy", strict=True)
    ]
    return " * ".join(texts)


INDEXED: dict[str, tuple[Callable[[Op, Sequence[Value], Kernel, Lead, Own], str], float]] = {
    "concat": (_concat, 0.5), "pad": (_pad, 0.5), "eye": (_eye, 1), "one_hot": (_one_hot, 1), "gather": (_gather, 2),
    "scatter": (_scatter, 2), "contract": (_outer, 1),
}  # fmt: skip
REDUCED = ("sum", "collect", "reduce_max", "softmax", "logsumexp", "rank", "search")
IN_TIMELINES = ("append", "fetch", "nearest")  # stores that grow with time are loops and `search` in programs
IN_ROWS = ("lookup", "gather_rows", "scatter_rows")
"""Of stores for all samples: see `rows.py`."""


def covered(name: str) -> bool:
    """Whether there is C for a primitive."""
    return name in {*ELEMENTWISE, *MAPS, *INDEXED, *REDUCED, *IN_ROWS, "power"}


def writer(op: Op, args: Sequence[Value]) -> tuple[At, float]:
    """How one entry of the result is written, and what it costs beside its arguments."""
    if op.op == "power":
        exponent = float(dict(op.attrs)["exponent"])
        text = POWERS.get(exponent, f"r_pow({{0}}, {literal(exponent, 'float')})")
        return partial(elementwise, text, args), 60 if "pow" in text else 4
    if op.op in ELEMENTWISE:
        text, cost = ELEMENTWISE[op.op]
        return partial(elementwise, text, args), cost
    if op.op in MAPS:
        return partial(mapped, op, args), 0
    if op.op in INDEXED:
        write, cost = INDEXED[op.op]
        return partial(write, op, args), cost
    raise NotLoweredError(f"no C for the op `{op.op}`")


def viewed(op: Op, arg: Value) -> Ref | None:
    """Where the result of an index map already lies."""
    ref, attrs = arg.ref, dict(op.attrs)
    if ref is None:
        return None
    axes = tuple(axis.size for axis in op.types[0].axes)
    match op.op:
        case "rename" | "stop" | "straight_through":
            own = ref.own
        case "slice":
            return ref.moved(attrs["start"] * ref.own[attrs["at"]])
        case "transpose":
            own = tuple(ref.own[k] for k in attrs["order"])
        case "broadcast":
            own = tuple(ref.own[attrs["at"].index(k)] if k in attrs["at"] else 0 for k in range(len(axes)))
        case "reshape":
            strides = _reshaped(arg.axes, ref.own, axes)
            if strides is None:
                return None
            own = strides
        case _:
            return None
    return Ref(ref.region, ref.base, ref.offset, ref.lead, own)


def _reshaped(source: tuple[int, ...], strides: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides under other extents, where entries that follow each other lie one step apart."""
    wide = [(size, stride) for size, stride in zip(source, strides, strict=True) if size != 1]
    for (_, outer), (size, inner) in itertools.pairwise(wide):
        if outer != size * inner:
            kept = [size for size in target if size != 1]
            if [size for size, _ in wide] != kept:
                return None
            rest = iter(wide)
            return tuple(0 if size == 1 else next(rest)[1] for size in target)
    step, found = wide[-1][1] if wide else 0, [0] * len(target)
    for k in reversed(range(len(target))):
        found[k] = step
        step *= target[k]
    return tuple(found)


def attrs_of(op: Op) -> dict[str, Any]:
    return dict(op.attrs)
