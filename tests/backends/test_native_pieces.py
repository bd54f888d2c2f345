"""Long C functions in pieces: the same results, shared pieces, and planted faults that random models reject."""

from __future__ import annotations

import re
from typing import Any

import pytest
from backend_support import seeded
from native_support import native

from recdsl.backends.native import lower
from recdsl.backends.native.listing import MANY
from recdsl.backends.native.outline import Cut, cut
from recdsl.backends.torch.module import programs
from recdsl.driver import analyse
from recdsl.testing import assert_close_gradients, random_case

pytestmark = pytest.mark.compiler
TEXT = """long f(void *const *p, const long *n) {
    const long T = n[0], B = n[1];
    const real *restrict const a1 = p[0]; (void)a1;
    real *restrict const a2 = p[1]; (void)a2;
    real *restrict const a3 = p[2]; (void)a3;
    for (long t4 = 0; t4 < T; t4++) {
        {
            for (long l0 = 0; l0 < B; l0++) {
                const real e5 = a1[t4 * B + l0];
                a2[l0] = e5;
            }
        }
        {
            for (long l0 = 0; l0 < B; l0++) {
                const real e6 = a1[t4 * B + l0];
                a3[l0] = e6;
            }
        }
        {
            a2[0] += z9;
        }
    }
    return 0;
}
"""


def test_nests_that_differ_in_names_share_a_piece() -> None:
    """What is unknown stays where it is."""
    made = cut(TEXT, 0)
    ((name, body),) = made.pieces
    assert re.findall(rf"{name}\((.*)\);", made.text) == ["B, a1, t4, a2", "B, a1, t4, a3"]
    assert "const real *restrict const x3" in body
    assert "z9" in made.text
    assert not set(re.findall(r"\b[ate]\d\b", body))
    assert cut(TEXT, len(TEXT) + 1) == Cut(TEXT, ())


def all_cut(monkeypatch: pytest.MonkeyPatch, change: Any = None, many: int = MANY) -> None:
    def made(text: str) -> Cut:
        found = cut(text, 0, many)
        return change(found) if change else found

    monkeypatch.setattr(lower, "cut", made)


@pytest.mark.parametrize("rule", ["tbptt(window=3, every=2)", "snap(1)", "columns"])
def test_gradients_are_those_of_the_definition(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    all_cut(monkeypatch)
    assert_close_gradients(native, random_case(3, (("default", rule),)))
    assert_close_gradients(native, seeded(4))


LISTED_RULES = ["tbptt(window=3, every=2)", "snap(1)", "columns", "rtrl", "sab(truncate=2)"]


@pytest.mark.parametrize("rule", LISTED_RULES)
def test_listed_calls_have_the_gradients_of_the_definition(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    all_cut(monkeypatch, many=0)
    assert_close_gradients(native, random_case(3, (("default", rule),)))
    assert_close_gradients(native, seeded(4))


ROOMS = """    long room = 0;
    const long at_m7 = room;
    room += SIZED(T * B * (long)sizeof(real));
    if (!p) return room;
    const real *restrict const a1 = p[0]; (void)a1;
    real *restrict const a2 = p[1]; (void)a2;
    real *restrict const a3 = p[2]; (void)a3;
    char *const base = p[3];
    real *restrict const m7 = (real *)PLACED(base, at_m7, T * B * (long)sizeof(real)); (void)m7;
    memset(m7, 0, T * B * sizeof(real));
"""


def test_what_a_list_holds() -> None:
    """Pointers by place, steps of loops as they go, runs of calls as one; what stays in the text keeps its name."""
    lines = TEXT.splitlines(keepends=True)
    made = cut("".join([*lines[:2], ROOMS, *lines[5:18], "        a2[t4] += m7[0];\n", *lines[21:]]), 0, 0)
    assert "static const unsigned list[] = {0, 6, 0, 0, 1, 1, 0, 6, 0, 0, 1, 2};" in made.text
    assert "listed(calls, q, v, list + 0, 2);" in made.text
    assert "v[0] = T;" not in made.text
    assert "static const unsigned cleared[] = {3, 0};" in made.text
    for line in ("v[0] = B;", "v[1] = t4;", "real *const a2 = q[1];", "real *const m7 = q[3];", "a2[t4] += m7[0];"):
        assert made.text.count(line) == 1
    assert "a3 =" not in made.text
    assert [name.partition("_")[0] for name, _ in made.pieces] == ["part", "listed", "via"]


def _first(made: Cut) -> Cut:
    """All steps are the first."""
    return Cut(re.sub(r"(part_\w+\([^;]*?)\bt\d+\b", r"\1 0", made.text), made.pieces)


def _alike(made: Cut) -> Cut:
    """Nests that differ in a number are taken for one."""
    return Cut(made.text, tuple((name, body.replace("R(1.0)", "R(2.0)")) for name, body in made.pieces))


def _short(made: Cut) -> Cut:
    """A call too few."""
    return Cut(re.sub(r"part_\w+\([^;]*;", ";", made.text, count=1), made.pieces)


def _last(made: Cut) -> Cut:
    """Lists end a call too early."""
    return Cut(re.sub(r"list \+ (\d+), (\d+)\)", lambda m: f"list + {m[1]}, {int(m[2]) - 1})", made.text), made.pieces)


def _still(made: Cut) -> Cut:
    """Steps of loops are not noted."""
    return Cut(re.sub(r"v\[\d+\] = t\d+;", "", made.text.replace("long v[", "long v[99] = {0}, w[")), made.pieces)


@pytest.mark.parametrize("fault", [_last, _still], ids=lambda fault: fault.__name__.strip("_"))
def test_faults_of_lists_are_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    all_cut(monkeypatch, fault, many=0)
    with pytest.raises(AssertionError):
        assert_close_gradients(native, seeded(4))


@pytest.mark.parametrize("fault", [_first, _alike, _short], ids=lambda fault: fault.__name__.strip("_"))
def test_faults_are_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    all_cut(monkeypatch, fault)
    with pytest.raises(AssertionError):
        assert_close_gradients(native, seeded(4))


def test_layers_share_their_loops() -> None:
    """C text grows by calls for each further layer, not by loops."""
    sizes: list[int] = []
    for layers in (4, 8, 12):
        calls = [f"  h{k} = gru({'x' if k == 0 else f'h{k - 1}'}, size=n)" for k in range(layers)]
        head = 'recdsl: 1\nsizes: {n: 4}\ninputs: {x: "float[n]"}\ntargets: {y: "float[n]"}\nstep: |\n'
        made = analyse("\n".join([head + calls[0], *calls[1:], f"loss: mse(h{layers - 1}, y)\n"]))
        text = lower.lower(programs(made.graph, made.plan, optimise=True)["plain"]).source
        pieces = re.findall(r"static __attribute__\(\(noinline\)\) void part_.*?\n}\n\n", text, re.S)
        sizes.append(sum(map(len, pieces)))
    assert sizes[2] - sizes[1] < sizes[0] / 2
