"""Backends, found by name: the folders beside this file, then the entry points `recdsl.backends`."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from recdsl.backends.base import Backend


def names() -> list[str]:
    """Every backend that can be asked for."""
    own = [info.name for info in iter_modules(__path__) if info.ispkg]
    return sorted({*own, *(point.name for point in entry_points(group="recdsl.backends"))})


def find(name: str) -> Backend:
    """The backend of that name. Raises ValueError with a suggestion."""
    if name in {info.name for info in iter_modules(__path__) if info.ispkg}:
        return import_module(f"{__name__}.{name}").BACKEND
    for point in entry_points(group="recdsl.backends"):
        if point.name == name:
            return point.load()
    near = get_close_matches(name, names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names())}"
    raise ValueError(f"there is no backend {name!r}{hint}")
