"""Words of credit for memories, said of the wrong kind of memory."""

from __future__ import annotations

import pytest

import recdsl
from recdsl.diagnostics import SpecError
from tests.memory.lasting_support import Kind, spec


@pytest.mark.parametrize("life", ["sequence", "stream"])
@pytest.mark.parametrize("word", ["param(lr=0.1)", "synthetic(hidden=3)", "reinstate(exact, decode=stored)"])
def test_they_are_for_stores_of_all_samples(life: str, word: str) -> None:
    text = spec(Kind()).replace("    slots:", f"    life: {life}\n    slots:")
    text = text.replace("{past: stop}", f"\n  past: {word}")
    with pytest.raises(SpecError) as caught:
        recdsl.explain(text)
    (problem,) = caught.value.problems
    assert problem.code == "RD0531"
    assert "life: model" in problem.text() or "life: model" in str(problem)
