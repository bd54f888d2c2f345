"""Equality of trees that does not look at places."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from recdsl.source import Span


def same(a: object, b: object) -> bool:
    """Whether two specs, expressions or parts of them say the same. Works on a stack, so size is no matter."""
    work: list[tuple[Any, Any]] = [(a, b)]
    while work:
        left, right = work.pop()
        if left.__class__ is not right.__class__:
            return False
        if isinstance(left, Span):
            continue
        if isinstance(left, tuple):
            if len(left) != len(right):
                return False
            work.extend(zip(left, right, strict=True))
        elif is_dataclass(left):
            work.extend((getattr(left, item.name), getattr(right, item.name)) for item in fields(left))
        elif repr(left) != repr(right):
            # By repr, so that NaN is itself and 0.0 is not -0.0.
            return False
    return True
