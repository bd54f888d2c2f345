"""Verdict equals measurement, for every rule, on the graphs where other implementations are silently wrong.

What others give there: a reset gate of a GRU whose gradient is zero; input and cell gates of an LSTM counted twice; a
lower layer without the credit that comes through the layer above; no soft memory at all. Here `exact` means equal to
full BPTT in float64, and `biased` means that something is really lost.
"""

from __future__ import annotations

import pytest
import torch
from regression_support import GRAPHS, RANDOM, RULES, Measured, compiled, definition, draws, measured, whole

from recdsl.diagnostics import SpecError
from recdsl.testing import assert_matches

LONG = 40
EQUAL, DIFFERENT = 1e-10, 1e-6
BY_AXES = """\
credit:
  R: RULE(axis=slot)
  K: RULE(axis=slot)
  V: RULE(axis=cell)
  U: RULE(axis=cell)
"""
UNFIT = {("soft_slots", "columns"), ("soft_slots", "rflo"), ("soft_slots", "eprop")}
"""A matrix of slots has two axes that may number columns, so these rules ask which."""
ALL = [
    *((graph, rule) for graph in GRAPHS for rule in RULES if (graph, rule) not in UNFIT),
    *(("soft_slots", BY_AXES.replace("RULE", rule)) for rule in ("columns", "rflo", "eprop")),
]
NAMES = [f"{graph}-{rule.replace(chr(10), ' ')[:26].strip()}" for graph, rule in ALL]


@pytest.mark.parametrize(("graph", "rule"), ALL, ids=NAMES)
def test_the_verdict_is_what_is_measured(graph: str, rule: str) -> None:
    """Over forty steps nothing is biased by name only."""
    for name, found in measured(graph, rule, LONG).items():
        assert not found.vanishes
        if found.exact:
            assert found.apart < EQUAL, f"{name} is said to be exact, but is {found.apart:.1e} off"
        else:
            assert found.apart > DIFFERENT, f"{name} is said to be biased, but nothing is lost"


@pytest.mark.parametrize(("graph", "rule"), ALL, ids=NAMES)
def test_one_step_loses_what_is_dropped_at_lag_zero(graph: str, rule: str) -> None:
    """A rule that drops paths from lag 1 on loses nothing in a call of one step: biased for all lengths, equal here.

    Where lag 0 is dropped too (rflo, below another layer) everything is lost but what is zero by itself: the products
    with a state before the first step.
    """
    for name, found in measured(graph, rule, 1).items():
        if found.row.first_dropped_lag == 0 and not found.vanishes:
            assert found.apart > DIFFERENT, name
        elif found.vanishes:
            assert not found.got.any(), name
        else:
            assert found.apart < EQUAL, f"{name}: {found.apart:.1e}"


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("rule", RANDOM)
def test_random_rules_are_right_on_average(graph: str, rule: str) -> None:
    """Along the whole gradient, each parameter's mean over draws is within five standard errors of it; some vary."""
    steps, count = 5, 150
    found, varies = draws(graph, rule, steps, count), False
    for row in compiled(graph, rule).plan.rows:
        full = whole(graph, steps)[row.parameter]
        along = torch.stack([(one[row.parameter] * full).sum() for one in found]) / (full * full).sum()
        error = float(along.std()) / count**0.5
        assert row.verdict in ("exact", "unbiased")
        assert (error > 1e-9) == (row.verdict == "unbiased"), row.parameter
        assert abs(float(along.mean()) - 1) <= 5 * error + EQUAL, row.parameter
        varies = varies or row.verdict == "unbiased"
    assert varies


@pytest.mark.parametrize(("graph", "rule"), ALL, ids=NAMES)
def test_the_gradient_is_the_rules_definition(graph: str, rule: str) -> None:
    found = {name: item.got for name, item in measured(graph, rule, 5).items()}
    assert_matches(found, definition(graph, rule, 5), "gradient of")


# -- the failures by name ----------------------------------------------------------------------------------------------
RESET = ("Wr", "Ur", "br")


@pytest.mark.parametrize("rule", RULES)
def test_the_reset_gate_of_a_gru_gets_a_gradient(rule: str) -> None:
    """It acts inside of a product with the recurrent matrix; a rule that sees only that matrix forgets it."""
    found = measured("gru", rule, LONG)
    for name in RESET:
        assert found[f"h0.{name}"].got.norm() > 1e-4


def test_one_step_of_influence_holds_all_of_the_reset_gate() -> None:
    """Every unit's reset gate reaches every unit within a step, so snap(1) has it whole; others are cut short."""
    found = measured("gru", "snap(1)", LONG)
    assert {name.partition(".")[2] for name, item in found.items() if item.exact and name.startswith("h0")} == {*RESET}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gate", ["Wi", "Wg", "bi", "bg"])
def test_input_and_cell_gates_of_an_lstm_count_once_in_one_step(gate: str, rule: str) -> None:
    """The path gate -> c -> h -> loss lies inside of a step and on the way of the influence on c and on h."""
    found = measured("lstm", rule, 1)[f"h0.{gate}"]
    assert found.got.norm() / found.whole.norm() == pytest.approx(1, abs=1e-12)
    assert found.apart < EQUAL


@pytest.mark.parametrize("rule", ["rtrl", "snap(2)", "snap(3)"])
@pytest.mark.parametrize("gate", ["Wi", "Wf", "Wg", "Wo", "Ui", "Uf", "Ug", "Uo"])
def test_full_influence_of_the_gates_of_an_lstm_is_full_bptt(gate: str, rule: str) -> None:
    found = measured("lstm", rule, LONG)[f"h0.{gate}"]
    assert found.exact
    assert found.apart < EQUAL


@pytest.mark.parametrize("graph", ["two_grus", "two_rnns"])
@pytest.mark.parametrize("rule", ["rtrl", "snap(2)", "snap(3)"])
def test_full_influence_of_a_lower_layer_goes_through_the_upper_one(graph: str, rule: str) -> None:
    for found in _lower(graph, rule):
        assert found.exact
        assert found.apart < EQUAL


@pytest.mark.parametrize("graph", ["two_grus", "two_rnns"])
@pytest.mark.parametrize("rule", ["columns", "rflo", "eprop"])
def test_a_lower_layer_without_the_upper_ones_past_is_said_to_be_biased(graph: str, rule: str) -> None:
    """The report names the state of the upper layer as a place where credit is dropped."""
    for found in _lower(graph, rule):
        assert found.row.verdict == "biased"
        assert any(item.edge.startswith("h1[t-1]") for item in found.row.dropped)


@pytest.mark.parametrize("graph", ["two_grus", "two_rnns"])
def test_rflo_gives_a_lower_layer_nothing_and_says_so_from_lag_zero(graph: str) -> None:
    """Losses read the states that a step leaves, and the upper layer's is no unit of a lower parameter's own."""
    for found in _lower(graph, "rflo"):
        assert not found.got.any()
        assert found.row.first_dropped_lag == 0


def _lower(graph: str, rule: str) -> list[Measured]:
    return [found for name, found in measured(graph, rule, LONG).items() if name.startswith("h0.")]


@pytest.mark.parametrize("rule", ["rtrl", "snap(2)", "snap(3)"])
def test_a_soft_slot_memory_is_traced_exactly(rule: str) -> None:
    assert all(found.exact and found.apart < EQUAL for found in measured("soft_slots", rule, LONG).values())


def test_what_a_read_address_reaches_in_one_step_is_all_of_it() -> None:
    """Of a slot memory: R and K reach every slot and cell at once, the values only through the next read."""
    exact = {name for name, found in measured("soft_slots", "snap(1)", LONG).items() if found.exact}
    assert exact == {"R", "K", "p.W", "p.b"}


@pytest.mark.parametrize(("graph", "rule"), sorted(UNFIT))
def test_a_rule_that_does_not_fit_is_refused_with_the_choice(graph: str, rule: str) -> None:
    with pytest.raises(SpecError) as caught:
        compiled(graph, rule)
    assert "may be along slot, cell" in str(caught.value)
