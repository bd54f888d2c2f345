"""Gradients at outputs have a library of their own, compiled when they are first asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_support import normal

from recdsl.backends.native import build
from recdsl.backends.native.build import BuildError, NativeWarning
from recdsl.driver import compile as compile_spec

pytestmark = pytest.mark.compiler
SPEC = """recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {W: "float[n, n] ~ normal(0, 0.5)", a: "float[n] = 0.5"}
step: |
  h = tanh(a * h[t-1] + W @ x)
loss: mse(h, y)
credit: CREDIT
"""
RULES = ("bptt", "tbptt(window=2)", "columns", "snap(1)")


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The texts that the compiler is given."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real, found = build.library, list[str]()

    def noted(source: str, extra: tuple[str, ...] = ()) -> Any:
        found.append(source)
        return real(source, extra)

    monkeypatch.setattr("recdsl.backends.native.call.library", noted)
    return found


def model(rule: str, backend: str = "native") -> Any:
    for name in [name for name in sys.modules if name.startswith(("recdsl_native_", "recdsl_generated_"))]:
        del sys.modules[name]
    return compile_spec(SPEC.replace("CREDIT", rule), backend, torch.float64)


def gradients(made: Any, *, at_outputs: bool) -> list[torch.Tensor]:
    """Of the loss, and of the outputs with it."""
    made.zero_grad()
    found = made({"x": normal(1, 5, 3, 2), "y": normal(2, 5, 3, 2)})
    (found.loss + (found.outputs["h"] ** 2).sum() if at_outputs else found.loss).backward()
    return [parameter.grad.clone() for parameter in made.parameters()]


def close(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_compiled_when_asked_for(rule: str, compiled: list[str]):
    right = [gradients(model(rule, "torch"), at_outputs=asked) for asked in (False, True)]
    assert not close(*right)
    made = model(rule)
    assert close(gradients(made, at_outputs=False), right[0])
    assert len(compiled) == 1
    for _ in range(2):
        assert close(gradients(made, at_outputs=True), right[1])
        assert len(compiled) == 2
    assert close(gradients(made, at_outputs=False), right[0])
    assert made.recdsl_runs == "native"
    assert all(text.partition("\n#define SINGLE 0\n")[2] in made.recdsl_c for text in compiled)


@pytest.mark.parametrize("rule", RULES)
def test_torch_reads_what_c_has_kept(rule: str, monkeypatch: pytest.MonkeyPatch):
    """Where the compiler is gone by then, the call goes on, with one warning."""
    right = gradients(model(rule, "torch"), at_outputs=True)
    made = model(rule)
    gradients(made, at_outputs=False)

    def gone() -> None:
        raise BuildError("N1", "no C compiler")

    monkeypatch.setattr(build, "compiler", gone)
    with pytest.warns(NativeWarning, match="N1: .*gradients at its outputs run on the torch backend") as seen:
        found = gradients(made, at_outputs=True)
    assert len(seen) == 1
    assert close(found, right)
    assert close(gradients(made, at_outputs=True), right)
    assert made.recdsl_runs == "native; plain_outputs on torch: N1: no C compiler"
