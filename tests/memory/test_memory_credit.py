"""Credit through memories: which uses have it, what windows spare, and that verdicts say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from memory_support import Options, check, draw, module, spec
from torch import Tensor

import recdsl
from recdsl.credit.plan import Row
from recdsl.diagnostics import SpecError

SHIFTED = Options(select="topk", chosen=2, slots=4, normalise="shifted_relu", score="mlp", every=2)
STOPS = [
    ("stop", ("value", "key")),
    ("stop(query=stop)", ("value", "key", "query")),
    ("through(query=stop)", ("query",)),
    ("through(key=stop)", ("key",)),
    ("stop(key=through)", ("value",)),
    ("through(key=stop, query=stop)", ("key", "query")),
]


@pytest.mark.parametrize("base", [Options(), SHIFTED], ids=["soft", "sparse"])
@pytest.mark.parametrize(("words", "stopped"), STOPS, ids=[words for words, _ in STOPS])
def test_a_stopped_use_has_no_gradient(words: str, stopped: tuple[str, ...], base: Options) -> None:
    check(replace(base, credit=f"{{past: '{words}', default: bptt}}", stopped=stopped), ragged=True)


def test_one_state_for_keys_and_values_has_two_uses() -> None:
    for words, stopped in STOPS[:1] + STOPS[3:5]:
        check(Options(key=False, score="cosine", credit=f"{{past: {words}}}", stopped=stopped))


@pytest.mark.parametrize("rule", ["rtrl", "snap(9)"])
def test_forward_rules_stop_too(rule: str) -> None:
    check(replace(SHIFTED, credit=f"{{past: stop, default: {rule}}}", stopped=("value", "key")), steps=7)


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("base", [Options(), SHIFTED, Options(life="stream")], ids=["soft", "sparse", "stream"])
@pytest.mark.parametrize("grid", [1, 3, 4, 20])
def test_sab_cuts_the_state_at_every_kth_step_and_no_memory(grid: int, base: Options, ragged: bool) -> None:
    check(replace(base, credit=f"sab(truncate={grid})", grid=grid), ragged=ragged)


def test_through_spares_one_memory_under_tbptt() -> None:
    check(replace(SHIFTED, credit="{past: through, default: tbptt(3)}", grid=3))
    check(replace(SHIFTED, credit="{past: through(key=stop), default: tbptt(3)}", grid=3, stopped=("key",)))


def test_tbptt_alone_stops_what_was_written_before_the_cut() -> None:
    with pytest.raises(AssertionError):
        check(replace(SHIFTED, credit="tbptt(3)", grid=3))


def test_some_parameters_spare_and_others_do_not() -> None:
    """Each has the gradient of its own rule: V that of sab, the others that of tbptt."""
    mixed = spec(replace(SHIFTED, credit="{V: sab(truncate=3), default: tbptt(3)}"))
    alone = [spec(replace(SHIFTED, credit=rule)) for rule in ("sab(truncate=3)", "tbptt(3)")]
    batch, found = draw(9, 2), []
    for text in (mixed, *alone):
        model = module(text)
        model(batch).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    both, sab, tbptt = found
    for name, gradient in both.items():
        assert gradient.equal(sab[name] if name == "V" else tbptt[name]) or (
            (gradient - (sab if name == "V" else tbptt)[name]).abs().max() < 1e-14
        )
    assert (sab["U"] - tbptt["U"]).abs().max() > 1e-3


def rows(credit: str, base: Options = SHIFTED) -> dict[str, Row]:
    return {row.parameter: row for row in recdsl.explain(spec(replace(base, credit=credit))).rows}


def test_verdicts() -> None:
    full, stop, sab = rows("bptt"), rows("{past: stop}"), rows("sab(truncate=3)")
    assert {row.verdict for row in full.values()} == {"exact"}
    assert stop["V"].verdict == "biased"
    assert any("past.value[t-1] -> past.read" in item.edge for item in stop["V"].dropped)
    assert (sab["V"].verdict, sab["V"].first_dropped_lag, sab["V"].longest_kept_lag) == ("biased", 1, None)
    assert not any(item.edge.startswith("past.") for item in sab["V"].dropped)
    tbptt = rows("tbptt(3)")
    assert (tbptt["V"].first_dropped_lag, tbptt["V"].longest_kept_lag) == (1, 2)
    assert any(item.edge.startswith("past.value") for item in tbptt["V"].dropped)
    assert "if-selected" in sab["V"].qualifiers
    assert "if-selected" not in rows("bptt", Options())["V"].qualifiers


MEMORY_ALONE = """
recdsl: 1
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {A, B: "float[n, n] ~ glorot"}
memory:
  past: {slots: 4, life: sequence, write: {value: A @ x}, read: {query: B @ x}}
step: r = past.read
loss: mse(r, y)
credit: CREDIT
"""


def test_sab_is_exact_where_memory_is_the_only_past() -> None:
    """No state but the memory's crosses steps, and that is spared: then sab(1) is full credit, tbptt(1) is not. B
    acts through the query of its own step alone."""
    verdicts = {}
    for rule in ("sab(truncate=1)", "tbptt(1)", "{past: stop}", "{past: through(query=stop)}"):
        found = recdsl.explain(MEMORY_ALONE.replace("CREDIT", rule)).rows
        verdicts[rule] = [row.verdict for row in found]
    assert list(verdicts.values()) == [
        ["exact", "exact"],
        ["biased", "exact"],
        ["biased", "exact"],
        ["exact", "biased"],
    ]


def test_the_query_is_named_where_it_is_cut() -> None:
    (_, row) = recdsl.explain(MEMORY_ALONE.replace("CREDIT", "{past: through(query=stop)}")).rows
    assert [item.edge for item in row.dropped] == ["past.read -> past.read (query)"]


def test_verdicts_match_gradients() -> None:
    """What is called exact has the gradient of bptt; what is called biased has another, here."""
    batch = draw(9, 2)

    def gradients(credit: str) -> dict[str, Tensor]:
        model = module(spec(replace(SHIFTED, credit=credit)))
        model(batch).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    full = gradients("bptt")
    for credit in (
        "{past: stop}",
        "{past: through(query=stop)}",
        "sab(truncate=3)",
        "{past: through(key=stop)}",
        "rtrl",
    ):
        for name, gradient in gradients(credit).items():
            same = bool((gradient - full[name]).abs().max() < 1e-12)
            assert same == (rows(credit)[name].verdict == "exact"), (credit, name)


def test_top_1_is_remarked_on_and_its_scorer_gets_nothing() -> None:
    one = replace(SHIFTED, chosen=1)
    remarks = [item.text for item in recdsl.explain(spec(one)).remarks]
    assert any("scorer" in text for text in remarks)
    assert any("4 slots of 28 bytes, 112 a sample" in text for text in remarks)
    model = module(spec(one))
    model(draw(9, 2)).loss.backward()
    for name in ("past.score.w", "past.score.Wk", "past.score.Wq", "Q", "K"):
        assert model.get_parameter(name).grad.abs().max() < 1e-15


BAD = {
    "{past: through, default: 'tbptt(window=5, every=2)'}": "RD0522",
    "{h: stop}": "RD0507",
    "{past: 'stop(speed=stop)'}": "RD0521",
    "{past: 'stop(key=maybe)'}": "RD0521",
    "{past: 'reinstate(exact)'}": "RD0531",
}


@pytest.mark.parametrize(("credit", "code"), BAD.items(), ids=list(BAD))
def test_mistakes(credit: str, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        recdsl.explain(spec(Options(credit=credit)))
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_rule_for_the_name_of_a_memory_is_one_for_its_scorer() -> None:
    found = rows("{past: none, default: bptt}")
    assert {name for name, row in found.items() if row.rule == "none"} == {
        "past.score.w",
        "past.score.Wk",
        "past.score.Wq",
    }
