"""YAML text to a tree of maps, lists and scalars with spans.

Built from the parser's events: PyYAML never constructs anything, so aliases, merges, tags and depth are
refused before they can cost time or memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from recdsl.diagnostics import Note, Problem, Problems, SpecError
from recdsl.errors import yaml as errors
from recdsl.source import Source, Span
from recdsl.syntax.ast import Scalar as Value
from recdsl.syntax.limits import NUMBER_LENGTH, YAML_DEPTH, YAML_NODES
from recdsl.syntax.scalars import is_number, resolve
from recdsl.syntax.text import Text
from recdsl.syntax.yaml_errors import syntax_problem

_TAG = re.compile(r"!\S*")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, eq=False)
class Scalar:
    """A leaf: its text, and its value by the rules of YAML 1.2 (quoted scalars are always text).

    `patches` are keywords that a command line override sets in the call written here.
    """

    text: Text
    value: Value
    patches: tuple[tuple[Scalar, Scalar], ...] = ()
    what = "a value"

    @property
    def span(self) -> Span:
        return self.text.whole_span


@dataclass(frozen=True, eq=False)
class Sequence:
    items: tuple[YamlNode, ...]
    span: Span
    what = "a list"


@dataclass(frozen=True, eq=False)
class Mapping:
    items: tuple[tuple[Scalar, YamlNode], ...]
    span: Span
    what = "a map"


YamlNode = Scalar | Sequence | Mapping


@dataclass(eq=False)
class _Open:
    """A list or map whose end has not been read."""

    start: int
    mapping: bool
    items: list[YamlNode] = field(default_factory=list[YamlNode])
    keys: dict[str, Span] = field(default_factory=dict[str, Span])

    @property
    def at_key(self) -> bool:
        return self.mapping and len(self.items) % 2 == 0


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems = Problems()
        self.stack: list[_Open] = []
        self.root: YamlNode | None = None
        self.count = 0
        self.documents = 0

    def span(self, event: Any) -> Span:
        return Span(self.source, event.start_mark.index, event.end_mark.index)

    def stop(self, problem: Problem) -> SpecError:
        """For what makes going on pointless or dangerous."""
        return SpecError([*self.problems.found, problem])

    def once(self, problem: Problem) -> None:
        """Report only the first of its kind: a bomb holds thousands."""
        if not any(isinstance(found, problem.__class__) for found in self.problems.found):
            self.problems.add(problem)

    def read(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise self.stop(errors.ManyDocuments(self.span(event)))
            case yaml.AliasEvent():
                self.once(errors.AliasRefused(self.span(event), f"*{event.anchor}"))
                self.leaf(Scalar(self.text(event, ""), None))
            case yaml.ScalarEvent():
                self.guard(event)
                self.scalar(event)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self.guard(event)
                if self.stack and self.stack[-1].at_key:
                    what = "a map" if isinstance(event, yaml.MappingStartEvent) else "a list"
                    raise self.stop(errors.KeyNotText(self.span(event), what))
                if len(self.stack) == YAML_DEPTH:
                    raise self.stop(errors.YamlTooDeep(self.span(event), YAML_DEPTH))
                self.stack.append(_Open(event.start_mark.index, isinstance(event, yaml.MappingStartEvent)))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self.close(event.end_mark.index)
            case _:
                pass

    def guard(self, event: Any) -> None:
        """Refuse anchors, tags and excess of any node."""
        self.count += 1
        if self.count > YAML_NODES:
            raise self.stop(errors.YamlTooBig(self.span(event), YAML_NODES))
        start = event.start_mark.index
        if event.anchor is not None:
            name = f"&{event.anchor}"
            self.once(errors.AliasRefused(self.token(start, name), name))
        if event.tag is not None:
            # The event has the resolved tag; the error shows the one that was written.
            written = _TAG.search(self.source.text, start, start + 400)
            shown = written.group() if written else str(event.tag)
            self.once(errors.TagRefused(self.token(start, shown), shown))

    def token(self, start: int, text: str) -> Span:
        """Where `text` stands at or shortly after `start`: an anchor may follow a tag, and the other way round."""
        found = self.source.text.find(text, start, start + 400)
        begin = start if found < 0 else found
        return Span(self.source, begin, begin + len(text))

    def text(self, event: Any, value: str) -> Text:
        start, end = event.start_mark.index, event.end_mark.index
        style = getattr(event, "style", None) or ""
        if event.__class__ is yaml.ScalarEvent and (event.anchor is not None or event.tag is not None):
            # The event begins at its properties; refused anyway, so the exact place no longer matters.
            start = max(start, end - len(value))
        return Text(self.source, value, start, end, style)

    def scalar(self, event: Any) -> None:
        text = self.text(event, event.value)
        plain = text.style == ""
        value: Value = event.value
        if plain and is_number(event.value) and len(event.value) > NUMBER_LENGTH:
            self.problems.add(errors.NumberTooLong(text.whole_span, len(event.value), NUMBER_LENGTH))
            value = 0
        elif plain:
            value = resolve(event.value)
            if isinstance(value, float) and math.isinf(value) and is_number(event.value):
                self.problems.add(errors.NumberTooBig(text.whole_span, event.value))
        self.leaf(Scalar(text, value))

    def leaf(self, node: Scalar) -> None:
        if self.stack and self.stack[-1].at_key:
            self.key(node)
        self.place(node)

    def key(self, node: Scalar) -> None:
        name, seen = node.text.value, self.stack[-1].keys
        if name == "<<" and node.text.style == "":
            self.once(errors.MergeRefused(node.span))
        elif name in seen:
            first = Note(seen[name], "first here")
            self.problems.add(errors.DuplicateKey(node.span, name, notes=(first,)))
        seen.setdefault(name, node.span)

    def place(self, node: YamlNode) -> None:
        if self.stack:
            self.stack[-1].items.append(node)
        else:
            self.root = node

    def close(self, end: int) -> None:
        done = self.stack.pop()
        span = Span(self.source, done.start, end)
        if not done.mapping:
            self.place(Sequence(tuple(done.items), span))
            return
        keys = [node for node in done.items[0::2] if isinstance(node, Scalar)]
        self.place(Mapping(tuple(zip(keys, done.items[1::2], strict=True)), span))


def _events(source: Source) -> Iterator[Any]:
    yield from yaml.parse(source.text, Loader=_LOADER)


def read_yaml(source: Source) -> YamlNode:
    """The tree of one document. Raises SpecError with everything that is wrong with the YAML."""
    reader = _Reader(source)
    try:
        for event in _events(source):
            reader.read(event)
    except yaml.YAMLError as error:
        raise SpecError([*reader.problems.found, syntax_problem(source, error)]) from error
    reader.problems.check()
    if reader.root is None:
        raise SpecError([errors.NotAMap(Span(source, 0, 0), "nothing")])
    return reader.root


def read_mapping(source: Source) -> Mapping:
    """The top-level map. Raises SpecError."""
    root = read_yaml(source)
    if isinstance(root, Mapping):
        return root
    raise SpecError([errors.NotAMap(Span(source, root.span.start, root.span.start), root.what)])
