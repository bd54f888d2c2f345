"""What a reader of a plan should know of a model's memories: their size, how long credit reaches what they hold, and
what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from recdsl.credit.heads import width
from recdsl.credit.plan import Remark, StoreCredit
from recdsl.graph.step import Memory, StepGraph

FLOAT_BYTES = 4
COUNT_BYTES = 8

KINDS: Mapping[str, str] = {
    "stop": "what earlier calls have written gets no credit",
    "through": "the graphs of the calls that wrote its items are kept, with copies of their parameters",
    "param": "its rows are parameters of their own, which each backward pass moves by -lr times their gradient",
    "synthetic": "a net predicts the gradient of an item when it is written, from those of items that have left",
    "reinstate": "items that get a gradient are encoded again, and the encoder takes it",
    "corrected": "a net predicts the gradient of an item when it is written; when it leaves, it is encoded again, and"
    " the encoder takes what the prediction was wrong by",
}
"""What becomes of credit for the rows of a store that lasts as long as the model."""


def memory_remarks(graph: StepGraph, stores: tuple[StoreCredit, ...]) -> Iterable[Remark]:
    """A line for each memory, and one for the credit of each that lasts as long as the model."""
    credits = {store.memory: store for store in stores}
    for memory in graph.memories:
        line = None if memory.span is None else memory.span.line
        yield Remark(f"memory `{memory.name}`: {_size(graph, memory, credits.get(memory.name))}", line)
        yield from (Remark(note.text, note.span.line if note.span else None, note.warns) for note in memory.notes)
        for read, _, lists, probes, _ in memory.indexes:
            looks = f"{probes or 'some'} of {lists or 'its'} lists"
            yield Remark(f"`{read}` looks for rows in {looks} of an index, so some of the best may not be found", line)
        if memory.merge is not None:
            yield Remark(f"memory `{memory.name}`: {_merging(*memory.merge)}", line)
    for store in stores:
        line = None if store.span is None else store.span.line
        memory = next(memory for memory in graph.memories if memory.name == store.memory)
        parts = (KINDS[store.kind], *_later(store), *_horizon(memory, store))
        yield Remark(f"memory `{store.memory}`: {'; '.join(parts)}", line)


def _size(graph: StepGraph, memory: Memory, store: StoreCredit | None) -> str:
    size = memory.entries * FLOAT_BYTES
    if store is not None:
        size = slot_bytes(graph, memory, store)
        whole = f"{memory.slots:,} slots of {size:,} bytes, {memory.slots * size:,} for all samples"
        return f"{whole}; it lasts as long as the model; a call reads what earlier calls have written"
    if not memory.slots:
        return f"as many slots as a sequence has steps, {size:,} bytes each; it lasts a {memory.life}"
    return f"{memory.slots:,} slots of {size:,} bytes, {memory.slots * size:,} a sample; it lasts a {memory.life}"


def _merging(kind: str, rate: float, within: float) -> str:
    becomes = "the larger of both" if kind == "max" else f"{rate:g} of the way to the new one"
    return f"where a key is no further than {within:g} from a stored one, the value there becomes {becomes}"


def slot_bytes(graph: StepGraph, memory: Memory, store: StoreCredit) -> int:
    """Bytes of a slot of a store that lasts as long as the model, in single precision: its item, the number of its
    write, what its eviction goes by, and what its credit keeps beside it."""
    sizes = {made.part: graph.nodes[made.item].type.numel for made in memory.rows}
    inputs = {item.name: item for item in graph.inputs}
    numbers = sum(sizes.values()) + (0 if memory.evict == "oldest" else 2)
    if store.kind in ("synthetic", "corrected"):
        numbers += sum(sizes[part] for part in store.parts)
        numbers += width(inputs[store.condition]) if store.condition else 0
    found = numbers * FLOAT_BYTES + COUNT_BYTES
    if store.replay is not None:
        found += sizes[store.replay.part] * FLOAT_BYTES if store.replay.every != 1 else 0
        for name in store.replay.observed if store.replay.decoder is None else ():
            item = inputs[name]
            each = {"float": FLOAT_BYTES, "bool": 1}.get(item.kind, COUNT_BYTES)
            found += each * (prod(item.type.shape) if item.kind in ("float", "bool") else 1)
    return found


def _later(store: StoreCredit) -> Iterable[str]:
    """When and how encoders are run again."""
    made = store.replay
    if made is None:
        return
    if made.every > 1:
        yield f"gradients wait, and are applied in every {made.every} passes back, or when an item leaves"
    if made.freshen:
        yield f"what is stored is made anew every {made.freshen} calls"
    if made.cosine and not store.exact and not made.tangent:
        yield (
            "cosine does not see what lies along an item, but its gradient has such a part where the decoder errs, and"
            f" makes items longer or shorter: `{store.memory}.radial` and `{store.memory}.length` measure that, "
            "`project=tangent` leaves it out"
        )


def _horizon(memory: Memory, store: StoreCredit) -> Iterable[str]:
    """How long credit reaches an item."""
    if store.kind == "stop":
        return
    more = {"oldest": "", "least_used": " of those that are used less", "lowest": " that are worth less"}[memory.evict]
    ends = f"until {memory.slots:,} more are written" if not more else f"until it makes room, as one{more}"
    yield f"an item gets credit {ends}, and none after that"
