"""Functions of a compiled library in the place of a model's generated ones: same arguments, same results.

The text of this file is part of every model that is shipped as C; it needs torch only.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from operator import mul
from typing import Any

import torch
from torch import Tensor

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


def _torch_libraries() -> list[str]:
    from pathlib import Path

    folder = Path(torch.__file__).parent / "lib"
    return [str(path) for path in sorted(folder.glob("libtorch_cpu.*")) if path.suffix in (".so", ".dylib")]


class CFunction:
    """Called by the runtime as `function(like, arena, T, B, *arguments)`; gives the results in order.

    find: the C function for a precision. arguments: their kinds (float, int, bool). results: (whether it stays in the
    arena, kind, leading extents as (number, times T, times B, times scalars...), own extents) of each.
    """

    def __init__(self, find: Callable[[torch.dtype], Any], arguments: Sequence[str], results: Sequence[Any]) -> None:
        self.find, self.results = find, results
        self.calls: dict[torch.dtype, Any] = {}
        self.count = len(arguments) + len(results) + 1
        self.inputs = len(arguments)
        self.kinds = [KINDS.get(kind) for kind in arguments]

    def __deepcopy__(self, memo: Any) -> CFunction:
        return self

    def _function(self, dtype: torch.dtype) -> Any:
        if dtype not in self.calls:
            found = self.find(dtype)
            found.restype, found.argtypes = ctypes.c_long, (ctypes.c_void_p, ctypes.c_void_p)
            self.calls[dtype] = found
        return self.calls[dtype]

    def __call__(self, like: Tensor, arena: Any, T: int, B: int, *given: Any) -> tuple[Tensor, ...]:
        function = self._function(like.dtype)
        tensors, scalars = given[: self.inputs], given[self.inputs :]
        numbers = (ctypes.c_long * (2 + len(scalars)))(T, B, *scalars)
        held = [_as(x, kind or like.dtype) for x, kind in zip(tensors, self.kinds, strict=True)]
        results = self._results(like, arena, (1, T, B, *scalars))
        need = function(None, numbers)
        room = arena.take(need // 8 + 16, dtype=torch.float64)
        place = [x.data_ptr() for x in held]
        place += [x.data_ptr() for x in results]
        start = room.data_ptr()
        place.append(start + -start % 64)
        function((ctypes.c_void_p * self.count)(*place), numbers)
        arena.give(room)
        return tuple(results)

    def _results(self, like: Tensor, arena: Any, sizes: tuple[int, ...]) -> list[Tensor]:
        """Memory for what the function leaves. Buffers stay in the arena, what the caller sees is made anew."""
        found: list[Tensor] = []
        for kept, kind, lead, axes in self.results:
            shape = [sum(map(mul, size, sizes)) for size in lead] + list(axes)
            make = arena.take if kept else _new(like)
            found.append(make(*shape, dtype=KINDS.get(kind)))
        return found


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as C reads it."""
    if x.dtype is not dtype:
        x = x.to(dtype)
    return x if x.is_contiguous() else x.contiguous()


def _new(like: Tensor) -> Callable[..., Tensor]:
    return lambda *shape, dtype=None: like.new_empty(shape, dtype=dtype)
