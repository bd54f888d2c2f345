"""`loss`, `credit`, `data` and `train`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from recdsl.diagnostics import Problems
from recdsl.errors import keys
from recdsl.errors import syntax as errors
from recdsl.source import Span
from recdsl.syntax.ast import CreditDecl, Expression, LossDecl, Name, RateDecl, Setting
from recdsl.syntax.names import bad_name, selector
from recdsl.syntax.sections import describe, expression, items, known_items, names, text, value
from recdsl.syntax.yaml_reader import Mapping, Scalar, YamlNode
from recdsl.syntax.yaml_reader import Sequence as YamlSequence

LOSS_KEYS = ("value", "weight", "trains", "at")
LATER_TRAIN = ("drift", "flush")
RATES = "lr: {default: 1e-3, dec.*: 3e-3}"
_EVERY = re.compile(r"every\(\s*([0-9]{1,15})\s*\)")
_REQUIRE = re.compile(r"\s*(\w+)(?:\s+for\s+(.+?))?\s*", re.S)


@dataclass(frozen=True)
class Losses:
    items: tuple[LossDecl, ...]
    reduce: str


def read_losses(key: Span, node: YamlNode, problems: Problems) -> Losses:
    """One call; or `{value, weight, trains, at, reduce}`; or named losses, perhaps with `reduce`."""
    if not isinstance(node, Mapping):
        value_ = expression(node, "loss", problems, "a loss", "mse(y, target)")
        made = () if value_ is None else (LossDecl(Name("loss", key), value_, 1.0, (), "all", value_.span),)
        return Losses(made, "mean")
    entries = {name.text.value: (name, item) for name, item in node.items}
    reduce = _reduce(entries["reduce"][1], problems) if "reduce" in entries else "mean"
    if "value" in entries:
        made_ = _loss(Name("loss", key), node, (*LOSS_KEYS, "reduce"), problems)
        return Losses(() if made_ is None else (made_,), reduce)
    misplaced = [name for name, _ in node.items if name.text.value in LOSS_KEYS]
    if misplaced:
        problems.add(keys.MissingKey(misplaced[0].span, "value", "a loss with options", "value: mse(y, target)"))
        return Losses((), reduce)
    found: list[LossDecl | None] = []
    for name, item in node.items:
        if name.text.value != "reduce":
            found.append(_named(name, item, problems))
    if not entries or list(entries) == ["reduce"]:
        problems.add(keys.NeedsValue(node.span, "loss", "for example `loss: mse(y, target)`"))
    return Losses(tuple(loss for loss in found if loss is not None), reduce)


def _named(key: Scalar, node: YamlNode, problems: Problems) -> LossDecl | None:
    wrong = bad_name(key.text.value, key.span)
    if wrong is not None:
        problems.add(wrong)
    name = Name(key.text.value, key.span)
    if isinstance(node, Mapping):
        return _loss(name, node, LOSS_KEYS, problems)
    value_ = expression(node, name.text, problems, "a loss", "mse(y, target)")
    return None if value_ is None else LossDecl(name, value_, 1.0, (), "all", value_.span)


def _loss(name: Name, node: Mapping, known: tuple[str, ...], problems: Problems) -> LossDecl | None:
    found = known_items(node, f"the loss `{name.text}`", problems, known, "value: mse(y, z)")
    if "value" not in found:
        problems.add(keys.MissingKey(name.span, "value", f"the loss `{name.text}`", "value: mse(y, target)"))
        return None
    value_ = expression(found["value"], "value", problems, "a loss", "mse(y, target)")
    weight = _weight(found["weight"], problems) if "weight" in found else 1.0
    trains = _trains(found["trains"], problems) if "trains" in found else ()
    at = _at(found["at"], problems) if "at" in found else "all"
    return None if value_ is None else LossDecl(name, value_, weight, trains, at, value_.span)


def _reduce(node: YamlNode, problems: Problems) -> str:
    if isinstance(node, Scalar) and node.value in ("sum", "mean"):
        return str(node.value)
    advice = "it is `mean` (over valid steps and batch) or `sum`"
    problems.add(keys.BadChoice(node.span, "reduce", _shown(node), advice))
    return "mean"


def _shown(node: YamlNode) -> str:
    return " ".join(node.text.value.split())[:60] if isinstance(node, Scalar) else node.what


def _weight(node: YamlNode, problems: Problems) -> float:
    number = node.value if isinstance(node, Scalar) else None
    if isinstance(number, bool) or not isinstance(number, int | float) or abs(number) > 1e300 or math.isnan(number):
        problems.add(keys.WrongKind(node.span, "weight", "a number", describe(node), "for example `weight: 0.1`"))
        return 1.0
    return float(number)


def _trains(node: YamlNode, problems: Problems) -> tuple[Name, ...]:
    """Selectors, in a list or separated by commas."""
    found: list[Name | None] = []
    for part in node.items if isinstance(node, YamlSequence) else (node,):
        words = text(part, "trains", problems, "a selector", "enc.*")
        if words is None:
            continue
        start = 0
        for word in words.value.split(","):
            first = start + len(word) - len(word.lstrip())
            found.append(selector(word.strip(), words.span(first, first + len(word.strip())), problems))
            start += len(word) + 1
    return tuple(name for name in found if name is not None)


def _at(node: YamlNode, problems: Problems) -> str | tuple[str, int]:
    words = _shown(node)
    every = _EVERY.fullmatch(words)
    if isinstance(node, Scalar) and words in ("all", "last"):
        return words
    if every is not None and int(every[1]) >= 1:
        return ("every", int(every[1]))
    problems.add(keys.BadChoice(node.span, "at", words, "it is `all`, `last` or `every(n)` with n at least 1"))
    return "all"


@dataclass(frozen=True)
class Credit:
    items: tuple[CreditDecl, ...]
    require: Name | None


def read_credit(key: Span, node: YamlNode, problems: Problems) -> Credit:
    """One rule for everything, or a map from selectors to rules."""
    if not isinstance(node, Mapping):
        rule = _call(node, "credit", "a rule", "tbptt(window=64)", problems)
        return Credit(() if rule is None else (CreditDecl(Name("default", key), rule),), None)
    found: list[CreditDecl] = []
    require: Name | None = None
    for name, item in node.items:
        if name.text.value == "require":
            require = _require(item, problems)
            continue
        chosen = selector(name.text.value, name.span, problems)
        rule = _call(item, name.text.value, "a rule", "tbptt(window=64)", problems)
        if chosen is not None and rule is not None:
            found.append(CreditDecl(chosen, rule))
    return Credit(tuple(found), require)


def _require(node: YamlNode, problems: Problems) -> Name | None:
    words = text(node, "require", problems, "a verdict", "exact for head.*")
    if words is None:
        return None
    match = _REQUIRE.fullmatch(words.value)
    if match is None:
        advice = "it is `exact`, or `exact for` and a selector"
        problems.add(keys.BadChoice(node.span, "require", _shown(node), advice))
        return None
    if match[2] is None:
        return Name(match[1], node.span)
    chosen = selector(match[2], words.span(match.start(2), match.end(2)), problems)
    return None if chosen is None else Name(f"{match[1]} for {chosen.text}", node.span)


def _call(node: YamlNode, key: str, what: str, example: str, problems: Problems) -> Expression | None:
    """A call or a bare name."""
    found = value(node, key, problems, what, example)
    if found is None:
        return None
    root = found.root
    word = root.kind in ("name", "text") and isinstance(node, Scalar) and isinstance(node.value, str)
    if root.kind == "call" or word:
        return found
    problems.add(errors.NeedsCall(found.span, f"`{key}`", example))
    return None


def read_data(node: YamlNode, problems: Problems) -> Expression | None:
    """A data set: a call, a bare name, or `module:function`."""
    return _call(node, "data", "a data set", "text(source=shakespeare, length=64)", problems)


@dataclass(frozen=True)
class Train:
    settings: tuple[Setting, ...] = ()
    rates: tuple[RateDecl, ...] = ()


def read_train(node: YamlNode, problems: Problems) -> Train:
    """Settings by name; which there are, and what they may be, the trainer knows. `lr` has its own form."""
    found: list[Setting] = []
    rates: tuple[RateDecl, ...] = ()
    for key, item in items(node, "train", problems, "steps: 1_000"):
        if key.text.value == "lr":
            rates = _rates(key.span, item, problems)
            continue
        if key.text.value in LATER_TRAIN:
            problems.add(keys.NotSupported(key.span, f"train: {key.text.value}", "leave it out"))
            continue
        made = value(item, key.text.value, problems, "a setting", "adam(lr=1e-3)")
        for name in names((key,), problems):
            if made is not None:
                found.append(Setting(name, made))
    return Train(tuple(found), rates)


def _rates(key: Span, node: YamlNode, problems: Problems) -> tuple[RateDecl, ...]:
    """One learning rate, or a map from selectors to rates."""
    if not isinstance(node, Mapping):
        made = value(node, "lr", problems, "a learning rate", RATES)
        return () if made is None else (RateDecl(Name("default", key), made),)
    found: list[RateDecl] = []
    for name, item in node.items:
        chosen = selector(name.text.value, name.span, problems)
        made = value(item, name.text.value, problems, "a learning rate", "3e-3")
        if chosen is not None and made is not None:
            found.append(RateDecl(chosen, made))
    return tuple(found)
