"""The library's blocks against their equations, and blocks that a spec defines or calls in each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conventions_support import Past, agree, zeros
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl.diagnostics import SpecError
from recdsl.driver import explain

Values = Mapping[str, Tensor]
HEAD = 'recdsl: 1\nsizes: {n: 3, m: 2, k: 4}\ninputs: {x: "float[n]", c: "token[k]"}\n'


def gates(p: Values, x: Tensor, h: Tensor, name: str) -> Tensor:
    return x @ p[f"h.W{name}"].T + h @ p[f"h.U{name}"].T + p[f"h.b{name}"]


def gru(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    h = past("h")
    z, r = torch.sigmoid(gates(p, x, h, "z")), torch.sigmoid(gates(p, x, h, "r"))
    n = torch.tanh(x @ p["h.Wn"].T + (r * h) @ p["h.Un"].T + p["h.bn"])
    return {"h": (1 - z) * n + z * h}


def gru_reset_after(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    h = past("h")
    z, r = torch.sigmoid(gates(p, x, h, "z")), torch.sigmoid(gates(p, x, h, "r"))
    n = torch.tanh(x @ p["h.Wn"].T + p["h.bn"] + r * (h @ p["h.Un"].T + p["h.cn"]))
    return {"h": (1 - z) * n + z * h}


def lstm(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    i, f, o = (torch.sigmoid(gates(p, x, past("h"), name)) for name in "ifo")
    c = f * past("_c") + i * torch.tanh(gates(p, x, past("h"), "g"))
    return {"h": o * torch.tanh(c), "_c": c}


def peephole_lstm(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    h, old = past("h"), past("_c")
    i, f = (torch.sigmoid(gates(p, x, h, name) + p[f"h.p{name}"] * old) for name in "if")
    c = f * old + i * torch.tanh(gates(p, x, h, "g"))
    return {"h": torch.sigmoid(gates(p, x, h, "o") + p["h.po"] * c) * torch.tanh(c), "_c": c}


def mgu(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    h = past("h")
    f = torch.sigmoid(gates(p, x, h, "f"))
    return {"h": (1 - f) * h + f * torch.tanh(x @ p["h.Wn"].T + (f * h) @ p["h.Un"].T + p["h.bn"])}


def leaky(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    rate = torch.sigmoid(p["h.a"])
    return {"h": (1 - rate) * past("h") + rate * (x @ p["h.W"].T + p["h.b"])}


def lru(p: Values, x: Tensor, past: Past) -> dict[str, Any]:
    """In complex numbers, as published."""
    eigen = torch.exp(torch.complex(-torch.exp(p["h.nu"]), p["h.theta"]))
    drive = torch.complex(x @ p["h.Br"].T, x @ p["h.Bi"].T) * torch.sqrt(1 - eigen.abs() ** 2)
    state = eigen * torch.complex(past("_re"), past("_im")) + drive
    y = (state @ torch.complex(p["h.Cr"], p["h.Ci"]).T).real + p["h.d"] * x
    return {"h": y, "_re": state.real, "_im": state.imag}


CELLS: dict[str, Callable[[Values, Tensor, Past], dict[str, Any]]] = {
    "gru": gru,
    "gru_reset_after": gru_reset_after,
    "lstm": lstm,
    "peephole_lstm": peephole_lstm,
    "mgu": mgu,
    "leaky": leaky,
    "elman": lambda p, x, past: {"h": torch.tanh(gates(p, x, past("h"), ""))},
    "lru": lru,
    "indrnn": lambda p, x, past: {"h": torch.relu(x @ p["h.W"].T + p["h.u"] * past("h") + p["h.b"])},
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    text = f"{HEAD}step: h = {name}(x, size=k)\nloss: mse(h, 0)\n"
    starts = {"h": zeros(4), "_c": zeros(4), "_re": zeros(4), "_im": zeros(4)}
    agree(text, lambda p, x, past, t: CELLS[name](p, x["x"], past), starts)


def mlp(p: Values, x: Values) -> Tensor:
    low = torch.tanh(x["x"] @ p["h.0.W"].T + p["h.0.b"])
    return torch.tanh(low @ p["h.1.W"].T + p["h.1.b"]) @ p["h.2.W"].T + p["h.2.b"]


MAPS: dict[str, Callable[[Values, Values], Tensor]] = {
    "linear(x, size=k)": lambda p, x: x["x"] @ p["h.W"].T + p["h.b"],
    "mlp(x, sizes=[5, m, k], activation=tanh)": mlp,
    "embedding(c, size=m)": lambda p, x: p["h.W"][x["c"]],
    "layernorm(x)": lambda p, x: F.layer_norm(x["x"], (3,), p["h.weight"], p["h.bias"], 1e-5),
}


@pytest.mark.parametrize("call", MAPS)
def test_maps(call: str) -> None:
    agree(f"{HEAD}step: h = {call}\nloss: mse(h, 0)\n", lambda p, x, past, t: {"h": MAPS[call](p, x)})


def test_soft_memory() -> None:
    """The content addressing, erasing and adding of Graves et al. (2014), written with einsum."""

    def step(p: Values, x: Values, past: Past, t: int) -> dict[str, Any]:
        old = p["h.start"].expand(len(x["x"]), 5, 2) if t == 0 else past("_M")

        def attention(slots: Tensor, name: str) -> Tensor:
            key = x["x"] @ p[f"h.K{name}"].T + p[f"h.b{name}"]
            return torch.softmax(F.softplus(p[f"h.s{name}"]) * torch.einsum("bsw,bw->bs", slots, key) / 2**0.5, 1)

        where = attention(old, "w")[:, :, None]
        erase, add = torch.sigmoid(x["x"] @ p["h.We"].T + p["h.be"]), torch.tanh(x["x"] @ p["h.Wa"].T + p["h.ba"])
        new = old * (1 - where * erase[:, None]) + where * add[:, None]
        return {"h": torch.einsum("bs,bsw->bw", attention(new, "r"), new), "_M": new}

    text = f"{HEAD}step: h = soft_memory(x, slots=5, width=m)\nloss: mse(h, 0)\n"
    agree(text, step, {"_M": zeros(5, 2)})


def test_associative_memory() -> None:
    """Rank-one corrections of a matrix by the error of what it recalls, with torch.outer, sample by sample."""

    def step(p: Values, x: Values, past: Past, t: int) -> dict[str, Any]:
        reads: list[Tensor] = []
        news: list[Tensor] = []
        for one, old in zip(x["x"], past("_M"), strict=True):
            key, query = (torch.softmax(p[f"h.W{name}"] @ one, 0) for name in "kq")
            error = p["h.Wv"] @ one - torch.mv(old, key)
            new = old + torch.sigmoid(p["h.w"] @ one + p["h.b"]) * torch.outer(error, key)
            news.append(new)
            reads.append(torch.mv(new, query))
        return {"h": torch.stack(reads), "_M": torch.stack(news)}

    text = f"{HEAD}step: h = associative_memory(x, keys=5, width=m)\nloss: mse(h, 0)\n"
    agree(text, step, {"_M": zeros(2, 5)})


def test_stack() -> None:
    """Joulin & Mikolov (2015), equation 4 and those below it: each place takes from its neighbours and itself."""

    def step(p: Values, x: Values, past: Past, t: int) -> dict[str, Any]:
        old = past("_S").reshape(-1, 4, 2)
        push, pop, keep = torch.softmax(x["x"] @ p["h.A"].T + p["h.a"], 1).unbind(1)
        places = [torch.sigmoid(x["x"] @ p["h.D"].T + p["h.d"]), *old.unbind(1), torch.zeros_like(old[:, 0])]
        new = [
            push[:, None] * places[k] + pop[:, None] * places[k + 2] + keep[:, None] * places[k + 1] for k in range(4)
        ]
        return {"h": new[0], "_S": torch.stack(new, 1).flatten(1)}

    agree(f"{HEAD}step: h = stack(x, depth=4, width=m)\nloss: mse(h, 0)\n", step, {"_S": zeros(8)})


def test_a_stack_gives_back_what_was_pushed() -> None:
    """With moves that are certain it is last in, first out."""
    model: Any = compile_spec(f"{HEAD}step: h = stack(x, depth=4, width=m)\nloss: mse(h, 0)\n", dtype=torch.float64)
    x = torch.zeros(6, 1, 3, dtype=torch.float64)
    x[0, 0, 0] = x[1, 0, 0] = 1.0  # push, push, leave, pop, pop, pop
    x[2, 0, 2] = x[3:, 0, 1] = 1.0
    with torch.no_grad():
        model.h.A.copy_(200 * torch.eye(3))
        model.h.D.zero_()
        model.h.d.zero_()
        model.h.D[0, 0] = 1.0
    x[1, 0, 0] = 2.0
    top = model({"x": x, "c": torch.zeros(6, 1, dtype=torch.long)}).outputs["h"][:, 0, 0]
    one, two = (float(torch.sigmoid(torch.tensor(v, dtype=torch.float64))) for v in (1.0, 2.0))
    assert torch.allclose(top, torch.tensor([one, two, two, one, 0.0, 0.0], dtype=torch.float64))


def test_a_cell_whose_states_are_given() -> None:
    def step(p: Values, x: Values, past: Past, t: int) -> dict[str, Any]:
        found = lstm(p, x["x"], past)
        return {"h": found["h"], "c1": found["_c"], "g": 0.5 * found["h"], "_c": found["_c"]}

    text = f"{HEAD}step: |\n  h, c1 = lstm_cell(x, h[t-1], c1[t-1], size=k)\n  g = 0.5 * h\nloss: mse(g, 0)\n"
    agree(text, step, {"h": zeros(4), "_c": zeros(4)})


def test_own_blocks_nest_and_live_under_the_assigned_name() -> None:
    text = f"""{HEAD}
blocks:
  smooth:
    arguments: {{v: "float[i]"}}
    sizes: {{size: required}}
    params: {{V: "float[size, i] ~ glorot"}}
    step: |
      y = tanh(V @ v) + 0.5 * y[t-1]
      z = linear(y, size=i)
      out = z + v
    returns: out
step: |
  a = smooth(x, size=k)
  b = smooth(a, size=m)
loss: mse(b, 0)
"""

    def block(p: Values, v: Tensor, old: Tensor, name: str) -> tuple[Tensor, Tensor]:
        y = torch.tanh(v @ p[f"{name}.V"].T) + 0.5 * old
        return y @ p[f"{name}.z.W"].T + p[f"{name}.z.b"] + v, y

    def step(p: Values, x: Values, past: Past, t: int) -> dict[str, Any]:
        a, low = block(p, x["x"], past("_low"), "a")
        b, high = block(p, a, past("_high"), "b")
        return {"a": a, "b": b, "_low": low, "_high": high}

    agree(text, step, {"_low": zeros(4), "_high": zeros(2)})


def test_blocks_that_double_at_every_level_are_refused_at_once() -> None:
    levels = "".join(
        f'  b{k}:\n    arguments: {{v: "float[i]"}}\n    step: |\n      p = {low}\n      q = {low.replace("v", "p")}\n'
        "    returns: q\n"
        for k in range(30)
        for low in [f"b{k - 1}(v)" if k else "layernorm(v)"]
    )
    with pytest.raises(SpecError, match="RD0315"):
        explain(f"{HEAD}blocks:\n{levels}step: h = b29(x)\nloss: mse(h, 0)\n")
