"""The oracle against scripts a person would write: detach loops, torch.nn modules, central differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracle_support import run
from torch import Tensor

from recdsl.backends.reference import Reference
from recdsl.credit.build import plan
from recdsl.graph.step import StepGraph
from recdsl.graph.types import Axis, Type
from recdsl.testing import random_case
from recdsl.testing.declare import declare
from recdsl.testing.maker import Maker, Value

HID, INP, STEPS, BATCH = 3, 2, 11, 2


def tensors(graph: StepGraph, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, batch)."""
    g = torch.Generator().manual_seed(seed)
    params = {p.name: torch.randn(p.type.shape, generator=g, dtype=torch.float64) * 0.6 for p in graph.parameters}
    shapes = {i.name: (STEPS, BATCH, *i.type.shape) for i in graph.inputs}
    return params, {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in shapes.items()}


def elman(at: str | tuple[str, int] = "all", reduce: str = "mean") -> StepGraph:
    """h = tanh(W x + U h[t-1]) from a learned start, mse against y."""
    m, hid, inp = Maker(), Axis("hid", HID), Axis("inp", INP)
    x = m.input("x", "float", (inp,))
    w, u = m.parameter(Type("float", (hid, inp)), stem="W"), m.parameter(Type("float", (hid, hid)), stem="U")
    start = m.parameter(Type("float", (hid,)), stem="s")
    m.state("h", (hid,), start.text)
    h = m.assign("h", m.unary("tanh", m.binary("+", m.matmul(w, x), m.matmul(u, m.past("h")))))
    m.loss("loss", "mse", h, m.input("y", "float", (hid,), target=True), 1.0, (), at)
    return m.graph(reduce)


def script(
    params: dict[str, Tensor],
    batch: dict[str, Tensor],
    window: int,
    every: int,
    counts: Tensor,
    mask: Tensor,
    reset: Tensor,
) -> dict[str, Tensor]:
    """Truncated backpropagation of `elman` as a training script has it; counts: bool [T, B]."""
    leaf = {name: value.clone().requires_grad_() for name, value in params.items()}
    w, u, start = leaf["W1"], leaf["U2"], leaf["s3"]
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    for first in range(0, STEPS, every):
        h, loss = start.expand(BATCH, HID), torch.zeros((), dtype=torch.float64)
        for t in range(min(first + every, STEPS)):
            if t > 0 and t == first + every - window:
                h = h.detach()
            h = torch.where(reset[t, :, None], start, h)
            new = torch.tanh(batch["x"][t] @ w.T + h @ u.T)
            h = torch.where(mask[t, :, None], new, h)
            if t >= first:
                loss = loss + ((new - batch["y"][t]) ** 2).mean(1)[counts[t]].sum() / counts.sum()
        if loss.requires_grad:
            for name, part in zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True):
                total[name] = total[name] + part
    return total


def agree(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= tolerance * (1 + value.abs().max()), name


WINDOWS = [(w, e) for w in (1, 2, 3, 5, 11, 20) for e in (1, 2, 3, 5, 11) if e <= w]


@pytest.mark.parametrize(("window", "every"), WINDOWS)
def test_windows_are_those_of_a_detach_loop(window: int, every: int):
    """Windows that overlap, that end ragged, and that cover the call; with and without mask and reset."""
    graph = elman()
    params, batch = tensors(graph)
    rule = plan(graph, (declare("default", f"tbptt(window={window}, every={every})"),))
    g = torch.Generator().manual_seed(window)
    ones, zeros = torch.ones(STEPS, BATCH, dtype=torch.bool), torch.zeros(STEPS, BATCH, dtype=torch.bool)
    ragged, restart = torch.rand(STEPS, BATCH, generator=g) < 0.8, torch.rand(STEPS, BATCH, generator=g) < 0.2
    for mask, reset in ((ones, zeros), (ragged, restart)):
        found = Reference(graph, rule).run(params, batch, mask, reset).gradients
        agree(found, script(params, batch, window, every, mask, mask, reset))


@pytest.mark.parametrize("at", ["all", "last", ("every", 2), ("every", 20)])
def test_schedules(at: str | tuple[str, int]):
    graph = elman(at)
    params, batch = tensors(graph)
    mask = torch.arange(STEPS)[:, None] < torch.tensor([7, 11])
    steps = torch.arange(STEPS)[:, None]
    counts = {"all": mask, "last": steps == torch.tensor([6, 10])}.get(str(at))
    if counts is None:
        counts = mask & ((steps + 1) % int(at[1]) == 0)
    result = Reference(graph, plan(graph)).run(params, batch, mask)
    agree(result.gradients, script(params, batch, STEPS, STEPS, counts, mask, ~mask & mask))
    if not counts.any():
        assert result.loss == 0


def test_sum_is_the_mean_times_the_number_of_pairs():
    params, batch = tensors(elman())
    found = [Reference(g, plan(g)).run(params, batch) for g in (elman(), elman(reduce="sum"))]
    assert torch.isclose(found[0].loss * STEPS * BATCH, found[1].loss)


def gate(m: Maker, x: Value, h: Value, extra: Value | None = None, reset: Value | None = None) -> Value:
    """W x + b + (U h + c), the latter scaled by `reset` where given, plus `extra`."""
    hid, inp = Axis("hid", HID), Axis("inp", INP)
    w, u = m.parameter(Type("float", (hid, inp)), stem="W"), m.parameter(Type("float", (hid, hid)), stem="U")
    b, c = m.parameter(Type("float", (hid,)), stem="b"), m.parameter(Type("float", (hid,)), stem="c")
    past = m.binary("+", m.matmul(u, h), c)
    past = past if reset is None else m.binary("*", reset, past)
    total = m.binary("+", m.binary("+", m.matmul(w, x), b), past)
    return total if extra is None else m.binary("+", total, extra)


def gru() -> StepGraph:
    """torch.nn.GRU: the reset gate acts after the product."""
    m, hid = Maker(), Axis("hid", HID)
    x = m.input("x", "float", (Axis("inp", INP),))
    m.state("h", (hid,), 0.0)
    h = m.past("h")
    r = m.unary("sigmoid", gate(m, x, h))
    z = m.unary("sigmoid", gate(m, x, h))
    n = m.unary("tanh", gate(m, x, h, reset=r))
    out = m.assign("h", m.binary("+", n, m.binary("*", z, m.binary("-", h, n))))
    m.loss("loss", "mse", out, m.input("y", "float", (hid,), target=True), 1.0, (), "all")
    return m.graph("mean")


def lstm() -> StepGraph:
    m, hid = Maker(), Axis("hid", HID)
    x = m.input("x", "float", (Axis("inp", INP),))
    m.state("h", (hid,), 0.0)
    m.state("c", (hid,), 0.0)
    h, c = m.past("h"), m.past("c")
    i, f = m.unary("sigmoid", gate(m, x, h)), m.unary("sigmoid", gate(m, x, h))
    g, o = m.unary("tanh", gate(m, x, h)), m.unary("sigmoid", gate(m, x, h))
    now = m.assign("c", m.binary("+", m.binary("*", f, c), m.binary("*", i, g)))
    out = m.assign("h", m.binary("*", o, m.unary("tanh", now)))
    m.loss("loss", "mse", out, m.input("y", "float", (hid,), target=True), 1.0, (), "all")
    return m.graph("mean")


@pytest.mark.parametrize(("graph", "kind"), [(gru(), torch.nn.GRU), (lstm(), torch.nn.LSTM)])
def test_full_bptt_is_that_of_torch(graph: StepGraph, kind: type[torch.nn.GRU] | type[torch.nn.LSTM]):
    params, batch = tensors(graph)
    module = kind(INP, HID, dtype=torch.float64)
    stems = {"weight_ih_l0": "W", "weight_hh_l0": "U", "bias_ih_l0": "b", "bias_hh_l0": "c"}
    parts = {full: [n for n in params if n.startswith(stem)] for full, stem in stems.items()}
    module.load_state_dict({full: torch.cat([params[n] for n in names]) for full, names in parts.items()})
    out: Tensor = module(batch["x"])[0]
    loss = ((out - batch["y"]) ** 2).mean()
    loss.backward()
    result = Reference(graph, plan(graph)).run(params, batch)
    assert torch.isclose(result.loss, loss.detach(), rtol=1e-12, atol=0)
    expected: dict[str, Tensor] = {}
    for full, names in parts.items():
        gradient = module.get_parameter(full).grad
        assert gradient is not None
        expected |= dict(zip(names, gradient.split(HID), strict=True))
    agree(result.gradients, {name: expected[name] for name in result.gradients})


def test_full_gradients_are_central_differences_where_smooth():
    tried, step = 0, 1e-6
    for seed in range(40):
        case = random_case(seed, rules=())
        if not case.model.smooth or any(loss.trains for loss in case.graph.losses) or case.cotangents:
            continue
        found = run(case).gradients
        g = torch.Generator().manual_seed(seed)
        moves = {k: torch.randn(v.shape, generator=g, dtype=torch.float64) for k, v in found.items()}
        ends: list[Tensor] = []
        for sign in (1, -1):
            shifted = case.params | {k: case.params[k] + sign * step * moves[k] for k in moves}
            ends.append(run(replace(case, params=shifted)).loss)
        slope = sum(float((found[k] * moves[k]).sum()) for k in moves)
        assert abs(float(ends[0] - ends[1]) / (2 * step) - slope) <= 1e-6 * (1 + abs(slope)), seed
        tried += 1
    assert tried >= 5
