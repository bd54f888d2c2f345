"""`credit:` as written -> a rule for each parameter and the cut edges; every mistake is collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

from recdsl.credit.feedback import product
from recdsl.credit.memories import of_memory, read_memory, untold
from recdsl.credit.plan import Answering, StoreCredit, Tracing, Window
from recdsl.credit.rule import Given, Rule, RuleError, Words
from recdsl.credit.rules import LATER, BrokenRuleError, find, names
from recdsl.credit.select import all_uses, as_use, near, parameters, read_by, state_uses, uses
from recdsl.diagnostics import Problems, suggest
from recdsl.errors.credit import (
    BrokenRule,
    NoMatch,
    NoProduct,
    RuleArgument,
    RuleNotYet,
    TwoRules,
    UnknownRule,
    UnknownUse,
    WrongAction,
)
from recdsl.graph.step import StepGraph
from recdsl.source import Span
from recdsl.syntax.ast import CreditDecl, Expression, Node

CUT = "cut"
ACTIONS = (CUT, "scale", "feedback")
"""What a use of a state can take."""


@dataclass(frozen=True)
class Choice:
    """A rule call: its text for the report, its window, how it traces, and where it stands."""

    text: str
    window: Window
    tracing: Tracing | None = None
    span: Span | None = None
    thinning: int = 0
    tail: float = 0.0
    spares: bool = False
    answering: Answering | None = None
    budget: int = 0
    replay: str = "never"


FULL = Choice("bptt", Window(None, 1))


@dataclass(frozen=True)
class Reading:
    """rules: by parameter. cuts: edges that carry no gradient for anyone; scales: edges whose gradient is multiplied;
    feedback: edges whose gradient comes back through a random matrix. through: memories that no window cuts, each with
    the place that says so. stores: what becomes of credit for the rows of stores that last as long as the model."""

    rules: dict[str, Choice]
    cuts: frozenset[tuple[int, int]]
    scales: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    feedback: frozenset[tuple[int, int]] = frozenset()
    through: Mapping[str, Span] = field(default_factory=dict[str, Span])
    stores: tuple[StoreCredit, ...] = ()


def read(graph: StepGraph, credit: Sequence[CreditDecl], problems: Problems) -> Reading:
    """The parameters' rules and the cuts. Without `default`, the rest has `bptt`."""
    fallback: Choice | None = None
    chosen: dict[str, tuple[CreditDecl, Choice]] = {}
    altered: dict[tuple[int, int], float | None] = {}
    stopped: frozenset[tuple[int, int]] = frozenset()
    through: dict[str, Span] = {}
    stores: dict[str, StoreCredit] = {}
    for decl in credit:
        selector, action = decl.selector.text.strip(), _head(decl.rule)
        if of_memory(graph, selector, action):
            found = read_memory(graph, decl, selector, problems)
            stopped |= found.cuts
            through |= {selector: decl.selector.span} if found.through else {}
            stores |= {} if found.credit is None else {selector: found.credit}
            continue
        if as_use(selector) or (selector == "recurrence" and action in ACTIONS):
            for edge, weight in _altered(graph, decl, selector, action, problems).items():
                if altered.setdefault(edge, weight) != weight:
                    other = "another entry says what this use of a state carries back; leave one of them out"
                    problems.add(WrongAction(decl.rule.span, selector, decl.rule.span.text, other))
                    break
            continue
        choice = _choice(decl, selector, problems)
        if choice is None:
            continue
        if selector == "default":
            fallback = choice
            continue
        for name in _selected(graph, decl, selector, problems):
            _assign(chosen, name, decl, choice, problems)
    for found in untold(graph, stores):
        stopped |= found.cuts
        stores |= {} if found.credit is None else {found.credit.memory: found.credit}
    rules = {p.name: fallback or FULL for p in graph.parameters}
    return Reading(
        rules | {name: choice for name, (_, choice) in chosen.items()},
        frozenset(edge for edge, weight in altered.items() if weight == 0.0) | stopped,
        {edge: weight for edge, weight in altered.items() if weight},
        frozenset(edge for edge, weight in altered.items() if weight is None),
        through,
        tuple(stores[memory.name] for memory in graph.memories if memory.name in stores),
    )


def _assign(
    chosen: dict[str, tuple[CreditDecl, Choice]], name: str, decl: CreditDecl, choice: Choice, problems: Problems
) -> None:
    """The rule of one parameter; a second, different one is an error."""
    earlier, rule = chosen.setdefault(name, (decl, choice))
    one, other = (replace(c, text="", span=None) for c in (rule, choice))
    if one != other:
        first, second = earlier.selector.text, decl.selector.text
        problems.add(TwoRules(decl.selector.span, name, first, rule.text, second, choice.text))


def _selected(graph: StepGraph, decl: CreditDecl, selector: str, problems: Problems) -> tuple[str, ...]:
    if selector == "recurrence":
        return tuple(p.name for p in graph.parameters)
    found = parameters(graph, selector)
    if not found:
        problems.add(NoMatch(decl.selector.span, selector, near(graph, selector)))
    return found


def _head(rule: Expression) -> str:
    """The word that a rule starts with; empty if it is neither a word nor a call."""
    return str(rule.root.value) if rule.root.kind in ("name", "call", "text") else ""


def _altered(
    graph: StepGraph, decl: CreditDecl, selector: str, action: str, problems: Problems
) -> dict[tuple[int, int], float | None]:
    """The edges of a use of a state (or of all of them) with what credit is multiplied by; None: a random matrix."""
    words = _words(decl.rule.root, decl.rule.nodes)
    match words:
        case Words("cut", ()):
            weight = 0.0
        case Words("scale", (int() | float() as number,)) if isfinite(number):
            weight = float(number)
        case Words("feedback", () | ("random",)):
            weight = None
        case _:
            expected = "a use of a state takes `cut`, `scale(0.5)` or `feedback(random)`; rules belong to parameters"
            problems.add(WrongAction(decl.rule.span, selector, decl.rule.span.text or action, expected))
            return {}
    edges = _uses(graph, decl, selector, problems)
    if weight is None and edges:
        edges = frozenset(edge for edge in edges if product(graph, edge) is not None)
        if not edges:
            problems.add(NoProduct(decl.selector.span, selector))
    return dict.fromkeys(sorted(edges), weight)


def _uses(graph: StepGraph, decl: CreditDecl, selector: str, problems: Problems) -> frozenset[tuple[int, int]]:
    """The edges of a use of a state, or of all of them."""
    use = as_use(selector)
    if use is None:
        return all_uses(graph, [carry for carry in graph.carries if carry.credited])
    carry = read_by(graph, *use)
    edges = uses(graph, carry) if carry else ()
    if not edges:
        known = state_uses(graph)
        hint = suggest(f"{use[0]}[t-{use[1]}]", known) or f"uses of states: {', '.join(known) or 'none'}"
        problems.add(UnknownUse(decl.selector.span, f"{use[0]}[t-{use[1]}]", hint))
    return frozenset(edges)


def _choice(decl: CreditDecl, selector: str, problems: Problems) -> Choice | None:
    """The rule of a selector of parameters."""
    root, name = decl.rule.root, _head(decl.rule)
    try:
        rule = find(name)
    except BrokenRuleError as error:
        problems.add(BrokenRule(decl.rule.span, name, error.package, error.reason))
        return None
    if rule is not None and root.kind in ("name", "call"):
        return _call(decl.rule, rule, problems)
    if name in ACTIONS:
        expected = f"`{name}` is for a use of a state such as `h[t-1]`, or for `recurrence`"
        expected += "; to train nothing, `frozen`" if name == CUT else ""
        problems.add(WrongAction(decl.rule.span, selector, name, expected))
    elif name in LATER:
        problems.add(RuleNotYet(decl.rule.span, name, ", ".join(names())))
    else:
        hint = suggest(name, [*names(), *LATER]) or f"supported: {', '.join(names())}"
        problems.add(UnknownRule(decl.rule.span, name or decl.rule.span.text, hint))
    return None


def _call(expression: Expression, rule: Rule, problems: Problems) -> Choice | None:
    """A call of a known rule: its arguments, checked."""
    root, nodes = expression.root, expression.nodes
    known = [argument.name for argument in rule.arguments]
    given: dict[str, Node] = {}
    pairs = [(known[k] if k < len(known) else "", index) for k, index in enumerate(root.args)]
    for name, index in (*pairs, *root.keywords):
        if name not in known:
            what = f"no argument `{name}`" if name else f"at most {len(known)} arguments"
            hint = suggest(name, known) or rule.usage
            problems.add(RuleArgument(nodes[index].span, f"`{rule.name}` takes {what}", hint))
            return None
        if name in given:
            problems.add(RuleArgument(nodes[index].span, f"`{name}` of `{rule.name}` is given twice", rule.usage))
            return None
        given[name] = nodes[index]
    values: dict[str, Given] = {}
    kinds = {argument.name: argument.kind for argument in rule.arguments}
    for name, node in given.items():
        value = _argument(node, kinds[name], nodes)
        if value is None:
            problems.add(RuleArgument(node.span, f"`{name}` of `{rule.name}` is {WHAT[kinds[name]]}", rule.usage))
            return None
        values[name] = value
    try:
        made = rule.expand(values)
    except RuleError as error:
        place = given[error.argument].span if error.argument in given else expression.span
        problems.add(RuleArgument(place, error.reason, rule.usage))
        return None
    words = [f"{name}={value}" for name, value in values.items()]
    text = f"{rule.name}({', '.join(words)})" if words else rule.name
    span, more = expression.span, (made.thinning, made.tail, made.spares, made.answering, made.budget, made.replay)
    return Choice(text, made.window, made.tracing, span, *more)


WHAT = {
    "name": "a name",
    "number": "a whole number",
    "factor": "a number above 0 and at most 1",
    "real": "a number",
    "choice": "a word",
    "words": "a word, or one with values in parentheses",
    "call": "a word, or one with arguments in parentheses",
    "count": "a whole number of steps",
    "schedule": "`constant` or `decreasing(alpha)`",
    "drift": "`accept`, `decay(rho)`, `reset` or `rerun(steps)`",
    "learning": "`bootstrap` or `bp_lambda(share)`",
}


def _words(node: Node, nodes: Sequence[Node]) -> Words | None:
    """A word, or a call of one with numbers or words."""
    inner = [nodes[k] for k in node.args if nodes[k].kind in ("number", "name", "text")]
    found = tuple(n.value for n in inner if isinstance(n.value, int | float | str) and not isinstance(n.value, bool))
    if node.kind not in ("name", "text", "call") or node.keywords or len(found) < len(node.args):
        return None
    return Words(str(node.value), found)


def _value(node: Node, nodes: Sequence[Node]) -> int | float | str | Words | None:
    """A number, a word, or words with arguments."""
    if node.kind != "call":
        found = node.value if node.kind in ("number", "name", "text") else None
        return None if isinstance(found, bool) or not isinstance(found, int | float | str) else found
    inner = [_value(nodes[k], nodes) for k in node.args]
    named = [(name, _value(nodes[k], nodes)) for name, k in node.keywords]
    if None in inner or None in dict(named).values():
        return None
    kept = tuple((name, value) for name, value in named if value is not None)
    return Words(str(node.value), tuple(value for value in inner if value is not None), kept)


def _argument(node: Node, kind: str, nodes: Sequence[Node]) -> Given | None:
    """A number, the text of a name, or words."""
    if kind in ("drift", "schedule", "learning", "words"):
        return _words(node, nodes)
    if kind == "call":
        found = _value(node, nodes)
        return Words(found) if isinstance(found, str) else found if isinstance(found, Words) else None
    if kind in ("name", "choice"):
        return str(node.value) if node.kind in ("name", "text") else None
    if node.kind != "number" or isinstance(node.value, bool):
        return None
    if kind in ("factor", "real"):
        return node.value if isinstance(node.value, int | float) else None
    return node.value if isinstance(node.value, int) else None
