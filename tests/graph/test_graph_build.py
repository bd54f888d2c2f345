"""Size, speed and order of what is built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import process_time

from graph_support import graph_of, step_of

from recdsl.graph.build import build
from recdsl.graph.text import text
from recdsl.syntax.ast import Spec
from recdsl.syntax.spec import read_spec

GOOD = Path(__file__).parent.parent / "good"


def _long(ops: int) -> Spec:
    lines = ["  a0 = k * x", *(f"  a{i} = tanh(a{i - 1} + k * a{i - 1}[t-1])" for i in range(1, ops // 3))]
    body = "\n".join(lines)
    return read_spec(
        f'recdsl: 1\nsizes: {{n: 3}}\ninputs: {{x: "float[n]"}}\nparams: {{k: "float[n] = 1"}}\nstep: |\n{body}\n'
        f"loss: mse(a{ops // 3 - 1}, 0)\n"
    )


def _seconds(spec: Spec) -> float:
    start = process_time()
    build(spec)
    return process_time() - start


def test_two_thousand_ops_in_two_seconds_and_linear_growth() -> None:
    small, large = _long(1000), _long(4000)
    assert _seconds(_long(2000)) < 2.0
    assert min(_seconds(large) for _ in range(2)) < 8 * min(_seconds(small) for _ in range(2))


def test_the_text_is_the_same_under_every_hash_seed() -> None:
    script = (
        "import sys; from recdsl.graph.build import build; from recdsl.graph.text import text; "
        "from recdsl.syntax.spec import read_spec\n"
        "for path in sys.argv[1:]: print(text(build(read_spec(path))))"
    )
    paths = [str(GOOD / f"{name}.yaml") for name in ("stacked", "two_losses", "reductions", "masks")]
    found = {
        subprocess.run(
            [sys.executable, "-c", script, *paths],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(found) == 1


def test_text_form() -> None:
    head = 'sizes: {n: 2}\ninputs: {x: "float[n]"}\ntargets: {y: "float[n]"}\nparams: {W: "float[n, n] ~ orthogonal"}'
    graph = step_of("h = tanh(W @ h[t-1] + x)", head, "mse(h, y)")
    assert text(graph) == GOLDEN


GOLDEN = """\
graph model
input x: float[n=2]
target y: float[n=2]
parameter W: float[n=2, n=2] ~ orthogonal()
%0: float[n=2] = input()  # x
%1: float[n=2] = target()  # y
%2: float[n=2, n=2] = parameter()  # W
%3: float[n=2] = carry()  # h
%4: float[n=2] = contract(%2, %3; out=(0), x=(0, 1), y=(1))
%5: float[n=2] = add(%4, %0)
%6: float[n=2] = tanh(%5)  # h
%7: float[n=2] = sub(%6, %1)
%8: float[n=2] = mul(%7, %7)
%9: float = sum(%8; over=(0))
%10: float = constant(value=0.5)
%11: float = mul(%9, %10)
%12: float[n=2] = constant(value=0.0)
carry h (state): %3 <- %6, at first %12
output h = %6
loss loss = %11, weight 1, at all
reduce mean
"""


def test_every_node_has_a_place() -> None:
    for path in sorted(GOOD.glob("*.yaml")):
        if path.stem != "size_from_data":
            assert all(node.span is not None for node in graph_of(str(path)).nodes), path.stem


def test_a_sum_of_thousands_of_terms() -> None:
    terms = " + ".join(f"{k} * x" for k in range(1, 2401))
    graph = step_of(f"h = {terms}", "inputs: {x: float}", "mse(h, 0)")
    assert len(graph.nodes) > 7_000
