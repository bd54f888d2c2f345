"""Run by another Python, which has jax: a columnar LSTM with exact real-time recurrent learning and an update of all
weights at each step, as one jitted `lax.scan` with the traces written out.

`python jax_columns_peer.py RATE FILE` reads `x` [steps, B, D], `y` [steps, B], `W` [4, C, D + 2] and `w` [C] from FILE
(npz), writes the weights after these steps to FILE + ".out.npz" and one line, and then answers each number on standard
input with the CPU and wall seconds of as many runs. It imports neither torch nor recdsl.
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Any


def step(jax: Any, rate: float) -> Any:
    """(carry, (x, y)) -> carry. Gates i, f, o, g; traces [B, 4, C, D + 2] of cell and output."""
    np, sigmoid = jax.numpy, jax.nn.sigmoid

    def tall(value: Any) -> Any:
        return value[:, None, :, None]

    def advance(carry: Any, row: Any) -> Any:
        weights, w, tc, th, h, c = carry
        x, y = row
        ones = np.ones_like(h)
        wide = np.broadcast_to(x[:, None, :], (*h.shape, x.shape[1]))
        drive = np.concatenate([wide, h[..., None], ones[..., None]], -1)[:, None]  # [B, 1, C, D + 2]
        pre = np.einsum("qcd,bd->bqc", weights[..., :-2], x) + weights[..., -2] * h[:, None] + weights[..., -1]
        i, f, o, g = sigmoid(pre[:, 0]), sigmoid(pre[:, 1]), sigmoid(pre[:, 2]), np.tanh(pre[:, 3])
        new = f * c + i * g
        tau = np.tanh(new)
        psi = np.stack([g * i * (1 - i), c * f * (1 - f), np.zeros_like(i), i * (1 - g * g)], 1)
        own = np.stack([np.zeros_like(i), np.zeros_like(i), tau * o * (1 - o), np.zeros_like(i)], 1)
        kappa = (psi * weights[..., -2]).sum(1)
        turn, rho = own[:, 2] * weights[2, :, -2], o * (1 - tau * tau)
        moved = tall(f) * tc + tall(kappa) * th + psi[..., None] * drive
        out = tall(rho) * moved + tall(turn) * th + own[..., None] * drive
        h = o * tau
        error = 2 * (h @ w - y)
        gradient = np.einsum("b,bqcd->qcd", error, out) * w[:, None]
        return (weights - rate * gradient, w - rate * (error @ h), moved, out, h, new), None

    return advance


def main() -> None:
    rate, file = sys.argv[1:]
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    jax, numpy = import_module("jax"), import_module("numpy")
    given = {name: jax.numpy.asarray(value) for name, value in numpy.load(file).items()}
    batch, size = given["x"].shape[1], given["w"].shape[0]
    traces = jax.numpy.zeros((batch, *given["W"].shape))
    state = jax.numpy.zeros((batch, size))
    advance = step(jax, float(rate))

    def learn(weights: Any, w: Any, x: Any, y: Any) -> Any:
        return jax.lax.scan(advance, (weights, w, traces, traces, state, state), (x, y))[0][:2]

    run = jax.jit(learn)
    arguments = tuple(given[name] for name in ("W", "w", "x", "y"))
    weights, w = jax.block_until_ready(run(*arguments))
    numpy.savez(file + ".out.npz", W=weights, w=w)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            jax.block_until_ready(run(*arguments))
        print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)


if __name__ == "__main__":
    main()
