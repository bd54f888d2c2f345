"""Values of `data:` and `train:`: from the expression of the tree to checked Python values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recdsl.diagnostics import Problems, suggest
from recdsl.errors.training import MissingOption, RepeatedOption, TooManyValues, UnknownOption, WrongOption
from recdsl.source import Span
from recdsl.syntax.ast import Expression, Node
from recdsl.training.declare import Declaration, Option

WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None, "null": None}


class Word(str):
    """A name without quotes, as opposed to a text in quotes."""

    __slots__ = ()


@dataclass(frozen=True)
class Value:
    """`data` is a number, bool, None, str (quoted), Word, Call, or a tuple of Values."""

    data: Any
    span: Span


@dataclass(frozen=True)
class Call:
    """`name(args, key=value)`; a bare word is a call without options where one is expected."""

    name: str
    args: tuple[Value, ...]
    keywords: tuple[tuple[str, Value], ...]
    span: Span


def read(expression: Expression) -> Value:
    """The value of an expression; one pass over its flat nodes."""
    values: list[Value] = []
    for node in expression.nodes:
        values.append(_value(node, values))
    return values[-1]


def _value(node: Node, done: list[Value]) -> Value:
    args = tuple(done[index] for index in node.args)
    if node.kind == "call":
        keywords = tuple((name, done[index]) for name, index in node.keywords)
        return Value(Call(str(node.value), args, keywords, node.span), node.span)
    if node.kind == "list":
        return Value(args, node.span)
    if node.kind == "name":
        text = str(node.value)
        return Value(WORDS[text] if text in WORDS else Word(text), node.span)
    if node.kind == "unary" and node.value == "-" and isinstance(args[0].data, int | float):
        return Value(-args[0].data, node.span)
    if node.kind in ("number", "text"):
        return Value(node.value, node.span)
    return Value(Word(node.span.text), node.span)


def as_call(value: Value) -> Call | None:
    """The call that a value is, or None."""
    if isinstance(value.data, Call):
        return value.data
    if isinstance(value.data, str):
        return Call(str(value.data), (), (), value.span)
    return None


def show(value: Value) -> str:
    """The value as it stands in the spec, cut to a readable length."""
    text = " ".join(value.span.text.split()) or repr(value.data)
    return text if len(text) <= 60 else text[:57] + "..."


def bind(call: Call, declaration: Declaration, sizes: Mapping[str, int], problems: Problems) -> dict[str, Any]:
    """All options of a call by name, defaults filled in; what is wrong goes to `problems`.

    `sizes` are the spec's sizes, whose names are numbers in whole-number options.
    """
    names = [option.name for option in declaration.options]
    known = ", ".join(names) or "none"
    given: dict[str, Value] = dict(zip(names, call.args, strict=False))
    if len(call.args) > len(names):
        problems.add(TooManyValues(call.args[len(names)].span, call.name, len(names), known))
    for name, value in call.keywords:
        if name not in names:
            near = suggest(name, names)
            problems.add(UnknownOption(value.span, call.name, name, f"{near} " if near else "", known))
        elif name in given:
            problems.add(RepeatedOption(value.span, call.name, name))
        else:
            given[name] = value
    return {o.name: _option(call, o, given.get(o.name), sizes, problems) for o in declaration.options}


def _option(call: Call, option: Option, value: Value | None, sizes: Mapping[str, int], problems: Problems) -> Any:
    if value is None:
        if option.required:
            problems.add(MissingOption(call.span, call.name, option.name, option.doc))
        return option.default
    found = convert(option, value.data, sizes)
    if found is WRONG:
        problems.add(WrongOption(value.span, call.name, option.name, option.expected(), show(value), option.doc))
        return option.default
    return found


WRONG = object()


def convert(option: Option, data: Any, sizes: Mapping[str, int]) -> Any:
    """`data` as the option's kind, or `WRONG`."""
    if data is None:
        return None if option.none else WRONG
    if option.kind in ("int", "float"):
        return _number(option, data, sizes)
    if option.kind == "bool":
        return data if isinstance(data, bool) else WRONG
    if option.kind in ("words", "pair"):
        return _list(option, data)
    if isinstance(data, bool | int | float):
        data = str(data) if option.kind == "word" and not isinstance(data, bool) else data
    if not isinstance(data, str) or (option.choices and str(data) not in option.choices):
        return WRONG
    return str(data)


def _number(option: Option, data: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(data, str) and option.kind == "int" and str(data) in sizes:
        data = sizes[str(data)]
    if isinstance(data, bool) or not isinstance(data, int | float):
        return WRONG
    if option.kind == "int" and isinstance(data, float):
        if not data.is_integer():
            return WRONG
        data = int(data)
    # A NaN fails every comparison, so bounds are tested by what must hold.
    holds = abs(data) < float("inf") and (option.low is None or data >= option.low)
    holds = holds and (option.high is None or data <= option.high) and (option.above is None or data > option.above)
    return (float(data) if option.kind == "float" else data) if holds else WRONG


def _list(option: Option, data: Any) -> Any:
    if not isinstance(data, tuple):
        return (str(data),) if option.kind == "words" and isinstance(data, str) else WRONG
    items = [item.data for item in data]
    if option.kind == "words":
        return tuple(map(str, items)) if all(isinstance(item, str) for item in items) else WRONG
    each = Option(option.name, "float", 0.0, "", option.low, option.high, option.above)
    pair = tuple(_number(each, item, {}) for item in items)
    return pair if len(pair) == 2 and WRONG not in pair else WRONG
