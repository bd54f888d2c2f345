"""Searches of stores that grow with time: the best slots of each sample among earlier steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recdsl.backends.native.kernel import Kernel, nest
from recdsl.backends.native.values import NotLoweredError, Ref, Stride, Value, fixed, of_sample
from recdsl.program.ir import Op

if TYPE_CHECKING:
    from recdsl.backends.native.nests import Nests


def search(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref) -> None:
    """Scores and stamps by slot are in memory; the function `search` in front of all text looks through them."""
    if op.joint != ("t",):
        raise NotLoweredError("a search along another axis than time")
    scores, stamps, since = args
    places = [w.settle(scores), w.settle(stamps)]
    w.flush()
    where = {name: f"l{k}" for k, name in enumerate(value.lead)}
    kernel = Kernel(w.names, sample=where.get("B", ""))
    least = since.entry(kernel, where, ())
    size = value.axes[0]
    texts = [f"{ref.base} + {ref.address({**where, 't': '0'}, ())}, {_step(ref)}" for ref in places]
    target = dest.address(where, (fixed(0),))
    call = f"search({stamps.lead['t']}, {size}, {', '.join(texts)}, {least}, {dest.base} + {target}, {dest.own[0]});"
    own = "B" in value.lead and of_sample(dest) and not kernel.mixed
    w.marked(own, nest([(where[name], text) for name, text in value.lead.items()], [*kernel.lines, call]))


def _step(ref: Ref) -> str:
    """From a slot to the next; 0 where all have the same."""
    return ref.lead.get("t", Stride(0)).text
