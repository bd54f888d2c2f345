"""Entries of results as text, from those of their arguments: what `Value.at` is of, once the arguments are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recdsl.backends.native.kernel import Kernel
from recdsl.backends.native.values import Ix, Value


def product(
    args: Sequence[Value],
    sides: tuple[tuple[int, ...], tuple[int, ...]],
    labels: Sequence[int],
    kernel: Kernel,
    lead: Mapping[str, str],
    own: tuple[Ix, ...],
) -> str:
    places = dict(zip(labels, own, strict=True))
    texts = [arg.entry(kernel, lead, tuple(places[k] for k in side)) for arg, side in zip(args, sides, strict=True)]
    return " * ".join(texts)


def same(arg: Value, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return arg.entry(kernel, lead, own)


def raised(arg: Value, top: Value, at: int, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return f"r_exp({arg.entry(kernel, lead, own)} - {top.entry(kernel, lead, (*own[:at], *own[at + 1 :]))})"


def shares(raised: Value, total: Value, at: int, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return f"{raised.entry(kernel, lead, own)} / {total.entry(kernel, lead, (*own[:at], *own[at + 1 :]))}"


def logged(total: Value, top: Value, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return f"r_log({total.entry(kernel, lead, own)}) + {top.entry(kernel, lead, own)}"
