"""Forward rules: the scopes of a class and the verdict of each parameter (Theorem 1, semantics 6.3, over patterns).

Influence is confined to a scope at every step boundary. A path is dropped where it leaves the scope, where it uses a
cut edge, or (read "post") where it leaves a step through a state outside of the scope. `exact` is claimed if no live
influence ever lies outside of the scope and no cut edge stands between the parameter and a loss; patterns and edges
are supersets of what is ever non-zero, so the claim holds for all inputs, lengths, resets, masks and parameters.

With a window (read "window") only what crosses the boundary of its loss's window, or a boundary before that, is
confined; live is then what a loss still sees window - every steps on. A claim that rests on that is "unmasked".
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from recdsl.credit.flow import Edge, flow_of
from recdsl.credit.influence import Influence, Keys, Patterns, beyond, confine, effective, influence_of, states, union
from recdsl.credit.kronecker import blocks_of
from recdsl.credit.masked import Narrowing, narrowed
from recdsl.credit.place import in_spec, spec_source
from recdsl.credit.plan import Dropped, RoutingClass, Row, Scope, Tracing
from recdsl.credit.scopes import ScopeError, Setting, scope
from recdsl.credit.select import label
from recdsl.credit.sights import Sights
from recdsl.credit.verdict import Case, Judge
from recdsl.graph.step import StepGraph
from recdsl.jacobian.pieces import Axes, Key, free, row_axes
from recdsl.jacobian.step import NO_EDGES

FLOAT_BYTES = 4
NONE = -1
"""The longest kept lag of a parameter without any kept path."""
FAR = 20_000
"""Lags after which the search for a dropped path is given up; every pattern has come round long before."""


BUDGET = 2**29
"""Bytes of traces a sample, in float32, above which a rule is refused."""


def scopes(graph: StepGraph, routing: RoutingClass) -> tuple[Scope, ...]:
    """The scopes of a forward class. Raises ScopeError, also where its traces would be larger than the budget."""
    if routing.tracing is not None and routing.tracing.random and eligible(graph, routing):
        reason = "it keeps no gradient of a prediction until the error of the next step, as the loss `td` needs"
        raise ScopeError("", reason, "rules that do: `columns`, `snap(1)`, `rtrl`, `tbptt`")
    if any(carry.taped for carry in graph.carries):
        names = ", ".join(f"`{memory.name}`" for memory in graph.memories if not memory.slots)
        reason = f"it carries influences along with states, and {names} has no bound: its slots are no states"
        raise ScopeError("", reason, "write a number of `slots`, or take `bptt` or `tbptt`")
    found = _scopes(graph, routing)
    size = FLOAT_BYTES * (entries(graph, found) + sum(eligible(graph, routing).values()))
    if routing.tracing is not None and not routing.tracing.random and size > BUDGET:
        reason = f"its traces take {mebibytes(size)} a sample, more than {mebibytes(BUDGET)}"
        raise ScopeError("", reason, f"cheaper: {', '.join([*_cheaper(graph, routing), '`uoro`', '`tbptt`'])}")
    return found


def entries(graph: StepGraph, found: Sequence[Scope]) -> int:
    """Numbers that the traces of these scopes hold, for each sample."""
    rows = {carry.name: graph.nodes[carry.read].type.axes for carry in states(graph)}
    return sum(size_of(key, rows[s.carry], graph.nodes[s.source].type.axes) for s in found for key in s.stored)


def eligible(graph: StepGraph, routing: RoutingClass) -> dict[int, int]:
    """By effective parameter: numbers that `td` losses keep for each sample, one for each entry and prediction."""
    found: dict[int, int] = {}
    flow = flow_of(graph)
    for td in (graph.losses[k].td for k in routing.losses):
        seen = set[int]() if td is None else flow.backward([td.value])
        for source, names in effective(graph).items():
            if td is not None and source in seen and not names.isdisjoint(routing.parameters):
                size = graph.nodes[source].type.numel * graph.nodes[td.value].type.numel
                found[source] = found.get(source, 0) + size
    return found


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _cheaper(graph: StepGraph, routing: RoutingClass) -> list[str]:
    """Rules with smaller traces on this model, with what they take."""
    found: list[str] = []
    for name, tracing in (("snap(1)", Tracing("support", read="post")), ("columns", Tracing("column"))):
        try:
            size = FLOAT_BYTES * entries(graph, _scopes(graph, replace(routing, tracing=tracing)))
        except ScopeError:
            continue
        if size <= BUDGET:
            found.append(f"`{name}` ({mebibytes(size)})")
    return found


def size_of(key: Key, rows: Axes, seed: Axes) -> int:
    """Entries of one pattern of a trace."""
    own = prod(axis.size for axis in row_axes(key, rows))
    return own * prod(seed[place].size for place in free(key, seed))


def _scopes(graph: StepGraph, routing: RoutingClass) -> tuple[Scope, ...]:
    assert routing.tracing is not None
    setting = Setting(graph, influence_of(graph), routing.tracing)
    cut = influence_of(graph, routing.cuts) if routing.cuts else setting.influence
    seen, found = live(graph, routing), list[Scope]()
    for source, names in sorted(effective(graph).items()):
        if names.isdisjoint(routing.parameters):
            continue
        allowed = scope(setting, source)
        stored = cut.closure(source, {name: keys for name, keys in allowed.items() if name in seen})
        found += [Scope(source, name, allowed[name], stored.get(name, ())) for name in sorted(allowed)]
    return tuple(found)


def live(graph: StepGraph, routing: RoutingClass) -> set[str]:
    """Carried values whose influence is of use: some loss or output sees them, now or later."""
    seen = flow_of(graph).backward([graph.losses[k].root for k in routing.losses] + [node for _, node in graph.outputs])
    post = routing.tracing is not None and routing.tracing.read == "post"
    return {c.name for c in states(graph) if c.read in seen or (post and c.write in seen)}


def late(graph: StepGraph, routing: RoutingClass) -> bool:
    """Whether reading the states that a step leaves gives the class's gradient (semantics 2.1: when "pre" is "post").

    So it is if whatever influence arrives at a state which a loss or output sees in the same step is stored there.
    """
    if routing.tracing is None or routing.tracing.random or routing.tracing.read == "window":
        return False
    if routing.tracing.read == "post":
        return True
    if narrowed(graph, routing):
        return False
    flow, influence = flow_of(graph), influence_of(graph, routing.cuts)
    ends = {graph.losses[k].root for k in routing.losses} | {node for _, node in graph.outputs}
    shown = {c.name for c in influence.carries if flow.forward([c.write], across=False) & ends}
    for source in {scope_.source for scope_ in routing.scopes}:
        held = {s.carry: s.stored for s in routing.scopes if s.source == source and s.stored}
        arriving = union(influence.used(source), influence.next(held))
        if beyond(arriving, held) & shown:
            return False
    return True


@dataclass(frozen=True)
class _Walk:
    """Smallest lag of a dropped path (None: no path is dropped), largest of a kept one (None: no bound; NONE: no path).

    places: carried values where influence leaves the scope. unmasked: whether masked steps can make a path longer than
    its window.
    """

    dropped: int | None
    kept: int | None
    places: frozenset[str]
    unmasked: bool = False


class Tracer:
    """Verdicts of forward rules over one graph."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph, self.flow = graph, flow_of(graph)
        self.free, self.judge, self.narrowing = influence_of(graph), Judge(graph), Narrowing(graph)
        self._cut: dict[frozenset[Edge], Influence] = {frozenset(): self.free}
        self._work: dict[RoutingClass, tuple[int, int]] = {}

    def row(self, case: Case, routing: RoutingClass) -> Row:
        """The row of one trained parameter."""
        assert routing.tracing is not None
        ends = frozenset(self.graph.losses[k].root for k in case.losses)
        plain = self.judge.row(replace(case, altered=NO_EDGES))
        walk = self._window_walk if routing.tracing.read == "window" else self._walk
        walks = [
            walk(source, routing, ends)
            for source, names in sorted(effective(self.graph).items())
            if case.parameter in names
        ]
        by_cut = self._cut_lag(case.parameter, ends, routing.cuts | routing.altered)
        weaker = self.judge.first_crossing(replace(case, cuts=NO_EDGES)) if routing.tracing.decay < 1 else None
        found = [lag for lag in (*(walk.dropped for walk in walks), by_cut, weaker) if lag is not None]
        first = min(found, default=None)
        kept = [walk.kept for walk in walks]
        longest = (
            None if any(lag is None for lag in kept) else max((lag for lag in kept if lag is not None), default=NONE)
        )
        places = [name for walk in walks for name in sorted(walk.places)]
        dropped = [self._edge(name) for name in places] + self._cut_edges(
            case.parameter, ends, routing.cuts | routing.altered
        )
        dropped += self.judge.crossed(case) if weaker is not None else []
        verdict = "exact" if first is None else "biased"
        words = tuple(word for word in plain.qualifiers if word not in ("unmasked", "no-credit"))
        noisy = longest not in (0, NONE) or self._joins(case.parameter, routing)
        if routing.tracing.random and verdict == "exact" and noisy:
            verdict, words = "unbiased", (*words, "random-signs")
        words = (*words, "decay") if weaker is not None else words
        if verdict == "exact" and any(walk.unmasked for walk in walks):
            words = (*words, "unmasked")
        held, products = self._entries(case.parameter, routing)
        traced = held
        if held and noisy:
            words = (*words, {"accept": "drift", "reset": "reset-at-call", "rerun": "rerun"}[routing.tracing.drift])
        held += sum(n for k, n in eligible(self.graph, routing).items() if case.parameter in effective(self.graph)[k])
        work = 2 * products + -(-held // routing.window.every)
        if routing.deferral is not None:
            work = -(-routing.deferral.flops * traced // max(self.work(routing)[0], 1))
        if longest == NONE:
            words = (*words, "no-credit") if first is not None else words
            cost = (2 * products + held, FLOAT_BYTES * held)  # outputs may see what losses do not
            return Row(case.parameter, case.rule, verdict, words, first, None, tuple(dict.fromkeys(dropped)), *cost)
        return Row(
            case.parameter,
            case.rule,
            verdict,
            words,
            first,
            longest,
            tuple(dict.fromkeys(dropped)) if first is not None else (),
            plain.flops + work,
            FLOAT_BYTES * held + (plain.bytes if routing.tracing.read == "window" else 0),
        )

    def _joins(self, parameter: str, routing: RoutingClass) -> bool:
        """Whether a parameter is in the one estimate of all influence, if only by states that no loss sees: signs are
        then wrong for it until they are averaged."""
        start = self.graph.leaf.get(f"parameter:{parameter}")
        if start is None or routing.tracing is None or routing.tracing.scope != "rank":
            return False
        carried = {carry.read for carry in states(self.graph)}
        return not carried.isdisjoint(self.judge.flow.forward([start]))

    # -- lags -----------------------------------------------------------------------------------------------------
    def _walk(self, source: int, routing: RoutingClass, ends: frozenset[int]) -> _Walk:
        """Follow the influence of one effective parameter step by step, kept and dropped apart.

        At lag k these are influences on the states that the k-th step after the use leaves. An initial value is used
        in the step that it enters, so its influence begins on what the step before would have left.
        """
        assert routing.tracing is not None
        scope_ = {s.carry: s.allowed for s in routing.scopes if s.source == source}
        cut, post = self._influence(routing.cuts), routing.tracing.read == "post"
        reads, writes, shown = self._hits(ends, post=post)
        kept: Patterns = self._live(self.free.begun(source), reads | writes)
        lost: Patterns = {}
        dropped: int | None = None
        longest: int | None = 0 if self._direct(source, routing, ends) else NONE
        places: set[str] = set()
        seen: dict[object, int] = {}
        masked = self.narrowing.leaves(routing, source)
        for lag in range(-1, FAR):
            if lag == 0:
                kept = union(kept, self._live(self.free.used(source), reads | writes))
            out = masked is not None and lag >= masked
            gone = set(kept) if out else beyond(kept, scope_)
            places |= gone
            lost = _anywhere({*lost, *gone})
            kept = confine(kept, scope_)
            made = writes if lag >= 0 else set[str]()
            longest = lag if lag >= 0 and kept.keys() & shown else longest
            longest = lag + 1 if kept.keys() & reads else longest
            if dropped is None and lost.keys() & (reads | made):
                dropped = lag if lost.keys() & made else lag + 1
            state = (_frozen(kept), _frozen(lost), lag if masked is not None and not out else FAR)
            if state in seen:
                assert longest is not None
                return _Walk(dropped, None if longest > seen[state] else longest, frozenset(places))
            if lag >= 0:
                seen[state] = lag
            lost = self._live(self.free.next(lost), reads | writes)
            kept = self._live(cut.next(kept), reads | writes)
        return _Walk(FAR if dropped is None else dropped, None, frozenset(places))

    def _window_walk(self, source: int, routing: RoutingClass, ends: frozenset[int]) -> _Walk:
        """The same for a rule with a window: what is confined on entering a step is d steps away from its loss.

        A path is dropped if it has left the scope by a step that is at least size - every steps from the loss (so it is
        in some window), and kept if it stays in the scope up to one that is at most size - 1 steps away.
        """
        assert routing.window.size is not None
        scope_ = {s.carry: s.allowed for s in routing.scopes if s.source == source}
        cut, (reads, _, _) = self._influence(routing.cuts), self._hits(ends, post=False)
        free, kept_sets = Sights(self.free, reads), Sights(cut, reads)
        least, most = routing.window.size - routing.window.every, routing.window.size - 1
        used = self._live(self.free.used(source), reads)
        longest = 0 if self._direct(source, routing, ends) else NONE
        inside = [kept_sets.at_most(name, most - 1) for name in used]
        longest = max([longest, *(lag + 1 for lag in inside if lag is not None)])
        kept: Patterns = self._live(self.free.begun(source), reads)
        lags: list[int] = []
        places, unmasked, last = set[str](), False, -2
        seen: dict[object, int] = {}
        masked = self.narrowing.leaves(routing, source)
        for lag in range(-1, FAR):
            kept = union(kept, used) if lag == 0 else kept
            out = masked is not None and lag >= masked
            for name in set(kept) if out else beyond(kept, scope_):
                far = free.at_least(name, least)
                if far is None:
                    unmasked = True
                else:
                    places.add(name)
                    lags.append(lag + 1 + far)
            kept = confine(kept, scope_)
            ahead = [far for far in (kept_sets.at_most(name, most) for name in kept) if far is not None]
            longest, last = max([longest, *(lag + 1 + far for far in ahead)]), lag if ahead else last
            state = (_frozen(kept), lag if masked is not None and not out else FAR)
            if state in seen:
                bounded = longest if last <= seen[state] else None
                return _Walk(min(lags, default=None), bounded, frozenset(places), unmasked)
            if lag >= 0:
                seen[state] = lag
            kept = self._live(cut.next(kept), reads)
        return _Walk(min([FAR, *lags]), None, frozenset(places), unmasked)

    def _direct(self, source: int, routing: RoutingClass, ends: frozenset[int]) -> bool:
        """Whether a path within one step is kept that goes through no state which the rule reads instead."""
        assert routing.tracing is not None
        carries = states(self.graph)
        leaving = (
            {c.write for c in carries} - {c.read for c in carries} if routing.tracing.read == "post" else set[int]()
        )
        walls = {(k, target) for k in leaving for target, _ in self.flow.after[k]}
        return bool(self.flow.forward([source], frozenset(walls) | routing.cuts, across=False) & ends)

    def _hits(self, ends: frozenset[int], *, post: bool) -> tuple[set[str], set[str], set[str]]:
        """Carried values that a loss sees: in the step that they enter, in the step that made them, and there directly.

        Read "pre", the states that a step leaves are not looked at; "post", paths from the states that enter a step go
        around those that it leaves, and a path that it leaves through several counts where it leaves last.
        """
        carries = states(self.graph)
        leaving = {c.write for c in carries} - {c.read for c in carries} if post else set[int]()
        walls = frozenset((k, target) for k in leaving for target, _ in self.flow.after[k])
        reads = {c.name for c in carries if self.flow.forward([c.read], walls, across=False) & ends}
        writes = {c.name for c in carries if c.write in leaving and self.flow.forward([c.write], across=False) & ends}
        around = {c.name: frozenset(e for e in walls if e[0] != c.write) for c in carries}
        shown = {c.name for c in carries if c.name in writes and self._sees(c.write, around[c.name], ends)}
        return reads, writes, shown

    def _sees(self, start: int, walls: frozenset[Edge], ends: frozenset[int]) -> bool:
        return not self.flow.forward([start], walls, across=False).isdisjoint(ends)

    def _live(self, patterns: Patterns, hits: set[str]) -> dict[str, Keys]:
        """Patterns on carried values that some loss will see."""
        live = self._seen_from(frozenset(hits))
        return {name: keys for name, keys in patterns.items() if name in live}

    def _seen_from(self, hits: frozenset[str]) -> set[str]:
        """Carried values that lead to one of the given ones."""
        found = set(hits)
        while True:
            more = found | {u for u, targets in self.free.carried.items() if found & targets.keys()}
            if more == found:
                return found
            found = more

    def _influence(self, cuts: frozenset[Edge]) -> Influence:
        if cuts not in self._cut:
            self._cut[cuts] = influence_of(self.graph, cuts)
        return self._cut[cuts]

    # -- cuts -----------------------------------------------------------------------------------------------------
    def _cut_lag(self, parameter: str, ends: frozenset[int], cuts: frozenset[Edge]) -> int | None:
        start = self.graph.leaf.get(f"parameter:{parameter}")
        return None if start is None or not cuts else self.flow.shortest_cut(start, ends, cuts)

    def _cut_edges(self, parameter: str, ends: frozenset[int], cuts: frozenset[Edge]) -> list[Dropped]:
        start = self.graph.leaf.get(f"parameter:{parameter}")
        if start is None:
            return []
        reached, live = self.flow.forward([start]), self.flow.backward(ends)
        reads = {carry.read: carry for carry in self.graph.carries}
        return [
            self.judge.edge(reads[source], target) if source in reads else self.judge.inner(source, target)
            for source, target in sorted(cuts)
            if source in reached and target in live
        ]

    # -- report ---------------------------------------------------------------------------------------------------
    def _edge(self, name: str) -> Dropped:
        """Where influence leaves its scope: the state whose entries are not tracked."""
        carry = next(c for c in self.graph.carries if c.name == name)
        source_text = spec_source(self.graph)
        span = in_spec(self.graph.nodes[carry.write].span or carry.span, name, source_text)
        return Dropped(f"{label(carry)} outside of the scope", None if span is None else span.line, span)

    def _factors(self, own: Collection[int]) -> tuple[int, int]:
        """(entries of Kronecker factors, products of D B a step) of some effective parameters."""
        shapes = {k: self.graph.nodes[k].type.shape for k in own}
        size = sum(prod(axis.size for axis in axes) for axes in self.free.axes.values())
        found = [block for k in sorted(own) for block in blocks_of(self.graph, self.flow, k, "")]
        kept = [prod(shapes[block.source][k] for k in block.kept) for block in found]
        summed = [prod(shapes[block.source][k] for k in block.summed) for block in found]
        return sum(summed) + size * sum(kept), self._dependences * sum(kept)

    @cached_property
    def _dependences(self) -> int:
        """Entries of a step's Jacobian that are ever other than zero."""
        axes, pairs = self.free.axes, self.free.carried.items()
        found = [(axes[t], axes[name], key) for name, targets in pairs for t, keys in targets.items() for key in keys]
        return sum(multiplications((rows, middle, ()), key, (), ()) for rows, middle, key in found)

    def work(self, routing: RoutingClass) -> tuple[int, int]:
        """(entries of the traces, products a step) of a class."""
        if routing not in self._work:
            each = [self._entries(parameter, routing) for parameter in routing.parameters]
            self._work[routing] = sum(held for held, _ in each), sum(products for _, products in each)
        return self._work[routing]

    def _entries(self, parameter: str, routing: RoutingClass) -> tuple[int, int]:
        """(entries of the traces, products a step) of the effective parameters that a parameter is part of.

        What several parameters share is counted once: at the first of them, and a rank-one estimate's vector over the
        states in equal parts.
        """
        place = routing.parameters.index
        inside = {k: names & set(routing.parameters) for k, names in effective(self.graph).items()}
        own = {k for k, names in inside.items() if names and min(names, key=place) == parameter}
        if routing.tracing is not None and routing.tracing.scope == "kronecker":
            return self._factors(own)
        if routing.tracing is not None and routing.tracing.scope == "rank":
            count = sum(self.graph.nodes[k].type.numel for k in own)
            shared = sum(prod(axis.size for axis in axes) for axes in self.free.axes.values())
            each, more = divmod(shared, len(routing.parameters))
            return count + each + (place(parameter) < more), count
        carried = self._influence(routing.cuts).carried
        held = {(item.source, item.carry): item for item in routing.scopes if item.source in own}
        products, lines = 0, {carry.name for carry in states(self.graph) if carry.kind == "delay"}
        for (source, name), item in held.items():
            for target, outer in carried[name].items():
                if (source, target) in held and target not in lines:  # a delay line hands on what it was given
                    axes = self.free.axes[target], self.free.axes[name], self.graph.nodes[source].type.axes
                    stored = held[source, target].stored
                    products += sum(
                        multiplications(axes, left, key, goal)
                        for left in outer
                        for key in item.stored
                        for goal in stored
                    )
        return entries(self.graph, list(held.values())), products


def multiplications(axes: tuple[Axes, Axes, Axes], outer: Key, inner: Key, goal: Key) -> int:
    """Products of entries that D J takes for the entries of one pattern. axes: of the result, the middle and the seed.

    Axes that any of the three patterns ties run together; each set of them counts once, over the smallest range.
    """
    sizes = {(side, k): axis.size for side, own in enumerate(axes) for k, axis in enumerate(own)}
    home = {place: place for place in sizes}
    for key, left, right in ((outer, 0, 1), (inner, 1, 2), (goal, 0, 2)):
        for tie in key:
            one, other = home[left, tie.axis], home[right, tie.seed]
            size = min(sizes[one], sizes[other], tie.size)
            home.update({place: one for place, root in home.items() if root == other})
            sizes[one] = size
    return prod(sizes[root] for root in set(home.values()))


def _anywhere(names: set[str]) -> dict[str, Keys]:
    """What has left its scope may be in any entry."""
    return dict.fromkeys(sorted(names), ((),))


def _frozen(patterns: Patterns) -> tuple[tuple[str, Keys], ...]:
    return tuple(sorted(patterns.items()))
