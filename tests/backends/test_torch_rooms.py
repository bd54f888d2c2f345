"""How many sequences a call holds at once, and calls that are long enough for matrices to be copied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from backend_support import call_of, entry, generated
from torch import Generator

from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
from recdsl.testing import assert_close_gradients

ROOMS = {"elman": 2, "gru": 9, "gru_reset_after": 10, "lstm": 11, "mgu": 8, "peephole_lstm": 13}
"""Sequences of one value a hidden unit, without the carries: those are handed out."""


def spec(block: str, size: int) -> str:
    left = "h, c" if "lstm" in block else "h"
    return (
        f'recdsl: 1\nname: m\nsizes: {{n: {size}}}\ninputs: {{x: "float[n]"}}\ntargets: {{y: "float[n]"}}\n'
        f"step: |\n  {left} = {block}(x, size=n)\nloss: mse(h, y)\n"
    )


@pytest.mark.parametrize("block", ROOMS)
def test_sequences_held(block: str):
    """An eager loop with autograd holds about 4 (elman) to 17 (peephole_lstm)."""
    steps, samples, size = 40, 256, 8
    model: Any = compile_spec(spec(block, size))
    batch = {name: torch.zeros(steps, samples, size) for name in ("x", "y")}
    for _ in range(2):
        model(batch).loss.backward()
    (frame,) = model.recdsl_arena.idle
    held = sum(frame.known.values()) / (4 * steps * samples * size)
    assert ROOMS[block] <= held < ROOMS[block] + 0.5


@pytest.mark.parametrize("block", ROOMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_long_calls(block: str, seed: int):
    """From 32 steps on, matrices are transposed by copying them."""
    case = call_of(analyse(spec(block, 3)), seed)
    draws = Generator().manual_seed(seed)
    samples = 1 + seed % 3
    batch = {item.name: entry(item, 40, samples, draws) for item in case.graph.inputs}
    flags = [torch.rand((40, samples), generator=draws) < rate for rate in (0.8, 0.2)]
    mask, reset = flags if seed % 2 else (None, None)
    assert_close_gradients(generated, replace(case, batch=batch, mask=mask, reset=reset))
