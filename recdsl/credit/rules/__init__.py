"""The credit-assignment rules: found by listing this folder, then by the entry points `recdsl.rules`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules

from recdsl.credit.rule import Rule

GROUP = "recdsl.rules"
LATER = (
    "reinstate",
)  # fmt: skip
"""Words of the language that this version cannot execute."""


class BrokenRuleError(Exception):
    """A rule of another package that cannot be used; `package` provides it."""

    def __init__(self, package: str, reason: str) -> None:
        super().__init__(f"{package}: {reason}")
        self.package, self.reason = package, reason


@cache
def catalogue() -> dict[str, Rule]:
    """Every rule of this package by name."""
    found: dict[str, Rule] = {}
    for info in sorted(iter_modules(__path__), key=lambda item: item.name):
        rule = import_module(f"{__name__}.{info.name}").RULE
        assert isinstance(rule, Rule)
        found[rule.name] = rule
    return found


def names() -> list[str]:
    """Every rule that can be asked for; nothing of other packages is imported."""
    return sorted({*catalogue(), *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> Rule | None:
    """The rule of that name; None if there is none. Raises BrokenRuleError."""
    own = catalogue().get(name)
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        return own
    others = [_package(point) for point in points[1:]]
    if own is not None or others:
        holder = "recdsl itself" if own is not None else " and ".join(others)
        raise BrokenRuleError(_package(points[0]), f"{holder} has a rule of that name too")
    return _loaded(points[0])


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _loaded(point: EntryPoint) -> Rule:
    """What an entry point names, which is code of its own and may fail in any way."""
    try:
        found = point.load()
    except Exception as error:
        raise BrokenRuleError(_package(point), f"`{point.value}`: {type(error).__name__}: {error}") from error
    if not isinstance(found, Rule):
        kind = type(found).__name__
        raise BrokenRuleError(_package(point), f"`{point.value}` is of type `{kind}`, not a `recdsl.credit.rule.Rule`")
    if found.name != point.name:
        raise BrokenRuleError(_package(point), f"`{point.value}` calls itself `{found.name}`")
    from recdsl.credit.scopes import CUTS, SCOPES  # slow to import, and needed for nothing else here

    if found.tracing is not None:
        for what, value, known in (("scope", found.tracing.scope, SCOPES), ("cuts", found.tracing.cuts, CUTS)):
            if value not in known:
                raise BrokenRuleError(_package(point), f"recdsl has no {what} `{value}` that `{point.value}` asks for")
    return found
