"""The checker accepts the proofs and refuses their mutants before anything runs."""

from __future__ import annotations

import pytest
from program_support import PROOFS, mutant, program

from recdsl.program.checker import InvalidProgram, check, effects, verify
from recdsl.program.parse import parse

NAMES = sorted(path.stem for path in PROOFS.glob("*.program"))


def messages(name: str, *changes: tuple[str, str]) -> str:
    return "\n".join(str(violation) for violation in check(mutant(name, *changes)))


@pytest.mark.parametrize("name", NAMES)
def test_proofs_are_valid(name: str) -> None:
    assert check(program(name)) == []


DOUBLED_W = "      add gW d_W tag (W, step, main, loss) at (s, t)\n"
WRONG = [
    # edges
    ("tbptt", DOUBLED_W, DOUBLED_W * 2, "used twice"),
    ("tbptt", "if t >= s {", "if t >= s - 1 {", "(h, head, main, loss) is used twice"),
    ("tbptt", "for s in 0..T by -2", "for s in 0..T by -1", "(V, head, main, loss) is used twice"),
    ("tbptt", "add gU d_U tag (U, step, main, loss) at (s, t)", "add gU d_U", "never used"),
    ("tbptt", "edge (b, step, main, loss) keep", "edge (b, step, main, loss) cut", "is cut, but used"),
    ("columns", "add gw far_w tag (w, trace,", "add gw far_w tag (w, enc,", "(w, enc, main, loss) is used twice"),
    ("columns", "for k in 0..T by 3", "for k in 0..T by 2", "used twice"),
    ("sab_chunk", "for s in 0..T by -5", "for s in 0..T by -4", "used twice"),
    ("synthetic", "tag (h, window_end, main, loss) at (s)", "tag (h, head, main, loss) at (s)", "used twice"),
    # loads before stores
    ("tbptt", "  store h[0] h_0\n", "", "may read `h` where nothing was stored"),
    ("tbptt", "h_out = load h[t + 1]", "h_out = load h[t + 2]", "may leave axis `t`"),
    ("tbptt", "store h[t + 1] h_out", "if 1 <= t { store h[t + 1] h_out }", "nothing was stored"),
    ("columns", "store trace_w zero_col\n", "", "may read `trace_w`"),
    ("sab_chunk", "if 5 divides t {", "if 4 divides t {", "may read `start` where nothing was stored"),
    ("sab_chunk", "    store replay[0] h_start\n", "", "may read `replay`"),
    ("sab_chunk", "if 2 indivisible t + 1 {", "if 3 indivisible t + 1 {", "may read `written`"),
    ("reinstate", "for c in 0..6 by 3", "for c in 3..6 by 3", "may read `anew`"),
    # parameters that a loop updates
    ("td_lambda", "    W = load W : float[col=4, inp=3]\n", "", "no value `W`"),
    (
        "synthetic",
        "  for s in 0..T by 3 {\n    P = load P : float[mid=3, hid=4]\n",
        "  P = load P : float[mid=3, hid=4]\n  for s in 0..T by 3 {\n",
        "`P` was computed from `P` before a loop",
    ),
    # names, types, axes
    ("tbptt", "store dh d_in", "store dh d_out", "no value `d_out`"),
    ("tbptt", "h_out = call step(h_in, x_t, W, U, b) over (B)", "h_out = call step(h_in, x_t, W, U, b)", "maps over"),
    ("tbptt", "contract(V, h) {x=(0, 1), y=(1,)", "contract(V, h) {x=(0, 1), y=(0,)", "contraction"),
    ("tbptt", "wx = contract(W, x)", "wx = load W : float[hid=4, inp=3]\n  ww = contract(W, x)", "effect or a load"),
    ("tbptt", "b: float[hid=4]) -> new", "b2: float[hid=4]) -> new", "neither argument nor value"),
    ("tbptt", "add total e", "store total e", "leading axis `B` is lost"),
    ("tbptt", "steps = scalar T", "steps = scalar S", "`S` is no size"),
    ("tbptt", "if t >= s {", "if x >= s {", "`x` is no size"),
    ("uoro", "view(each_W) sum (B)", "view(each_W)", "a view has the axes"),
    ("uoro", "out=()} sum (B) : float\n    size_n2", "out=()} : float\n    size_n2", "is lost"),
    ("td_lambda", "do update w(w_new)", "do update w(d_w)", "the new value is"),
    ("td_lambda", "do update w(w_new)", "do update x(w_new)", "no parameter or carry"),
    ("reinstate", "do append episodic(e, y_t)", "do append episodic(y_t, e)", "a row holds"),
    ("sab_sliding", "d_h = load dh : float[lane=4", "d_h = load dh : float[lane=5", "its type is"),
]


@pytest.mark.parametrize(("name", "old", "new", "message"), WRONG)
def test_mutants_are_refused(name: str, old: str, new: str, message: str) -> None:
    assert message in messages(name, (old, new))


def test_verify_raises_with_all_violations() -> None:
    broken = mutant("tbptt", ("  store h[0] h_0\n", ""), (DOUBLED_W, DOUBLED_W * 2))
    with pytest.raises(InvalidProgram) as error:
        verify(broken)
    assert len(error.value.violations) >= 2


RING = """
program ring
storage x: input float[T, B;] call
storage r: ring float[place={size}, B;] call
storage y: output float[T, B;] call
entry forward {{
  zero = constant() {{value=0.0}} : float[B;]
  store r[0] zero
  store r[1] zero
  store r[2] zero
  for t in 0..T {{
    x_t = load x[t] : float[B;]
    store r[t + 3] x_t
    old = load r[t{shift}] : float[B;]
    store y[t] old
  }}
}}
"""


@pytest.mark.parametrize(
    ("size", "shift", "valid"), [(4, "", 1), (3, "", 0), (3, " + 1", 1), (4, " + 4", 0), (9, " + 3", 1)]
)
def test_rings(size: int, shift: str, valid: int) -> None:
    assert (check(parse(RING.format(size=size, shift=shift))) == []) == bool(valid)


WINDOWS = """
program windows
scalars n
fact 2*n - T
{fact}
storage x: input float[t=T, B;] call
storage y: buffer float[t=T, B;] call
storage z: output float[t=T, B;] call
entry forward {{
  for u in 0..n {{
    some = load x[2*u..min(T, 2*u + 2)] : float[t=W, B;]
    store y[2*u..min(T, 2*u + 2)] some
    for t in max(0, 2*u - 1)..min(T, 2*u + 2) {{
      one = load y[t] : float[B;]
      store z[t] one
    }}
  }}
}}
"""


def test_facts_bound_a_number_of_windows() -> None:
    """Without the fact that the last window begins inside the sequence, its range may leave it."""
    assert check(parse(WINDOWS.format(fact="fact T + 1 - 2*n"))) == []
    found = "\n".join(map(str, check(parse(WINDOWS.format(fact="")))))
    assert "may leave axis `t` of `x`" in found
    assert "nothing was stored" not in found


def test_effects_are_listed_in_order() -> None:
    chains = effects(program("sab_chunk"), "forward")
    assert chains == {"past": ["t:read", "t:search", "t:read", "t:append"]}
    assert effects(program("td_lambda"), "online")["w"] == ["t:update"]
