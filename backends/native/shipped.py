"""A model whose compiled library lies beside its file. The text of this file is part of every model shipped as C."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from recdsl.backends.native.functions import CFunction, linked


def capabilities() -> frozenset[str]:
    """What this processor can do, as far as compilers use it; nothing where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    words = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return frozenset(word for word in words if word.startswith(("avx", "fma", "sse", "bmi", "f16c", "sve", "asimd")))


def opened(path: Path, key: str, needs: frozenset[str], single: bool, command: str) -> Any:
    """The library, or None with a warning that says why, and how it is made again."""
    lacking = needs - capabilities() if capabilities() else frozenset[str]()
    if lacking:
        reason = f"this processor lacks {', '.join(sorted(lacking)[:4])}, which {path.name} was compiled for"
    elif not path.is_file():
        reason = f"there is no {path}"
    elif cut_short(path):
        reason = f"{path.name} is cut short"
    else:
        try:
            found = ctypes.CDLL(str(path.resolve()))
            if ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(found, "recdsl_key"))).decode() == key:
                linked(found, single)
                return found
            reason = f"{path.name} is of another model"
        except (OSError, ValueError, AttributeError) as error:
            reason = f"{path.name} does not load: {error}"
    warnings.warn(f"{reason}; the model runs on torch alone. To make it again: {command}", stacklevel=3)
    return None


def cut_short(path: Path) -> bool:
    """Whether a file of the format ELF ends before its table of sections does: a system that maps it would end the
    process at the first page that is not there."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[:5] != b"\x7fELF\x02" or len(head) < 64:
        return False
    order: Any = "little" if head[5] == 1 else "big"
    start, size, count = (int.from_bytes(head[lo:hi], order) for lo, hi in ((40, 48), (58, 60), (60, 62)))
    return start + size * count > path.stat().st_size


def compiled(library: Any, functions: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The model's functions, those of the table in C."""
    found = dict(functions)
    for name, (symbol, arguments, results, *about) in table.items() if library is not None else ():
        fixed = "_pieces." not in name
        found[name] = CFunction(_finder(library, symbol), *about, fixed=fixed), arguments, results
    return found


def _finder(library: Any, symbol: str) -> Callable[[torch.dtype], Any]:
    return lambda _dtype: getattr(library, symbol)
