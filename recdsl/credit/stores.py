"""`credit: {past: reinstate(exact, encode=e, decode=rebuilt)}` and the like: credit through a store that lasts as long
as the model, as written -> what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from recdsl.credit.flow import flow_of
from recdsl.credit.heads import large, net, width
from recdsl.credit.plan import Replay, StoreCredit
from recdsl.diagnostics import suggest
from recdsl.errors.stores import CannotReinstate, NoCreditThrough, StoreCreditArgument
from recdsl.graph.part import PartError, part, shared
from recdsl.graph.scope import Stop
from recdsl.graph.step import Memory, StepGraph, Written
from recdsl.graph.step import Node as Value
from recdsl.source import Span
from recdsl.syntax.ast import CreditDecl, Node

USES: Mapping[str, str] = {
    "stop": "stop",
    "through": "through",
    "param": "param(lr=0.1)",
    "synthetic": "synthetic(hidden=64, condition=y, lr=1e-3, then=reinstate(approximate, encode=e, decode=rebuilt))",
    "reinstate": "reinstate(exact, encode=e, decode=rebuilt, chunk=256, every=1, freshen=0, project=none)",
}
"""How each is written."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "stop": (),
    "through": (),
    "param": ("lr",),
    "synthetic": ("hidden", "condition", "lr", "then"),
    "reinstate": ("exact", "encode", "decode", "chunk", "every", "freshen", "project"),
}
STORED = "stored"


@dataclass(frozen=True)
class Call:
    """One entry of `credit:`: its word, and its arguments by name."""

    decl: CreditDecl
    word: str
    given: Mapping[str, Node]
    span: Span

    def wrong(self, name: str, reason: str, hint: str = "") -> Stop:
        place = self.given[name].span if name in self.given else self.span
        return Stop(StoreCreditArgument(place, reason, hint or f"write `{USES[self.word]}`"))

    def number(self, name: str, default: float, low: float) -> float:
        if name not in self.given:
            return default
        value = self.given[name].value
        if isinstance(value, bool) or not isinstance(value, int | float) or value < low:
            raise self.wrong(name, f"`{name}` is a number from {low:g} on")
        return float(value)

    def whole(self, name: str, default: int, low: int) -> int:
        value = self.number(name, default, low)
        if value != int(value):
            raise self.wrong(name, f"`{name}` is a whole number")
        return int(value)

    def word_of(self, name: str) -> str:
        """A name or word; empty where there is none."""
        node = self.given.get(name)
        if node is not None and node.kind not in ("name", "text"):
            raise self.wrong(name, f"`{name}` is a name")
        return "" if node is None else str(node.value)


def store_credit(graph: StepGraph, memory: Memory, decl: CreditDecl) -> StoreCredit:
    """What an entry for a store says. Raises Stop."""
    call = _called(decl, decl.rule.root)
    made = KINDS[call.word](graph, memory, call)
    if memory.merge is not None and made.kind not in ("stop", "param") and "value" in made.parts:
        reason = f"values of `{memory.name}` are merged (`merge`), so no one item has made them"
        raise Stop(StoreCreditArgument(call.span, reason, "write `stop` or `param(lr=0.1)`, or leave `merge` out"))
    return made


def _called(decl: CreditDecl, root: Node) -> Call:
    nodes, word = decl.rule.nodes, str(root.value)
    if word not in WORDS:
        raise Stop(StoreCreditArgument(root.span, f"`{word}` is no credit of a store", f"there are {', '.join(WORDS)}"))
    known, given = WORDS[word], dict[str, Node]()
    for k, (name, index) in enumerate((*(("", i) for i in root.args), *root.keywords)):
        own = name or (known[k] if k < len(known) else "")
        if own not in known or own in given:
            twice = own in given
            reason = (
                f"`{word}` takes `{own}` once" if twice else f"`{word}` takes no `{name or nodes[index].span.text}`"
            )
            hint = suggest(own or nodes[index].span.text, known) or f"write `{USES[word]}`"
            raise Stop(StoreCreditArgument(nodes[index].span, reason, hint))
        given[own] = nodes[index]
    return Call(decl, word, given, root.span)


def _stop(graph: StepGraph, memory: Memory, call: Call) -> StoreCredit:
    return StoreCredit(memory.name, "stop", call.decl.rule.span)


def _through(graph: StepGraph, memory: Memory, call: Call) -> StoreCredit:
    return StoreCredit(memory.name, "through", call.decl.rule.span, parts=_credited(graph, memory, call))


def _param(graph: StepGraph, memory: Memory, call: Call) -> StoreCredit:
    parts = tuple(made.part for made in memory.rows)
    return StoreCredit(memory.name, "param", call.decl.rule.span, parts=parts, lr=call.number("lr", 0.1, 0.0))


def _synthetic(graph: StepGraph, memory: Memory, call: Call) -> StoreCredit:
    parts = _credited(graph, memory, call)
    condition = call.word_of("condition")
    known = {item.name: item for item in graph.inputs if item.kind != "bool"}
    if condition and condition not in known:
        hint = suggest(condition, known) or f"inputs and targets: {', '.join(known)}"
        raise call.wrong("condition", f"there is no input or target `{condition}` that its net could read", hint)
    items = [made for made in memory.rows if made.part in parts]
    size = sum(graph.nodes[made.item].type.numel for made in items)
    entries = size + (width(known[condition]) if condition else 0)
    hidden = call.whole("hidden", 0, 0)
    parameters = net(f"credit.{memory.name}", size, entries, hidden)
    if large(parameters):
        raise call.wrong("hidden", large(parameters), "make `hidden` smaller")
    rate = call.number("lr", 0.0, 0.0) if "lr" in call.given else None
    made = StoreCredit(
        memory.name, "synthetic", call.decl.rule.span, parts=parts, hidden=hidden, condition=condition,
        parameters=parameters, lr=rate,
    )  # fmt: skip
    return _corrected(graph, memory, made, call) if "then" in call.given else made


def _corrected(graph: StepGraph, memory: Memory, made: StoreCredit, call: Call) -> StoreCredit:
    """What the net says of an item is set right when the item leaves."""
    if call.given["then"].value != "reinstate":
        raise call.wrong("then", "what sets a prediction right later is `reinstate`")
    later = _called(call.decl, call.given["then"])
    if "every" in later.given:
        hint = "leave `every` out"
        raise later.wrong("every", "what the net said is set right when an item leaves, and not before", hint)
    found = _reinstate(graph, memory, later)
    assert found.replay is not None
    if found.replay.part not in made.parts:
        raise Stop(NoCreditThrough(later.span, memory.name, "reinstate"))
    return replace(made, kind="corrected", exact=found.exact, replay=replace(found.replay, every=0))


def _credited(graph: StepGraph, memory: Memory, call: Call) -> tuple[str, ...]:
    """The parts of its items that parameters have made. Raises Stop where there is none."""
    flow = flow_of(graph)
    reached = flow.forward([graph.leaf[f"parameter:{p.name}"] for p in graph.parameters if not p.frozen])
    found = tuple(made.part for made in memory.rows if made.item in reached)
    if not found:
        raise Stop(NoCreditThrough(call.span, memory.name, call.word))
    return found


def _reinstate(graph: StepGraph, memory: Memory, call: Call) -> StoreCredit:
    exact = call.word_of("exact")
    if exact not in ("exact", "approximate"):
        raise call.wrong("exact", "`reinstate` says first whether it is `exact` or `approximate`")
    made = _encoded(graph, memory, call)
    encoder = _encoder(graph, made, call)
    chunk = call.whole("chunk", 256, 1)
    decode = call.word_of("decode")
    if not decode:
        raise call.wrong("decode", "`reinstate` lacks what gives the observation back: `decode=stored`, or a value")
    decoder = None if decode == STORED else _decoder(graph, memory, made, encoder, decode, call)
    observed = tuple(item.name for item in encoder.inputs)
    every, freshen = call.whole("every", 1, 1), call.whole("freshen", 0, 0)
    cosine = made.part == "key" and all(read.score == "cosine" for read in memory.recalls)
    tangent = _tangent(call, exact, memory, cosine=cosine)
    replay = Replay(made.part, encoder, decoder, observed, chunk, every, freshen, tangent, cosine)
    return StoreCredit(
        memory.name, "reinstate", call.decl.rule.span, parts=(made.part,), exact=exact == "exact", replay=replay
    )


def _tangent(call: Call, exact: str, memory: Memory, *, cosine: bool) -> bool:
    """Whether gradients are projected."""
    word = call.word_of("project") or "none"
    if word not in ("none", "tangent"):
        raise call.wrong("project", "`project` is `none` or `tangent`")
    if word == "tangent" and exact == "exact":
        hint = "leave `project` out, or write `approximate`"
        raise call.wrong("project", "under `exact` nothing of a gradient lies along an item that cosine compares", hint)
    if word == "tangent" and not cosine:
        reason = f"the length of an item matters to reads of `{memory.name}`: not its keys alone are compared by cosine"
        raise call.wrong("project", reason, "leave `project` out, or write `score: cosine(sharpness=10)`")
    return word == "tangent"


def _encoded(graph: StepGraph, memory: Memory, call: Call) -> Written:
    """The part of an item that the encoder has made."""
    name = call.word_of("encode")
    named = dict(graph.outputs)
    if not name:
        return memory.rows[-1] if len(memory.rows) == 1 else next(made for made in memory.rows if made.part == "key")
    if name not in named:
        hint = suggest(name, named) or f"names of the step: {', '.join(named)}"
        raise call.wrong("encode", f"the step has no value `{name}`", hint)
    for made in reversed(memory.rows):
        if made.item == named[name]:
            return made
    hint = f"`encode` is what `write` stores: for example `write: {{key: {name}, ...}}`"
    raise call.wrong("encode", f"`{memory.name}` does not store `{name}` as it is", hint)


def _encoder(graph: StepGraph, made: Written, call: Call) -> StepGraph:
    place = call.given["encode"].span if "encode" in call.given else call.span
    try:
        encoder = part(graph, made.item, "code")
    except PartError as error:
        raise _cannot(place, "the encoder", error.node) from None
    if not encoder.inputs:
        raise Stop(CannotReinstate(place, "the encoder reads no input", "there is nothing to reconstruct"))
    return encoder


def _decoder(graph: StepGraph, memory: Memory, made: Written, encoder: StepGraph, name: str, call: Call) -> StepGraph:
    named, place = dict(graph.outputs), call.given["decode"].span
    if name not in named:
        hint = suggest(name, (*named, STORED)) or f"names of the step: {', '.join(named)}; or `stored`"
        raise call.wrong("decode", f"the step has no value `{name}`", hint)
    try:
        decoder = part(graph, named[name], "observation", made.item)
    except PartError as error:
        raise _cannot(place, f"the decoder `{name}`", error.node) from None
    if any(node.op == "input" and node.name != "given" for node in decoder.nodes):
        raise _cannot(
            place, f"the decoder `{name}`", next(n for n in decoder.nodes if n.op == "input" and n.name != "given")
        )
    (first, *others), found = encoder.inputs, graph.nodes[named[name]].type
    if others or first.kind != "float":
        reads = ", ".join(f"`{item.name}` ({item.kind})" for item in encoder.inputs)
        reason = f"the encoder reads {reads}; a decoder gives one float value back"
        raise Stop(CannotReinstate(place, reason, "keep the observations: `decode=stored`"))
    if found != first.type:
        reason = f"the decoder `{name}` gives {found}, and the encoder reads `{first.name}`, {first.type}"
        raise Stop(CannotReinstate(place, reason, "decode to the axes of the observation, in their order"))
    return decoder


def _cannot(place: Span, what: str, node: Value) -> Stop:
    kinds = {"carry": "the state", "target": "the target", "step_number": "the step number", "input": "the input"}
    kind = kinds.get(node.op, "rows of a memory,")
    hint = (
        "it has to be a function of " + ("observations" if "encoder" in what else "the code") + " and parameters alone"
    )
    return Stop(CannotReinstate(place, f"{what} reads {kind} `{node.name}`", hint))


KINDS: Mapping[str, Callable[[StepGraph, Memory, Call], StoreCredit]] = {
    "stop": _stop,
    "through": _through,
    "param": _param,
    "synthetic": _synthetic,
    "reinstate": _reinstate,
}


def wanted(graph: StepGraph, store: StoreCredit) -> tuple[str, ...]:
    """The leaves whose gradient is asked for."""
    known = shared(graph, store.memory)
    return tuple(name for part_ in store.parts if (name := f"{store.memory}.{part_}") in known)
