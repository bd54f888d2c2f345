"""The program: explicit loops over time with explicit forward, adjoint and trace operations.

Values are single assignment inside a body. Their type is a `VType`: leading axes (batch, time, and whatever a
pass or a rule adds: lane, slot, rank) in front of the op's own named axes. Storage is explicit and the only
way out of a body.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recdsl.graph.types import Axis
from recdsl.source import Span


@dataclass(frozen=True)
class Affine:
    """`const + sum(coefficient * symbol)`; symbols are loop variables, "B", "T" and entry scalars."""

    const: int = 0
    terms: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Bound:
    """`kind` is "max" or "min" of the parts (one part: that part)."""

    kind: str
    parts: tuple[Affine, ...]


@dataclass(frozen=True)
class Range:
    """A slice of a storage's leading axis, which the loaded value keeps."""

    lo: Bound
    hi: Bound


@dataclass(frozen=True)
class VType:
    """`lead` are (axis name, extent) pairs in front of the op's own `axes`."""

    dtype: str
    lead: tuple[tuple[str, Affine], ...]
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Storage:
    """Where a value outlives its body.

    kind: "input" | "output" | "parameter" | "constant" | "carry" | "buffer" | "ring" | "accumulate" | "store" | "noise"
    lifetime: "loop" | "call" | "stream" | "model"
    A buffer's first lead axis is indexed; a ring's index is taken modulo its extent; a store is accessed by effects only.
    """

    name: str
    kind: str
    type: VType
    lifetime: str
    attrs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Op:
    """`results = op(args)`, `op` a primitive of `recdsl.ops`; args are value names."""

    results: tuple[str, ...]
    op: str
    args: tuple[str, ...]
    attrs: tuple[tuple[str, Any], ...]
    types: tuple[VType, ...]
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Load:
    result: str
    storage: str
    index: tuple[Affine | Range, ...]
    type: VType
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Store:
    storage: str
    index: tuple[Affine | Range, ...]
    value: str
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Add:
    """`storage[index] += value`. `tag` says (parameter, use, class, loss) for a gradient."""

    storage: str
    index: tuple[Affine | Range, ...]
    value: str
    tag: tuple[str, ...] = ()
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class For:
    """`for var in lo..hi by step` (hi exclusive; step -1 runs hi-1 down to lo)."""

    var: str
    lo: Bound
    hi: Bound
    step: int
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class If:
    """`predicate` is a uniform condition over affine expressions: ("lt" | "eq" | "divides", left, right)."""

    predicate: tuple[str, Affine, Affine]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Call:
    """`results = function(args)` over extra leading axes; `mode` is "value", "vjp" or "jvp"."""

    results: tuple[str, ...]
    function: str
    mode: str
    args: tuple[str, ...]
    over: tuple[str, ...]
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """`results = kind(args)` on one resource, in order: read, append, overwrite, evict, touch, search, update, guard, emit."""

    kind: str
    resource: str
    args: tuple[str, ...]
    results: tuple[str, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    types: tuple[VType, ...] = ()
    span: Span | None = None
    reason: str = ""


Stmt = Op | Load | Store | Add | For | If | Call | Effect


@dataclass(frozen=True)
class Function:
    """A closed, effect-free piece: parameters in, results out."""

    name: str
    args: tuple[tuple[str, VType], ...]
    body: tuple[Op, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """Storages, functions, and the bodies of its entries (forward, backward, step, ...)."""

    name: str
    storages: tuple[Storage, ...]
    functions: tuple[Function, ...]
    entries: tuple[tuple[str, tuple[Stmt, ...]], ...]
