"""Compiled functions in the place of a model's generated ones: same arguments, same results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from recdsl.backends.native.build import library
from recdsl.backends.native.functions import DTYPES, KINDS, CFunction, linked
from recdsl.backends.native.parts import LATER, head

if TYPE_CHECKING:
    from recdsl.backends.native.lower import Function
    from recdsl.program.ir import Affine, Storage

__all__ = ["DTYPES", "KINDS", "Library", "Row", "Table", "described", "extent", "joined"]
Table = dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]]

Row = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[Any, ...], tuple[Any, ...]]
"""A C function: its symbol, what it takes, what it leaves, then as `CFunction` has them: kinds of what it takes, types
and sizes of results, and what it does with rows of stores for all samples."""


class Library:
    """The compiled text of one model, for each precision when it is first asked for."""

    def __init__(self, source: str, extra: tuple[str, ...] = ()) -> None:
        self.source, self.extra = source, extra
        self.loaded: dict[torch.dtype, ctypes.CDLL] = {}

    def load(self, dtype: torch.dtype) -> ctypes.CDLL:
        """Raises BuildError."""
        if dtype not in self.loaded:
            single = dtype == torch.float32
            found = library(head(single=single) + self.source, self.extra)
            linked(found, single)
            self.loaded[dtype] = found
        return self.loaded[dtype]

    def finder(self, symbol: str) -> Callable[[torch.dtype], Any]:
        """Where a function is found in each precision."""
        return lambda dtype: getattr(self.load(dtype), symbol)

    def __deepcopy__(self, memo: Any) -> Library:
        return self


def described(made: Function) -> tuple[tuple[str, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Arguments and results of a function as `CFunction` takes them."""
    arguments = tuple(made.storages[name].type.dtype for name in made.arguments)
    return arguments, tuple(_result(made.storages[name], made.scalars) for name in made.results), _rows(made)


def row(made: Function, symbol: str) -> Row:
    return symbol, (*made.arguments, *made.scalars), made.shown, *described(made)


def _rows(made: Function) -> tuple[Any, ...]:
    """Requests and sums with places in the place of names."""
    taken, left = made.arguments.index, made.results.index
    requests = tuple((kind, taken(table), *more) for kind, table, *more in made.requests)
    sums = tuple((one.slots, tuple((left(x), left(y)) for x, y in one.pairs)) for one in made.sums.values())
    return (requests, sums) if requests or sums else ()


def _result(storage: Storage, scalars: tuple[str, ...]) -> tuple[bool, str, tuple[Any, ...], tuple[int, ...]]:
    kept = storage.name.startswith("next_") or storage.kind != "output"
    sizes = [(size.const, dict(size.terms)) for _, size in storage.type.lead]
    lead = tuple((number, *(terms.get(name, 0) for name in ("T", "B", *scalars))) for number, terms in sizes)
    return kept, storage.type.dtype, lead, tuple(axis.size for axis in storage.type.axes)


def extent(size: Affine, sizes: Mapping[str, int]) -> int:
    return size.const + sum(k * sizes[name] for name, k in size.terms)


def joined(
    generated: Table,
    variant: str,
    functions: Sequence[tuple[str, Row]],
    left: Sequence[tuple[str, str]],
    libraries: Mapping[bool, Library],
) -> tuple[Table, tuple[tuple[str, str, str], ...]]:
    """A variant's part of a model's table with compiled functions, and (variant, entry, reason) of the others.
    libraries: of the entries in `LATER`, and of the others.

    What reads the tape runs where the tape is written: where one such entry has no C, all of them run on torch.
    """
    others = [(variant, entry, reason) for entry, reason in left]
    missing = [entry for entry, _ in left if entry != "start"]
    found: Table = {}
    for entry, (symbol, taken, results, *about) in functions:
        if missing and entry != "start":
            others.append((variant, entry, f"`{missing[0]}` runs on torch"))
        else:
            fixed = not variant.endswith("_pieces")
            function = CFunction(libraries[entry.endswith(LATER)].finder(symbol), *about, fixed=fixed)
            found[f"{variant}.{entry}"] = function, taken, results
    mine = {name: entry for name, entry in generated.items() if name.startswith(f"{variant}.")}
    return mine | found, tuple(others)
