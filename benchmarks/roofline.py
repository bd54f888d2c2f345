"""What a call needs at least: operations against a matrix product that was measured, bytes against a copy that was
measured, in the same process and with the same threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from benchmarks.cells import Cell
from benchmarks.variants import Config

FLOAT = 4
"""Bytes of a number."""


@dataclass(frozen=True)
class Work:
    """Of one call, forward and backward. flops: multiplications and additions of the matrix products. streamed: bytes
    of sequences, read or written once each time they must be. weights: bytes of recurrent weights, which every step
    reads on its way forward and on its way back."""

    flops: float
    streamed: float
    weights: float

    def least_ms(self, gemm: float, stream: float, reread: float) -> float:
        """Milliseconds that either bound asks for. gemm: FLOP/s; stream, reread: bytes/s from memory and from cache."""
        return 1e3 * max(self.flops / gemm, self.streamed / stream + self.weights / reread)


def work(cell: Cell, config: Config) -> Work:
    """Products: W x and U h, U' d on the way back, and both weights' gradients; elementwise operations are left out.

    Sequences: x read twice, y once, and the gates and states written forward and read back.
    """
    gates = max(1, len(cell.gates)) if cell.gates else GATES[cell.name]
    samples, matrix = config.steps * config.batch, gates * config.size * config.size
    sequences = 3 + 2 * (gates + cell.states)
    return Work(
        2.0 * samples * 5 * matrix, FLOAT * samples * config.size * sequences, FLOAT * 2.0 * config.steps * matrix
    )


GATES = {"mgu": 2, "peephole_lstm": 4}
"""Of cells that torch.nn does not have."""


def fastest(call: Callable[[], object], repeats: int = 15) -> float:
    """Least wall seconds of a call: rates are of the machine, whoever else uses it."""
    found = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - start)
    return found


@cache
def gemm_rate(threads: int, size: int = 768) -> float:
    """FLOP/s of a product of square matrices."""
    a, b, out = (torch.rand(size, size) for _ in range(3))
    return 2.0 * size**3 / fastest(lambda: torch.mm(a, b, out=out))


@cache
def copy_rate(threads: int, size: int) -> float:
    """Bytes a second, read and written, of copying `size` bytes; several copies are timed together."""
    a, b = torch.rand(max(16, size // FLOAT)), torch.empty(max(16, size // FLOAT))
    many = max(1, 2**22 // max(size, 1))

    def call() -> None:
        for _ in range(many):
            b.copy_(a)

    return 2.0 * many * a.numel() * FLOAT / fastest(call)


def least_ms(cell: Cell, config: Config, threads: int) -> float:
    """Milliseconds below which no call can be, as far as these rates are the machine's best."""
    found = work(cell, config)
    matrix = int(found.weights / (2 * config.steps))
    return found.least_ms(gemm_rate(threads), copy_rate(threads, int(found.streamed)), copy_rate(threads, matrix))
