"""Run by another Python, which has jax: real-time recurrent learning of a layer and a linear readout, written by hand.

`python jax_rtrl_peer.py CELL RULE FILE` reads `x` [steps, B, D], `y` [steps, B, O] and the weights from FILE (npz),
writes loss and gradients to FILE + ".out.npz" and one line, and then answers each number on standard input with the CPU
and wall seconds of as many calls. One jitted `lax.scan` over the steps, samples by vmap.

- `rtrl`: J <- D J + I with D by `jacfwd` (as many passes as there are states) and I by `jacrev` (as many as there are
  states too; `jacfwd` would need one for each weight).
- `snap(1)` of an LSTM: traces of each unit's own weights, by one forward-mode pass a gate and one a state for the
  diagonal of D, so that all of it is elementwise.

It imports neither torch nor recdsl.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

GATES = {"gru": "zrn", "gru_reset_after": "zrn", "lstm": "ifgo"}
Params = Mapping[str, Any]


def cell_of(jax: Any, cell: str) -> Callable[[Params, Any, Any, Any], Any]:
    """(weights, input, state [states, H], what is added to each gate [gates, H]) -> state."""
    np, sigmoid, tanh = jax.numpy, jax.nn.sigmoid, jax.numpy.tanh
    names = GATES[cell]

    def step(p: Params, x: Any, state: Any, more: Any) -> Any:
        h = state[0]
        a = {q: p["W" + q] @ x + p["b" + q] + more[k] for k, q in enumerate(names)}
        if cell == "lstm":
            i, f, o = (sigmoid(a[q] + p["U" + q] @ h) for q in "ifo")
            c = f * state[1] + i * tanh(a["g"] + p["Ug"] @ h)
            return np.stack([o * tanh(c), c])
        z, r = sigmoid(a["z"] + p["Uz"] @ h), sigmoid(a["r"] + p["Ur"] @ h)
        n = tanh(a["n"] + p["Un"] @ (r * h)) if cell == "gru" else tanh(a["n"] + r * (p["Un"] @ h + p["cn"]))
        return np.stack([(1 - z) * n + z * h])

    return step


def dense(jax: Any, cell: str, p: Params) -> tuple[Any, Any, Any]:
    """(zero traces of one sample, their step, the gradient from dL/dh)."""
    np, step = jax.numpy, cell_of(jax, cell)
    size = p["b" + GATES[cell][0]].shape[0]
    shape = (2 if cell == "lstm" else 1, size)
    none = np.zeros((len(GATES[cell]), size))
    flat, restore = jax.flatten_util.ravel_pytree(dict(p))
    states = shape[0] * size

    def advance(traces: Any, x: Any, state: Any) -> tuple[Any, Any]:
        def ahead(weights: Any, s: Any) -> Any:
            return step(restore(weights), x, s.reshape(shape), none).reshape(-1)

        s = state.reshape(-1)
        own = jax.jacrev(ahead, 0)(flat, s)
        return ahead(flat, s).reshape(shape), jax.jacfwd(ahead, 1)(flat, s) @ traces + own

    return np.zeros((states, flat.shape[0])), advance, lambda q, traces: restore(q @ traces[:size])


def local(jax: Any, cell: str, p: Params) -> tuple[Any, Any, Any]:
    """The same of an LSTM for traces of each unit's own weights: [states, gates, H, D + H + 1]."""
    np, names = jax.numpy, GATES[cell]
    size, inputs = p["W" + names[0]].shape
    matrix = np.stack([np.concatenate([p["W" + q], p["U" + q], p["b" + q][:, None]], 1) for q in names])
    own = np.stack([np.diagonal(p["U" + q]) for q in names])

    def core(pre: Any, c: Any) -> Any:
        i, f, g, o = (tanh(v) if q == "g" else sigmoid(v) for q, v in zip(names, pre, strict=True))
        new = f * c + i * g
        return np.stack([o * tanh(new), new])

    sigmoid, tanh = jax.nn.sigmoid, np.tanh

    def advance(traces: Any, x: Any, state: Any) -> tuple[Any, Any]:
        drive = np.concatenate([x, state[0], np.ones(1)])
        pre, c = matrix @ drive, state[1]
        gates = [jax.jvp(core, (pre, c), (np.zeros_like(pre).at[k].set(1.0), np.zeros_like(c)))[1] for k in range(4)]
        by_h = jax.jvp(core, (pre, c), (own, np.zeros_like(c)))[1]
        by_c = jax.jvp(core, (pre, c), (np.zeros_like(pre), np.ones_like(c)))[1]
        carried = by_h[:, None, :, None] * traces[0] + by_c[:, None, :, None] * traces[1]
        carried = carried.at[1, names.index("o")].set(0.0)  # c does not depend on o within a step
        return core(pre, c), carried + np.stack(gates, 1)[..., None] * drive

    def gradient(q: Any, traces: Any) -> Any:
        found = q[None, :, None] * traces[0]
        cut = {"W": slice(0, inputs), "U": slice(inputs, -1), "b": -1}
        return {kind + name: found[k, :, part] for k, name in enumerate(names) for kind, part in cut.items()}

    return np.zeros((2, len(names), size, inputs + size + 1)), advance, gradient


def main() -> None:
    cell, rule, file = sys.argv[1:]
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    jax, numpy = import_module("jax"), import_module("numpy")
    import_module("jax.flatten_util")
    np = jax.numpy
    given = {name: np.asarray(value) for name, value in numpy.load(file).items()}
    x, y, out, bias = (given.pop(name) for name in ("x", "y", "out.W", "out.b"))
    steps, batch, _ = x.shape

    def learn(p: Params, out: Any, bias: Any) -> Any:
        zero, advance, gradient = (dense if rule == "rtrl" else local)(jax, cell, p)
        state = np.zeros((batch, 2 if cell == "lstm" else 1, p["b" + GATES[cell][0]].shape[0]))

        def body(carry: Any, row: Any) -> Any:
            state, traces, total, loss = carry
            state, traces = jax.vmap(advance)(traces, row[0], state)
            apart = state[:, 0] @ out.T + bias - row[1]
            share = 2 * apart / (apart.size * steps)
            mine = jax.vmap(gradient)(share @ out, traces)
            found = {**{name: value.sum(0) for name, value in mine.items()},
                     "out.W": share.T @ state[:, 0], "out.b": share.sum(0)}  # fmt: skip
            total = {name: total[name] + value for name, value in found.items()}
            return (state, traces, total, loss + (apart**2).mean() / steps), None

        names = jax.eval_shape(gradient, np.zeros(state.shape[-1]), zero)
        start = {name: np.zeros(value.shape) for name, value in names.items()}
        start |= {"out.W": np.zeros_like(out), "out.b": np.zeros_like(bias)}
        traces = np.broadcast_to(zero, (batch, *zero.shape))
        return jax.lax.scan(body, (state, traces, start, 0.0), (x, y))[0][2:]

    run = jax.jit(learn)
    found, loss = jax.block_until_ready(run(given, out, bias))
    numpy.savez(file + ".out.npz", loss=loss, **found)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            jax.block_until_ready(run(given, out, bias))
        print(time.process_time() - cpu, time.perf_counter() - wall, flush=True)


if __name__ == "__main__":
    main()
