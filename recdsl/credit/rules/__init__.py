"""The credit-assignment rules, found by listing this folder."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from recdsl.credit.rule import Rule

LATER = (
    "kf_rtrl", "synthetic", "sab", "rule",
    "through", "stop", "reinstate", "scale", "feedback",
)  # fmt: skip
"""Words of the language that this version cannot execute."""


@cache
def catalogue() -> dict[str, Rule]:
    """Every rule by name."""
    found: dict[str, Rule] = {}
    for info in sorted(iter_modules(__path__), key=lambda item: item.name):
        rule = import_module(f"{__name__}.{info.name}").RULE
        assert isinstance(rule, Rule)
        found[rule.name] = rule
    return found
