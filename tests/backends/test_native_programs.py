"""Programs written by hand for what models seldom do: the C function against the plain interpreter."""

from __future__ import annotations

import pytest
import torch
from native_support import QUICK

from recdsl.backends.native import kernel, live, nests, products, writer
from recdsl.backends.native.call import CFunction, Library, described
from recdsl.backends.native.lower import lower
from recdsl.backends.torch.arena import Record
from recdsl.program.interface import Assembled, Interface
from recdsl.program.interpreter import Machine
from recdsl.program.parse import parse

pytestmark = pytest.mark.compiler
OVERWRITTEN = """program overwritten

storage x: input float[B; n=4, m=4] call
storage c: carry float[B; n=4, m=4] call
storage y: output float[B; n=4, m=4] call
storage z: output float[B; n=4, m=4] call

entry forward {
  v = load x : float[B; n=4, m=4]
  store c v
  for t in 0..T {
    a = load c : float[B; n=4, m=4]
    b = transpose(a) {order=(1, 0)} : float[B; m=4, n=4]
    d = rename(b) {axes=([n=4], [m=4])} : float[B; n=4, m=4]
    e = add(d, v) : float[B; n=4, m=4]
    store c e
    f = add(a, e) : float[B; n=4, m=4]
    store y f
  }
  g = load c : float[B; n=4, m=4]
  store z g
}
"""
WEIGHTED = """program weighted

storage x: input float[B; n=4, k=3] call
storage w: input float[n=4, l=2, m=2] call
storage y: output float[B; m=2] call

entry forward {
  v = load x : float[B; n=4, k=3]
  u = load w : float[n=4, l=2, m=2]
  r = slice(v) {at=1, axis=[l=2], start=1} : float[B; n=4, l=2]
  s = contract(r, u) {out=(2,), x=(0, 1), y=(0, 1, 2)} : float[B; m=2]
  store y s
}
"""
NESTED = """program nested

storage x: input float[n=4, m=4] call
storage c: carry float[n=4, m=4] call
storage d: output float[n=4, m=2] call
storage y: output float[n=4, m=4] call
storage z: output float[n=4, m=4] call

entry forward {
  v = load x : float[n=4, m=4]
  store c v
  a = load c : float[n=4, m=4]
  s = slice(a) {at=1, axis=[m=2], start=1} : float[n=4, m=2]
  store d s
  u = neg(v) : float[n=4, m=4]
  store c u
  w = load d : float[n=4, m=2]
  b = concat(w, s) {at=1, axis=[m=4]} : float[n=4, m=4]
  store y b
  e = load c : float[n=4, m=4]
  store z e
}
"""
STORED = """program stored

storage x: input float[n=4] call
storage w: input float[n=4] call
storage c: carry float[n=4] call
storage y: output float[n=4] call
storage z: output float[n=4] call

entry forward {
  v = load x : float[n=4]
  u = load w : float[n=4]
  a = neg(v) : float[n=4]
  b = mul(a, v) : float[n=4]
  g = tanh(b) : float[n=4]
  store c a
  d = add(a, v) : float[n=4]
  store y d
  for t in 0..T {
    e = load c : float[n=4]
  }
  store c u
  store z g
}
"""
UNSTORED = """program unstored

storage x: input float[t=T, B; n=4] call
storage w: input float[t=T, B; n=4] call
storage c: carry float[t=T, B; n=4] call
storage s: buffer float[t=T, B; n=4] call
storage y: output float[t=T, B; n=4] call
storage z: output float[t=T, B; n=4] call

entry forward {
  v = load x[0..T] : float[t=T, B; n=4]
  u = load w[0..T] : float[t=T, B; n=4]
  a = neg(v) : float[t=T, B; n=4]
  b = mul(a, v) : float[t=T, B; n=4]
  store s[0..T] b
  store c[0..T] a
  d = add(a, v) : float[t=T, B; n=4]
  store y[0..T] d
  store c[0..T] u
  for t in 0..T {
    e = load s[t] : float[B; n=4]
    store z[t] e
  }
}
"""
CONDITIONAL = """program conditional

storage x: input float[n=4] call
storage w: input float[n=4, m=3] call
storage k: input float[m=3] call
storage c: carry float[m=3] call
storage y: output float[m=3] call
storage z: output float[n=4] call

entry forward {
  v = load x : float[n=4]
  u = load w : float[n=4, m=3]
  r = load k : float[m=3]
  store c r
  a = neg(v) : float[n=4]
  b = mul(a, v) : float[n=4]
  if T <= 0 {
    s = contract(a, u) {out=(1,), x=(0,), y=(0, 1)} : float[m=3]
    store c s
  }
  store z b
  e = load c : float[m=3]
  store y e
}
"""
PROGRAMS = {
    "overwritten": OVERWRITTEN,
    "weighted": WEIGHTED,
    "nested": NESTED,
    "stored": STORED,
    "unstored": UNSTORED,
    "conditional": CONDITIONAL,
}


def compare(text: str) -> None:
    program = parse(text)
    steps, samples = 3, 2
    machine = Machine(program, torch, {"T": steps, "B": samples})
    draws = torch.Generator().manual_seed(1)
    for storage in program.storages:
        if storage.kind == "input":
            machine.put(
                storage.name, torch.randn(machine.get(storage.name).shape, generator=draws, dtype=torch.float64)
            )
    assert machine.run("forward")
    empty = Interface((), (), (), (), (), (), (), (), (), (), ())
    lowered = lower(Assembled(program, empty))
    assert lowered.left == ()
    (made,) = lowered.functions
    like = torch.zeros((), dtype=torch.float64)
    given = [machine.get(name) for name in made.arguments]
    function = CFunction(Library(lowered.source, QUICK).finder(made.symbol), *described(made))
    found = function(like, Record(None, like), steps, samples, *given)
    for name, value in zip(made.results, found, strict=True):
        torch.testing.assert_close(value, machine.get(name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_equals_the_interpreter(name: str):
    compare(PROGRAMS[name])


FAULTS = {
    "values are not kept before their memory is overwritten": (nests.Nests, "protect", OVERWRITTEN),
    "loops read what they write at other entries": (kernel, "_meets", OVERWRITTEN),
    "axes are merged that do not follow each other": (products, "_follows", WEIGHTED),
    "writes pass nests that need what they change": (kernel.Group, "needs", NESTED),
    "what is made of a value reads it where it was": (live.Live, "_follow", STORED),
    "a sequence that is not stored is made of what is no more": (live.Live, "_follow", UNSTORED),
    "values that a condition puts into memory are read behind it": (writer.EntryWriter, "_made_before", CONDITIONAL),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch):
    owner, name, text = FAULTS[fault]
    monkeypatch.setattr(owner, name, lambda *given: name == "_follows")
    with pytest.raises(AssertionError):
        compare(text)
