"""Frozen data as text that is the same in every process: what artefacts in a cache are named by."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from typing import Any

_PLAIN = (str, int, float, bool, type(None), bytes)


def digest(*values: object) -> str:
    """SHA-256 of the values. Raises TypeError for what is no data (a function, an array)."""
    seen: dict[int, int] = {}
    return sha256("\0".join(_written(value, seen) for value in values).encode()).hexdigest()


def _written(value: Any, seen: dict[int, int]) -> str:
    """The value's type and parts. An object that was written before is a number: graphs share axes, types and texts."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if kind in (tuple, list):
        return f"{kind.__name__}[{','.join([_written(item, seen) for item in value])}]"
    if kind is dict:
        return f"dict[{','.join([f'{_written(k, seen)}:{_written(v, seen)}' for k, v in value.items()])}]"
    if kind in (frozenset, set):  # in any order, which says nothing: no numbers inside
        return f"set[{','.join(sorted(_written(item, {}) for item in value))}]"
    if not is_dataclass(value):
        raise TypeError(f"{kind.__name__} is no data")
    if id(value) in seen:
        return f"#{seen[id(value)]}"
    seen[id(value)] = len(seen)
    parts = [_written(getattr(value, name), seen) for name in _names(kind)]
    return f"{kind.__module__}.{kind.__qualname__}({','.join(parts)})"


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
