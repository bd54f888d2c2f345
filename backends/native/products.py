"""Contractions with a sum: the axes of both operands and the result are sorted into those of a matrix product."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from recdsl.backends.native.kernel import Kernel, nest
from recdsl.backends.native.team import FIRST, LAST, PRODUCT, Kind, marked
from recdsl.backends.native.values import Ix, Ref, Stride, Value, of_sample
from recdsl.program.ir import Op

if TYPE_CHECKING:
    from recdsl.backends.native.nests import Nests


@dataclass(frozen=True)
class Dim:
    """An axis with its strides in x, y and the result; None where it does not occur."""

    extent: str
    strides: tuple[Stride | None, Stride | None, Stride | None]

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        x, y, out = self.strides
        return x is not None, y is not None, out is not None


BATCH, M, N, K = (True, True, True), (True, False, True), (False, True, True), (True, True, False)


def contract(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref, adds: bool) -> None:
    """`dest (+)= contract(args)`, summed over `op.joint` too."""
    refs = [w.settle(arg) for arg in args]
    w.flush()
    dims = _dims(op, args, value, [*refs, dest])
    if any(dim.kind not in (BATCH, M, N, K) for dim in dims):
        _plainly(w, op, args, value, dest, adds)
        return
    rows, columns, sums = ([d for d in dims if d.kind == kind] for kind in (M, N, K))
    loops = [d for d in dims if d.kind == BATCH]
    rows, more = _merged(rows, (0, 2))
    columns, other = _merged(columns, (1, 2))
    sums, beyond = _merged(sums, (0, 1))
    loops = [*loops, *more, *other]
    if sums is not None and rows is None and loops and all(_above(sums.strides[1], d.strides[1]) for d in loops):
        beyond, sums = [sums, *beyond], None  # walk through y as it lies
    if beyond:  # a sum over what one stride does not reach
        if not adds:
            from recdsl.backends.native.reductions import zeros

            zeros(w, value, dest)
        adds, loops = True, [*beyond, *loops]
    texts = [f"{ref.base}" if ref.offset == "0" else f"{ref.base} + {ref.offset}" for ref in (*refs, dest)]
    names = [w.names("d") for _ in loops]
    for k in range(3):
        steps = [f"{n} * {_text(d.strides[k])}" for n, d in zip(names, loops, strict=True) if d.strides[k] is not None]
        texts[k] = " + ".join([texts[k], *steps])
    samples = next((d for d in dims if d.extent == "B" and d.kind != K), None)
    own = samples is not None and _outermost(samples, loops, [d for d in (rows, columns) if d is not None])
    if own and samples is not None and samples not in loops:
        texts = [x if s is None else f"{x} + {FIRST} * {s.text}" for x, s in zip(texts, samples.strides, strict=True)]
    m, n, k = (found or Dim("1", (Stride(0), Stride(0), Stride(0))) for found in (rows, columns, sums))
    operands = _packed(w, args, refs, texts, (m, n, k), bool(loops))
    w.effort += 2 * prod(int(d.extent) for d in dims if d.extent.isdigit()) * any(d.extent == "B" for d in dims)
    looped = len(w.blocks) - w.around > 1
    wide = any(" * B" in d.extent for d in (m, n, k))  # of several steps
    kind: Kind = "own" if own else "alone" if looped and not wide else "parts"
    function = PRODUCT if kind == "parts" else "product(" if looped else "product_once("
    call = (
        f"{function}{_part(m.extent, own)}, {_part(n.extent, own)}, {k.extent}, {operands[0]}, {operands[1]}, "
        f"{texts[2]}, {_text(m.strides[2])}, {_text(n.strides[2])}, {int(adds)});"
    )
    w.lines(marked(kind, nest([(name, d.extent) for name, d in zip(names, loops, strict=True)], [call])))


def _outermost(samples: Dim, loops: Sequence[Dim], merged: Sequence[Dim]) -> bool:
    """Whether a loop goes over samples, or the rows or columns of a product begin with them."""
    return samples in loops or any(d.extent == "B" or d.extent.startswith("B * ") for d in merged)


def _part(extent: str, own: bool) -> str:
    """The extent for the samples of a thread."""
    return re.sub(r"\bB\b", f"({LAST} - {FIRST})", extent) if own else extent


def _above(one: Stride | None, other: Stride | None) -> bool:
    """Whether a step of one axis is longer than a step of the other, for any size of the batch."""
    return one is not None and other is not None and one.count > other.count and (one.batch or not other.batch)


def _text(stride: Stride | None) -> str:
    return "0" if stride is None else stride.text


def _dims(op: Op, args: Sequence[Value], value: Value, refs: Sequence[Ref]) -> list[Dim]:
    """Leading axes by name, then own axes by label."""
    attrs = dict(op.attrs)
    extents = {name: text for v in (*args, value) for name, text in v.lead.items()}
    dims: list[Dim] = []
    for name, text in extents.items():
        found = [ref.lead.get(name) if name in v.lead else None for ref, v in zip(refs, (*args, value), strict=True)]
        dims.append(Dim(text, (found[0], found[1], found[2])))
    sides = [tuple(attrs[side]) for side in ("x", "y", "out")]
    sizes = {
        label: size
        for v, side in zip((*args, value), sides, strict=True)
        for label, size in zip(side, v.axes, strict=True)
    }
    for label, size in sizes.items():
        own = [Stride(r.own[s.index(label)]) if label in s else None for r, s in zip(refs, sides, strict=True)]
        dims.append(Dim(str(size), (own[0], own[1], own[2])))
    return dims


def _merged(dims: Sequence[Dim], sides: tuple[int, int]) -> tuple[Dim | None, list[Dim]]:
    """Axes of one kind as one, as far as their entries follow each other in both places; then those left over."""
    dims = [d for d in dims if d.extent != "1"]
    if not dims:
        return None, []
    inner, *rest = reversed(dims)
    left: list[Dim] = []
    for dim in rest:
        if not left and all(_follows(dim.strides[s], inner.strides[s], inner.extent) for s in sides):
            inner = Dim(f"{_factor(dim.extent)} * {_factor(inner.extent)}", inner.strides)
        else:
            left.append(dim)
    return inner, left


def _factor(text: str) -> str:
    return text if text.isidentifier() or text.isdigit() or "+" not in text else f"({text})"


def _follows(outer: Stride | None, inner: Stride | None, extent: str) -> bool:
    """Whether a step of the outer axis is a walk over the whole inner one."""
    if outer is None or inner is None:
        return False
    if extent == "B":
        return outer == Stride(inner.count, True) and not inner.batch
    return extent.isdigit() and outer == Stride(inner.count * int(extent), inner.batch)


def _packed(
    w: Nests,
    args: Sequence[Value],
    refs: Sequence[Ref],
    texts: Sequence[str],
    dims: tuple[Dim, Dim, Dim],
    looped: bool,
) -> tuple[str, str]:
    """Both operands with their strides. A matrix from outside of the loop is turned once, before it, so that one
    row times the matrix reads rows."""
    m, n, k = dims
    plain = (
        f"{texts[0]}, {_text(m.strides[0])}, {_text(k.strides[0])}",
        f"{texts[1]}, {_text(k.strides[1])}, {_text(n.strides[1])}",
    )
    found = list(plain)
    for side, along in ((0, m), (1, n)):
        value, ref = args[side], refs[side]
        outer = value.depth < len(w.blocks) - 1 - w.around and not value.lead and not looped
        wide = along.extent.isdigit() and k.extent.isdigit() and int(along.extent) > 1 and int(k.extent) > 1
        if outer and wide and k.strides[side] == Stride(1) and along.strides[side] != Stride(1):
            base = _pack(w, value, ref, texts[side], (k, along), side)
            found[side] = f"{base}, {along.extent}, 1" if side else f"{base}, 1, {along.extent}"
    return found[0], found[1]


def _pack(w: Nests, value: Value, ref: Ref, text: str, dims: tuple[Dim, Dim], side: int) -> str:
    k, along = dims
    key = (id(value), value.depth, k.extent, along.extent, text)
    if key not in w.packed:
        base = w.names("m")
        w.memory.room(base, value.dtype, [], int(k.extent) * int(along.extent))
        strides = f"{_text(k.strides[side])}, {_text(along.strides[side])}"
        w.blocks[value.depth] += marked("alone", [f"pack({k.extent}, {along.extent}, {text}, {strides}, {base});"])
        w.packed[key] = Ref((base, None), base, "0", {}, ())
    return w.packed[key].base


def _plainly(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref, adds: bool) -> None:
    """Loops over everything, for sums over an axis of one operand alone and results that repeat."""
    attrs = dict(op.attrs)
    extents = {name: text for v in (*args, value) for name, text in v.lead.items()}
    where = {name: f"l{k}" for k, name in enumerate(extents)}
    kernel = Kernel(w.names, sample=where.get("B", ""))
    sides = [tuple(attrs[side]) for side in ("x", "y", "out")]
    sizes = {
        label: n for v, side in zip((*args, value), sides, strict=True) for label, n in zip(side, v.axes, strict=True)
    }
    axes = {label: Ix(f"i{label}", f"i{label}", 0, size) for label, size in sizes.items()}
    entries = [arg.entry(kernel, where, tuple(axes[k] for k in side)) for arg, side in zip(args, sides, strict=False)]
    target = f"{dest.base}[{dest.address(where, tuple(axes[k] for k in sides[2]))}]"
    kept = [(where[name], text) for name, text in value.lead.items()] + [(f"i{k}", str(sizes[k])) for k in sides[2]]
    lost = [(where[name], text) for name, text in extents.items() if name not in value.lead]
    lost += [(f"i{k}", str(size)) for k, size in sizes.items() if k not in sides[2]]
    inner = nest(lost, [*kernel.lines, f"total += {' * '.join(entries)};"])
    own = "B" in value.lead and of_sample(dest) and not kernel.mixed
    w.marked(own, nest(kept, ["real total = 0;", *inner, f"{target} {'+=' if adds else '='} total;"]))
