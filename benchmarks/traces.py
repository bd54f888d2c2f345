"""The suite `traces`: gradients in real time, against loops that people write by hand and against functional Jacobians.

- columnar LSTM under `columns`: the eager peer carries the traces of each gate's weights in the compact form (Javed et
  al.; two numbers a weight), vectorised over samples and columns, without autograd;
- plain recurrent network under `rtrl`: the peers take the step's Jacobians by hand (`diag(f') W`), and by torch.func.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.bptt import timed
from benchmarks.table import Row
from benchmarks.variants import Config, Variant
from recdsl.driver import compile as compile_spec

INPUTS = 16
COLUMNS = tuple(Config(b, h, 50) for b in (1, 32) for h in (64, 256))
DENSE = (Config(1, 16, 64), Config(1, 64, 64), Config(32, 64, 64), Config(1, 256, 64))
Gradients = dict[str, Tensor]

COLUMNAR = """
recdsl: 1
name: columnar
sizes: {obs: OBS, column: HID}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  Wi, Wf, Wo, Wg: float[column, obs] ~ uniform(-0.5, 0.5)
  ui, uf, uo, ug: float[column] ~ uniform(-0.5, 0.5)
  bi, bf, bo, bg: float[column] ~ uniform(-0.5, 0.5)
  w: float[column] ~ normal(0, 0.1)
step: |
  i = sigmoid(Wi @ x + ui * h[t-1] + bi)
  f = sigmoid(Wf @ x + uf * h[t-1] + bf)
  o = sigmoid(Wo @ x + uo * h[t-1] + bo)
  g = tanh(Wg @ x + ug * h[t-1] + bg)
  c = f * c[t-1] + i * g
  h = o * tanh(c)
loss: {value: "mse(w @ h, y)", reduce: sum}
credit: columns
"""
ELMAN = """
recdsl: 1
name: elman
sizes: {obs: OBS, hid: HID}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  W: float[hid, obs] ~ normal(0, 0.2)
  U: float[hid, hid] ~ normal(0, 0.1)
  b: float[hid] ~ normal(0, 0.1)
  w: float[hid] ~ normal(0, 0.1)
step: h = tanh(W @ x + U @ h[t-1] + b)
loss: {value: "mse(w @ h, y)", reduce: sum}
credit: rtrl
"""


def run(only: Iterable[str], repeats: int) -> Iterator[Row]:
    """One row a model and configuration."""
    torch.set_num_threads(1)
    wanted = set(only)
    for name, text, configs, peers in (
        ("columns", COLUMNAR, COLUMNS, {"eager": columnar}),
        ("rtrl", ELMAN, DENSE, {"eager": dense, "func": functional}),
    ):
        for config in configs if not wanted or name in wanted else ():
            yield measure(name, text, config, peers, repeats)


def measure(name: str, text: str, config: Config, peers: dict[str, Peer], repeats: int) -> Row:
    """Times and ratios of one model; all variants must agree first."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(config.steps, config.batch, INPUTS, generator=generator)
    y = torch.randn(config.steps, config.batch, generator=generator)
    model: Any = compile_spec(text.replace("OBS", str(INPUTS)).replace("HID", str(config.size)))
    params = {key: value.detach().clone() for key, value in model.named_parameters()}

    def ours() -> Tensor:
        model.zero_grad()
        loss: Tensor = model({"x": x, "y": y}).loss
        loss.backward()
        return loss

    ours()
    expected = {key: value.grad for key, value in model.named_parameters()}
    found = [_timed("ours", ours)]
    for peer, function in peers.items():
        for key, value in function(params, x, y).items():
            torch.testing.assert_close(value, expected[key], rtol=2e-3, atol=2e-3)
        found.append(_timed(peer, lambda function=function: function(params, x, y)["w"]))
    times = timed(found, repeats)
    row: Row = {"cell": name, "config": config.text, "batch": config.batch, "size": config.size, "steps": config.steps}
    for key, timing in times.items():
        row[f"{key}_step_us"] = round(timing.minimum * 1e3 / config.steps, 1)
        if key != "ours":
            row[f"{key}/ours"] = round(timing.minimum / times["ours"].minimum, 2)
    return row


def _timed(name: str, function: Callable[[], Tensor]) -> Variant:
    return _Bare(name, function, (), dict)


class _Bare(Variant):
    """Gradients come without a backward pass."""

    def run(self) -> Tensor:
        return self.loss()


Peer = Callable[[Gradients, Tensor, Tensor], Gradients]
GATES = "ifog"


@torch.no_grad()
def columnar(params: Gradients, x: Tensor, y: Tensor) -> Gradients:
    """Traces of c and h for the weights of each gate: W [B, column, obs], u and b [B, column]."""
    steps, batch, _ = x.shape
    size = params["bi"].shape[0]
    names = [kind + gate for gate in GATES for kind in "Wub"]
    shape = {name: (batch, *params[name].shape) for name in names}
    tc = {name: torch.zeros(shape[name]) for name in names}
    th = {name: torch.zeros(shape[name]) for name in names}
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    h, c = torch.zeros(batch, size), torch.zeros(batch, size)
    for t in range(steps):
        pre = {q: x[t] @ params["W" + q].t() + params["u" + q] * h + params["b" + q] for q in GATES}
        i, f, o = (torch.sigmoid(pre[q]) for q in "ifo")
        g = torch.tanh(pre["g"])
        new = f * c + i * g
        tau = torch.tanh(new)
        out = o * tau
        si, sf, so, sg = i * (1 - i), f * (1 - f), o * (1 - o), 1 - g * g
        kappa = c * sf * params["uf"] + i * sg * params["ug"] + g * si * params["ui"]
        rho, turn = o * (1 - tau * tau), tau * so * params["uo"]
        psi = {"i": g * si, "f": c * sf, "g": i * sg}
        error = 2 * (out @ params["w"] - y[t])
        for name in names:
            q, wide = name[1], (lambda v, name=name: v[:, :, None] if name[0] == "W" else v)
            drive = x[t][:, None, :] if name[0] == "W" else h if name[0] == "u" else torch.ones_like(h)
            moved = wide(f) * tc[name] + wide(kappa) * th[name]
            tc[name] = moved + wide(psi[q]) * drive if q in psi else moved
            th[name] = wide(rho) * tc[name] + wide(turn) * th[name]
            if q == "o":
                th[name] = th[name] + wide(tau * so) * drive
            grads[name] += (wide(error[:, None] * params["w"]) * th[name]).sum(0)
        grads["w"] += error @ out
        h, c = out, new
    return grads


@torch.no_grad()
def dense(params: Gradients, x: Tensor, y: Tensor) -> Gradients:
    """J [B, hid, entries], with the Jacobian of the step written out."""
    steps, batch, inputs = x.shape
    size = params["b"].shape[0]
    h = torch.zeros(batch, size)
    eye = torch.eye(size)
    traces = {"W": torch.zeros(batch, size, size * inputs), "U": torch.zeros(batch, size, size * size)}
    traces["b"] = torch.zeros(batch, size, size)
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    for t in range(steps):
        out = torch.tanh(x[t] @ params["W"].t() + h @ params["U"].t() + params["b"])
        slope = 1 - out * out
        step = slope[:, :, None] * params["U"]
        drives = {"W": x[t], "U": h}
        for name in traces:
            if name == "b":
                own = slope[:, :, None] * eye
            else:
                own = ((slope[:, :, None] * eye)[:, :, :, None] * drives[name][:, None, None, :]).flatten(2)
            traces[name] = torch.bmm(step, traces[name]) + own
        error = 2 * (out @ params["w"] - y[t])
        q = error[:, None] * params["w"]
        for name in traces:
            grads[name] += torch.einsum("bh,bhp->p", q, traces[name]).view_as(params[name])
        grads["w"] += error @ out
        h = out
    return grads


def functional(params: Gradients, x: Tensor, y: Tensor) -> Gradients:
    """The step's Jacobians by torch.func.jacrev, samples by vmap."""
    steps, batch, _ = x.shape
    inner = {name: params[name] for name in ("W", "U", "b")}

    def step(own: Gradients, h: Tensor, row: Tensor) -> Tensor:
        return torch.tanh(own["W"] @ row + own["U"] @ h + own["b"])

    jacobians = torch.func.vmap(torch.func.jacrev(step, argnums=(0, 1)), in_dims=(None, 0, 0))
    h = torch.zeros(batch, params["b"].shape[0])
    traces = {name: torch.zeros(batch, h.shape[1], *value.shape) for name, value in inner.items()}
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    with torch.no_grad():
        for t in range(steps):
            own, moved = jacobians(inner, h, x[t])
            h = torch.func.vmap(step, in_dims=(None, 0, 0))(inner, h, x[t])
            error = 2 * (h @ params["w"] - y[t])
            for name in traces:
                flat = traces[name].flatten(2)
                traces[name] = torch.bmm(moved, flat).view_as(traces[name]) + own[name]
                grads[name] += torch.einsum("bh,bh...->...", error[:, None] * params["w"], traces[name])
            grads["w"] += error @ h
    return grads
