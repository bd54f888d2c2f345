"""The suite `bptt`: time and memory of forward plus backward, in one process and in turns, so that ratios hold."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch

from benchmarks.cells import CELLS, Cell
from benchmarks.elsewhere import missing
from benchmarks.roofline import least_ms
from benchmarks.table import Row
from benchmarks.variants import Config, Variant, check, compiled, empty, jax, make, variants
from recdsl.driver import compile as compile_spec

FULL = tuple(Config(b, h, t) for b in (1, 32) for h in (64, 256) for t in (100, 500))
QUICK = tuple(Config(b, h, 100) for b in (1, 32) for h in (64, 256))
MIB = 1 << 20


@dataclass(frozen=True)
class Timing:
    """CPU milliseconds of forward plus backward."""

    median: float
    minimum: float
    repeats: int


@dataclass(frozen=True)
class Setting:
    """How the suite is run. threads: with more than one, times are wall times. python: one that has jax, or None.
    compiled: with `torch.compile` of the cell."""

    memory: bool = True
    repeats: int = 7
    threads: int = 1
    python: str | None = None
    compiled: bool = False


def run(quick: bool, only: Iterable[str], setting: Setting) -> Iterator[Row]:
    """One row a cell and configuration."""
    torch.set_num_threads(setting.threads)
    wanted = set(only)
    why = missing(setting.python, "jax")
    if why:
        print(f"bptt: without jax: {why}")
        setting = replace(setting, python=None)
    for cell in CELLS:
        for config in (QUICK if quick else FULL) if not wanted or cell.name in wanted else ():
            yield measure(cell, config, setting)


def measure(cell: Cell, config: Config, setting: Setting) -> Row:
    """Times, ratios, peak memory and compile time of one cell."""
    start = time.process_time()
    compile_spec(cell.spec(config.size, config.size))
    row: Row = {"cell": cell.name, "config": config.text, **asdict(config)}
    row["compile_s"] = round(time.process_time() - start, 3)
    found = [*variants(cell, config), *([compiled(cell, config)] if setting.compiled else [])]
    with ExitStack() as stack:
        if setting.python is not None:
            found.append(stack.enter_context(jax(cell, config, setting.python, setting.threads)))
        check(cell, found)
        row |= ratios(timed(found, setting.repeats, wall=setting.threads > 1))
    row |= overhead(cell, config, setting)
    row["roof_ms"] = round(least_ms(cell, config, setting.threads), 3)
    row["native/roof"] = round(float(row["native_min_ms"]) / float(row["roof_ms"]), 2)
    for variant in found if setting.memory else ():
        if variant.name in MEASURED:
            row[f"{variant.name}_MiB"] = round(peak(_variant, variant.name, cell.name, config) / MIB, 2)
    return row


MEASURED = ("ours", "native", "naive", "nn")
"""Variants whose memory is measured."""


def ratios(times: Mapping[str, Timing]) -> Row:
    """Times, and each over ours on torch and over native."""
    row: Row = {}
    for name, timing in times.items():
        row[f"{name}_ms"] = round(timing.median, 3)
        row[f"{name}_min_ms"] = round(timing.minimum, 3)
        for over in ("ours", "native"):
            if name != over:
                row[f"{name}/{over}"] = round(timing.minimum / times[over].minimum, 2)
                row[f"{name}/{over}_median"] = round(timing.median / times[over].median, 2)
    return row


def overhead(cell: Cell, config: Config, setting: Setting) -> Row:
    """Of a call, apart from its steps: what one step takes, and a function that does nothing."""
    one = replace(config, steps=1)
    times = timed((make("native", cell, one), empty(cell, one)), setting.repeats, wall=setting.threads > 1)
    return {"one_step_ms": round(times["native"].minimum, 3), "empty_ms": round(times["empty"].minimum, 3)}


def timed(found: Iterable[Variant], repeats: int, least: float = 0.03, *, wall: bool = False) -> dict[str, Timing]:
    """CPU (or wall) time of each variant, in turns; a repeat is as many calls as fill `least` seconds."""
    found = tuple(found)
    counts: dict[str, int] = {}
    for variant in found:
        variant.run()
        counts[variant.name] = max(1, round(least / max(variant.seconds(1), 1e-6)))
    samples: dict[str, list[float]] = {variant.name: [] for variant in found}
    for _ in range(repeats):
        for variant in found:
            count = counts[variant.name]
            samples[variant.name].append(variant.seconds(count, wall=wall) / count * 1e3)
    return {name: Timing(median(values), min(values), repeats) for name, values in samples.items()}


# -- memory -----------------------------------------------------------------------------------------------------------
def peak(make: Callable[..., Callable[[], object]], *args: object) -> int:
    """Bytes by which three calls of `make(*args)` raise the peak of a fresh process above what it held before them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.bptt"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_peak, args=(there, make, args))
    process.start()
    there.close()
    found = int(here.recv())
    process.join()
    return found


def _peak(answer: Connection, make: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    call = make(*args)
    before = held()
    for _ in range(3):
        call()
    answer.send(_status("VmHWM") - before)
    answer.close()


def _variant(name: str, cell_name: str, config: Config) -> Callable[[], object]:
    """A variant's call; libraries that load at the first call are not the model's memory."""
    cell = next(item for item in CELLS if item.name == cell_name)
    make(name, cell, Config(1, 8, 2)).run()
    return make(name, cell, config).run


def held() -> int:
    """What the process holds now. Its past peak is forgotten, and free memory goes back to the system: what compiling
    has left over would hide what the calls need.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(entry: str) -> int:
    """Bytes of "VmRSS" (resident now) or "VmHWM" (the largest so far); without Linux the largest for both."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
