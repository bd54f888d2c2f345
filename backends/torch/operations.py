"""How each primitive is written in PyTorch: an expression for all steps at once, or a call that writes into `out`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recdsl.graph.types import Axis
from recdsl.program.ir import Op


@dataclass(frozen=True)
class Operand:
    """A value in generated code. `lead`: number of leading axes; `number`: it is a uniform constant, written inline."""

    text: str
    lead: int
    axes: tuple[Axis, ...]
    number: bool = False
    plain: bool = False  # an index that comes straight from a checked input

    @property
    def rank(self) -> int:
        return self.lead + len(self.axes)


UNARY = {
    "neg": "neg", "exp": "exp", "log": "log", "sqrt": "sqrt", "tanh": "tanh", "sigmoid": "sigmoid", "abs": "abs",
    "sign": "sign", "floor": "floor", "sin": "sin", "cos": "cos", "erf": "erf",
    "expm1": "expm1", "log1p": "log1p",
}  # fmt: skip
BINARY = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "pow": "pow"}
COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
LOGIC = {"and": "&", "or": "|"}
TENSORS = (
    "erf", "stop", "straight_through", "spike", "contract", "pad", "slice", "sum", "transpose", "gather", "scatter",
    "reduce_max",
)  # fmt: skip
"""Ops that may meet a number and take none: all others of numbers have become numbers, or work on them."""
VIEWS = ("slice", "rename", "transpose", "broadcast", "stop")


def expression(op: Op, args: Sequence[Operand]) -> str:
    """Python text of the op's value."""
    attrs = dict(op.attrs)
    args = [full(arg) if op.op in TENSORS else arg for arg in args]
    if op.op in WRITERS:
        return WRITERS[op.op](op, args, attrs)
    texts = [arg.text for arg in args]
    if op.op in UNARY:
        return f"torch.{UNARY[op.op]}({texts[0]})"
    if op.op in BINARY:
        sign = {"add": "+", "sub": "-", "mul": "*", "div": "/"}[op.op]
        return f"{texts[0]} {sign} {texts[1]}"
    if op.op in COMPARE:
        return f"{texts[0]} {COMPARE[op.op]} {texts[1]}"
    if op.op in LOGIC:
        return f"{texts[0]} {LOGIC[op.op]} {texts[1]}"
    raise NotImplementedError(op.op)


def in_place(op: Op, args: Sequence[Operand], out: str) -> str | None:
    """A statement that writes the op's value into `out`; None where there is only the expression."""
    args = [full(arg) if op.op in TENSORS else arg for arg in args]
    texts = [arg.text for arg in args]
    if op.op in UNARY:
        return f"torch.{UNARY[op.op]}({texts[0]}, out={out})"
    if op.op in BINARY:
        first = f"like.new_tensor({texts[0]})" if args[0].number else texts[0]
        return f"torch.{BINARY[op.op]}({first}, {texts[1]}, out={out})"
    if op.op == "relu":
        return f"torch.clamp_min({texts[0]}, 0, out={out})"
    if op.op == "power":
        return f"torch.pow({texts[0]}, {dict(op.attrs)['exponent']!r}, out={out})"
    if op.op == "sum" and args[0].rank > len(dict(op.attrs)["over"]):
        return f"torch.sum({texts[0]}, {_dims(args[0], dict(op.attrs)['over'])}, out={out})"
    if op.op == "softmax":
        return f"torch.softmax({texts[0]}, {args[0].lead + dict(op.attrs)['at']}, out={out})"
    if op.op == "logsumexp":
        return f"torch.logsumexp({texts[0]}, {args[0].lead + dict(op.attrs)['at']}, out={out})"
    if op.op == "concat":
        return f"{_concat(op, args, dict(op.attrs))[:-1]}, out={out})"
    if op.op == "contract":
        return contract_out(op, args, out)
    return None


def _sizes(arg: Operand, axes: Sequence[Axis]) -> list[str]:
    """Extents of a value with other own axes."""
    return [*(f"{arg.text}.shape[{k}]" for k in range(arg.lead)), *(str(axis.size) for axis in axes)]


def _dims(arg: Operand, over: Sequence[int]) -> str:
    dims = [arg.lead + k for k in over]
    return str(dims[0]) if len(dims) == 1 else str(tuple(dims))


def _where(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    if args[1].number and args[2].number:
        return f"torch.where({args[0].text}, like.new_tensor({args[1].text}), like.new_tensor({args[2].text}))"
    return f"torch.where({', '.join(arg.text for arg in args)})"


def _slice(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    place, start, size = args[0].lead + attrs["at"], attrs["start"], attrs["axis"].size
    if place == args[0].rank - 1:
        return f"{args[0].text}[..., {start}:{start + size}]"
    return f"{args[0].text}.narrow({place}, {start}, {size})"


def _broadcast(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    arg, axes, at = args[0], attrs["axes"], attrs["at"]
    text = arg.text
    for k in range(len(axes)):
        if k not in at:
            text += f".unsqueeze({arg.lead + k})"
    sizes = ["-1"] * arg.lead + [str(axis.size) for axis in axes]
    return f"{text}.expand({', '.join(sizes)})"


def _search(args: Sequence[Operand], size: int, every: int) -> str:
    stride = f", first_{every}, {every}" if every > 1 else ""
    return f"places({', '.join(arg.text for arg in args)}, {size}{stride})"


def _lookup(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    """By a function of the runtime (`searches.py`)."""
    keys, count, *others = (full(arg).text for arg in args)
    age = others.pop(0) if attrs["aged"] else "None"
    size, read = attrs["axis"].size, f"{attrs['read']!r}, arena.lookups"
    return f"lookup({attrs['score']!r}, {keys}, {count}, {age}, ({', '.join(others)},), {size}, {read})"


def _scatter_rows(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    """By a function of the runtime, which gives a sparse sum over all steps and samples (of rows that are the same for
    all of them, the rows alone)."""
    rows, place = full(args[0]).text, args[1].text
    if op.joint or not any(arg.lead for arg in args):
        return f"scatter_rows({rows}, {place}, {attrs['axis'].size})"
    raise NotImplementedError("the gradient of a store's rows for each sample")


def _concat(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    most = max(args, key=lambda arg: arg.lead)
    texts: list[str] = []
    for arg in args:
        if arg.number:
            sizes = ", ".join(str(axis.size) for axis in arg.axes)
            texts.append(f"like.new_full(({sizes},), {arg.text})")
        else:
            texts.append(arg.text)
        if arg.lead < most.lead:
            sizes = [f"{most.text}.shape[{k}]" for k in range(most.lead)] + [str(axis.size) for axis in arg.axes]
            texts[-1] += f".expand({', '.join(sizes)})"
    return f"torch.cat(({', '.join(texts)},), {most.lead + attrs['at']})"


def _transpose(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    lead = args[0].lead
    order = [*range(lead), *(lead + k for k in attrs["order"])]
    if lead == 0 and order == [1, 0]:
        return f"{args[0].text}.t()"
    return f"{args[0].text}.permute({', '.join(map(str, order))})"


def _pad(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    arg, at = args[0], attrs["at"]
    after = attrs["axis"].size - attrs["start"] - arg.axes[at].size
    behind = [0, 0] * (len(arg.axes) - 1 - at)
    return f"torch.nn.functional.pad({arg.text}, {[*behind, attrs['start'], after]})"


def _sum(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    return f"{args[0].text}.sum({_dims(args[0], attrs['over'])})"


def _collect(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    if op.types[0].lead:
        return f"{args[0].text}.sum(0)"  # over steps alone
    return f"{args[0].text}.sum({tuple(range(args[0].lead))})" if args[0].lead else args[0].text


def _gather(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    x, index, at = *args, attrs["at"]
    if x.lead == 0:
        rows = x.text if at == 0 else f"{x.text}.movedim({at}, 0).contiguous()"
        found = f"{rows}[{index.text}]" if index.plain else f"{rows}[{index.text}.clamp_min(0)]"
    else:
        wide = index.text + ".clamp_min(0)" + f"[..., {', '.join(['None'] * len(x.axes))}]"
        found = f"torch.take_along_dim({x.text}, {wide}, {x.lead + at}).squeeze({x.lead + at})"
    if index.plain:
        return found
    nones = ", ".join(["..."] + ["None"] * (len(x.axes) - 1))
    return f"torch.where(({index.text} >= 0)[{nones}], {found}, 0.0)"


def _scatter(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    x, index, at, axis = *args, attrs["at"], attrs["axis"]
    if op.joint:
        rest = [a.size for a in x.axes]
        flat = f"{x.text}.reshape({', '.join(['-1', *map(str, rest)])})"
        rows = f"{index.text}.reshape(-1)"
        if not index.plain:
            nones = ", ".join([":"] + ["None"] * len(rest))
            flat, rows = f"torch.where(({rows} >= 0)[{nones}], {flat}, 0.0)", f"{rows}.clamp_min(0)"
        text = f"like.new_zeros({(axis.size, *rest)}).index_add_(0, {rows}, {flat})"
        return text if at == 0 else f"{text}.movedim(0, {at})"
    hit = f"({index.text}[..., None] == torch.arange({axis.size}, device={index.text}.device))"
    nones = ["..."] + ["None"] * at + [":"] + ["None"] * (len(x.axes) - at)
    return f"torch.where({hit}[{', '.join(nones)}], {x.text}.unsqueeze({x.lead + at}), 0.0)"


def _one_hot(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    index = args[0].text
    return f"({index}[..., None] == torch.arange({attrs['axis'].size}, device={index}.device)).to(like.dtype)"


def _rank(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    """By a function of the runtime (`ranks.py`)."""
    x, age = args
    return f"ranks({_tensor(x)}, {_tensor(age)}, {max(x.lead, age.lead) + attrs['at']})"


def _surrogate(op: Op, args: Sequence[Operand], attrs: dict[str, Any]) -> str:
    return f"({args[0].text} > 0).to(like.dtype)"


WRITERS: dict[str, Callable[[Op, Sequence[Operand], dict[str, Any]], str]] = {
    "relu": lambda op, a, _: f"torch.clamp_min({a[0].text}, 0)",
    "softplus": lambda op, a, _: f"torch.logaddexp({a[0].text}, torch.zeros_like({a[0].text}))",
    "stop": lambda op, a, _: a[0].text,
    "rename": lambda op, a, _: a[0].text,
    "reshape": lambda op, a, attrs: f"{a[0].text}.reshape(({''.join(n + ', ' for n in _sizes(a[0], attrs['axes']))}))",
    "straight_through": lambda op, a, _: a[0].text,
    "maximum": lambda op, a, _: f"torch.maximum({_tensor(a[0])}, {_tensor(a[1])})",
    "minimum": lambda op, a, _: f"torch.minimum({_tensor(a[0])}, {_tensor(a[1])})",
    "mod": lambda op, a, _: f"torch.remainder({a[0].text}, {a[1].text})",
    "not": lambda op, a, _: f"~{a[0].text}",
    "to_float": lambda op, a, _: f"{a[0].text}.to(like.dtype)",
    "pow": lambda op, a, _: f"torch.pow({_tensor(a[0])}, {a[1].text})",
    "power": lambda op, a, attrs: f"{a[0].text} ** {attrs['exponent']!r}",
    "softmax": lambda op, a, attrs: f"torch.softmax({a[0].text}, {a[0].lead + attrs['at']})",
    "logsumexp": lambda op, a, attrs: f"torch.logsumexp({a[0].text}, {a[0].lead + attrs['at']})",
    "reduce_max": lambda op, a, attrs: f"torch.amax({a[0].text}, {a[0].lead + attrs['at']})",
    "eye": lambda op, a, attrs: f"torch.eye({attrs['axes'][0].size}, dtype=like.dtype, device=like.device)",
    "search": lambda op, a, attrs: _search(a, attrs["axis"].size, attrs["every"]),
    "spike": _surrogate, "one_hot": _one_hot, "rank": _rank, "where": _where, "slice": _slice, "broadcast": _broadcast,
    "concat": _concat, "transpose": _transpose, "pad": _pad, "sum": _sum, "collect": _collect, "gather": _gather,
    "lookup": _lookup, "gather_rows": lambda op, a, attrs: f"gather_rows({a[0].text}, {a[1].text}, arena.lookups)",
    "scatter_rows": _scatter_rows, "scatter": _scatter, "contract": lambda op, a, attrs: contract(op, a),
}  # fmt: skip


def _tensor(arg: Operand) -> str:
    return f"like.new_tensor({arg.text})" if arg.number else arg.text


def full(arg: Operand) -> Operand:
    """A number as a tensor of its axes."""
    if not arg.number:
        return arg
    sizes = "".join(f"{axis.size}, " for axis in arg.axes)
    return replace(arg, text=f"like.new_full(({sizes}), {arg.text})", number=False)


# -- contractions -----------------------------------------------------------------------------------------------------
def contract(op: Op, args: Sequence[Operand]) -> str:
    """The fastest form there is for the labels at hand; torch.einsum where there is none."""
    attrs = dict(op.attrs)
    x, y, out = tuple(attrs["x"]), tuple(attrs["y"]), tuple(attrs["out"])
    if op.joint:
        return _each(args, x, y, out) if op.types[0].lead else _joint(args, x, y, out)
    matrix = matrix_vector(args, x, y, out)
    if matrix is not None:
        value, weight, transposed = matrix
        return f"{value.text} @ {weight.text}{'.t()' if transposed else ''}"
    if args[0].lead == args[1].lead == 0 and len(x) == len(y) == 2 and x[1] == y[0] and out == (x[0], y[1]):
        return f"{args[0].text} @ {args[1].text}"
    if set(x) | set(y) == set(out):
        return f"{spread(args[0], x, out)} * {spread(args[1], y, out)}"
    for value, labels, vector, others in ((args[1], y, args[0], x), (args[0], x, args[1], y)):
        if value.lead and not vector.lead and len(others) == 1 and labels[-1:] == others and out == labels[:-1]:
            return f"{value.text} @ {vector.text}"
    rows = _matrix_rows(args, x, y, out)
    if rows is not None:
        value, weight, transposed = rows
        return f"{value.text} @ {weight.text}{'.t()' if transposed else ''}"
    return _einsum(args, x, y, out, "")


def contract_out(op: Op, args: Sequence[Operand], out: str) -> str | None:
    """A matrix product written into `out`."""
    attrs = dict(op.attrs)
    matrix = matrix_vector(args, tuple(attrs["x"]), tuple(attrs["y"]), tuple(attrs["out"]))
    if matrix is None or matrix[0].lead != 1:
        return None
    value, weight, transposed = matrix
    return f"torch.mm({value.text}, {weight.text}{'.t()' if transposed else ''}, out={out})"


def flat_product(op: Op, args: Sequence[Operand], out: str) -> str | None:
    """A statement that writes a product with one matrix, for all steps at once, into `out`; None for anything else."""
    attrs, args = dict(op.attrs), [full(arg) for arg in args]
    if op.op == "gather" and args[0].lead == 0 and args[1].plain and args[1].lead == 2 and len(args[0].axes) == 2:
        rows = args[0].text if attrs["at"] == 0 else f"{args[0].text}.t().contiguous()"
        size = args[0].axes[1 - attrs["at"]].size
        return f"torch.index_select({rows}, 0, {args[1].text}.reshape(-1), out={out}.view(-1, {size}))"
    if op.op != "contract" or op.joint:
        return None
    matrix = matrix_vector(args, tuple(attrs["x"]), tuple(attrs["y"]), tuple(attrs["out"]))
    if matrix is None or matrix[0].lead != 2:
        return None
    value, weight, transposed = matrix
    into, size = value.axes[0].size, weight.axes[0 if transposed else 1].size
    right = f"{weight.text}.t()" if transposed else weight.text
    return f"torch.mm({value.text}.reshape(-1, {into}), {right}, out={out}.view(-1, {size}))"


def matrix_vector(
    args: Sequence[Operand], x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...]
) -> tuple[Operand, Operand, bool] | None:
    """(vectors with leading axes, matrix without, whether it stands transposed) for `W v`; None otherwise."""
    for value, labels, weight, others in ((args[1], y, args[0], x), (args[0], x, args[1], y)):
        if value.lead and not weight.lead and len(labels) == 1 and len(others) == 2 and len(out) == 1:
            if others == (out[0], labels[0]):
                return value, weight, True
            if others == (labels[0], out[0]):
                return value, weight, False
    return None


def _matrix_rows(
    args: Sequence[Operand], x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...]
) -> tuple[Operand, Operand, bool] | None:
    """The same for values of several axes, whose last one is contracted and gives way to that of the result."""
    for value, labels, weight, others in ((args[1], y, args[0], x), (args[0], x, args[1], y)):
        if not value.lead or weight.lead or len(others) != 2 or len(labels) < 2 or labels[-1] not in others:
            continue
        new = others[1 - others.index(labels[-1])]
        if out == (*labels[:-1], new) and new not in labels:
            return value, weight, others == (new, labels[-1])
    return None


def spread(arg: Operand, labels: tuple[int, ...], out: tuple[int, ...]) -> str:
    """The operand with its own axes at their places in the result, extent 1 elsewhere."""
    order = sorted(range(len(labels)), key=lambda k: out.index(labels[k]))
    text = arg.text
    if order != list(range(len(order))):
        text += f".permute({', '.join(map(str, [*range(arg.lead), *(arg.lead + k for k in order)]))})"
    index = [":" if label in labels else "None" for label in out]
    return text if "None" not in index else f"{text}[{', '.join(['...', *index])}]"


def _joint(args: Sequence[Operand], x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...]) -> str:
    """Sum over steps and samples: one matrix product for an outer product of vectors."""
    a, b = args
    if a.lead == b.lead == 2 and len(x) == len(y) == 1 and set(out) == {x[0], y[0]} and len(out) == 2:
        first, second = (a, b) if out[0] == x[0] else (b, a)
        rows, columns = first.axes[0].size, second.axes[0].size
        return f"{first.text}.reshape(-1, {rows}).t() @ {second.text}.reshape(-1, {columns})"
    flat = _flat_joint(args, x, y, out)
    return flat or _einsum(args, x, y, out, "joint")


def _each(args: Sequence[Operand], x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...]) -> str:
    """Sum over steps, for each sample: one matrix product a sample for an outer product of vectors."""
    a, b = args
    if a.lead == b.lead == 2 and len(x) == len(y) == 1 and set(out) == {x[0], y[0]} and len(out) == 2:
        first, second = (a, b) if out[0] == x[0] else (b, a)
        return f"torch.bmm({first.text}.permute(1, 2, 0), {second.text}.transpose(0, 1))"
    return _einsum(args, x, y, out, "each")


def _flat_joint(args: Sequence[Operand], x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...]) -> str:
    """The same where what both have in common stands in front: rows of all steps, samples and shared axes."""
    a, b = args
    common = [label for label in x if label in y]
    k = len(common)
    plain = a.lead == b.lead and a.lead and not a.number and not b.number
    if (
        not plain
        or list(x[:k]) != common
        or list(y[:k]) != common
        or set(common) & set(out)
        or len(x) - k > 1
        or len(y) - k > 1
    ):
        return ""
    first, second, own = (a, b, (x[k:], y[k:])) if out[: len(x) - k] == x[k:] else (b, a, (y[k:], x[k:]))
    if (*own[0], *own[1]) != out:
        return ""
    texts = [
        f"{arg.text}.reshape({', '.join(['-1', *(str(s.size) for s in arg.axes[k:])])})" for arg in (first, second)
    ]
    return f"{texts[0]}{'.t()' if own[0] else ''} @ {texts[1]}"


def _einsum(args: Sequence[Operand], x: tuple[int, ...], y: tuple[int, ...], out: tuple[int, ...], kind: str) -> str:
    letters = "abcdefghijklmnopqrs"
    most = max(arg.lead for arg in args)
    front = ["tz"[-most:][most - arg.lead :] if arg.lead else "" for arg in args]
    sides = [f + "".join(letters[k] for k in labels) for f, labels in zip(front, (x, y), strict=True)]
    lead = {"joint": "", "each": "z"}.get(kind, "tz"[-most:] if most else "")
    result = lead + "".join(letters[k] for k in out)
    return f"torch.einsum('{sides[0]},{sides[1]}->{result}', {args[0].text}, {args[1].text})"
