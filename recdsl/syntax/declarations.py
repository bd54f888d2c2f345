"""`sizes`, `inputs`, `targets`, `params`, `states`: a name, or several, with what they are."""

from __future__ import annotations

from recdsl.diagnostics import Problems
from recdsl.errors import keys
from recdsl.errors import syntax as errors
from recdsl.source import Span
from recdsl.syntax.ast import Declared, ParamDecl, SizeDecl, StateDecl
from recdsl.syntax.sections import describe, expression, groups, names, text
from recdsl.syntax.types import Declaration, literal_problem, parse_declaration
from recdsl.syntax.yaml_reader import Scalar, YamlNode


def read_sizes(node: YamlNode, problems: Problems) -> tuple[SizeDecl, ...]:
    """`hidden: 256`, `half: hidden / 2`, `vocab: data`."""
    found: list[SizeDecl] = []
    for group, value in groups(node, "sizes", problems, "hidden: 64"):
        key = group[-1]
        made = None
        from_data = isinstance(value, Scalar) and value.value == "data"
        if isinstance(value, Scalar) and isinstance(value.value, bool):
            problems.add(keys.WrongKind(value.span, key.text.value, "a size", describe(value), "for example `64`"))
        elif not from_data:
            made = expression(value, key.text.value, problems, "a size", "64")
        for name in names(group, problems):
            if made is not None or from_data:
                found.append(SizeDecl(name, made))
    return tuple(found)


def _declaration(key: Scalar, node: YamlNode, problems: Problems) -> Declaration | None:
    found = text(node, key.text.value, problems, "a type", "float[hidden]")
    return None if found is None else parse_declaration(found, problems)


def read_declared(node: YamlNode, section: str, problems: Problems) -> tuple[Declared, ...]:
    """Inputs, targets or arguments: a type each."""
    found: list[Declared] = []
    for group, value in groups(node, section, problems, "x: float"):
        key = group[-1]
        declared = _declaration(key, value, problems)
        declares = names(group, problems)
        if declared is None:
            continue
        _refuse_start(declared, key, section, problems)
        _refuse_masks(declared, key.text.value, section, problems)
        if declared.type is not None:
            found.extend(Declared(name, declared.type) for name in declares)
    return tuple(found)


def _refuse_start(declared: Declaration, key: Scalar, section: str, problems: Problems) -> None:
    start = declared.init or declared.literal
    if start is not None:
        reason = f"`{key.text.value}` in `{section}` cannot have a start value"
        problems.add(errors.BadModifier(start.span, reason, "start values belong to params and states"))


def _refuse_masks(declared: Declaration, name: str, section: str, problems: Problems) -> None:
    place: Span | None = declared.masks[0].span if declared.masks else declared.frozen
    if place is not None:
        reason = f"`{name}` in `{section}` cannot be masked or frozen"
        problems.add(errors.BadModifier(place, reason, "masks and `frozen` belong to params"))
    if declared.kept is not None and section != "states":
        advice = "`kept` is for states, which no reset then restarts"
        problems.add(errors.BadModifier(declared.kept, f"`{name}` in `{section}` cannot be kept", advice))


def read_params(node: YamlNode, problems: Problems) -> tuple[ParamDecl, ...]:
    """Parameters; each needs a start value."""
    found: list[ParamDecl] = []
    for group, value in groups(node, "params", problems, "W: float[hidden, obs] ~ glorot"):
        key = group[-1]
        declared = _declaration(key, value, problems)
        declares = names(group, problems)
        if declared is None:
            continue
        init, literal = declared.init, declared.literal
        if declared.type is None:
            problems.add(errors.BadModifier(value.span, "a parameter needs a type", "for example `float = 1`"))
            continue
        if init is None and literal is None:
            problems.add(errors.NoInitialiser(declared.type.span, key.text.value))
            continue
        wrong = None if literal is None else literal_problem(literal)
        if wrong is not None:
            problems.add(wrong)
            continue
        if declared.kept is not None:
            advice = "`kept` is for states, which no reset then restarts; `frozen` is for params"
            problems.add(errors.BadModifier(declared.kept, f"`{key.text.value}` is a parameter, not a state", advice))
        masks, frozen = tuple(declared.masks), declared.frozen is not None
        found.extend(ParamDecl(name, declared.type, init, literal, masks, frozen) for name in declares)
    return tuple(found)


def read_states(node: YamlNode, problems: Problems) -> tuple[StateDecl, ...]:
    """States; the type may be left out (`h: = start`), and so may the start (zero)."""
    found: list[StateDecl] = []
    for group, value in groups(node, "states", problems, "h: float[hidden] = 1"):
        declares = names(group, problems)
        if isinstance(value, Scalar) and value.value is None and value.text.style == "":
            found.extend(StateDecl(name, None, None) for name in declares)
            continue
        key = group[-1]
        declared = _declaration(key, value, problems)
        if declared is None:
            continue
        if declared.init is not None:
            reason = "a state does not start at random"
            advice = "declare a parameter that does, and start there: `= start`"
            problems.add(errors.BadModifier(declared.init.span, reason, advice))
        _refuse_masks(declared, key.text.value, "states", problems)
        start = declared.literal
        if start is not None and all(node.kind in ("number", "list") for node in start.nodes):
            wrong = literal_problem(start)
            problems.found.extend([] if wrong is None else [wrong])
        kept = declared.kept is not None
        found.extend(StateDecl(name, declared.type, declared.literal, kept) for name in declares)
    return tuple(found)
