"""The tables that `online.c` reads, field by field as they stand there."""

from __future__ import annotations

import ctypes
from typing import Any

_KINDS = {"pointer": ctypes.c_void_p, "long": ctypes.c_long, "double": ctypes.c_double}


def _fields(kind: str, names: str) -> list[tuple[str, Any]]:
    return [(name, _KINDS[kind]) for name in names.split()]


class Patch(ctypes.Structure):
    """A pointer that moves: `*slot = base + place * stride`."""

    _fields_ = _fields("pointer", "slot base") + _fields("long", "stride ring shift")


class Step(ctypes.Structure):
    """A call of an entry."""

    _fields_ = [*_fields("long", "entry"), *_fields("pointer", "p n patches"), *_fields("long", "count")]


class Copy(ctypes.Structure):
    """What an entry leaves is copied `times` times, each behind the one before it."""

    _fields_ = _fields("pointer", "origin to") + _fields("long", "bytes times stride ring shift")


class Loss(ctypes.Structure):
    """at: 0 at all steps, 1 at the last, 2 at every `every`-th. seen: states that say whether a step came before."""

    _fields_ = [*_fields("pointer", "value w g"), *_fields("double", "weight"),
                *_fields("long", "at every stride flagged"), *_fields("pointer", "seen")]  # fmt: skip


class Parameter(ctypes.Structure):
    """A parameter, its gradient, and the optimizer's state of it."""

    _fields_ = [*_fields("pointer", "value grad one two"), *_fields("double", "count rate"), *_fields("long", "size")]


class Run(ctypes.Structure):
    """Everything that `recdsl_online` is given."""

    _fields_ = [("steps", ctypes.c_void_p * 2), ("step_count", ctypes.c_long * 2),
                ("copies", ctypes.c_void_p * 2), ("copy_count", ctypes.c_long * 2),
                *_fields("pointer", "losses"), *_fields("long", "loss_count mean newest"),
                *_fields("pointer", "parameters"), *_fields("long", "parameter_count"),
                *_fields("pointer", "clock"), *_fields("double", "time"), *_fields("long", "every ring rule"),
                ("option", ctypes.c_double * 8), *_fields("double", "largest"),
                *_fields("pointer", "shares resets due total parts norms numbers square")]  # fmt: skip


def array(kind: type[ctypes.Structure], items: list[Any]) -> Any:
    """An array of structures, of at least one so that it has an address."""
    return (kind * max(1, len(items)))(*items)
