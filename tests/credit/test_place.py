"""Dropped edges inside a block are shown at the equation that calls the block."""

from __future__ import annotations

import pytest

from recdsl.credit.place import in_spec
from recdsl.source import Source, Span

SPEC = """recdsl: 1
blocks:
  own:
    step: |
      h = x
step: |
  a, h = lstm(x, size=3)   # h = no
  (c) = 2
  hh = h == 3
loss: mse(h, y)
"""
BLOCK = Span(Source("lstm.yaml", "step: |\n  z = 1\n"), 10, 11)


@pytest.mark.parametrize(("name", "line"), [("h.z", 7), ("h", 7), ("a.0.W", 7), ("hh", 9), ("h[t-1]", 7)])
def test_the_calling_equation(name: str, line: int):
    found = in_spec(BLOCK, name, Source("net.yaml", SPEC))
    assert found is not None
    assert found.line == line


def test_what_cannot_be_placed_stays():
    source = Source("net.yaml", SPEC)
    assert in_spec(BLOCK, "other", source) is BLOCK
    assert in_spec(BLOCK, "h", None) is BLOCK
    assert in_spec(None, "h", source) is None
    own = Span(source, 0, 3)
    assert in_spec(own, "h", source) is own
