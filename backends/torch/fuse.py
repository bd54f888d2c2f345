"""Pairs of statements that PyTorch does in one call: addmm, addcmul, lerp. Works on a loop body, where calls cost."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from recdsl.backends.torch.room import chosen_by
from recdsl.program.ir import Add, Load, Op, Stmt, Store


def fuse(
    body: Sequence[Stmt], ones: frozenset[str] = frozenset(), numbers: frozenset[str] = frozenset()
) -> tuple[Stmt, ...]:
    """The body with fused ops named "lerp", "addcmul", "subcmul" and "addmm" in place of pairs.

    A statement is absorbed only where nothing else reads its result, and moves down to its one reader; every operand
    is still there, as values are assigned once. `ones`: values from outside the loop that are the number 1;
    `numbers`: all that are numbers, which these calls do not take.
    """
    made = {op.results[0]: op for op in body if isinstance(op, Op) and not slotwise(op)}
    varying = {op.results[0] for op in body if isinstance(op, Op)} | {s.result for s in body if isinstance(s, Load)}
    uses: dict[str, int] = {}
    for statement in body:
        for name in _reads(statement):
            uses[name] = uses.get(name, 0) + 1
    gone: set[str] = set()
    out: dict[str, Op] = {}
    for statement in body:
        if isinstance(statement, Op) and statement.op in ("add", "sub") and statement.results[0] in made:
            before, counts = set(gone), dict(uses)
            fused = _lerp(statement, made, uses, gone, ones)
            fused = fused or _multiply_add(statement, made, varying, uses, gone, out)
            if fused is not None and numbers.intersection(fused.args):
                gone, uses, fused = before, counts, None
            if fused is not None:
                out[statement.results[0]] = fused
    kept: list[Stmt] = []
    for statement in body:
        if isinstance(statement, Op) and statement.results[0] in gone:
            continue
        kept.append(out.get(statement.results[0], statement) if isinstance(statement, Op) else statement)
    return tuple(kept)


def _reads(statement: Stmt) -> tuple[str, ...]:
    if isinstance(statement, Op):
        return statement.args
    if isinstance(statement, Store | Add):
        return (statement.value, *chosen_by(statement))
    return chosen_by(statement) if isinstance(statement, Load) else ()


def slotwise(op: Op) -> bool:
    """Whether an op of a loop over steps works on all slots of a tape, or changes nothing but the names of axes."""
    return len(op.types[0].lead) > 1 or op.op == "view"


def searched(body: Sequence[Stmt]) -> dict[str, int]:
    """Values of slots that only a search looks at, each with how many steps lie between two slots."""
    made = {op.results[0]: op for op in body if isinstance(op, Op)}
    found: dict[str, int] = {}
    for op in made.values():
        stack = [*op.args[:2]] if op.op == "search" else []
        while stack:
            name = stack.pop()
            found[name] = dict(op.attrs)["every"]
            stack += made[name].args if name in made and slotwise(made[name]) else ()
    return found


def _single(name: str, kind: str, made: dict[str, Op], uses: dict[str, int], gone: set[str]) -> Op | None:
    op = made.get(name)
    return op if op is not None and op.op == kind and uses.get(name) == 1 and name not in gone else None


def _lerp(op: Op, made: dict[str, Op], uses: dict[str, int], gone: set[str], ones: frozenset[str]) -> Op | None:
    """(1 - w) * a + w * b."""
    if op.op != "add":
        return None
    for left, right in (op.args, op.args[::-1]):
        first, second = _single(left, "mul", made, uses, gone), _single(right, "mul", made, uses, gone)
        if first is None or second is None:
            continue
        for k, name in enumerate(first.args):
            flip = made.get(name)
            if flip is None or flip.op != "sub" or flip.args[0] not in ones:
                continue
            weight = flip.args[1]
            if weight in second.args:
                end = second.args[1 - second.args.index(weight)]
                gone.update((left, right))
                uses[name] -= 1
                if uses[name] == 0:
                    gone.add(name)
                return replace(op, op="lerp", args=(first.args[1 - k], end, weight))
    return None


def _multiply_add(
    op: Op, made: dict[str, Op], varying: Set[str], uses: dict[str, int], gone: set[str], out: dict[str, Op]
) -> Op | None:
    """a + b * c, a - b * c, and a + W v."""
    first, second = op.args
    order = ((first, second), (second, first)) if op.op == "add" else ((first, second),)
    for base, product in order:
        inner = _single(product, "contract", made, uses, gone)
        if op.op == "add" and inner is not None and _is_matrix(inner, varying):
            gone.add(product)
            return replace(inner, op="addmm", results=op.results, args=(base, *inner.args), types=op.types)
    for base, product in order:
        inner = _single(product, "mul", made, uses, gone)
        if inner is not None and product not in out and not any(_constant(arg, made) for arg in (*inner.args, base)):
            gone.add(product)
            return replace(op, op="addcmul" if op.op == "add" else "subcmul", args=(base, *inner.args))
    return None


def _constant(name: str, made: dict[str, Op]) -> bool:
    op = made.get(name)
    return op is not None and op.op == "constant"


def _is_matrix(op: Op, varying: Set[str]) -> bool:
    """Whether the product is of a matrix from outside the loop and a vector of the loop."""
    attrs = dict(op.attrs)
    ranks = sorted((len(attrs["x"]), len(attrs["y"])))
    vector = op.args[0] if len(attrs["x"]) == 1 else op.args[1]
    matrix = op.args[1] if vector == op.args[0] else op.args[0]
    return ranks == [1, 2] and len(attrs["out"]) == 1 and matrix not in varying and vector in varying
