"""Large steps: 2,000 operations compile within seconds, and the time grows almost in proportion to the step."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pytest

from recdsl.driver import analyse

HEAD = """recdsl: 1
sizes: {n: 4}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params:
"""


def chained(cells: int) -> str:
    """Layer upon layer: one loop each."""
    lines: list[str] = []
    for k in range(cells):
        below = f"h{k - 1}" if k else "x"
        lines.append(f"  z{k} = sigmoid(W @ {below} + u{k} * h{k}[t-1] + b)")
        lines.append(f"  h{k} = (1 - z{k}) * tanh(V @ {below} + h{k}[t-1] * c) + z{k} * h{k}[t-1]")
    return written(cells, lines, f"h{cells - 1}", "")


def coupled(cells: int) -> str:
    """A ring: everything is one loop."""
    lines: list[str] = []
    for k in range(cells):
        below = f"h{(k - 1) % cells}[t-1]"
        lines.append(f"  z{k} = sigmoid(W @ {below} + u{k} * h{k}[t-1] + V @ x + b)")
        lines.append(f"  h{k} = (1 - z{k}) * tanh(V @ {below} + h{k}[t-1] * c) + z{k} * h{k}[t-1]")
    states = ", ".join(f'h{k}: "float[n]"' for k in range(cells))
    return written(cells, lines, f"h{cells - 1}", f"states: {{{states}}}\n")


def written(cells: int, lines: list[str], last: str, states: str) -> str:
    names = ", ".join(f"u{k}" for k in range(cells))
    params = f"  W, V: float[n, n] ~ normal(0, 0.1)\n  {names}, b, c: float[n] = 0\n"
    return HEAD + params + states + "step: |\n" + "\n".join(lines) + f"\nloss: mse({last}, y)\n"


def long_sum(cells: int) -> str:
    """One line of many terms."""
    terms = " + ".join(f"tanh(x * {k + 1}.5) * w" for k in range(3 * cells))
    return HEAD + f"  w: float[n] = 0\nstep: |\n  h = w * h[t-1] + {terms}\nloss: mse(h, y)\n"


def seconds(text: str) -> tuple[int, float]:
    """Operations of the step, and the processor time from text to source."""
    start = process_time()
    made = analyse(text)
    assert made.source
    return len(made.graph.nodes), process_time() - start


@pytest.mark.parametrize("shape", [chained, coupled, long_sum])
def test_two_thousand_operations(shape: Callable[[int], str]):
    seconds(shape(4))
    small, first = seconds(shape(36))
    large, second = seconds(shape(145))
    assert large > 2000
    assert second < 10
    assert second / first < 3 * large / small, (small, first, large, second)
