"""Arithmetic on affine expressions and bounds."""

from __future__ import annotations

from collections.abc import Mapping

from recdsl.program.ir import Affine, Bound


def affine(const: int = 0, **terms: int) -> Affine:
    """`affine(1, t=2)` is `2*t + 1`."""
    return make(const, terms)


def make(const: int, terms: Mapping[str, int]) -> Affine:
    """An expression in normal form: symbols sorted, zero terms dropped."""
    return Affine(const, tuple(sorted((name, k) for name, k in terms.items() if k)))


def add(left: Affine, right: Affine, scale: int = 1) -> Affine:
    """`left + scale * right`."""
    terms = dict(left.terms)
    for name, k in right.terms:
        terms[name] = terms.get(name, 0) + scale * k
    return make(left.const + scale * right.const, terms)


def scaled(value: Affine, factor: int) -> Affine:
    return make(value.const * factor, {name: k * factor for name, k in value.terms})


def substitute(value: Affine, known: Mapping[str, Affine]) -> Affine:
    """`value` with symbols replaced, all at once."""
    result = Affine(value.const)
    for name, k in value.terms:
        result = add(result, known.get(name, Affine(0, ((name, 1),))), k)
    return result


def evaluate(value: Affine, symbols: Mapping[str, int]) -> int:
    return value.const + sum(k * symbols[name] for name, k in value.terms)


def evaluate_bound(bound: Bound, symbols: Mapping[str, int]) -> int:
    parts = [evaluate(part, symbols) for part in bound.parts]
    return max(parts) if bound.kind == "max" else min(parts)


def exactly(value: Affine) -> Bound:
    """The bound that is just this expression."""
    return Bound("max", (value,))


def symbols_of(value: Affine | Bound) -> set[str]:
    parts = value.parts if isinstance(value, Bound) else (value,)
    return {name for part in parts for name, _ in part.terms}
