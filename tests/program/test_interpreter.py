"""The interpreter's own parts: namespaces, stores, rows by value, derived functions, costs, regions."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program_support import program, randn

from recdsl.graph.types import Axis, Type
from recdsl.ops import primitive
from recdsl.program.affine import evaluate, make
from recdsl.program.cost import entry_flops, storage_bytes
from recdsl.program.interpreter import Machine
from recdsl.program.noise import philox
from recdsl.program.parse import parse
from recdsl.program.regions import Condition, Divisible, Eq, Ge, empty


def test_numpy_and_torch_agree() -> None:
    found: list[list[float]] = []
    for xp in (np, torch):
        m = Machine(program("reinstate"), xp, {"T": 4, "B": 2})
        for name, value in (("We", randn(1, 3, 5)), ("Wd", randn(2, 5, 3)), ("x", randn(3, 4, 2, 5))):
            m.put(name, value.numpy() if xp is np else value)
        m.put("y", [[0, 1], [2, 3], [1, 1], [0, 2]])
        assert m.run("forward")
        found.append([float(v) for name in ("gWe", "gWd", "classify") for v in m.get(name).reshape(-1)])
    assert np.allclose(found[0], found[1], rtol=0, atol=1e-12)


def test_what_was_never_stored_is_not_a_number() -> None:
    m = Machine(program("tbptt"), torch, {"T": 3, "B": 1})
    assert bool(m.get("h").isnan().all())
    assert bool((m.get("gW") == 0).all())


STORE = """
program store
storage row: input float[T, B;] call
storage s: store bool[slot=3, B;] call {attrs} fields (value: float)
storage scores: input float[slot=3, B;] call
storage best: output int[T, B; rank=4] call
storage where: output int[T, B;] call
storage rows: output float[T, B; rank=4] call
storage there: output bool[T, B; rank=4] call
entry forward {
  for t in 0..T {
    v = load row[t] : float[B;]
    a = load scores : float[slot=3, B;]
    do i = search s(a) : int[B; rank=4]
    store best[t] i
    ranked = view(i) : int[B, rank=4;]
    do x, ok = read s(ranked) : float[B; rank=4], bool[B; rank=4]
    store rows[t] x
    store there[t] ok
    first = slice(i) {at=0, start=0, axis=[one=1]} : int[B; one=1]
    turned = view(first) : int[B, one=1;]
    do touch s(turned)
    do w = append s(v) : int[B;]
    store where[t] w
  }
}
"""


def filled(attrs: str, xp: ModuleType = torch) -> Machine:
    m = Machine(parse(STORE.replace("{attrs}", attrs)), xp, {"T": 5, "B": 2})
    m.put("row", [[float(10 * t + b) for b in range(2)] for t in range(5)])
    m.put("scores", [[1.0, 0.0], [1.0, 2.0], [1.0, 1.0]])
    assert m.run("forward")
    return m


def test_a_full_store_evicts_its_oldest_row() -> None:
    m = filled("")
    assert m.get("where")[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert m.get("best")[0].tolist() == [[-1] * 4] * 2
    assert m.get("there")[2].tolist() == [[True, True, False, False]] * 2
    assert m.get("best")[3].tolist() == [[0, 1, 2, -1], [1, 2, 0, -1]]  # equal scores: older first
    assert m.get("best")[4].tolist() == [[1, 2, 0, -1], [1, 2, 0, -1]]  # slot 0 is now the youngest
    assert m.get("rows")[4].tolist() == [[10.0, 20.0, 30.0, 0.0], [11.0, 21.0, 31.0, 0.0]]


def test_a_touched_row_stays() -> None:
    """Sample 0 touched row 0 at every step, so row 1 is the least recently used; sample 1 row 1 from step 2 on."""
    assert filled('{evict="least_used"}').get("where")[3].tolist() == [1, 0]


GATHER = """
program gather
storage i: input int[B, rank=3;] call
storage table: input float[slot=4, B; v=2] call
storage sum: accumulate float[slot=4, B; v=2] call
storage out: output float[B, rank=3; v=2] call
entry forward {
  k = load i : int[B, rank=3;]
  rows = load table[@k] : float[B, rank=3; v=2]
  store out rows
  add sum[@k] rows
}
"""


def test_rows_by_value() -> None:
    m = Machine(parse(GATHER), torch, {"B": 2, "T": 1})
    index, table = torch.tensor([[0, 0, -1], [3, 1, 3]]), randn(1, 4, 2, 2)
    m.put("i", index)
    m.put("table", table)
    m.run("forward")
    expected, total = torch.zeros(2, 3, 2, dtype=torch.float64), torch.zeros_like(table)
    for b, r in product(range(2), range(3)):
        if index[b, r] >= 0:
            expected[b, r] = table[index[b, r], b]
            total[index[b, r], b] += table[index[b, r], b]
    assert torch.equal(m.get("out"), expected)
    assert torch.allclose(m.get("sum"), total)


DUALITY = """
entry pairing {
  a = load a : float[B; hid=4]
  r = load r : float[B; rank=4, hid=4]
  ok = load ok : float[B; rank=4]
  q = load q : float[att=3, hid=4]
  m = load m : float[att=3, hid=4]
  w = load w : float[att=3]
  da = load da : float[B; hid=4]
  dr = load dr : float[B; rank=4, hid=4]
  dq = load dq : float[att=3, hid=4]
  c = load c : float[B; hid=4]
  out = jvp recall(a, r, ok, q, m, w, da, dr, _, dq, _, _) over (B)
  ca, cr, _, cq, _, _ = vjp recall(a, r, ok, q, m, w, c) over (B)
  store left out
  store ga ca
  store gr cr
  add gq cq
}
"""


def test_derived_vjp_and_jvp_are_adjoint() -> None:
    """<jvp(v), c> = <v, vjp(c)> for the read of sparse attention, whose body has most kinds of op."""
    what = program("sab_chunk")
    kinds = {"a": "B; hid=4", "r": "B; rank=4, hid=4", "ok": "B; rank=4", "q": "att=3, hid=4", "m": "att=3, hid=4"}
    kinds |= {"w": "att=3", "da": "B; hid=4", "dr": "B; rank=4, hid=4", "dq": "att=3, hid=4", "c": "B; hid=4"}
    kinds |= {"left": "B; hid=4", "ga": "B; hid=4", "gr": "B; rank=4, hid=4"}
    storages = "".join(f"storage {name}: carry float[{kind}] call\n" for name, kind in kinds.items())
    storages += "storage gq: accumulate float[att=3, hid=4] call\n"
    pairing = parse(f"program pairing\n{storages}{DUALITY}")
    m = Machine(type(what)("p", pairing.storages, what.functions, pairing.entries), torch, {"B": 2, "T": 1})
    shapes = {"a": (2, 4), "r": (2, 4, 4), "q": (3, 4), "m": (3, 4), "w": (3,), "da": (2, 4), "dr": (2, 4, 4)}
    shapes |= {"dq": (3, 4), "c": (2, 4)}
    given_ = {name: randn(k, *shape) for k, (name, shape) in enumerate(shapes.items())}
    for name, value in {**given_, "ok": torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])}.items():
        m.put(name, value)
    m.run("pairing")
    left = (m.get("left") * given_["c"]).sum()
    right = sum((given_[f"d{k}"] * m.get(f"g{k}")).sum() for k in "arq")
    assert abs(float(left - right)) < 1e-12
    assert abs(float(left)) > 1e-3


def test_facts_are_held_to() -> None:
    what = parse("program p scalars n fact T - n entry forward {}")
    Machine(what, torch, {"T": 3, "B": 1, "n": 3})
    with pytest.raises(ValueError, match="fact T - n"):
        Machine(what, torch, {"T": 3, "B": 1, "n": 4})


def test_the_program_layer_needs_no_torch() -> None:
    modules = ("checker", "cost", "derive", "interpreter", "parse", "text")
    code = (
        ";".join(f"import recdsl.program.{name}" for name in modules) + ";import sys;sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_philox_known_answer() -> None:
    """The published test vectors of Philox 4x32-10."""
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 0xFFFFFFFF
    assert philox((ones, ones, ones, ones), (ones, ones)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


HID = Type("float", (Axis("hid", 4),))


def test_costs_are_polynomials_in_the_sizes() -> None:
    what = program("tbptt")
    sizes = storage_bytes(what)
    assert str(sizes["h"]) == "16*B*T + 16*B"
    assert sizes["h"].at({"B": 2, "T": 9}) == 4 * 4 * 2 * 10
    forward, backward = entry_flops(what, "forward"), entry_flops(what, "backward")
    # W x, U h (4 rows of 3 and 4), two sums, tanh; V h, difference, square, sum, half.
    tanh = primitive("tanh").flops([HID], HID, ())
    each = 2 * 12 + 2 * 16 + 4 + 4 + tanh + 2 * 8 + 2 + 2 + 2 + 1
    assert forward.at({"B": 3, "T": 10}) - forward.at({"B": 3, "T": 9}) == 3 * each
    # Every second step a window of five: at most 5/2 steps a step of the sequence.
    assert backward.at({"B": 1, "T": 20}) < 6 * forward.at({"B": 1, "T": 20}) * 3


symbols = st.sampled_from(["x", "y", "z"])
small = st.builds(make, st.integers(-4, 4), st.dictionaries(symbols, st.integers(-3, 3), max_size=3))
conditions = st.one_of(
    st.builds(Ge, small), st.builds(Eq, small), st.builds(Divisible, st.integers(2, 4), small, st.booleans())
)


def satisfied(condition: Condition, at: dict[str, int]) -> bool:
    match condition:
        case Ge(value):
            return evaluate(value, at) >= 0
        case Eq(value):
            return evaluate(value, at) == 0
        case Divisible(by, value, yes):
            return (evaluate(value, at) % by == 0) == yes
        case _:
            raise AssertionError


@settings(max_examples=200, deadline=None)
@given(st.lists(conditions, min_size=1, max_size=4))
def test_emptiness_is_never_invented(found: list[Condition]) -> None:
    points = (dict(zip("xyz", point, strict=True)) for point in product(range(-4, 5), repeat=3))
    if empty(found):
        assert not any(all(satisfied(condition, at) for condition in found) for at in points)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([Ge(make(-1, {"x": 2})), Ge(make(1, {"x": -2}))], True),  # 1 <= 2x <= 1
        ([Eq(make(-1, {"x": 2, "y": -4}))], True),  # parity
        ([Divisible(2, make(0, {"x": 1})), Divisible(2, make(1, {"x": 1}))], True),
        ([Divisible(2, make(0, {"x": 1})), Divisible(3, make(1, {"x": 1}))], False),
        ([Ge(make(0, {"T": 1, "x": -1})), Ge(make(-1, {"x": 1, "T": -1}))], True),
    ],
)
def test_emptiness_where_it_matters(conditions: list[Condition], expected: bool) -> None:
    assert empty(conditions) == expected
