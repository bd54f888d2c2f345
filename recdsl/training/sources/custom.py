"""The user's own data: `data: package.module:function(option=value)`. It runs code, so only with trust."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from recdsl.errors.runs import NotTrusted, RunError, UserCodeFailed
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Request, Source
from recdsl.training.declare import Declaration, Field, Options

DECLARATION = Declaration(
    "module:function",
    "your own function f(rng, batch, split, **options) -> dict of arrays [time, batch, ...], also `mask` and"
    " `reset`. Integers [time, batch] are labels. It must draw from `rng` alone, so that a run can be resumed",
)
GENERATED = False


def _load(function: str, place: Place) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    folder = place.folder
    sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        raise RunError(UserCodeFailed(function, f"{type(error).__name__}: {error}")) from error
    finally:
        sys.path.remove(folder)


def _call(function: str, loaded: Callable[..., Any], request: Request, position: int, options: Options) -> Batch:
    try:
        result = loaded(request.rng(position), request.batch, request.split, **options)
        arrays = {str(name): np.asarray(value) for name, value in dict(result).items()}
    except Exception as error:
        raise RunError(UserCodeFailed(function, f"{type(error).__name__}: {error}")) from error
    extra: dict[str, Array | None] = {name: arrays.pop(name, None) for name in ("mask", "reset")}
    return Batch(arrays, extra["mask"], extra["reset"])


class Calls:
    """Batch n is one call with the generator of n."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make, self.position = make, 0

    def next(self) -> Batch:
        self.position += 1
        return self.make(self.position - 1)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def open_function(function: str, options: Options, place: Place) -> Source:
    """The source of `module:function`. Fields are read off a first call. Raises RD0655, RD0656."""
    if not place.trust:
        raise RunError(NotTrusted(function))
    loaded = _load(function, place)
    sample = _call(function, loaded, Request("train", 2, 0), 0, options)
    fields = tuple(_field(name, array, function) for name, array in sample.arrays.items())

    def draw(request: Request) -> Calls:
        return Calls(lambda position: _call(function, loaded, request, position, options))

    return Source(fields, draw)


def _field(name: str, array: Array, function: str) -> Field:
    if array.ndim < 2 or array.dtype.kind not in "iufb":
        reason = f"`{name}` is {array.dtype} {list(array.shape)}, not numbers [time, batch, ...]"
        raise RunError(UserCodeFailed(function, reason))
    kind = {"i": "label", "u": "label", "f": "float", "b": "bool"}[array.dtype.kind]
    # How many labels there are cannot be seen from one batch, so each batch is checked instead.
    return Field(name, kind, "either", 0, () if kind == "label" else array.shape[2:])
