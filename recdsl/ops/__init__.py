"""The closed set of primitive operations, found by listing this folder."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from recdsl.ops.base import Primitive

_FAMILIES = ("Primitive", "Elementwise", "Linear", "Discrete", "Comparison", "Logical")


@cache
def catalogue() -> dict[str, Primitive]:
    """Every primitive by name."""
    found: dict[str, Primitive] = {}
    for info in sorted(iter_modules(__path__), key=lambda item: item.name):
        module = import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Primitive) and value.__name__ not in _FAMILIES:
                found[value.name] = value()
    return found


def primitive(name: str) -> Primitive:
    """The op of that name. Raises KeyError."""
    return catalogue()[name]
