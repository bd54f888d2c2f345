"""The typed tree of a spec: frozen dataclasses, a span on each node.

An expression is flat: its nodes stand in post-order in one tuple and refer to their arguments by
index, so that no walk, comparison or printout recurses over a tree whose size the user sets.
"""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.source import Span

Scalar = int | float | str | bool | None


@dataclass(frozen=True)
class Node:
    """One node of an expression.

    kind        value                        args
    ----------  ---------------------------  -------------------------------------
    number      int or float                 ()
    name        "h", or dotted "past.read"   ()
    delay       ("h", k) for h[t-k], k >= 1  ()
    text        the string                   ()
    unary       "-", "+" or "not"            (operand,)
    binary      + - * / @ ** % and or        (left, right)
    compare     < <= > >= == !=              (left, right)
    call        function name ("gru")        positional; `keywords` hold the rest
    list        None                         items of [a, b]
    concat      None                         items of [a; b]
    pick        axis name                    (operand, index) for z[gate=0]
    transpose   None                         (operand,) for M.T
    """

    kind: str
    value: Scalar | tuple[str, int]
    args: tuple[int, ...]
    keywords: tuple[tuple[str, int], ...]
    span: Span


@dataclass(frozen=True)
class Expression:
    """Nodes in post-order; the last is the root."""

    nodes: tuple[Node, ...]

    @property
    def root(self) -> Node:
        return self.nodes[-1]

    @property
    def span(self) -> Span:
        return self.root.span


@dataclass(frozen=True)
class Name:
    text: str
    span: Span


@dataclass(frozen=True)
class Equation:
    """`a, b = expression`; the first target names a block's parameters."""

    targets: tuple[Name, ...]
    value: Expression
    span: Span


@dataclass(frozen=True)
class TypeExpr:
    """`float[hid, inp + hid]`; `kind` is float, onehot, class, token or bool. Each axis is a size expression."""

    kind: str
    axes: tuple[Expression, ...]
    span: Span


@dataclass(frozen=True)
class SizeDecl:
    """`hidden: 256`, `half: hidden / 2`; value None means `data`: the size comes from the data set."""

    name: Name
    value: Expression | None


@dataclass(frozen=True)
class Declared:
    """An input or a target."""

    name: Name
    type: TypeExpr


@dataclass(frozen=True)
class ParamDecl:
    """A parameter. One of `init` (a call such as normal(0, 0.1)) and `literal` (a number or nested list) is set.

    `masks` are the calls `sparse(density)` and `blocks(n)`.
    """

    name: Name
    type: TypeExpr
    init: Expression | None
    literal: Expression | None
    masks: tuple[Expression, ...]
    frozen: bool


@dataclass(frozen=True)
class StateDecl:
    """A carried state. `type` None: inferred.

    `initial` is None (zero), a number, a nested list, or an expression of parameters. `kept`: no reset restarts it.
    """

    name: Name
    type: TypeExpr | None
    initial: Expression | None
    kept: bool = False


@dataclass(frozen=True)
class BlockDecl:
    """A reusable piece of a step, from `blocks:`, a file beside the spec, or the standard library.

    `sizes` maps keyword sizes and options to their default (None: required). `fold` names a list-valued keyword: the
    step is repeated for each of its entries (bound to that keyword's name), the first argument being the previous
    round's first result; `last`, where given, replaces the step in the last round.
    """

    name: Name
    doc: str
    arguments: tuple[Declared, ...]
    sizes: tuple[tuple[Name, Expression | None], ...]
    params: tuple[ParamDecl, ...]
    states: tuple[StateDecl, ...]
    step: tuple[Equation, ...]
    returns: tuple[Name, ...]
    fold: Name | None = None
    last: tuple[Equation, ...] = ()
    last_params: tuple[ParamDecl, ...] = ()


@dataclass(frozen=True)
class WriteDecl:
    """What is written to a store. `key` None: the value; `every` None: each step; `when` None: always; `merge` None:
    an item with a key that is stored already takes a slot of its own."""

    key: Expression | None
    value: Expression
    every: Expression | None
    when: Expression | None
    eval: bool | None
    span: Span
    merge: Expression | None = None


@dataclass(frozen=True)
class ReadDecl:
    """One way of reading a store, used as STORE.NAME. `options` are the further keys that were written."""

    name: Name
    query: Expression
    score: Expression | None
    select: Expression | None
    normalise: Expression | None
    every: Expression | None
    index: Expression | None
    options: tuple[tuple[Name, Name], ...]
    span: Span


@dataclass(frozen=True)
class StoreDecl:
    """An external memory. `slots` None: unbounded. `evict`, `life` and `storage` None: the default. place: the folder
    of `storage: disk(PATH)`."""

    name: Name
    slots: Expression | None
    evict: Expression | None
    life: Name | None
    storage: Name | None
    write: WriteDecl | None
    reads: tuple[ReadDecl, ...]
    place: Name | None = None


@dataclass(frozen=True)
class LossDecl:
    """`value` is a call of a loss. `at` is "all", "last" or ("every", n).

    `trains` are selectors; empty: all parameters. A single loss has the name `loss`.
    """

    name: Name
    value: Expression
    weight: float
    trains: tuple[Name, ...]
    at: str | tuple[str, int]
    span: Span


@dataclass(frozen=True)
class CreditDecl:
    """One selector with its rule. The selector is "default", "recurrence", "h[t-1]", "enc.*", a parameter or a store.

    `rule` is a call or bare name (`tbptt(window=10)`, `bptt`, `cut`).
    """

    selector: Name
    rule: Expression


@dataclass(frozen=True)
class Setting:
    """A key of `train:` with its value: a number, word, text, list or call (`adam(lr=1e-3)`).

    `true`, `false` and `null` are name nodes of that text.
    """

    name: Name
    value: Expression


@dataclass(frozen=True)
class RateDecl:
    """The learning rate (`train: lr`) of the parameters that a selector names; "default": of those that none does."""

    selector: Name
    value: Expression


@dataclass(frozen=True)
class Spec:
    """A whole spec, checked for form but not yet for names, axes and types."""

    name: str
    doc: str
    sizes: tuple[SizeDecl, ...]
    inputs: tuple[Declared, ...]
    targets: tuple[Declared, ...]
    params: tuple[ParamDecl, ...]
    states: tuple[StateDecl, ...]
    blocks: tuple[BlockDecl, ...]
    memory: tuple[StoreDecl, ...]
    step: tuple[Equation, ...]
    losses: tuple[LossDecl, ...]
    reduce: str
    credit: tuple[CreditDecl, ...]
    require: Name | None
    data: Expression | None
    train: tuple[Setting, ...]
    span: Span
    rates: tuple[RateDecl, ...] = ()
