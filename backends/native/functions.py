"""Functions of a compiled library in the place of a model's generated ones: same arguments, same results.

The text of this file is part of every model that is shipped as C; it needs torch only.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.torch.searches import scatter_rows

DTYPES = (torch.float32, torch.float64)
KINDS = {"int": torch.long, "bool": torch.bool}


def gemm(single: bool) -> int | None:
    """The address of a matrix product of BLAS: torch's, else scipy's, else none."""
    name = "sgemm" if single else "dgemm"
    for path in _torch_libraries():
        try:
            return ctypes.cast(getattr(ctypes.CDLL(path), f"{name}_"), ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    try:
        capsule = importlib.import_module("scipy.linalg.cython_blas").__pyx_capi__[name]
    except ImportError:
        return None
    ctypes.pythonapi.PyCapsule_GetName.restype = ctypes.c_char_p
    ctypes.pythonapi.PyCapsule_GetName.argtypes = (ctypes.py_object,)
    ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
    ctypes.pythonapi.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    return ctypes.pythonapi.PyCapsule_GetPointer(capsule, ctypes.pythonapi.PyCapsule_GetName(capsule))


LEAST = 1e6
"""Operations that a thread must have to itself."""
SAMPLES = 4
"""And samples: products of fewer rows wait for the matrix, which BLAS had better share out among its own threads."""
CALLS = ("GOMP_parallel", "GOMP_barrier", "omp_get_max_threads", "omp_get_num_threads", "omp_get_thread_num")
TEAM = (ctypes.c_void_p, ctypes.c_double, ctypes.c_long)


def linked(library: Any, single: bool) -> None:
    """Give a library what it takes from torch: the product of matrices, and its threads, as many as
    `torch.get_num_threads()`. Without these all is done by one, as in a forked process, which has none of them."""
    library.recdsl_blas.argtypes, library.recdsl_team.argtypes = (ctypes.c_void_p,), TEAM
    library.recdsl_blas(gemm(single))
    found = threads()
    if found:
        library.recdsl_team((ctypes.c_void_p * len(found))(*found), LEAST, SAMPLES)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: library.recdsl_team(None, LEAST, SAMPLES))


def threads() -> list[int | None]:
    """Addresses of what OpenMP has for them where torch uses GNU's."""
    for path in _torch_libraries():
        try:
            torch_cpu = ctypes.CDLL(path)
            return [ctypes.cast(getattr(torch_cpu, name), ctypes.c_void_p).value for name in CALLS]
        except (OSError, AttributeError):
            continue
    return []


def _torch_libraries() -> list[str]:
    from pathlib import Path

    folder = Path(torch.__file__).parent / "lib"
    return [str(path) for path in sorted(folder.glob("libtorch_cpu.*")) if path.suffix in (".so", ".dylib")]


class CFunction:
    """Called by the runtime as `function(like, arena, T, B, *arguments)`; gives the results in order.

    find: the C function for a precision. arguments: their kinds (float, int, bool). results: (whether it stays in the
    arena, kind, leading extents as (number, times T, times B, times scalars...), own extents) of each. rows: of stores
    for all samples: (requests, see `Answers`; sums as (slots, results that are rows and their places)), sparse results
    behind the others. fixed: whether the scalars say nothing that T does not; the number of rows in front of a piece of
    a call does.
    """

    def __init__(
        self,
        find: Callable[[torch.dtype], Any],
        arguments: Sequence[str],
        results: Sequence[Any],
        rows: Sequence[Any] = (),
        *,
        fixed: bool = True,
    ) -> None:
        self.find, self.results, self.fixed = find, results, fixed
        self.calls: dict[torch.dtype, Any] = {}
        self.extents: dict[tuple[Any, ...], Extent] = {}
        self.requests, self.sums = rows or ((), ())
        self.places = ctypes.c_void_p * (len(arguments) + len(results) + bool(self.requests) + 1)
        self.inputs = len(arguments)
        self.kinds_of = {dtype: [KINDS.get(kind, dtype) for kind in arguments] for dtype in DTYPES}

    def __deepcopy__(self, memo: Any) -> CFunction:
        return self

    def _function(self, dtype: torch.dtype) -> Any:
        if dtype not in self.calls:
            found = self.find(dtype)
            found.restype, found.argtypes = ctypes.c_long, (ctypes.c_void_p, ctypes.c_void_p)
            self.calls[dtype] = found
        return self.calls[dtype]

    def __call__(self, like: Tensor, arena: Any, T: int, B: int, *given: Any) -> tuple[Tensor, ...]:
        dtype = like.dtype
        function, scalars = self._function(dtype), given[self.inputs :]
        extent = self.extents.get((dtype, T, B, *scalars)) or self._extent(dtype, T, B, *scalars)
        kinds = self.kinds_of[dtype]
        held = [
            x if x.dtype is kind and x.is_contiguous() else x.to(kind).contiguous()
            for x, kind in zip(given, kinds, strict=False)
        ]
        take, new = arena.take, like.new_empty
        results = [take(*shape, dtype=kind) if kept else new(shape, dtype=kind) for kept, shape, kind in extent.results]
        room = self._room(like, arena, extent.room)
        place = [x.data_ptr() for x in held]
        place += [x.data_ptr() for x in results]
        answers = Answers(self.requests, given, arena.lookups, dtype) if self.requests else None
        place += [] if answers is None else [answers.address]
        start = room.data_ptr()
        place.append(start + -start % 64)
        function(self.places(*place), extent.numbers)
        if self.fixed:
            arena.give(room)
        elif arena.whole is not None:
            arena.whole.bring(room)
        if answers is not None:
            answers.check()
        return self._summed(results) if self.sums else tuple(results)

    def _room(self, like: Tensor, arena: Any, size: int) -> Tensor:
        """Memory for the function's own use."""
        if self.fixed:
            return arena.take(size, dtype=torch.float64)
        if arena.whole is None:
            return like.new_empty(size, dtype=torch.float64)
        return arena.whole.borrow(size, like)

    def _summed(self, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Sums at rows, sparse, behind the other results."""
        parts = {place for _, pairs in self.sums for pair in pairs for place in pair}
        totals: list[Tensor] = []
        for slots, pairs in self.sums:
            few = [scatter_rows(results[rows], results[places], slots) for rows, places in pairs]
            totals.append(sum(few[1:], few[0]))
        return *(value for k, value in enumerate(results) if k not in parts), *totals

    def _extent(self, dtype: torch.dtype, *sizes: int) -> Extent:
        """What is the same at each call of these sizes; a few are remembered. The arena hands out what the first call
        of a kind asked for: what grows with the rows in front of a piece of a call does not come from there."""
        numbers = (ctypes.c_long * len(sizes))(*sizes)
        results: list[tuple[bool, tuple[int, ...], torch.dtype | None]] = []
        for kept, kind, lead, axes in self.results:
            grows = not self.fixed and any(any(size[3:]) for size in lead)
            shape = (*(sum(map(mul, size, (1, *sizes))) for size in lead), *axes)
            results.append((kept and not grows, shape, KINDS.get(kind)))
        if len(self.extents) >= REMEMBERED:
            self.extents.clear()
        made = Extent(numbers, tuple(results), self._function(dtype)(None, numbers) // 8 + 16)
        return self.extents.setdefault((dtype, *sizes), made)


@dataclass(frozen=True)
class Extent:
    """Of the calls of one size: the sizes as C reads them, (whether it stays in the arena, shape, kind) of each
    result, and the room that the function needs, in numbers of eight bytes."""

    numbers: Any
    results: tuple[tuple[bool, tuple[int, ...], torch.dtype | None], ...]
    room: int


REMEMBERED = 64  # sizes of calls
ASKED = ctypes.CFUNCTYPE(ctypes.c_int64, *(ctypes.c_int64,) * 3, *(ctypes.c_void_p,) * 2)
"""Of C, `asked_call` of `rows.c`."""


class Answers:
    """What C asks for while a function runs: the slots that a search finds, as (lookup, keys, read, numbers of a query,
    slots to find), and rows, as (gather, table); keys and table are places among what is given. address: of what C
    reads, 0 where it has to do with the rows alone. An exception waits until the function returns (`check`)."""

    def __init__(self, requests: Sequence[Any], given: Sequence[Any], lookups: Any, dtype: torch.dtype) -> None:
        self.requests, self.given, self.lookups, self.dtype = requests, given, lookups, dtype
        self.error: BaseException | None = None
        self.call = ASKED(self._answer) if lookups is not None and lookups.busy else None
        address = ctypes.cast(self.call, ctypes.c_void_p).value if self.call is not None else 0
        self.table = (ctypes.c_int64 * 1)(address or 0)
        self.address = ctypes.addressof(self.table)

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def _answer(self, number: int, stage: int, count: int, given: int, to: int) -> int:
        """1 where `to` is filled. Of a search there is a second stage, when it has found something."""
        kind, table, *more = self.requests[number]
        try:
            if self.error is None:
                find = self._found if kind == "lookup" else self._fetched
                return int(find(self.given[table], stage, count, given, to, *more))
        except BaseException as error:
            self.error = error
        if stage == 0 and kind == "lookup":
            shown(to, (count, more[2]), torch.long).fill_(-1)
        elif stage == 0:
            shown(to, (count, *self.given[table].shape[1:]), self.dtype).zero_()
        return 1

    def _found(
        self, keys: Tensor, stage: int, count: int, given: int, to: int, read: str, wide: int, size: int
    ) -> bool:
        """Slots that are known without a search; what a search finds is kept where that is asked for."""
        lookups, found = self.lookups, shown(to, (count, size), torch.long)
        if lookups.again is not None and stage == 0:
            found.copy_(next(lookups.again[read]).reshape(count, size))
            return True
        index = lookups.indexes.get((keys.data_ptr(), read))
        known = False
        if stage == 0 and index is not None and index.ready:
            known = True
            found.copy_(index.search(shown(given, (count, wide), self.dtype), size))
        if lookups.kept is not None and (known or stage == 1):
            lookups.kept.setdefault(read, []).append(found.clone())
        return known

    def _fetched(self, table: Tensor, stage: int, count: int, given: int, to: int) -> bool:
        """Rows that are made anew."""
        anew = self.lookups.anew.get(table.data_ptr())
        if anew is None:
            return False
        place, rows = shown(given, (count,), torch.long), shown(to, (count, *table.shape[1:]), self.dtype)
        hit = (place >= 0).reshape(count, *(1,) * (table.dim() - 1))
        rows.copy_(torch.where(hit, anew.rows(table, place), 0.0))
        return True


def shown(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory as a tensor, without a copy."""
    room = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(room, dtype=dtype).reshape(shape)
