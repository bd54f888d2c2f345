"""What the proofs share: loading a program, running it on torch in float64, and comparing with autograd."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recdsl.program.interpreter import Machine
from recdsl.program.ir import Program
from recdsl.program.parse import parse

torch.set_num_threads(1)

PROOFS = Path(__file__).parent / "proofs"
TOLERANCE = 1e-10


def text(name: str) -> str:
    return (PROOFS / f"{name}.program").read_text(encoding="utf-8")


def program(name: str) -> Program:
    return parse(text(name))


def mutant(name: str, *changes: tuple[str, str]) -> Program:
    """The program with pieces of its text replaced, each of which must be there."""
    source = text(name)
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new, 1)
    return parse(source)


def randn(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def leaves(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that autograd differentiates."""
    return {name: value.clone().requires_grad_() for name, value in values.items()}


def machine(what: Program, values: Mapping[str, Any], **symbols: int) -> Machine:
    found = Machine(what, torch, symbols)
    for name, value in values.items():
        found.put(name, value)
    return found


def worst(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference, relative to the largest expected entry of its tensor."""
    gaps = [0.0]
    for name, value in expected.items():
        scale = max(1e-30, float(value.abs().max()))
        gaps.append(float((found[name] - value).abs().max()) / max(scale, 1e-12))
        assert bool(torch.isfinite(found[name]).all()), name
    return max(gaps)
