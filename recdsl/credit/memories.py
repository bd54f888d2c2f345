"""Credit through memories: `past: stop`, `past: through(query=stop)`, and which carries windows spare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recdsl.credit.flow import Edge
from recdsl.credit.plan import StoreCredit, Window
from recdsl.credit.stores import store_credit
from recdsl.diagnostics import Problems, suggest
from recdsl.errors.credit import OverlappingWindows, StoreArgument, WrongAction
from recdsl.errors.stores import StoreCreditArgument
from recdsl.graph.scope import Stop
from recdsl.graph.step import Memory, StepGraph
from recdsl.source import Span
from recdsl.syntax.ast import CreditDecl

ACTIONS = ("through", "stop")
USES = ("value", "key", "query")
LATER = ("reinstate", "synthetic", "param")
USAGE = "`through(query=stop)`: each of value, key and query is `through` or `stop`"


@dataclass(frozen=True)
class Stored:
    """What the credit of one memory says. cuts: uses without credit; through: no window cuts what is stored. credit: of
    a store that lasts as long as the model, which has no place in a window."""

    cuts: frozenset[Edge]
    through: bool
    credit: StoreCredit | None = None


def of_memory(graph: StepGraph, selector: str, action: str) -> bool:
    """Whether an entry of `credit:` is about what a memory holds, not about parameters."""
    named = any(memory.name == selector for memory in graph.memories)
    return action in ACTIONS or (named and action in LATER)


def read_memory(graph: StepGraph, decl: CreditDecl, selector: str, problems: Problems) -> Stored:
    """The cuts of `past: stop` and the like; mistakes are collected."""
    nothing, root = Stored(frozenset(), through=False), decl.rule.root
    memory = next((memory for memory in graph.memories if memory.name == selector), None)
    if memory is None:
        known = [memory.name for memory in graph.memories]
        hint = suggest(selector, known) or f"memories: {', '.join(known) or 'none'}"
        problems.add(WrongAction(decl.selector.span, selector, str(root.value), hint))
        return nothing
    if memory.common:
        return _common(graph, memory, decl, problems)
    if root.value in LATER:
        own = f"`{selector}` has one for each (life: {memory.life})"
        reason, hint = f"`{root.value}` is for one store of all samples, and {own}", "write `life: model` in the memory"
        problems.add(StoreCreditArgument(decl.rule.span, reason, f"{hint}, or `{selector}: through` or `stop`"))
        return nothing
    words = {"value": root.value, "key": root.value, "query": "through"}
    for name, index in (*(("", k) for k in root.args), *root.keywords):
        node = decl.rule.nodes[index]
        if name not in USES or node.value not in ACTIONS:
            reason = (
                f"`{root.value}` takes no `{name or node.span.text}`" if name not in USES else f"`{name}` is a word"
            )
            problems.add(StoreArgument(node.span, reason, suggest(name, USES) or USAGE))
            return nothing
        words[name] = node.value
    stopped = frozenset(name for name, word in words.items() if word == "stop")
    cuts = frozenset(edges(memory, stopped))
    return Stored(cuts, words["value"] == "through")


def _common(graph: StepGraph, memory: Memory, decl: CreditDecl, problems: Problems) -> Stored:
    """The credit of a store that lasts as long as the model."""
    try:
        made = store_credit(graph, memory, decl)
    except Stop as stop:
        problems.add(stop.problem)
        made = StoreCredit(memory.name, "stop", decl.rule.span)
    cuts = edges(memory, frozenset(("value", "key"))) if made.kind == "stop" else ()
    return Stored(frozenset(cuts), through=False, credit=made)


def untold(graph: StepGraph, told: Iterable[str]) -> Iterable[Stored]:
    """What holds for stores that last as long as the model where `credit:` does not name them: it ends at the call."""
    known = set(told)
    for memory in graph.memories:
        if memory.common and memory.name not in known:
            cuts = frozenset(edges(memory, frozenset(("value", "key"))))
            yield Stored(cuts, through=False, credit=StoreCredit(memory.name, "stop"))


def edges(memory: Memory, uses: frozenset[str]) -> Iterable[Edge]:
    """The edges by which reads use values, keys or queries."""
    for recall in memory.recalls:
        for name, found in (("value", recall.values), ("key", recall.keys), ("query", recall.queries)):
            yield from found if name in uses else ()


def spared(
    graph: StepGraph, through: Mapping[str, Span], rule: str, window: Window, problems: Problems, *, every: bool
) -> frozenset[str]:
    """Carries that the windows of a rule do not cut; `every`: those of all memories."""
    found = [memory for memory in graph.memories if (every or memory.name in through) and not memory.common]
    if window.size is None and not every:
        return frozenset()
    if window.size is not None and window.size != window.every:
        for memory in found:
            problems.add(OverlappingWindows(through[memory.name], memory.name, rule, window.size))
        return frozenset()
    return frozenset(name for memory in found for name in memory.states)
