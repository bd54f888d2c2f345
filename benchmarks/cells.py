"""The cells that are measured: a spec, the same equations as an eager loop, and torch.nn's module if there is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

Params = Mapping[str, Tensor]
Step = Callable[[Params, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Cell:
    """`step` is one step of the eager loop: (parameters, x, state) -> state, whose first entry is the output.

    module: torch.nn's class, or None. gates: how torch.nn stacks the gates. exact: whether torch.nn's equations are
    the same, so that its loss and gradients can be compared; where they are not, it is the nearest it has.
    """

    name: str
    block: str
    step: Step
    states: int = 1
    module: Callable[[int, int], Any] | None = None
    gates: tuple[str, ...] = ()
    exact: bool = True

    def spec(self, inputs: int, size: int) -> str:
        """The model's text: one block and a squared error on what it gives out."""
        left = "h, c" if self.states == 2 else "h"
        return (
            f'recdsl: 1\nname: {self.name}\nsizes: {{d: {inputs}, n: {size}}}\ninputs: {{x: "float[d]"}}\n'
            f'targets: {{y: "float[n]"}}\nstep: |\n  {left} = {self.block}(x, size=n)\nloss: mse(h, y)\n'
        )


def elman(p: Params, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = state
    return (torch.tanh(linear(x, p["W"], p["b"]) + linear(h, p["U"])),)


def gru(p: Params, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = state
    z = torch.sigmoid(linear(x, p["Wz"], p["bz"]) + linear(h, p["Uz"]))
    r = torch.sigmoid(linear(x, p["Wr"], p["br"]) + linear(h, p["Ur"]))
    n = torch.tanh(linear(x, p["Wn"], p["bn"]) + linear(r * h, p["Un"]))
    return ((1 - z) * n + z * h,)


def gru_reset_after(p: Params, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = state
    z = torch.sigmoid(linear(x, p["Wz"], p["bz"]) + linear(h, p["Uz"]))
    r = torch.sigmoid(linear(x, p["Wr"], p["br"]) + linear(h, p["Ur"]))
    n = torch.tanh(linear(x, p["Wn"], p["bn"]) + r * linear(h, p["Un"], p["cn"]))
    return ((1 - z) * n + z * h,)


def lstm(p: Params, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    h, c = state
    i = torch.sigmoid(linear(x, p["Wi"], p["bi"]) + linear(h, p["Ui"]))
    f = torch.sigmoid(linear(x, p["Wf"], p["bf"]) + linear(h, p["Uf"]))
    g = torch.tanh(linear(x, p["Wg"], p["bg"]) + linear(h, p["Ug"]))
    o = torch.sigmoid(linear(x, p["Wo"], p["bo"]) + linear(h, p["Uo"]))
    c = f * c + i * g
    return o * torch.tanh(c), c


def mgu(p: Params, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = state
    f = torch.sigmoid(linear(x, p["Wf"], p["bf"]) + linear(h, p["Uf"]))
    n = torch.tanh(linear(x, p["Wn"], p["bn"]) + linear(f * h, p["Un"]))
    return ((1 - f) * h + f * n,)


def peephole_lstm(p: Params, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    h, c = state
    i = torch.sigmoid(linear(x, p["Wi"], p["bi"]) + linear(h, p["Ui"]) + p["pi"] * c)
    f = torch.sigmoid(linear(x, p["Wf"], p["bf"]) + linear(h, p["Uf"]) + p["pf"] * c)
    g = torch.tanh(linear(x, p["Wg"], p["bg"]) + linear(h, p["Ug"]))
    c = f * c + i * g
    o = torch.sigmoid(linear(x, p["Wo"], p["bo"]) + linear(h, p["Uo"]) + p["po"] * c)
    return o * torch.tanh(c), c


CELLS = (
    Cell("gru", "gru", gru, module=torch.nn.GRU, gates=("r", "z", "n"), exact=False),
    Cell("gru_reset_after", "gru_reset_after", gru_reset_after, module=torch.nn.GRU, gates=("r", "z", "n")),
    Cell("lstm", "lstm", lstm, states=2, module=torch.nn.LSTM, gates=("i", "f", "g", "o")),
    Cell("elman", "elman", elman, module=torch.nn.RNN, gates=("",)),
    Cell("mgu", "mgu", mgu),
    Cell("peephole_lstm", "peephole_lstm", peephole_lstm, states=2),
)
