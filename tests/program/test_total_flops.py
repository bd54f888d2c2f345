"""What `explain` prints for the whole model, against the operations of its program, counted statement by statement."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from recdsl.credit.deferral import deferred
from recdsl.credit.total import total
from recdsl.driver import Compilation, analyse, explain
from recdsl.program.assemble import assemble
from recdsl.program.cost import entry_flops

SPEC = """recdsl: 1
sizes: {i: 8, n: 16, o: 4}
inputs: {x: "float[i]"}
targets: {y: "float[o]"}
params: PARAMS
step: |
STEP
  v = linear(h, size=o)
loss: mse(v, y)
credit: RULE
"""
DENSE = '{W, V: "float[n, n] ~ normal(0, 0.3) MASK", U: "float[n, i] ~ normal(0, 0.3)"}'
COLUMNS = """
  Wi, Wf, Wo, Wg: float[n, i] ~ uniform(-0.1, 0.1)
  ui, uf, uo, ug: float[n] ~ uniform(-0.1, 0.1)
  bi, bf, bo, bg: float[n] = 0"""
COLUMNAR = """  a = sigmoid(Wi @ x + ui * h[t-1] + bi)
  f = sigmoid(Wf @ x + uf * h[t-1] + bf)
  s = sigmoid(Wo @ x + uo * h[t-1] + bo)
  c = f * c[t-1] + a * tanh(Wg @ x + ug * h[t-1] + bg)
  h = s * tanh(c)"""
MODELS = {
    "elman": ("{}", "  h = elman(x, size=n)"),
    "gru": ("{}", "  h = gru(x, size=n)"),
    "lstm": ("{}", "  h = lstm(x, size=n)"),
    "stacked": ("{}", "  g = gru(x, size=n)\n  h = elman(g, size=n)"),
    "skip": (DENSE.replace("MASK", ""), "  h = tanh(W @ h[t-1] + V @ h[t-3] + U @ x)"),
    "masked": (DENSE.replace("MASK", "sparse(0.2)"), "  h = tanh(W @ h[t-1] + V @ tanh(U @ x))"),
    "columnar_lstm": (COLUMNS, COLUMNAR),
}
RULES = (
    "none",
    "bptt",
    "tbptt(8)",
    "tbptt(8, every=2)",
    "tbptt(40)",
    "artbp(5)",
    "sab(4)",
    "rtrl",
    "rtrl(window=1)",
    "snap(1)",
    "snap(2)",
    "snap(1, window=8)",
    "columns",
    "columns(window=8)",
    "columns(window=8, every=4)",
    "rflo",
    "rflo(feedback=random)",
    "eprop",
    "uoro",
    "uoro(batch=joint)",
    "kf_rtrl",
    "synthetic(8, hidden=16)",
    "synthetic(8, hidden=0, learn=bp_lambda(0.5))",
    '{h.*: columns, default: "tbptt(8)"}',
    '{h.*: "columns(window=8)", default: "tbptt(8, every=8)"}',
    '{v.*: none, default: "tbptt(4)"}',
)
STEPS = 256
WITHIN = 1.5


def analysed(model: str, rule: str) -> Compilation:
    params, step = MODELS[model]
    return analyse(SPEC.replace("PARAMS", params).replace("STEP", step).replace("RULE", rule))


def counted(made: Compilation) -> float:
    """Operations of a long call, forward and back, a step and sample: those of every entry that it runs."""
    plan = deferred(made.plan) or made.plan
    program = assemble(made.graph, plan).program
    sizes = {"T": STEPS, "B": 1, "W": max(routing.window.size or 1 for routing in plan.classes)}
    sizes |= {f"windows{k}": -(-STEPS // routing.window.every) for k, routing in enumerate(plan.classes)}
    run = [name for name, _ in program.entries if name != "start" and not name.endswith("_outputs")]
    return sum(float(entry_flops(program, name).at(sizes)) for name in run) / STEPS


def unfit(model: str, rule: str) -> bool:
    """Weights of columns are no matrices in products with vectors, and this model has no block."""
    return (model == "columnar_lstm" and rule == "kf_rtrl") or ("h.*" in rule and MODELS[model][0] != "{}")


@pytest.mark.parametrize("model", MODELS)
def test_the_total_is_that_of_the_program(model: str) -> None:
    for rule in RULES:
        if not unfit(model, rule):
            made = analysed(model, rule)
            printed = total(made.graph, made.plan).flops
            assert printed / WITHIN < counted(made) < printed * WITHIN, rule


@pytest.mark.parametrize("model", MODELS)
def test_reverse_rules_are_counted_as_ops_write_them(model: str) -> None:
    """What is left is the weights of losses and where windows begin."""
    for rule in ("none", "bptt", "tbptt(8)", "tbptt(8, every=2)", "artbp(5)"):
        made = analysed(model, rule)
        assert counted(made) == pytest.approx(total(made.graph, made.plan).flops, rel=0.12), rule


def test_rows_do_not_add_up() -> None:
    """They count what several parameters share once for each: no stand-in for a total."""
    made = analysed("lstm", "bptt")
    assert sum(row.flops for row in made.plan.rows) > 5 * counted(made)


def test_a_path_that_two_rules_share_is_counted_once() -> None:
    """And apart it is counted twice, but for the weights at its end."""
    shared = analysed("lstm", '{h.W*: "columns(window=8)", default: "tbptt(8, every=8)"}')
    apart = replace(shared.plan, shared=())
    assert shared.plan.shared
    assert total(shared.graph, apart).backward > 1.3 * total(shared.graph, shared.plan).backward


def test_it_is_printed_and_in_the_data() -> None:
    report = explain(SPEC.replace("PARAMS", "{}").replace("STEP", MODELS["gru"][1]).replace("RULE", "columns"))
    found = json.loads(json.dumps(report.to_dict()))["total"]
    assert found["flops"] == found["forward"] + found["backward"] + found["traces"]
    assert min(found["forward"], found["backward"], found["traces"]) > 0
    assert f"all parameters together: {found['flops']:,} FLOPs a step and sample" in str(report)


STORE = """recdsl: 1
sizes: {i: 8, n: 16, o: 4}
inputs: {x: "float[i]"}
targets: {y: "float[o]"}
memory:
  past: {slots: 20, life: model, read: {query: stop(e), score: dot}, write: {key: e, value: y}}
step: |
  e = mlp(x, sizes=[n, n])
  guess = past.read
loss: mse(guess, y)
credit: {past: "CREDIT"}
"""
ENCODER = """recdsl: 1
sizes: {i: 8, n: 16}
inputs: {x: "float[i]"}
step: e = mlp(x, sizes=[n, n])
loss: mse(e, 0)
"""


@pytest.mark.parametrize("credit", ["reinstate(exact, encode=e, decode=stored)", "through", "stop"])
def test_credit_through_a_store_alone_has_its_cost(credit: str) -> None:
    """An encoder that no loss of its call sees: for each item forward and back, or back alone if its graph is kept."""
    found = explain(STORE.replace("CREDIT", credit))
    alone = explain(ENCODER).total
    assert found.total is not None
    assert alone is not None
    expected = {"stop": 0, "through": alone.backward}.get(credit, alone.flops)
    assert found.total.item == pytest.approx(expected, rel=0.1)
    assert all((row.flops > 0) == (credit != "stop") for row in found.rows)
    assert ("for each stored item" in str(found)) == (credit != "stop")
