"""Initial parameters, equal for every backend: drawn in float64 from a generator of the parameter's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from math import sqrt
from typing import Any

import torch
from torch import Generator, Tensor

from recdsl.graph.step import Parameter

Shape = tuple[int, ...]


def initial(parameters: Iterable[Parameter], seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Tensors by name, of the parameters' own shapes.

    Each is drawn from a generator seeded by (seed, name), so neither the order nor the other parameters matter, and
    in float64 before rounding to `dtype`. Raises KeyError for an initialiser that is not in the table.
    """
    return {p.name: draw(p, seed).to(dtype) for p in parameters}


def draw(parameter: Parameter, seed: int) -> Tensor:
    """One parameter in float64."""
    kind, arguments = parameter.init
    generator = Generator().manual_seed(_seed(seed, parameter.name))
    return _DRAWS[kind](parameter.type.shape, generator, *arguments)


def fans(shape: Shape) -> tuple[int, int]:
    """(fan in, fan out): `W @ x` contracts the last axis; the one before it is the output, further ones are copies.

    A vector is used as `w @ x`: its fan in is its size and its fan out 1.
    """
    if not shape:
        return 1, 1
    return shape[-1], shape[-2] if len(shape) > 1 else 1


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def _uniform(shape: Shape, g: Generator, low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=g, dtype=torch.float64) * (high - low) + low


def _normal(shape: Shape, g: Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64) * std + mean


def _glorot(shape: Shape, g: Generator, gain: float = 1.0) -> Tensor:
    """Glorot and Bengio 2010, uniform."""
    bound = gain * sqrt(6.0 / sum(fans(shape)))
    return _uniform(shape, g, -bound, bound)


def _he(shape: Shape, g: Generator) -> Tensor:
    """He et al. 2015, normal."""
    return _normal(shape, g, 0.0, sqrt(2.0 / fans(shape)[0]))


def _lecun(shape: Shape, g: Generator) -> Tensor:
    """LeCun et al. 1998, normal."""
    return _normal(shape, g, 0.0, sqrt(1.0 / fans(shape)[0]))


def _ring(shape: Shape, g: Generator, low: float, high: float) -> Tensor:
    """log(-log r), r the size of numbers spread evenly over a ring of the complex plane (Orvieto et al. 2023)."""
    squares = _uniform(shape, g, low * low, high * high)
    return torch.log(-0.5 * torch.log(squares.clamp(min=1e-12)))


def _orthogonal(shape: Shape, g: Generator, gain: float = 1.0) -> Tensor:
    """Orthonormal rows or columns, whichever are fewer, uniformly distributed (QR with the signs of R)."""
    if len(shape) < 2:
        return _normal(shape, g) if not shape else _unit(_normal(shape, g)) * gain
    rows, columns = shape[-2:]
    wide = rows < columns
    square = torch.randn((*shape[:-2], max(rows, columns), min(rows, columns)), generator=g, dtype=torch.float64)
    q, r = torch.linalg.qr(square)
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[..., None, :]
    return gain * (q.transpose(-1, -2).contiguous() if wide else q)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _values(shape: Shape, g: Generator, *values: Any) -> Tensor:
    nested = values[0] if len(values) == 1 else values
    return torch.tensor(nested, dtype=torch.float64).expand(shape).clone()


def _sparse(shape: Shape, g: Generator, density: float) -> Tensor:
    """A mask of zeros and ones: in each row of the last axis `density` of the entries, at least one, at random."""
    size = shape[-1]
    kept = max(1, round(density * size))
    order = torch.rand((*shape[:-1], size), generator=g, dtype=torch.float64).argsort(-1)
    return (order < kept).to(torch.float64)


def _blocks(shape: Shape, g: Generator, count: int) -> Tensor:
    """A mask of `count` equal blocks along the diagonal of the last two axes."""
    rows, columns = (torch.arange(size) * int(count) // size for size in shape[-2:])
    return (rows[:, None] == columns[None, :]).to(torch.float64).expand(shape).clone()


def _mask(shape: Shape, g: Generator, *masks: tuple[str, float]) -> Tensor:
    """The product of several masks, such as ("sparse", 0.1) and ("blocks", 4)."""
    made = _ones(shape, g)
    for kind, argument in masks:
        made = made * _DRAWS[kind](shape, g, argument)
    return made


def _constant(shape: Shape, g: Generator, value: float) -> Tensor:
    return torch.full(shape, float(value), dtype=torch.float64)


def _zeros(shape: Shape, g: Generator) -> Tensor:
    return _constant(shape, g, 0.0)


def _ones(shape: Shape, g: Generator) -> Tensor:
    return _constant(shape, g, 1.0)


_DRAWS: dict[str, Callable[..., Tensor]] = {
    "uniform": _uniform,
    "normal": _normal,
    "glorot": _glorot,
    "he": _he,
    "lecun": _lecun,
    "ring": _ring,
    "orthogonal": _orthogonal,
    "zeros": _zeros,
    "ones": _ones,
    "constant": _constant,
    "values": _values,
    "sparse": _sparse,
    "blocks": _blocks,
    "mask": _mask,
}
