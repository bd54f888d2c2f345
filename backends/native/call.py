"""Compiled functions in the place of a model's generated ones: same arguments, same results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.native.build import library
from recdsl.backends.native.lower import Function, Lowering, head
from recdsl.program.ir import Affine

DTYPES = (torch.float32, torch.float64)
KINDS = {"int": torch.long, "bool": torch.bool}
Table = dict[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]]


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
            found.recdsl_blas.argtypes = (ctypes.c_void_p,)
            found.recdsl_blas(gemm(single))
            self.loaded[dtype] = found
        return self.loaded[dtype]

    def __deepcopy__(self, memo: Any) -> Library:
        return self


def gemm(single: bool) -> int | None:
    """The address of a matrix product of BLAS: torch's, else scipy's, else none."""
    name = "sgemm" if single else "dgemm"
    for path in _torch_libraries():
        try:
            return ctypes.cast(getattr(ctypes.CDLL(path), f"{name}_"), ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    try:
        from scipy.linalg import cython_blas  # type: ignore[import-not-found]
    except ImportError:
        return None
    capsule = cython_blas.__pyx_capi__[name]
    ctypes.pythonapi.PyCapsule_GetName.restype = ctypes.c_char_p
    ctypes.pythonapi.PyCapsule_GetName.argtypes = (ctypes.py_object,)
    ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
    ctypes.pythonapi.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    return ctypes.pythonapi.PyCapsule_GetPointer(capsule, ctypes.pythonapi.PyCapsule_GetName(capsule))


def _torch_libraries() -> list[str]:
    from pathlib import Path

    folder = Path(torch.__file__).parent / "lib"
    return [str(path) for path in sorted(folder.glob("libtorch_cpu.*")) if path.suffix in (".so", ".dylib")]


class NativeFunction:
    """Called by the runtime as `function(like, arena, T, B, *arguments)`; gives the results in order."""

    def __init__(self, made: Function, code: Library) -> None:
        self.made, self.code = made, code
        self.calls: dict[torch.dtype, Any] = {}
        self.shapes = [(name, made.storages[name].type) for name in made.results]
        self.count = len(made.arguments) + len(made.results) + 1
        self.inputs = len(made.arguments)
        self.kinds = [KINDS.get(made.storages[name].type.dtype) for name in made.arguments]

    def __deepcopy__(self, memo: Any) -> NativeFunction:
        return self

    def _function(self, dtype: torch.dtype) -> Any:
        if dtype not in self.calls:
            found = getattr(self.code.load(dtype), self.made.symbol)
            found.restype, found.argtypes = ctypes.c_long, (ctypes.c_void_p, ctypes.c_void_p)
            self.calls[dtype] = found
        return self.calls[dtype]

    def __call__(self, like: Tensor, arena: Any, T: int, B: int, *given: Any) -> tuple[Tensor, ...]:
        function = self._function(like.dtype)
        tensors, scalars = given[: self.inputs], given[self.inputs :]
        numbers = (ctypes.c_long * (2 + len(scalars)))(T, B, *scalars)
        held = [_as(x, kind or like.dtype) for x, kind in zip(tensors, self.kinds, strict=True)]
        results = self._results(like, arena, T, B)
        need = function(None, numbers)
        room = arena.take(need // 8 + 16, dtype=torch.float64)
        place = [x.data_ptr() for x in held]
        place += [x.data_ptr() for x in results]
        start = room.data_ptr()
        place.append(start + -start % 64)
        function((ctypes.c_void_p * self.count)(*place), numbers)
        arena.give(room)
        return tuple(results)

    def _results(self, like: Tensor, arena: Any, T: int, B: int) -> list[Tensor]:
        """Memory for what the function leaves. Buffers stay in the arena, what the caller sees is made anew."""
        found: list[Tensor] = []
        for name, kind in self.shapes:
            shape = [extent(size, T, B) for _, size in kind.lead] + [axis.size for axis in kind.axes]
            dtype = KINDS.get(kind.dtype)
            kept = name.startswith("next_") or self.made.storages[name].kind != "output"
            make = arena.take if kept else _new(like)
            found.append(make(*shape, dtype=dtype))
        return found


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as C reads it."""
    if x.dtype is not dtype:
        x = x.to(dtype)
    return x if x.is_contiguous() else x.contiguous()


def _new(like: Tensor) -> Callable[..., Tensor]:
    return lambda *shape, dtype=None: like.new_empty(shape, dtype=dtype)


def extent(size: Affine, T: int, B: int) -> int:
    return size.const + sum(k * (T if name == "T" else B) for name, k in size.terms)


def joined(
    generated: Table, variant: str, lowered: Lowering, code: Library
) -> tuple[Table, tuple[tuple[str, str, str], ...]]:
    """A variant's part of a model's table with compiled functions, and (variant, entry, reason) of the others.

    What reads the tape runs where the tape is written: where one such entry has no C, all of them run on torch.
    """
    left = [(variant, entry, reason) for entry, reason in lowered.left]
    missing = [entry for entry, _ in lowered.left if entry != "start"]
    found: Table = {}
    for made in lowered.functions:
        if missing and made.entry != "start":
            left.append((variant, made.entry, f"`{missing[0]}` runs on torch"))
        else:
            function = NativeFunction(made, code)
            found[f"{variant}.{made.entry}"] = (function, (*made.arguments, *made.scalars), made.results)
    mine = {name: entry for name, entry in generated.items() if name.startswith(f"{variant}.")}
    return mine | found, tuple(left)
