"""What is shared by everything that builds one graph: nodes, problems, parameters, inferred state types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recdsl.diagnostics import Problems
from recdsl.graph.emit import UNKNOWN, Emitter
from recdsl.graph.scope import Scope
from recdsl.graph.step import Input, Parameter, Recall
from recdsl.graph.types import Axis, Type
from recdsl.source import Span
from recdsl.syntax.ast import BlockDecl, Equation, Spec, StateDecl


@dataclass
class History:
    """A value read at earlier steps: its leaves, one for each lag up to the largest read."""

    name: str
    type: Type
    kind: str
    links: list[int]
    span: Span
    source: int = UNKNOWN


@dataclass(frozen=True)
class Declaration:
    """A state's declaration, the scope that it stands in, and its type where it gives one."""

    decl: StateDecl
    scope: Scope
    type: Type | None


@dataclass
class Context:
    """One pass over a spec.

    `optimistic` passes find state types: unknown operands take the others' type, problems are thrown away. The
    final pass reports problems; a value that could not be built silences what depends on it.

    equations: those of the spec's step and of its memories; handlers: what calls in the latter mean; recalls: the
    reads that were built, by store; lasting: states that a reset leaves alone; taped: those that are
    tapes, with their kind; common: names that are read as of an earlier step and are rows of a store for all samples.
    """

    spec: Spec
    sizes: Mapping[str, int]
    inferred: dict[str, Type]
    optimistic: bool
    library: dict[str, BlockDecl | None]
    emit: Emitter = field(default_factory=Emitter)
    problems: Problems = field(default_factory=Problems)
    inputs: list[Input] = field(default_factory=list[Input])
    parameters: dict[str, Parameter] = field(default_factory=dict[str, Parameter])
    histories: dict[str, History] = field(default_factory=dict[str, History])
    declared: dict[str, Declaration] = field(default_factory=dict[str, Declaration])
    values: dict[str, int] = field(default_factory=dict[str, int])
    unknown: dict[str, Span] = field(default_factory=dict[str, Span])
    index_axis: dict[int, Axis] = field(default_factory=dict[int, Axis])
    onehot: dict[int, int] = field(default_factory=dict[int, int])
    input_names: dict[int, str] = field(default_factory=dict[int, str])
    changed: list[str] = field(default_factory=list[str])
    expansions: list[tuple[int, int, Span]] = field(default_factory=list[tuple[int, int, Span]])
    expanded: int = 0
    growth: dict[str, int] = field(default_factory=dict[str, int])
    delayed: dict[int, int] = field(default_factory=dict[int, int])
    equations: tuple[Equation, ...] = ()
    handlers: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict[str, Callable[[Any, Any], Any]])
    recalls: dict[str, list[Recall]] = field(default_factory=dict[str, list[Recall]])
    stores: list[Any] = field(default_factory=list[Any])
    lasting: set[str] = field(default_factory=set[str])
    taped: dict[str, str] = field(default_factory=dict[str, str])
    common: set[str] = field(default_factory=set[str])

    def known(self, value: int) -> bool:
        """Whether a value has a type, all of its axes included."""
        if value == UNKNOWN:
            return False
        return not self.optimistic or all(axis.size for axis in self.emit.type(value).axes)
