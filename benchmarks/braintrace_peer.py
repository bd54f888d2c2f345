"""Run by another Python, which has jax and braintrace (0.2.6 with jax 0.10 works): D-RTRL of a recurrent layer and a
linear readout. `python braintrace_peer.py CELL SIZE BATCH STEPS`. The first line that it prints names the weights that
get no gradient at all; each number on standard input is then answered with the CPU and wall seconds of as many calls:
forward, loss and gradients. It imports neither torch nor recdsl.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from importlib import import_module
from typing import Any

INPUTS, OUTPUTS = 16, 8


def calls(cell: str, size: int, batch: int, steps: int) -> list[Any]:
    """A jitted call for each way to batch: the library's own, and vmap. What cannot be compiled is left out."""
    jax, braintrace, brainstate = (import_module(name) for name in ("jax", "braintrace", "brainstate"))
    shape = (steps, batch)
    xs = jax.random.normal(jax.random.PRNGKey(0), (*shape, INPUTS))
    ys = jax.random.normal(jax.random.PRNGKey(1), (*shape, OUTPUTS))

    class Net(brainstate.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = getattr(braintrace.nn, cell)(INPUTS, size)
            self.out = braintrace.nn.Linear(size, OUTPUTS)

        def update(self, x: Any) -> Any:
            return self.out(self.cell(x))

    def made(vmap: bool) -> Any:
        learner = braintrace.compile(Net(), braintrace.D_RTRL, xs[0], batch_size=batch, vmap=vmap)

        def loss(x: Any, y: Any) -> Any:
            return ((learner(x) - y) ** 2).mean()

        call = brainstate.transform.jit(lambda: learner.etrace_grad(xs, ys, step_fn=loss))
        return lambda: jax.block_until_ready(call())

    found: list[Any] = []
    for vmap in (False, True) if batch > 1 else (False,):
        try:
            call = made(vmap)
            call()
            found.append(call)
        except Exception as error:
            print(f"vmap={vmap}: {type(error).__name__}", file=sys.stderr)
    return found


def without_gradient(gradients: Any) -> list[str]:
    """Weights whose gradient is zero in every entry."""
    jax = import_module("jax")
    found: list[str] = []
    for path, value in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        if not bool(abs(value).max() > 0):
            keys = [getattr(part, "key", getattr(part, "idx", part)) for part in path]
            names = [str(name) for key in keys for name in (key if isinstance(key, tuple) else (key,))]
            found.append(".".join(names))
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    cell, *numbers = sys.argv[1:]
    ways = calls(cell, *map(int, numbers))
    print(" ".join(["without", *(name.replace(" ", "") for name in without_gradient(ways[0]()))]), flush=True)
    best = min(ways, key=timed) if len(ways) > 1 else ways[0]
    for line in sys.stdin:
        wall = time.perf_counter()
        print(sum(timed(best) for _ in range(int(line))), time.perf_counter() - wall, flush=True)


def timed(call: Any) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
