"""Statements of loop bodies that write where something lies already."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recdsl.backends.torch.operations import BINARY, UNARY, Operand
from recdsl.program.ir import Add, At, Op


def sent_back(add: Add, base: str, operand: Callable[[str], Operand]) -> str:
    """Rows added to a tape at their places."""
    part = add.index[0]
    assert isinstance(part, At)
    return f"add_rows({base}, {operand(part.value).text}, {operand(add.value).text})"


def changed(op: Op, args: Sequence[Operand], out: str) -> str | None:
    """The shorter calls that change one of their own arguments."""
    place = next((k for k, arg in enumerate(args) if arg.text == out), None)
    if place is None:
        return None
    others = [arg.text for k, arg in enumerate(args) if k != place]
    if op.op in UNARY:
        return f"{out}.{UNARY[op.op]}_()"
    if op.op in BINARY and (place == 0 or op.op in ("add", "mul")):
        return f"{out}.{BINARY[op.op]}_({others[0]})"
    if place == 0 and op.op in ("addcmul", "subcmul"):
        return f"{out}.addcmul_({', '.join(others)}{', value=-1' if op.op == 'subcmul' else ''})"
    if place == 0 and op.op == "lerp":
        return f"{out}.lerp_({', '.join(others)})"
    if place == 0 and op.op == "addmm":
        value, weight = product_of(op, args)
        return f"{out}.addmm_({value}, {weight})"
    return None


def product_of(op: Op, args: Sequence[Operand]) -> tuple[str, str]:
    """The factors of an "addmm": vectors, and the matrix as it has to stand."""
    attrs = dict(op.attrs)
    x, y, labels = tuple(attrs["x"]), tuple(attrs["y"]), tuple(attrs["out"])
    value, weight, other = (args[2], args[1], x) if len(y) == 1 else (args[1], args[2], y)
    return value.text, f"{weight.text}.t()" if other[0] == labels[0] else weight.text


def fused_in_place(op: Op, args: Sequence[Operand], out: str) -> str | None:
    """Calls for the fused ops of `fuse`."""
    if op.op == "lerp":
        return f"torch.lerp({args[0].text}, {args[1].text}, {args[2].text}, out={out})"
    if op.op == "addcmul":
        return f"torch.addcmul({', '.join(a.text for a in args)}, out={out})"
    if op.op == "subcmul":
        return f"torch.addcmul({', '.join(a.text for a in args)}, value=-1, out={out})"
    if op.op == "addmm":
        value, weight = product_of(op, args)
        return f"torch.addmm({args[0].text}, {value}, {weight}, out={out})"
    return None
