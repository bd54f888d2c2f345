"""Short ways to parse pieces of specs, and to look at what came out."""

from __future__ import annotations

from recdsl.diagnostics import Problem, Problems, SpecError
from recdsl.source import Source
from recdsl.syntax.ast import Equation, Expression, Spec
from recdsl.syntax.expressions import parse_equations, parse_expression, parse_value
from recdsl.syntax.spec import read_spec
from recdsl.syntax.text import Text


def text(value: str) -> Text:
    return Text.whole(Source("x.yaml", value))


def tree(expression: Expression) -> str:
    """An expression with all its brackets: `(+ a (* b c))`."""
    shown: list[str] = []
    for node in expression.nodes:
        inner = [shown[index] for index in node.args]
        inner += [f"{name}={shown[index]}" for name, index in node.keywords]
        if node.kind == "delay" and isinstance(node.value, tuple):
            shown.append(f"{node.value[0]}@{node.value[1]}")
        elif node.kind in ("number", "name"):
            shown.append(str(node.value))
        elif node.kind == "text":
            shown.append(repr(node.value))
        else:
            label = node.kind if node.value is None else f"{node.kind} {node.value}"
            shown.append(f"({' '.join([label.removeprefix('binary ').removeprefix('compare '), *inner])})")
    return shown[-1]


def expression(value: str) -> str:
    problems = Problems()
    found = parse_expression(text(value), problems)
    problems.check()
    assert found is not None
    return tree(found)


def value(written: str) -> str:
    problems = Problems()
    found = parse_value(text(written), problems)
    problems.check()
    assert found is not None
    return tree(found)


def equations(value: str) -> tuple[tuple[Equation, ...], list[Problem]]:
    problems = Problems()
    return parse_equations(text(value), problems), problems.found


def places(problems: list[Problem] | tuple[Problem, ...]) -> list[str]:
    """`CODE line:column` of each, in file order."""
    return [f"{problem.code} {problem.span.line}:{problem.span.column}" for problem in SpecError(problems).problems]


def spec(body: str, *overrides: str) -> Spec:
    """A spec with `recdsl`, `step` and `loss` filled in where the body has none."""
    for key, line in (("recdsl:", "recdsl: 1"), ("loss:", "loss: mse(h, 0)"), ("step:", "step: h = x")):
        if not any(found.startswith(key) for found in body.split("\n")):
            body = f"{body.rstrip()}\n{line}\n".lstrip("\n")
    return read_spec(body, overrides)


def failure(body: str, *overrides: str) -> list[str]:
    """The problems of a spec as `CODE line:column`."""
    return places(failed(body, *overrides))


def failed(body: str, *overrides: str) -> tuple[Problem, ...]:
    try:
        spec(body, *overrides)
    except SpecError as error:
        return error.problems
    raise AssertionError("the spec has no problem")
