"""What crosses from step to step, with resets and masks."""

from __future__ import annotations

import pytest
import torch
from graph_support import parameters, problems, step_of, unroll

from recdsl.graph.check import verify
from recdsl.graph.ragged import ragged

HEAD = 'sizes: {n: 2}\ninputs: {x: "float[n]"}'
XS = [torch.tensor([float(k), -float(k)], dtype=torch.float64) for k in range(1, 8)]


def _found(equations: str, name: str = "h", head: str = HEAD) -> list[float]:
    outs = unroll(step_of(equations, head, f"mse({name}, 0)"), {}, [{"x": x} for x in XS])
    return [float(out[name].flatten()[0]) for out in outs]


def test_delayed_inputs_are_zero_at_first() -> None:
    assert _found("h = x[t-2]") == [0, 0, 1, 2, 3, 4, 5]


def test_skip_path_holds_its_initial_value_before_the_start() -> None:
    found = _found("s = x + 0 * s[t-1]\nh = s[t-3]", head=HEAD + '\nstates: {s: "float[n] = 10"}')
    assert found == [10, 10, 10, 1, 2, 3, 4]


def test_reading_above_the_assignment() -> None:
    assert _found("h = s[t-1] + x\ns = 2 * x") == [1, 4, 7, 10, 13, 16, 19]


def test_delay_line_is_one_carry_a_link() -> None:
    graph = step_of("h = x + h[t-3]", HEAD, "mse(h, 0)")
    assert [(carry.name, carry.kind) for carry in graph.carries] == [
        ("h", "state"),
        ("h[t-2]", "delay"),
        ("h[t-3]", "delay"),
    ]
    assert graph.carries[1].write == graph.carries[0].read


def test_delayed_class_starts_as_none() -> None:
    head = 'sizes: {n: 3}\ninputs: {x: "onehot[n]"}'
    graph = step_of("h = x[t-1]", head, "mse(h, 0)")
    outs = unroll(graph, {}, [{"x": 2}, {"x": 0}])
    assert [out["h"].tolist() for out in outs] == [[0, 0, 0], [0, 0, 1]]


def test_state_is_transposed_to_its_declaration() -> None:
    head = 'sizes: {a: 2, b: 3}\ninputs: {x: "float[a]", y: "float[b]"}\nstates: {S: "float[b, a]"}'
    graph = step_of("S = S[t-1] + x * y", head, "mse(S, 0)")
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0])
    (out,) = unroll(graph, {}, [{"x": x, "y": y}])
    assert torch.equal(out["S"].float(), torch.outer(y, x))


def test_types_are_found_through_a_chain_in_any_order() -> None:
    chain = "\n".join(f"a{k} = a{k + 1}[t-1]" for k in range(40))
    graph = step_of(f"{chain}\na40 = x", HEAD, "mse(a0, 0)")
    assert {str(graph.nodes[carry.read].type) for carry in graph.carries} == {"float[n=2]"}


def test_mask_and_reset() -> None:
    graph = step_of("h = x + 0.5 * h[t-1] + h[t-2]", HEAD + '\nstates: {h: "float[n] = 1"}', "mse(h, 0)")
    whole = verify(ragged(graph))
    steps = [{"x": x, "mask": k not in (2, 3), "reset": k == 5} for k, x in enumerate(XS)]
    found = [float(out["h"][0]) for out in unroll(whole, parameters(whole), steps)]
    one, two, expected = 1.0, 1.0, list[float]()
    for k in range(7):
        if k == 5:
            one = two = 1.0
        if k not in (2, 3):
            one, two = (k + 1) + 0.5 * one + two, one
        expected.append(one)
    assert found == expected


def test_mask_holds_input_lines() -> None:
    graph = ragged(step_of("h = x[t-1]", HEAD, "mse(h, 0)"))
    steps = [{"x": x, "mask": k != 1, "reset": k == 4} for k, x in enumerate(XS)]
    outs = [float(out["h"][0]) for out in unroll(graph, {}, steps)]
    assert [value for k, value in enumerate(outs) if k != 1] == [0, 1, 3, 0, 5, 6]


def test_learned_start() -> None:
    head = HEAD + '\nparams: {a: "float[n] = 1"}\nstates: {h: "float[n] = a"}'
    graph = step_of("h = 0.5 * h[t-1]", head, "mse(h, 0)")
    (out,) = unroll(graph, {"a": torch.full((2,), 0.3)}, [{}])
    assert torch.allclose(out["h"].float(), torch.full((2,), 0.15))


def test_unknown_state_says_what_to_write() -> None:
    assert problems("recdsl: 1\nstep: h = softmax(h[t-1])\nloss: mse(h, 0)\n") == [("RD0407", 2, 19)]


@pytest.mark.parametrize(
    ("step", "states"),
    [
        ("k = k[t-1] + 1\ny = k * x", {"k": "float"}),
        ("k = 0.9 * k[t-2] + 1\ny = k * x + y[t-1]", {"k": "float", "k[t-2]": "float", "y": "float[n=2]"}),
        ("a = b[t-1] + 1\nb = a[t-1]\ny = a * x", {"a": "float", "b": "float"}),
        ("k = k[t-1] * y[t-1]\ny = k + x", {"k": "float[n=2]", "y": "float[n=2]"}),
    ],
)
def test_states_that_nothing_determines_are_scalars_if_that_fits(step: str, states: dict[str, str]) -> None:
    graph = step_of(step, HEAD, "mse(y, 0)")
    assert {carry.name: str(graph.nodes[carry.read].type) for carry in graph.carries} == states


def test_a_counter_counts() -> None:
    outs = unroll(step_of("k = k[t-1] + 1", HEAD, "mse(k, 0)"), {}, [{}] * 3)
    assert [float(out["k"]) for out in outs] == [1.0, 2.0, 3.0]
