"""Memories against their definition: outputs, losses and gradients under bptt and rtrl."""

from __future__ import annotations

from dataclasses import replace

import pytest
from memory_support import Options, check

TOP = Options(select="topk", chosen=2, slots=4)
SHIFTED = replace(TOP, normalise="shifted_relu")
READS = [
    Options(),
    Options(score="cosine", number=10.0),
    Options(score="inverse_distance", number=0.1, normalise="sum"),
    Options(score="mlp"),
    Options(score="separable"),
    Options(key=False, score="cosine", number=3.0),
    TOP,
    Options(select="topk", chosen=9),
    Options(select="threshold", chosen=0.3, slots=4),
    Options(select="threshold", chosen=0.3, normalise="shifted_relu"),
    Options(normalise="shifted_relu"),
    SHIFTED,
    replace(SHIFTED, score="mlp"),
    replace(SHIFTED, chosen=1),
    replace(SHIFTED, shift={"tau": "stop"}),
    replace(SHIFTED, shift={"threshold": "kth"}),
    *[replace(SHIFTED, chosen=3, shift={"underfull": how}) for how in ("raw", "softmax", "equal")],
    replace(SHIFTED, null=True),
    replace(TOP, null=True),
    replace(TOP, release=True),
    replace(TOP, release=True, chosen=3, slots=6),
    Options(read_every=3),
]
WRITES = [
    Options(every=2),
    Options(every=3, slots=2, when=True),
    Options(slots=1),
    replace(SHIFTED, slots=20),
    Options(life="stream"),
    Options(evict="least_used"),
    replace(TOP, evict="least_used(decay=0.5)"),
    Options(evict="lowest(g)"),
    replace(SHIFTED, evict="lowest(g)", every=2),
    replace(SHIFTED, evict="lowest(g)", null=True),
    replace(TOP, evict="least_used", null=True),
]
FORWARD = [Options(), replace(SHIFTED, every=2), Options(evict="lowest(g)", score="mlp")]

NATIVE = [
    Options(select="threshold", chosen=0.3, normalise="shifted_relu", evict="least_used"),
    replace(TOP, evict="least_used(decay=0.5)", null=True),
    replace(TOP, release=True, chosen=3, slots=6),
    replace(SHIFTED, chosen=3, shift={"underfull": "softmax"}, score="mlp", every=2),
    replace(SHIFTED, evict="lowest(g)", null=True),
    Options(life="stream", read_every=3, score="cosine", number=3.0, when=True),
    replace(SHIFTED, score="separable", shift={"threshold": "kth"}, evict="lowest(g)", credit="rtrl"),
]
"""On `native`: every eviction and selection, slots of zeros, stores of a stream, traces through a memory."""


def name(o: Options) -> str:
    own = {k: v for k, v in vars(o).items() if v != vars(Options())[k]}
    return ",".join(f"{k}={v}" for k, v in own.items()) or "plain"


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("o", [*READS, *WRITES], ids=name)
def test_outputs_and_gradients_are_those_of_the_definition(o: Options, ragged: bool) -> None:
    check(o, ragged=ragged)


@pytest.mark.compiler
@pytest.mark.parametrize("o", NATIVE, ids=name)
def test_native_has_those_of_the_definition(o: Options) -> None:
    check(o, ragged=True, backend="native")


@pytest.mark.parametrize("o", FORWARD, ids=name)
def test_rtrl_through_a_memory_is_exact(o: Options) -> None:
    check(replace(o, credit="rtrl"), steps=7, ragged=True)


def test_a_short_sequence_and_one_sample() -> None:
    check(SHIFTED, steps=1, samples=1)
    check(Options(every=4), steps=3, samples=1)
