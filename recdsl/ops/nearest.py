"""Where on a tape the best slots are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops import search
from recdsl.ops.base import Attrs, Discrete, ShapeError

Body = tuple[tuple[str, tuple[int, ...], Attrs], ...]


class Nearest(Discrete):
    """`nearest(keys, stamps, since, *others; axis, body, every)`: the places of the slots with the highest scores, best
    first.

    The score of a slot is the last value of `body`: ops (name, arguments, attributes) on argument 0, the slot's key,
    arguments 1, 2, ... which are `others`, and the results before. Slots count whose stamp is at least `since` (and
    not negative). Of equal scores the older slot comes first; -1 stands where there are no more. `every` n: only steps
    n - 1, 2 n - 1, ... (counted over calls) leave such a slot, so that the others need not be looked at.
    """

    name = "nearest"
    arity = -1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        from recdsl.ops import primitive

        axis, body = dict(attrs)["axis"], dict(attrs)["body"]
        known = [types[0], *types[3:]]
        for name, args, inner in body:
            known.append(primitive(name).infer([known[arg] for arg in args], inner))
        if known[-1] != Type("float") or types[1] != Type("float") or types[2] != Type("float"):
            raise ShapeError(f"scores of type {known[-1]}")
        return Type("int", (axis,))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        """keys: [batch, slot, *axes]; stamps: [batch, slot]; since: [batch]; others without slots."""
        from recdsl.ops import primitive

        axis, body = dict(attrs)["axis"], dict(attrs)["body"]
        known, kinds = [xp.moveaxis(args[0], 1, 0)], [types[0], *types[3:]]
        known += [
            arg if len(arg.shape) == len(kind.axes) else arg[None]
            for arg, kind in zip(args[3:], kinds[1:], strict=True)
        ]
        for name, operands, inner in body:
            own = [kinds[operand] for operand in operands]
            known.append(primitive(name).value(xp, [known[operand] for operand in operands], inner, own))
            kinds.append(primitive(name).infer(own, inner))
        scores = xp.broadcast_to(known[-1], xp.moveaxis(args[1], 1, 0).shape)
        return search.best(xp, scores, xp.moveaxis(args[1], 1, 0), args[2], axis.size)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        """Of one slot."""
        from recdsl.ops import primitive

        known, total = [types[0], *types[3:]], 0
        for name, args, inner in dict(attrs)["body"]:
            own = [known[arg] for arg in args]
            known.append(primitive(name).infer(own, inner))
            total += primitive(name).flops(own, known[-1], inner)
        return total
