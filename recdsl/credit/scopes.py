"""The scopes of forward rules: on which entries of which state the influence of a parameter is tracked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from recdsl.credit.flow import Edge, flow_of
from recdsl.credit.influence import Influence, Keys, effective, merge, states
from recdsl.credit.kronecker import NoMatrixError, blocks_of
from recdsl.credit.plan import Tracing
from recdsl.graph.emit import Emitter
from recdsl.graph.step import StepGraph
from recdsl.graph.types import Axis
from recdsl.jacobian.pieces import Tie
from recdsl.jacobian.step import StepJacobian


class ScopeError(Exception):
    """A rule that this graph has no scope for; `parameter` is whose rule it is (empty: the whole call)."""

    def __init__(self, parameter: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.parameter, self.reason, self.hint = parameter, reason, hint


@dataclass(frozen=True)
class Setting:
    """What a scope is made of: a graph, its patterns without the rule's cuts, and the tracing asked for."""

    graph: StepGraph
    influence: Influence
    tracing: Tracing


Scopes = dict[str, Keys]
Maker = Callable[[Setting, int], Scopes]


def scope(setting: Setting, source: int) -> Scopes:
    """The scope of one effective parameter: patterns by carry. Raises ScopeError."""
    return SCOPES[setting.tracing.scope](setting, source)


def _all(setting: Setting, source: int) -> Scopes:
    """Every state: real-time recurrent learning (Williams and Zipser 1989)."""
    return {carry.name: ((),) for carry in setting.influence.carries}


def _support(setting: Setting, source: int) -> Scopes:
    """What the parameter reaches within `depth` steps: SnAp-n (Menick et al. 2021), at the level of patterns."""
    everywhere = _all(setting, source)
    found = merge(setting.influence.immediate(source), {}, everywhere)
    newest = dict(found)
    for _ in range(setting.tracing.depth - 1):
        newest = setting.influence.next(newest)
        more = merge(found, newest, everywhere)
        if more == found:
            break
        found = more
    return found


def _column(setting: Setting, source: int) -> Scopes:
    """The parameter's own column of its own layer (Javed et al. 2021); none where it reaches no state."""
    graph, layer = setting.graph, layers(setting)
    hit = first_states(graph, source)
    own = {name for group in layer for name in group if hit & group}
    if not own:
        return {}
    found: Scopes = {}
    size = graph.nodes[source].type.numel
    for group in layer:
        if not group & own:
            continue
        axis = column_axis(setting, group)
        columns = _tied_columns(graph, source, axis) if axis is not None else ()
        name = _label(graph, source)
        if axis is not None and not columns and size > 1:
            reason = f"no column owns `{name}`: it reaches `{min(group)}` through a product that mixes its entries"
            raise ScopeError(name, reason, "give it a rule of its own, such as `bptt` or `none`")
        if len({tie.seed for tie in columns}) > 1:
            reason = f"two columns own `{name}`: different axes of it number columns where it is used"
            raise ScopeError(name, reason, "give it a rule of its own, such as `rtrl` or `bptt`")
        if axis is not None and any(_alone(graph, source, axis, tie) for tie in columns):
            columns = ()
        for name in sorted(group):
            axes = setting.influence.axes[name]
            found[name] = _keys(axes, axis, columns)
    if setting.tracing.filter == "readout":
        found |= dict.fromkeys(sorted(leaky_readouts(graph) - own), ((),))
    return found


def _alone(graph: StepGraph, source: int, axis: Axis, tie: Tie) -> bool:
    """Whether there is one column and all of the parameter is in it: what is lateral elsewhere stays inside."""
    return axis.size == 1 and graph.nodes[source].type.axes[tie.seed].size == 1


def _keys(axes: tuple[Axis, ...], axis: Axis | None, columns: tuple[Tie, ...]) -> Keys:
    """The patterns of a state: its column axis tied to the parameter's. All of it where there is one column."""
    if axis is None or not columns:
        return ((),)
    at = next(k for k, other in enumerate(axes) if other.name == axis.name)
    return tuple((Tie(at, tie.seed, tie.row, tie.column, tie.size),) for tie in columns)


def _tied_columns(graph: StepGraph, source: int, axis: Axis) -> tuple[Tie, ...]:
    """Where a parameter's entries belong to columns: at its uses, whose results have the column axis."""
    step = StepJacobian(graph, Emitter(list(graph.nodes)), range(len(graph.nodes)), hoisted=True)
    own = graph.nodes[source].type.axes
    found = {Tie(0, k, 0, 0, a.size) for k, a in enumerate(own) if a == axis and _starts(graph, source)}
    pending, seen = [source], {source}
    while pending:
        node = pending.pop()
        for user in step.users[node]:
            if user in seen or graph.nodes[user].type.dtype != "float":
                continue
            seen.add(user)
            every = [t for p in step.pieces(source, {user: ()}).get(user, ()) for t in p.key]
            ties = [t for t in every if graph.nodes[user].type.axes[t.axis].name == axis.name]
            found.update(Tie(0, t.seed, t.row, t.column, t.size) for t in ties)
            if not ties and (every or _moves(graph, user)):  # gates that share a matrix are cut apart behind its use
                pending.append(user)
    return tuple(sorted(found))


def _starts(graph: StepGraph, source: int) -> bool:
    """Whether a value is what a state starts from."""
    return any(carry.init == source for carry in states(graph))


def _moves(graph: StepGraph, node: int) -> bool:
    """Ops that rename or rearrange entries: the use is behind them."""
    return graph.nodes[node].op in (
        "slice",
        "rename",
        "transpose",
        "broadcast",
        "concat",
        "gather",
        "mul",
        "add",
        "sub",
    )


def column_axis(setting: Setting, group: frozenset[str]) -> Axis | None:
    """The axis that all states of a layer have and that numbers its columns; None where each state is one number."""
    axes = [setting.influence.axes[name] for name in sorted(group)]
    shared = [axis for axis in axes[0] if all(axis in other for other in axes)]
    wanted = setting.tracing.axis
    if wanted:
        shared = [axis for axis in shared if axis.name == wanted]
    if len(shared) == 1:
        return shared[0]
    if all(not other for other in axes):
        return None
    names = ", ".join(f"`{name}`" for name in sorted(group))
    if not shared and wanted and all(axes):
        found = ", ".join(dict.fromkeys(axis.name for own in axes for axis in own))
        raise ScopeError("", f"`{wanted}` is no axis of all of the states {names}", f"their axes: {found}")
    if not shared:
        raise ScopeError("", f"the states {names} have no axis in common to number columns", "use `rtrl` or `bptt`")
    options = ", ".join(axis.name for axis in shared)
    likely = next((axis.name for axis in shared if not axis.name.endswith(".slot")), shared[0].name)
    raise ScopeError("", f"columns of {names} may be along {options}", f"say which: `columns(axis={likely})`")


def layers(setting: Setting) -> list[frozenset[str]]:
    """States that influence each other, as sets of carries."""
    import networkx as nx  # only forward rules need it, and it is slow to import

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(carry.name for carry in setting.influence.carries)
    graph.add_edges_from((u, v) for u, targets in setting.influence.carried.items() for v in targets)
    for name in [c.name for c in setting.influence.carries if "[" in c.name]:
        graph.add_edge(name, name.partition("[")[0])  # a delay line belongs to its state
    groups = [frozenset(group) for group in nx.strongly_connected_components(graph)]
    return sorted(groups, key=min)


def first_states(graph: StepGraph, source: int) -> set[str]:
    """Carried values that a parameter reaches before any other carried value stands in between."""
    flow, writes, reads = flow_of(graph), dict[int, set[str]](), {carry.read for carry in graph.carries}
    for carry in states(graph):
        writes.setdefault(carry.write, set()).add(carry.name)
    found = {carry.name for carry in states(graph) if carry.init == source}
    stack, seen = [source], {source}
    while stack:
        node = stack.pop()
        found |= writes.get(node, set())
        if node in writes:
            continue
        for target, lag in flow.after[node]:
            if not lag and target not in seen | reads and target in graph.varying:
                seen.add(target)
                stack.append(target)
    return found


def _label(graph: StepGraph, source: int) -> str:
    return min(effective(graph).get(source, {graph.nodes[source].name}))


def _rank(setting: Setting, source: int) -> Scopes:
    """Every state, as an estimate; what a state starts from has no place in it."""
    if _starts(setting.graph, source):
        name = _label(setting.graph, source)
        reason = f"`{name}` is what a state starts from, and the estimate begins after that"
        raise ScopeError(name, reason, "give it a rule of its own, such as `bptt`")
    return _all(setting, source)


def _kronecker(setting: Setting, source: int) -> Scopes:
    """Every state, as an estimate, for what is a matrix in products."""
    try:
        found = blocks_of(setting.graph, flow_of(setting.graph), source, _label(setting.graph, source))
    except NoMatrixError as error:
        hint = "give it a rule of its own, such as `uoro`, `columns`, `snap(1)` or `bptt`"
        raise ScopeError(error.name, str(error), hint) from error
    return _all(setting, source) if found else {}


SCOPES: Mapping[str, Maker] = {
    "all": _all,
    "support": _support,
    "column": _column,
    "rank": _rank,
    "kronecker": _kronecker,
}


LINEAR = ("add", "sub", "neg", "rename", "broadcast", "mul", "div")


def leaky_readouts(graph: StepGraph) -> set[str]:
    """States that lead to no other state and keep a share of what they were: r = 0.9 * r[t-1] + W @ z.

    The share does not depend on states or inputs, and no product mixes their entries.
    """
    flow, found = flow_of(graph), set[str]()
    writes = {carry.write for carry in states(graph)}
    for carry in states(graph):
        behind = flow.forward([carry.read], across=False)
        way = behind & graph.behind([carry.write]) - {carry.read}
        alone = behind & writes == {carry.write} and not any(c.write == carry.read for c in graph.carries)
        if alone and all(_leaks(graph, node) for node in way):
            found.add(carry.name)
    return found


def _leaks(graph: StepGraph, k: int) -> bool:
    """Whether a value is a sum, or one argument times what does not vary."""
    node = graph.nodes[k]
    fixed = [arg not in graph.varying for arg in node.args]
    return node.op in LINEAR and (node.op != "mul" or any(fixed)) and (node.op != "div" or fixed[1])


def lateral(graph: StepGraph) -> frozenset[Edge]:
    """Uses of a state that lead into products which mix its entries, and only there: the recurrent matrix products.

    A product that no state is made of reads states out; it is none of them.
    """
    flow, found = flow_of(graph), set[Edge]()
    writes = {carry.write for carry in graph.carries}
    ends = writes | {loss.root for loss in graph.losses}
    mixing = {
        (arg, node.id)
        for node in graph.nodes
        if node.op == "contract"
        for place, arg in enumerate(node.args)
        if any(label not in node.attr("out") for label in node.attr("x" if place == 0 else "y"))
    }
    for carry in states(graph):
        for user, lag in flow.after[carry.read]:
            if lag or user == carry.read:
                continue
            edge = (carry.read, user)
            behind = set[int]() if edge in mixing else flow.forward([user], frozenset(mixing), across=False)
            if not behind & ends and writes & flow.forward([user], across=False):
                found.add(edge)
    return frozenset(found)


def spikes(graph: StepGraph) -> frozenset[Edge]:
    """The recurrent products, and each neuron's reset: what its output does, a step later, to a state that makes it.

    A product that leads to leaky readouts alone is not recurrent. A state counts as one that makes the output if the
    output is computed from it in the step and its own equation has the output's recurrent product; an adaptation that
    only sums the output up keeps its influence (Bellec et al. 2020).
    """
    flow, products = flow_of(graph), lateral(graph)
    read_out = {carry.write for carry in states(graph) if carry.name in leaky_readouts(graph)}
    ends = {carry.write for carry in states(graph)} - read_out
    products = frozenset(edge for edge in products if flow.forward([edge[1]], across=False) & ends)
    found = set(products)
    within = {carry.name: flow.forward([carry.write], across=False) for carry in states(graph)}
    for carry in states(graph):
        fed = [user for source, user in products if source == carry.read]
        makers = {
            other.write
            for other in states(graph)
            if other.name != carry.name
            and carry.write in within[other.name]
            and any(other.write in flow.forward([user], across=False) for user in fed)
        }
        for user, lag in flow.after[carry.read]:
            if not lag and makers & flow.forward([user], across=False):
                found.add((carry.read, user))
    return frozenset(found)


def _none(graph: StepGraph) -> frozenset[Edge]:
    return frozenset()


CUTS: Mapping[str, Callable[[StepGraph], frozenset[Edge]]] = {"": _none, "products": lateral, "spikes": spikes}
