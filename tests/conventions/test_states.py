"""Section 3, what crosses from step to step: `[t-k]`, initial values, inference, `reset` and `mask`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conventions_support import Past, agree, compiled, draw, zeros
from torch import Tensor

from recdsl.diagnostics import SpecError
from recdsl.driver import explain

HEAD = """
recdsl: 1
sizes: {n: 3, m: 2, k: 4}
inputs: {x: "float[n]", u: "float[m]", o: "onehot[k]", c: "token[k]", go: bool}
"""
Values = Mapping[str, Tensor]


def spec(step: str, params: str = 'a: "float[n] = 1"', extra: str = "") -> str:
    lines = step.strip().splitlines()
    last = lines[-1].partition(" ")[0]
    body = "".join(f"  {line}\n" for line in lines)
    return f"{HEAD}params: {{{params}}}\nstep: |\n{body}{extra}\nloss: mse({last}, 0)\n"


def test_a_delayed_input_is_zero_before_the_first_step() -> None:
    text = spec("h = a * x[t-2] + where(go[t-1], a, x) + sum(onehot(o[t-1])) + sum(o[t-1])")
    model = compiled(text)
    batch = draw(model)
    x, go = batch["x"], batch["go"]

    def step(p: Values, i: Values, past: Past, t: int) -> dict[str, Any]:
        gone = go[t - 1] if t else torch.zeros(3).bool()
        return {"h": p["a"] * (x[t - 2] if t > 1 else 0) + torch.where(gone[:, None], p["a"], i["x"]) + 2.0 * (t > 0)}

    agree(text, step, batch=batch)


def test_a_delayed_class_picks_nothing_before_the_first_step() -> None:
    text = spec("h = W @ o[t-1] + W[k=c[t-1]]", 'W: "float[n, k] ~ normal(0, 1)"')
    model = compiled(text)
    batch = draw(model)

    def step(p: Values, i: Values, past: Past, t: int) -> dict[str, Any]:
        both = F.one_hot(batch["o"][t - 1], 4) + F.one_hot(batch["c"][t - 1], 4)
        return {"h": both.double() @ p["W"].T if t else zeros(3)}

    agree(text, step, batch=batch)
    full = torch.ones(5, 3, dtype=torch.bool)
    torch.testing.assert_close(model(batch, mask=full, reset=~full).loss, model(batch).loss)


def test_reads_may_stand_above_and_below_the_assignment() -> None:
    def step(p: Values, i: Values, past: Past, t: int) -> dict[str, Any]:
        h = torch.tanh(p["a"] * (past("h") + past("h", 3)) + i["x"])
        return {"h": h, "above": past("h") + past("h", 3), "below": past("h", 2) * h}

    text = spec("above = h[t-1] + h[t-3]\nh = tanh(a * above + x)\nbelow = h[t-2] * h")
    agree(text, step, {"h": zeros(3)})


@pytest.mark.parametrize(
    ("declared", "start"),
    [("float[n]", 0.0), ("float[n] = 1", 1.0), ("float[n] = [0, 0, 1]", torch.tensor([0.0, 0, 1])), ("", 0.0)],
)
def test_initial_values_stand_at_all_steps_before_0(declared: str, start: Any) -> None:
    extra = f'states: {{h: "{declared}"}}' if declared else ""

    def step(p: Values, i: Values, past: Past, t: int) -> dict[str, Any]:
        return {"h": p["a"] * past("h") + 0.5 * past("h", 2) + i["x"]}

    agree(spec("h = a * h[t-1] + 0.5 * h[t-2] + x", extra=extra), step, {"h": zeros(3) + start})


def test_a_learned_start_and_declared_axes_are_matched_by_name() -> None:
    def step(p: Values, i: Values, past: Past, t: int) -> dict[str, Any]:
        return {"h": p["a"] * past("h") + i["u"][:, :, None] * i["x"][:, None, :]}

    text = spec(
        "h = a * h[t-1] + x * u",
        'a: "float[n] = 1", begin: "float[n, m] = 0"',
        'states: {h: "float[m, n] = begin"}',
    )
    agree(text, step, lambda p: {"h": p["begin"].T.expand(3, 2, 3)})


def test_fast_weights_with_gates_over_one_axis() -> None:
    def step(p: Values, i: Values, past: Past, t: int) -> dict[str, Any]:
        gate = torch.sigmoid(p["g"] * i["u"])
        state = gate[:, :, None] * past("S") + i["u"][:, :, None] * i["x"][:, None]
        return {"S": state, "y": state @ p["a"], "f": gate}

    text = spec(
        "S = f * S[t-1] + u * x\nf = sigmoid(g * u)\ny = dot(S, a, over=n)",
        'a: "float[n] = 1", g: "float[m] = 1"',
    )
    agree(text, step, {"S": zeros(2, 3)})


def test_reset_acts_first_and_a_masked_step_shifts_nothing() -> None:
    model = compiled(
        spec(
            "z = tanh(a * z[t-1] + 0.3 * z[t-2] + x + 0.5 * x[t-1])",
            'a: "float[n] = 1", begin: "float[n] = 0"',
            'states: {z: "float[n] = begin"}',
        )
    )
    batch = draw(model)
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]]).bool()
    reset = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]]).bool()
    a, begin = (model.get_parameter(name).detach().clone().requires_grad_() for name in ("a", "begin"))
    start, total = begin.expand(3, 3), torch.zeros((), dtype=torch.float64)
    one, two, before = start, start, zeros(3)
    for t in range(5):
        again, valid, x = reset[t][:, None], mask[t][:, None], batch["x"][t]
        one, two = torch.where(again, start, one), torch.where(again, start, two)
        before = torch.where(again, 0.0, before)
        z = torch.tanh(a * one + 0.3 * two + x + 0.5 * before)
        total = total + torch.where(mask[t], (z**2).mean(-1), 0.0).sum() / mask.sum()
        two, one = torch.where(valid, one, two), torch.where(valid, z, one)
        before = torch.where(valid, x, before)
    result = model(batch, mask=mask, reset=reset)
    torch.testing.assert_close(result.loss.detach(), total.detach())
    torch.testing.assert_close(result.state["z"], one.detach())
    result.loss.backward()
    total.backward()
    for leaf, name in ((a, "a"), (begin, "begin")):
        torch.testing.assert_close(model.get_parameter(name).grad, leaf.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("window", "every"), [(2, 2), (3, 1), (4, 2), (1, 1), (9, 9)])
def test_windows_cut_on_entering_their_first_step(window: int, every: int) -> None:
    """Losses of steps um..(u+1)m-1 see carried values, whole delay lines too, cut on entering max(0, (u+1)m-k)."""
    model = compiled(spec("h = tanh(a * h[t-1] + 0.5 * h[t-3] + x)") + f"credit: tbptt({window}, every={every})\n")
    batch = draw(model, steps=7)
    a = model.get_parameter("a").detach().clone().requires_grad_()
    wanted = torch.zeros((), dtype=torch.float64)
    for first in range(0, 7, every):
        past, cut = Past({"h": zeros(3)}), max(0, first + every - window)
        for t in range(min(first + every, 7)):
            if t == cut:
                past.steps = [{"h": item["h"].detach()} for item in past.steps]
            h = torch.tanh(a * past("h") + 0.5 * past("h", 3) + batch["x"][t])
            past.steps.append({"h": h})
            wanted = wanted + ((h**2).mean() / 7 if t >= first else 0)
    wanted.backward()
    model(batch).loss.backward()
    torch.testing.assert_close(model.get_parameter("a").grad, a.grad, rtol=1e-10, atol=1e-10)


def test_a_cut_use_carries_no_credit() -> None:
    model = compiled(spec("h = tanh(a * h[t-1] + 0.5 * h[t-2] + x)") + 'credit: {"h[t-1]": cut}\n')
    batch, past = draw(model), Past({"h": zeros(3)})
    a = model.get_parameter("a").detach().clone().requires_grad_()
    for t in range(5):
        past.steps.append({"h": torch.tanh(a * past("h").detach() + 0.5 * past("h", 2) + batch["x"][t])})
    torch.stack([item["h"] for item in past.steps]).pow(2).mean().backward()
    model(batch).loss.backward()
    torch.testing.assert_close(model.get_parameter("a").grad, a.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("lag", "fine"), [(1, True), (1000, True), (1001, False), (0, False)])
def test_delays_are_bounded(lag: int, fine: bool) -> None:
    text = spec(f"h = a * x[t-{lag}]")
    if fine:
        assert explain(text).to_dict()
    else:
        with pytest.raises(SpecError, match="RD0208"):
            explain(text)
