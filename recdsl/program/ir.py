"""The program: explicit loops over time with explicit forward, adjoint and trace operations.

Values are single assignment inside a body. Their type is a `VType`: leading axes (batch, time, and whatever a
pass or a rule adds: lane, slot, rank) in front of the op's own named axes. Storage is explicit and the only
way out of a body.

A program in its text form (`recdsl.program.text` prints it, `recdsl.program.parse` reads it back):

    program leaky

    storage x: input float[T, B; inp=3] call          # leading axes before the `;`, own axes behind it
    storage W: parameter float[hid=4, inp=3] model
    storage h: buffer float[t=T + 1, B; hid=4] call
    storage dh: carry float[B; hid=4] call
    storage gW: accumulate float[hid=4, inp=3] call

    function step(h: float[hid=4], x: float[inp=3], W: float[hid=4, inp=3]) -> new {
      a = contract(W, x) {x=(0, 1), y=(1,), out=(0,)} : float[hid=4]
      b = add(a, h) : float[hid=4]
      new = tanh(b) : float[hid=4]
    }

    entry forward {
      w = load W : float[hid=4, inp=3]
      for t in 0..T {
        h_in = load h[t] : float[B; hid=4]
        x_t = load x[t] : float[B; inp=3]
        h_out = call step(h_in, x_t, w) over (B)
        store h[t + 1] h_out
      }
    }
    entry backward after forward {
      ...
        d_h, _, d_w = vjp step(h_in, x_t, w, d_out) over (B)
        add gW d_w tag(W, step, main, loss) at(t)
    }

Conventions that every execution relies on:

- Leading axes align **by name**: an op, call or effect maps over the union of its operands' leading axes. A
  declared result may have more of them (the value is repeated) but none may be lost, except those named in
  `Op.joint`, over which the result is summed, and those that an `Add` sums because its storage lacks them.
- Two ops are not primitives: `view` turns leading axes into own ones and back (lane, slot, rank), and `constant`
  holds its `value` (a number for every entry, or nested numbers). The primitive `collect` sums all leading axes (or
  those in `Op.joint`, if it has any).
- An own axis never varies in extent; `T`, `B` and other symbols extend leading axes only. A value loaded from a
  range with several ends may name its extent by a symbol of its own (`t=W`), which stands for whatever it is.
- Loop variables of one name denote one coordinate (a step, a window) wherever they occur in an entry; the
  instance of a tagged `Add` is `at`, or all loop variables around it.
- An accumulate is zero when its lifetime starts and after a `Store` of zeros; a buffer and a carry hold nothing.
- An entry runs on its own, or (`after`) with the storages that other entries of the same call left behind.
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
class At:
    """Rows chosen by an integer value: its leading axes stay, -1 loads zeros and adds nothing, duplicates add."""

    value: str


Index = Affine | Range | At


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
    Leading axes are indexed from the left; those without an index stay. A ring's first index is taken modulo its
    extent. A store is accessed by effects only: its type is the type of a slot's validity, its first leading axis
    counts slots, and `fields` are the own types of what a slot holds.
    """

    name: str
    kind: str
    type: VType
    lifetime: str
    attrs: tuple[tuple[str, Any], ...] = ()
    fields: tuple[tuple[str, VType], ...] = ()


@dataclass(frozen=True)
class Op:
    """`results = op(args)`, `op` a primitive of `recdsl.ops`, "view" or "constant"; args are value names.

    `joint`: leading axes over which the result is summed (batch here makes the samples one joint system).
    """

    results: tuple[str, ...]
    op: str
    args: tuple[str, ...]
    attrs: tuple[tuple[str, Any], ...]
    types: tuple[VType, ...]
    span: Span | None = None
    reason: str = ""
    joint: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scalar:
    """`result = value`: a size, step number or entry scalar as a value."""

    result: str
    value: Affine
    type: VType
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Load:
    result: str
    storage: str
    index: tuple[Index, ...]
    type: VType
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Store:
    storage: str
    index: tuple[Index, ...]
    value: str
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Add:
    """`storage[index] += value`. `tag` says (parameter, use, class, loss) for a gradient.

    `at` says which instance of that edge this is (its step, its window); no two executions may agree in both.
    """

    storage: str
    index: tuple[Index, ...]
    value: str
    tag: tuple[str, ...] = ()
    span: Span | None = None
    reason: str = ""
    at: tuple[Affine, ...] = ()


@dataclass(frozen=True)
class For:
    """`for var in lo..hi by step`: lo, lo + |step|, ... below hi; a negative step runs the same points backwards.

    `lo` is the "max" and `hi` the "min" of their parts.
    """

    var: str
    lo: Bound
    hi: Bound
    step: int
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class If:
    """`predicate` is a uniform condition over affine expressions: (kind, left, right).

    kind: "lt" | "le" | "eq" | "ge" | "ne" | "divides" (left divides right); "indivisible" negates the last.
    """

    predicate: tuple[str, Affine, Affine]
    body: tuple[Stmt, ...]


@dataclass(frozen=True)
class Call:
    """`results = function(args)` over extra leading axes; `mode` is "value", "vjp" or "jvp".

    "vjp": behind the function's arguments one cotangent a result, results are one cotangent an argument;
    "jvp": behind the arguments one tangent each, results are the tangents. "_" is a zero among the former and an
    unwanted result among the latter. Result types follow: the function's, behind `over`.
    """

    results: tuple[str, ...]
    function: str
    mode: str
    args: tuple[str, ...]
    over: tuple[str, ...]
    span: Span | None = None
    reason: str = ""


@dataclass(frozen=True)
class Effect:
    """`results = kind(args)` on one resource, in order.

    - read(): all slots, one result a field and then validity; read(index): the rows of an integer value.
    - append(fields): the slot written (-1: none) is the result; a full store overwrites its oldest row. A store
      without the batch axis takes all rows in their order.
    - overwrite(index, fields), evict(index), touch(index): for each row of `index`.
    - search(scores): indices of the best valid slots, best first, older first among equals; -1 where there are fewer.
    - update(value): a parameter or a model-life carry is replaced.
    - guard(value): leaves the entry here if the value is not finite; resource names what is guarded.
    - emit(value): a metric, under the resource's name.
    """

    kind: str
    resource: str
    args: tuple[str, ...]
    results: tuple[str, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    types: tuple[VType, ...] = ()
    span: Span | None = None
    reason: str = ""


Stmt = Op | Scalar | Load | Store | Add | For | If | Call | Effect
Entry = tuple[str, tuple[Stmt, ...]]


@dataclass(frozen=True)
class Function:
    """A closed, effect-free piece: parameters in, results out."""

    name: str
    args: tuple[tuple[str, VType], ...]
    body: tuple[Op, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """One line of an edge table: what becomes of a use. `policy`: keep | cut | scale | replace | divert.

    Where a program lists edges, an `Add` may only carry the tag of one that is not cut, and each must be used.
    """

    tag: tuple[str, ...]
    policy: str


@dataclass(frozen=True)
class Program:
    """Storages, functions, and the bodies of its entries (forward, backward, step, ...).

    `scalars` are the integers an entry is called with beside sizes (a step counter, a flag, a number of windows) and
    `facts` what holds of them: each is >= 0. `follows` says which entry runs on the storages of which.
    """

    name: str
    storages: tuple[Storage, ...]
    functions: tuple[Function, ...]
    entries: tuple[tuple[str, tuple[Stmt, ...]], ...]
    scalars: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()
    follows: tuple[tuple[str, str], ...] = ()
    facts: tuple[Affine, ...] = ()
