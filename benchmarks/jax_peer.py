"""Run by another Python, which has jax: forward and backward of a cell as `jit(value_and_grad(lax.scan))`.

`python jax_peer.py CELL THREADS FILE` reads `x`, `y` and the weights from FILE (npz), writes the loss and the
gradients to FILE + ".out.npz" and one line, and then answers each number on standard input with the CPU and wall
seconds of as many calls. As people who care would write it, input projections are one product before the scan, and
gates that read the same vector share one product in it. It imports neither torch nor recdsl.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

Params = Mapping[str, Any]
Step = Callable[[Params, Mapping[str, Any], Any], Any]


def cells(jax: Any) -> dict[str, tuple[str, int, Step]]:
    """By name: gates in order, number of states, and the step (parameters, input's part of each gate, state)."""
    np, sigmoid, tanh = jax.numpy, jax.nn.sigmoid, jax.numpy.tanh

    def gates(p: Params, h: Any, names: str) -> dict[str, Any]:
        """U h of several gates with one product."""
        product = h @ np.concatenate([p["U" + name] for name in names]).T
        return dict(zip(names, np.split(product, len(names), axis=-1), strict=True))

    def elman(p: Params, a: Mapping[str, Any], state: Any) -> Any:
        return (tanh(a[""] + state[0] @ p["U"].T),)

    def gru(p: Params, a: Mapping[str, Any], state: Any) -> Any:
        (h,) = state
        u = gates(p, h, "zr")
        z, r = sigmoid(a["z"] + u["z"]), sigmoid(a["r"] + u["r"])
        n = tanh(a["n"] + (r * h) @ p["Un"].T)
        return ((1 - z) * n + z * h,)

    def gru_reset_after(p: Params, a: Mapping[str, Any], state: Any) -> Any:
        (h,) = state
        u = gates(p, h, "zrn")
        z, r = sigmoid(a["z"] + u["z"]), sigmoid(a["r"] + u["r"])
        n = tanh(a["n"] + r * (u["n"] + p["cn"]))
        return ((1 - z) * n + z * h,)

    def lstm(p: Params, a: Mapping[str, Any], state: Any) -> Any:
        h, c = state
        u = gates(p, h, "ifgo")
        i, f, o = (sigmoid(a[name] + u[name]) for name in "ifo")
        c = f * c + i * tanh(a["g"] + u["g"])
        return o * tanh(c), c

    def mgu(p: Params, a: Mapping[str, Any], state: Any) -> Any:
        (h,) = state
        f = sigmoid(a["f"] + h @ p["Uf"].T)
        n = tanh(a["n"] + (f * h) @ p["Un"].T)
        return ((1 - f) * h + f * n,)

    def peephole_lstm(p: Params, a: Mapping[str, Any], state: Any) -> Any:
        h, c = state
        u = gates(p, h, "ifgo")
        i, f = (sigmoid(a[name] + u[name] + p["p" + name] * c) for name in "if")
        c = f * c + i * tanh(a["g"] + u["g"])
        return sigmoid(a["o"] + u["o"] + p["po"] * c) * tanh(c), c

    return {
        "elman": (" ", 1, elman), "gru": ("zrn", 1, gru), "gru_reset_after": ("zrn", 1, gru_reset_after),
        "lstm": ("ifgo", 2, lstm), "mgu": ("fn", 1, mgu), "peephole_lstm": ("ifgo", 2, peephole_lstm),
    }  # fmt: skip


def call(cell: str, x: Any, y: Any) -> Callable[[Params], Any]:
    """Loss and gradients of all weights, jitted."""
    jax = import_module("jax")
    np = jax.numpy
    names, states, step = cells(jax)[cell]
    gates = [name.strip() for name in names]

    def loss(p: Params) -> Any:
        bias = np.concatenate([p["b" + gate] for gate in gates])
        ahead = np.split(x @ np.concatenate([p["W" + gate] for gate in gates]).T + bias, len(gates), axis=-1)
        zeros = np.zeros((x.shape[1], y.shape[2]), x.dtype)

        def body(state: Any, rows: Any) -> Any:
            found = step(p, dict(zip(gates, rows, strict=True)), state)
            return found, found[0]

        _, h = jax.lax.scan(body, (zeros,) * states, tuple(ahead))
        return ((h - y) ** 2).mean()

    return jax.jit(jax.value_and_grad(loss))


def main() -> None:
    cell, threads, file = sys.argv[1:]
    if threads == "1":
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    jax, numpy = import_module("jax"), import_module("numpy")
    given = dict(numpy.load(file))
    x, y = (jax.numpy.asarray(given.pop(name)) for name in "xy")
    params = {name: jax.numpy.asarray(value) for name, value in given.items()}
    run = call(cell, x, y)
    loss, gradients = jax.block_until_ready(run(params))
    numpy.savez(file + ".out.npz", loss=loss, **gradients)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            jax.block_until_ready(run(params))
        print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)


if __name__ == "__main__":
    main()
