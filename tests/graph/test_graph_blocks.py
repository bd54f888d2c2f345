"""Library blocks against torch's cells, and how calls become names."""

from __future__ import annotations

from pathlib import Path

import torch
from graph_support import graph_of, parameters, problems, step_of, unroll

HEAD = 'sizes: {inp: 3, hid: 4}\ninputs: {x: "float[inp]"}'
XS = torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
STEPS = [{"x": x} for x in XS]


def test_gru_reset_after_is_torch_gru() -> None:
    graph = step_of("h = gru_reset_after(x, size=hid)", HEAD, "mse(h, 0)")
    p = parameters(graph)
    cell = torch.nn.GRU(3, 4, dtype=torch.float64)
    with torch.no_grad():
        cell.get_parameter("weight_ih_l0").copy_(torch.cat([p["h.Wr"], p["h.Wz"], p["h.Wn"]]))
        cell.get_parameter("weight_hh_l0").copy_(torch.cat([p["h.Ur"], p["h.Uz"], p["h.Un"]]))
        cell.get_parameter("bias_ih_l0").copy_(torch.cat([p["h.br"], p["h.bz"], p["h.bn"]]))
        cell.get_parameter("bias_hh_l0").copy_(torch.cat([0 * p["h.br"], 0 * p["h.bz"], p["h.cn"]]))
        expected, _ = cell(XS)
    found = torch.stack([out["h"] for out in unroll(graph, p, STEPS)])
    assert torch.allclose(found, expected, rtol=1e-12)


def test_lstm_is_torch_lstm() -> None:
    graph = step_of("h, c = lstm(x, size=hid)", HEAD, "mse(h, 0)")
    p = parameters(graph)
    cell = torch.nn.LSTM(3, 4, dtype=torch.float64)
    with torch.no_grad():
        cell.get_parameter("weight_ih_l0").copy_(torch.cat([p[f"h.W{g}"] for g in "ifgo"]))
        cell.get_parameter("weight_hh_l0").copy_(torch.cat([p[f"h.U{g}"] for g in "ifgo"]))
        cell.get_parameter("bias_ih_l0").copy_(torch.cat([p[f"h.b{g}"] for g in "ifgo"]))
        cell.get_parameter("bias_hh_l0").zero_()
        expected, (_, last) = cell(XS)
    outs = unroll(graph, p, STEPS)
    assert torch.allclose(torch.stack([out["h"] for out in outs]), expected, rtol=1e-12)
    assert torch.allclose(outs[-1]["c"], last[0], rtol=1e-12)


def test_lstm_cell_is_lstm() -> None:
    whole = step_of("h, c = lstm(x, size=hid)", HEAD, "mse(h, 0)")
    parts = step_of("h, c = lstm_cell(x, h[t-1], c[t-1], size=hid)", HEAD, "mse(h, 0)")
    p = parameters(whole)
    assert set(p) == {parameter.name for parameter in parts.parameters}
    for one, other in zip(unroll(whole, p, STEPS), unroll(parts, p, STEPS), strict=True):
        assert torch.equal(one["h"], other["h"])


def test_gru_by_hand() -> None:
    graph = step_of("h = gru(x, size=hid)", HEAD, "mse(h, 0)")
    p = {name.removeprefix("h."): value for name, value in parameters(graph).items()}
    h = torch.zeros(4, dtype=torch.float64)
    for x, out in zip(XS, unroll(graph, parameters(graph), STEPS), strict=True):
        z = (p["Wz"] @ x + p["Uz"] @ h + p["bz"]).sigmoid()
        r = (p["Wr"] @ x + p["Ur"] @ h + p["br"]).sigmoid()
        n = (p["Wn"] @ x + p["Un"] @ (r * h) + p["bn"]).tanh()
        h = (1 - z) * n + z * h
        assert torch.allclose(out["h"], h, rtol=1e-13)


def test_elman_is_torch_rnn() -> None:
    graph = step_of("h = elman(x, size=hid)", HEAD, "mse(h, 0)")
    p = parameters(graph)
    cell = torch.nn.RNN(3, 4, dtype=torch.float64)
    with torch.no_grad():
        cell.get_parameter("weight_ih_l0").copy_(p["h.W"])
        cell.get_parameter("weight_hh_l0").copy_(p["h.U"])
        cell.get_parameter("bias_ih_l0").copy_(p["h.b"])
        cell.get_parameter("bias_hh_l0").zero_()
        expected, _ = cell(XS)
    found = torch.stack([out["h"] for out in unroll(graph, p, STEPS)])
    assert torch.allclose(found, expected, rtol=1e-12)


def test_layernorm_is_torch_layer_norm() -> None:
    graph = step_of("y = layernorm(x)", HEAD, "mse(y, 0)")
    p = parameters(graph)
    expected = torch.nn.functional.layer_norm(XS[0], (3,), p["y.weight"], p["y.bias"])
    assert torch.allclose(unroll(graph, p, STEPS[:1])[0]["y"], expected, rtol=1e-12)


def test_names_of_a_block() -> None:
    graph = step_of("h = lstm(x, size=hid)\nout = mlp(h, sizes=[5, hid])", HEAD, "mse(out, 0)")
    names = [parameter.name for parameter in graph.parameters]
    assert names[:4] == ["h.Wi", "h.Wf", "h.Wg", "h.Wo"]
    assert names[-4:] == ["out.0.W", "out.0.b", "out.1.W", "out.1.b"]
    assert [carry.name for carry in graph.carries] == ["h", "h.c"]
    assert [str(parameter.type) for parameter in graph.parameters][-2:] == ["float[hid=4, 5]", "float[hid=4]"]
    assert dict(graph.outputs).keys() == {"h", "out"}


def test_mlp_has_no_activation_after_the_last_layer() -> None:
    graph = step_of("y = mlp(x, sizes=[5, hid])", HEAD, "mse(y, 0)")
    p = parameters(graph)
    hidden = (p["y.0.W"] @ XS[0] + p["y.0.b"]).relu()
    expected = p["y.1.W"] @ hidden + p["y.1.b"]
    assert torch.allclose(unroll(graph, p, STEPS[:1])[0]["y"], expected, rtol=1e-13)


def test_problem_inside_a_library_block_points_at_the_call() -> None:
    head = 'recdsl: 1\nsizes: {n: 3, m: 2}\ninputs: {x: "float[n]"}\nstates: {h: "float[m]"}\n'
    assert problems(head + "step: |\n  h = gru(x, size=n)\nloss: mse(h, 0)\n")[0][1:] == (6, 7)


def test_thirty_two_nested_blocks_and_no_more() -> None:
    def text(depth: int) -> str:
        lines = [f"  b{k}: {{arguments: {{x: float}}, step: 'y = b{k + 1}(x)', returns: y}}" for k in range(depth - 1)]
        lines.append(f"  b{depth - 1}: {{arguments: {{x: float}}, step: 'y = 2 * x', returns: y}}")
        blocks = "\n".join(lines)
        return f"recdsl: 1\ninputs: {{x: float}}\nblocks:\n{blocks}\nstep: y = b0(x)\nloss: mse(y, 0)\n"

    assert graph_of(text(32)).outputs[0][0] == "y"
    assert [code for code, *_ in problems(text(33))] == ["RD0315"]


OWN = """recdsl: 1
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
blocks:
  deep:
    arguments: {x: "float[n]"}
    sizes: {layers: required}
    fold: layers
    step: |
      h = gru(x, size=layers)
    returns: h
  wrap:
    arguments: {x: "float[n]"}
    sizes: {many: required, act: relu}
    step: |
      y = mlp(x, sizes=many, activation=act)
    returns: y
step: |
  a = deep(x, layers=[5, hid, hid])
  b = wrap(a, many=[6, hid], act=tanh)
loss: mse(b, a[t-1])
"""


def test_folds_carry_and_lists_are_passed_on() -> None:
    graph = graph_of(OWN)
    assert [carry.name for carry in graph.carries] == ["a.0.h", "a.1.h", "a.2.h", "a"]
    assert "a.1.h.Wz" in {parameter.name for parameter in graph.parameters}
    assert {"b.0.W", "b.1.b"} <= {parameter.name for parameter in graph.parameters}
    assert "tanh" in {node.op for node in graph.nodes if node.name.startswith("b")}


def test_a_block_in_a_file_beside_the_spec(tmp_path: Path) -> None:
    (tmp_path / "scale.yaml").write_text(
        'recdsl: 1\nblock: scale\narguments: {x: "float[n]"}\nparams: {k: "float[n] = 1"}\n'
        "step: y = k * x\nreturns: y\n"
    )
    spec = tmp_path / "spec.yaml"
    spec.write_text('recdsl: 1\ninputs: {x: "float[3]"}\nstep: h = scale(x)\nloss: mse(h, 0)\n')
    assert [parameter.name for parameter in graph_of(str(spec)).parameters] == ["h.k"]
