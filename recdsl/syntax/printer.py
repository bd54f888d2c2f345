"""Trees back to text: `print_spec` writes canonical YAML that reads back as the same tree (`same.same`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

from recdsl.syntax.ast import (
    BlockDecl,
    Declared,
    Equation,
    Expression,
    LossDecl,
    Name,
    Node,
    ParamDecl,
    ReadDecl,
    Spec,
    StateDecl,
    StoreDecl,
    TypeExpr,
)
from recdsl.syntax.scalars import resolve

_BINDING = {
    "or": 1,
    "and": 2,
    "not": 3,
    "compare": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "@": 6,
    "%": 6,
    "sign": 7,
    "**": 8,
}
_POSTFIX, _ATOM = 9, 10
_WORD = re.compile(r"[A-Za-z_.~/*][A-Za-z0-9_.~/:*+-]*")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .()\[\]+*/@~=<>;,-]*(?<! )")
_Part = str | tuple[int, int]


def print_expression(expression: Expression) -> str:
    """With as few brackets as its reading needs. Works on a stack: depth is the user's."""
    out: list[str] = []
    work: list[_Part] = [(len(expression.nodes) - 1, 0)]
    while work:
        part = work.pop()
        if isinstance(part, str):
            out.append(part)
            continue
        node = expression.nodes[part[0]]
        parts = _parts(node, expression.nodes)
        if _binding(node) < part[1]:
            parts = ["(", *parts, ")"]
        work.extend(reversed(parts))
    return "".join(out)


def _binding(node: Node) -> int:
    if node.kind == "number" and isinstance(node.value, int | float):
        # A sign binds as an operator does; and `2.T` would read as the number `2.` and a name.
        return _BINDING["sign"] if math.copysign(1, node.value) < 0 else _BINDING["**"]
    if node.kind == "binary":
        return _BINDING[str(node.value)]
    if node.kind == "unary":
        return _BINDING["not" if node.value == "not" else "sign"]
    if node.kind == "compare":
        return _BINDING["compare"]
    return _POSTFIX if node.kind in ("pick", "transpose") else _ATOM


def _parts(node: Node, nodes: tuple[Node, ...]) -> list[_Part]:
    """The node as texts and (argument, binding it needs)."""
    match node.kind:
        case "binary":
            own = _BINDING[str(node.value)]
            left, right = (_POSTFIX, _BINDING["sign"]) if node.value == "**" else (own, own + 1)
            if node.value == "**" and nodes[node.args[0]].kind == "number":
                left = _BINDING["**"]
            return [(node.args[0], left), f" {node.value} ", (node.args[1], right)]
        case "compare":
            return [(node.args[0], _BINDING["+"]), f" {node.value} ", (node.args[1], _BINDING["+"])]
        case "unary":
            own = _BINDING["not"] if node.value == "not" else _BINDING["sign"]
            return ["not " if node.value == "not" else str(node.value), (node.args[0], own)]
        case "pick":
            return [(node.args[0], _POSTFIX), f"[{node.value}=", (node.args[1], 0), "]"]
        case "transpose":
            return [(node.args[0], _POSTFIX), ".T"]
        case "call":
            named = [[f"{name}=", (index, 0)] for name, index in node.keywords]
            return [f"{node.value}(", *_joined([*([(index, 0)] for index in node.args), *named], ", "), ")"]
        case "list" | "concat":
            separator = ", " if node.kind == "list" else "; "
            return ["[", *_joined([[(index, 0)] for index in node.args], separator), "]"]
        case "delay" if isinstance(node.value, tuple):
            return [f"{node.value[0]}[t-{node.value[1]}]"]
        case "text":
            return [_text(str(node.value))]
        case "number":
            return [print_number(node.value)]
        case _:
            return [str(node.value)]


def _joined(groups: Iterable[Sequence[_Part]], separator: str) -> list[_Part]:
    out: list[_Part] = []
    for group in groups:
        out.extend([separator] if out else [])
        out.extend(group)
    return out


def print_number(value: object) -> str:
    """A number as YAML and the grammars read it; infinities exist in YAML only."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return repr(value)


def _text(text: str) -> str:
    return text if _WORD.fullmatch(text) and not _IDENTIFIER.fullmatch(text) else json.dumps(text)


def quoted(text: str) -> str:
    """A YAML scalar that reads back as this text."""
    if _PLAIN.fullmatch(text) and isinstance(resolve(text), str):
        return text
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(char if " " <= char <= "~" else f"\\U{ord(char):08X}" for char in shown)


def print_equation(equation: Equation) -> str:
    return f"{', '.join(name.text for name in equation.targets)} = {print_expression(equation.value)}"


def print_type(type_: TypeExpr) -> str:
    return f"{type_.kind}[{', '.join(print_expression(axis) for axis in type_.axes)}]" if type_.axes else type_.kind


def print_param(param: ParamDecl) -> str:
    """The value of a parameter's key."""
    words = [print_type(param.type)]
    if param.init is not None:
        words.append(f"~ {print_expression(param.init)}")
    if param.literal is not None:
        words.append(f"= {print_expression(param.literal)}")
    words.extend(print_expression(mask) for mask in param.masks)
    return " ".join([*words, "frozen"] if param.frozen else words)


def print_state(state: StateDecl) -> str:
    """The value of a state's key; empty if nothing is declared but the name."""
    words = [] if state.type is None else [print_type(state.type)]
    words += [] if state.initial is None else [f"= {print_expression(state.initial)}"]
    return " ".join([*words, "kept"] if state.kept else words)


def _value(expression: Expression) -> str:
    if len(expression.nodes) == 1 and expression.root.kind == "number":
        return print_number(expression.root.value)
    text = print_expression(expression)
    return text if text in ("true", "false", "null") else quoted(text)


def _section(key: str, lines: Sequence[str]) -> list[str]:
    return [f"{key}:", *(f"  {line}" for line in lines)] if lines else []


def _map(items: Iterable[tuple[Name, str]]) -> list[str]:
    return [f"{quoted(name.text)}: {value}".rstrip() for name, value in items]


def _declared(items: Sequence[Declared]) -> list[str]:
    return _map((item.name, quoted(print_type(item.type))) for item in items)


def _step(equations: Sequence[Equation]) -> list[str]:
    return ["step: |", *(f"  {print_equation(equation)}" for equation in equations)]


def _params(params: Sequence[ParamDecl]) -> list[str]:
    return _map((param.name, quoted(print_param(param))) for param in params)


def _states(states: Sequence[StateDecl]) -> list[str]:
    return _map((state.name, quoted(print_state(state)) if print_state(state) else "") for state in states)


def print_block(block: BlockDecl) -> list[str]:
    """The keys of a block, a line each."""
    options = _map((name, "required" if default is None else _value(default)) for name, default in block.sizes)
    lines = [f"doc: {quoted(block.doc)}"] if block.doc else []
    lines += _section("arguments", _declared(block.arguments)) + _section("sizes", options)
    lines += _section("params", _params(block.params)) + _section("states", _states(block.states))
    lines += _step(block.step)
    lines.append(f"returns: {quoted(', '.join(name.text for name in block.returns))}")
    if block.fold is not None:
        lines.append(f"fold: {block.fold.text}")
    if block.last:
        lines += _section("last", [*_section("params", _params(block.last_params)), *_step(block.last)])
    return lines


def print_store(store: StoreDecl) -> list[str]:
    """A memory: its name and its keys, a line each."""
    lines = _optional(("evict", store.evict)) + ([] if store.life is None else [f"life: {store.life.text}"])
    where = "" if store.place is None else f"({store.place.text})"
    lines += [] if store.storage is None else [f"storage: {quoted(store.storage.text + where)}"]
    if store.write is not None:
        write = store.write
        inner = _optional(("key", write.key), ("value", write.value), ("every", write.every), ("when", write.when))
        inner += _optional(("merge", write.merge))
        lines += _section("write", inner if write.eval is None else [*inner, f"eval: {str(write.eval).lower()}"])
    plain = [read for read in store.reads if read.name.text == "read"]
    lines += [line for read in plain[:1] for line in _section("read", _read(read))]
    named = [read for read in store.reads if read not in plain[:1]]
    lines += _section("reads", [line for read in named for line in _section(quoted(read.name.text), _read(read))])
    slots = "unbounded" if store.slots is None else _value(store.slots)
    return _section(quoted(store.name.text), [f"slots: {slots}", *lines])


def _read(read: ReadDecl) -> list[str]:
    given = (("score", read.score), ("select", read.select), ("normalise", read.normalise), ("every", read.every))
    given = (*given, ("index", read.index))
    return _optional(("query", read.query), *given) + [f"{name.text}: {word.text}" for name, word in read.options]


def _optional(*items: tuple[str, Expression | None]) -> list[str]:
    return [f"{key}: {_value(value)}" for key, value in items if value is not None]


def _losses(losses: Sequence[LossDecl], reduce: str) -> list[str]:
    lines: list[str] = [] if reduce == "mean" else [f"reduce: {reduce}"]
    for loss in losses:
        at = loss.at if isinstance(loss.at, str) else f"every({loss.at[1]})"
        inner = [f"value: {quoted(print_expression(loss.value))}"]
        inner += [f"weight: {print_number(loss.weight)}"] if loss.weight != 1 else []
        inner += _section("trains", [f"- {quoted(name.text)}" for name in loss.trains])
        lines += [f"{quoted(loss.name.text)}:", *(f"  {line}" for line in [*inner, f"at: {at}"])]
    return _section("loss", lines)


def print_spec(spec: Spec) -> str:
    """A whole spec. The text holds everything but comments and places."""
    sizes = _map((size.name, "data" if size.value is None else _value(size.value)) for size in spec.sizes)
    lines = ["recdsl: 1", f"name: {quoted(spec.name)}", *([f"doc: {quoted(spec.doc)}"] if spec.doc else [])]
    lines += _section("sizes", sizes)
    lines += _section("inputs", _declared(spec.inputs)) + _section("targets", _declared(spec.targets))
    lines += _section("params", _params(spec.params)) + _section("states", _states(spec.states))
    for index, block in enumerate(spec.blocks):
        lines += [*(["blocks:"] if index == 0 else []), f"  {quoted(block.name.text)}:"]
        lines += [f"    {line}" for line in print_block(block)]
    lines += _section("memory", [line for store in spec.memory for line in print_store(store)])
    lines += _step(spec.step) + _losses(spec.losses, spec.reduce)
    rules = _map((item.selector, quoted(print_expression(item.rule))) for item in spec.credit)
    lines += _section("credit", rules + ([] if spec.require is None else [f"require: {quoted(spec.require.text)}"]))
    lines += [] if spec.data is None else [f"data: {quoted(print_expression(spec.data))}"]
    rates = _section("lr", _map((item.selector, _value(item.value)) for item in spec.rates))
    lines += _section("train", [*_map((setting.name, _value(setting.value)) for setting in spec.train), *rates])
    return "\n".join(lines) + "\n"
