"""Every op: vjp and jvp against each other, against autograd of the value, and against differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_samples import SAMPLES, VECTOR, Sample
from torch import Generator, Tensor

from recdsl.backends.reference import declared
from recdsl.graph.types import Axis, Type
from recdsl.ops import catalogue, primitive
from recdsl.testing.evaluate import Evaluator

torch.set_num_threads(1)
LEADS = ((), (4,), (3, 2))


def draw(sample: Sample, type: Type, lead: tuple[int, ...], generator: Generator) -> Tensor:
    shape = (*lead, *type.shape)
    if type.dtype == "bool":
        return torch.rand(shape, generator=generator) < 0.5
    if type.dtype == "int":
        return torch.randint(-1, sample.integers, shape, generator=generator)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (sample.high - sample.low) + sample.low


def attributes(sample: Sample) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(sample.attrs.items()))


def inputs(sample: Sample, lead: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = Generator().manual_seed(seed)
    return [draw(sample, type, lead, generator) for type in sample.types]


def derived(sample: Sample, args: list[Tensor], cot: Tensor) -> list[Tensor | None]:
    """The op's own vjp, evaluated."""
    b = Evaluator()
    ids = [b.put(arg, type) for arg, type in zip(args, sample.types, strict=True)]
    out = b.op(sample.op, *ids, **sample.attrs)
    found = primitive(sample.op).vjp(b, ids, out, b.put(cot, b.type(out)), attributes(sample))
    assert len(found) == len(args)
    return [None if k is None else b.values[k] for k in found]


def tangent(sample: Sample, args: list[Tensor], moves: list[Tensor | None]) -> Tensor | None:
    """The op's own jvp, evaluated."""
    b = Evaluator()
    ids = [b.put(arg, type) for arg, type in zip(args, sample.types, strict=True)]
    out = b.op(sample.op, *ids, **sample.attrs)
    given = [None if v is None else b.put(v, type) for v, type in zip(moves, sample.types, strict=True)]
    found = primitive(sample.op).jvp(b, ids, out, given, attributes(sample))
    return None if found is None else b.values[found]


def value(sample: Sample, args: list[Tensor]) -> Tensor:
    return declared.value(sample.op, args, attributes(sample), list(sample.types), torch.float64)


def noise(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def close(found: Tensor | None, expected: Tensor | None, tolerance: float = 1e-12) -> bool:
    """None stands for zero."""
    a = torch.zeros(()) if found is None else found
    b = torch.zeros(()) if expected is None else expected
    return bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())


def test_every_op_has_a_sample():
    moved = {"append", "fetch", "nearest", "search"}  # of tapes: tests/memory/test_tapes.py
    assert {sample.op for sample in SAMPLES} == set(catalogue()) - moved


def floats(sample: Sample) -> list[int]:
    return [k for k, type in enumerate(sample.types) if type.dtype == "float"]


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_vjp_is_autograd_of_the_value(sample: Sample, lead: tuple[int, ...]):
    args = inputs(sample, lead)
    leaves = [arg.clone().requires_grad_() if arg.is_floating_point() else arg for arg in args]
    out = value(sample, leaves)
    if sample.op == "collect" or out.dtype != torch.float64:
        assert derived(sample, args, torch.zeros(())) == [None] * len(args)
        return
    cot = noise(out, 1)
    found = derived(sample, args, cot)
    wanted = [leaves[k] for k in floats(sample)]
    expected: list[Tensor | None] = [None] * len(wanted)
    if out.requires_grad:
        expected = list(torch.autograd.grad(out, wanted, cot, allow_unused=True))
    for k, gradient in zip(floats(sample), expected, strict=True):
        assert close(found[k], gradient), f"argument {k}"
    for k in set(range(len(args))) - set(floats(sample)):
        assert found[k] is None


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_vjp_and_jvp_are_transposes(sample: Sample, lead: tuple[int, ...]):
    args = inputs(sample, lead)
    out = value(sample, args)
    if sample.op == "collect" or out.dtype != torch.float64:
        return
    cot = noise(out, 1)
    pulled = derived(sample, args, cot)
    for chosen in [floats(sample), *([k] for k in floats(sample))]:
        moves = [noise(arg, 2 + k) if k in chosen else None for k, arg in enumerate(args)]
        moved = tangent(sample, args, moves)
        left = torch.zeros(()) if moved is None else (moved * cot).sum()
        right = torch.zeros((), dtype=torch.float64)
        for k in chosen:
            v, w = pulled[k], moves[k]
            if v is not None and w is not None:
                right = right + (v * w).sum()
        assert close(left.reshape(()), right)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if primitive(s.op).smooth], ids=str)
def test_jvp_is_the_central_difference_where_smooth(sample: Sample):
    args, step = inputs(sample, (3,)), 1e-6
    moves = [noise(arg, 2 + k) if arg.is_floating_point() else None for k, arg in enumerate(args)]
    ends = [
        [arg if v is None else arg + sign * step * v for arg, v in zip(args, moves, strict=True)] for sign in (1, -1)
    ]
    difference = (value(sample, ends[0]) - value(sample, ends[1])) / (2 * step)
    assert close(tangent(sample, args, moves), difference, 1e-7)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_structure_and_smoothness_are_as_declared(sample: Sample):
    """diag: an entry depends on its own index only; map: it is an entry of one argument, or 0."""
    op, args = primitive(sample.op), inputs(sample, ())
    out = value(sample, args)
    assert tuple(out.shape) == op.infer(sample.types, attributes(sample)).shape
    if op.structure == "zero":
        return
    for k in floats(sample):
        leaf = args[k].clone().requires_grad_()
        out = value(sample, [leaf if i == k else a for i, a in enumerate(args)]).reshape(-1)
        if not out.requires_grad:
            continue
        rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0].reshape(-1) for entry in out]
        square = torch.stack(rows)
        if op.structure == "diag":
            assert torch.count_nonzero(square - torch.diag(square.diagonal())) == 0
        if op.structure == "map":
            assert ((square == 0) | (square == 1)).all()
            assert (square.sum(1) <= 1).all()


def test_flops_are_not_negative():
    for sample in SAMPLES:
        op = primitive(sample.op)
        assert op.flops(sample.types, op.infer(sample.types, attributes(sample)), attributes(sample)) >= 0


def test_power_where_the_base_is_not_positive() -> None:
    """As torch.pow: whole exponents of negative bases, and no NaN at 0."""
    base = [-2.0, -2.0, 0.0, 0.0, 0.0, 3.0]
    exponent = [3.0, 0.5, 2.0, 0.0, 1.0, 1.5]
    sample = Sample("pow", (Type("float", (Axis("k", 6),)),) * 2, {})
    args = [torch.tensor(numbers, dtype=torch.float64) for numbers in (base, exponent)]
    leaves = [arg.clone().requires_grad_() for arg in args]
    out = torch.pow(*leaves)
    assert torch.equal(value(sample, args).nan_to_num(9.0), out.detach().nan_to_num(9.0))
    expected = torch.autograd.grad(out, leaves, torch.ones(6, dtype=torch.float64))
    for found, gradient in zip(derived(sample, args, torch.ones(6, dtype=torch.float64)), expected, strict=True):
        assert found is not None
        assert torch.allclose(found, gradient, rtol=1e-14, atol=0.0, equal_nan=True)
    assert expected[1].tolist()[2:5] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("op", ["log1p", "expm1"])
def test_small_numbers_keep_their_digits(op: str) -> None:
    sample = Sample(op, (VECTOR,), {})
    small = torch.tensor([1e-17, -1e-12, 1e-9], dtype=torch.float64)
    assert torch.allclose(value(sample, [small]), small, rtol=1e-8, atol=0.0)
    (slope,) = derived(Sample("expm1", (VECTOR,), {}), [-40 - small], torch.ones(3, dtype=torch.float64))
    assert slope is not None
    assert torch.allclose(slope, torch.exp(-40 - small), rtol=1e-12, atol=0.0)
