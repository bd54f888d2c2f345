"""Sparse attentive backtracking, property by property, against the same model in plain torch and autograd, with both
backends.

| property | test |
|---|---|
| P1 whole credit: central differences | test_p1 |
| P2 values do not depend on credit | test_p2 |
| P3 without attention: truncated backpropagation | test_p3 |
| P4 reach, in a grid and sliding | test_p4 (two) |
| P5 behind the threshold: 0 | test_p5 |
| P6 stored values without credit | test_p6 |
| P7 plain detaching, and differences with recorded constants | test_p7 |
| P8 credit adds up | test_p8 |
| P9 replay by windows | test_p9, test_replayed_calls |
| P10 gathered and dense scores | test_p1, test_p7: `Plain` scores all slots |
| P11 without credit to keys and query | test_p11 |
| P12 weights and the query | test_p12 |
| P13 numbers of weights | test_p13 |
| P14 samples are apart | test_p14 |
| P15 order of slots | test_p15 |
| P16 one slot, ties | test_p16 |
| P17 sequences are apart | test_p17 |
| P18 memory and length | test_p18, test_replayed_calls |
| P19 a task | test_sab_copying, test_sab_adding |

Pitfalls: faults in `Plain` and in generated code are in test_sab_mutants, those of stores in test_tapes and, in C,
test_native_tapes. A value is not changed by what is read (6): test_what_is_read; no slot at all (12): test_no_slot.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sab_support import (
    HID,
    INP,
    SAMPLES,
    SPEC,
    STEPS,
    TOP,
    Chosen,
    Plain,
    batch,
    built,
    hooks,
    learnt,
    model,
    plain,
    same,
    slopes,
)
from torch import Tensor

from recdsl.diagnostics import SpecError
from recdsl.driver import analyse

pytestmark = pytest.mark.usefixtures("each_backend")
torch.set_num_threads(1)


def test_p1_without_a_cut_the_gradient_is_that_of_central_differences() -> None:
    made = model(f"sab(truncate={STEPS})", "all")
    assert slopes(made, Plain(), learnt(made)) < 1e-7


BLOCKED = '{past: "through(key=stop, query=stop)", default: bptt}'
CREDITS = (
    "bptt",
    "sab(truncate=3)",
    "sab(truncate=3, variant=sliding)",
    "{past: stop, default: tbptt(3)}",
    "none",
    BLOCKED,
)


def test_p2_values_do_not_depend_on_credit() -> None:
    """To the last bit; rules that end credit to slots make products at reads, others fetch them, and C sums what it
    keeps and what it does not in other orders: a last digit."""
    found = {(credit, tau): model(credit, tau=tau)(batch()) for credit in CREDITS for tau in ("through", "stop")}
    first = found["bptt", "through"]
    for (credit, _), other in found.items():
        far = 1e-13 if credit == "none" or "stop" in credit or Chosen.backend == "native" else 0.0
        torch.testing.assert_close(other.loss, first.loss, rtol=far, atol=0)
        for name, value in other.outputs.items():
            torch.testing.assert_close(value, first.outputs[name], rtol=100 * far, atol=far)


def test_p3_without_attention_it_is_truncated_backpropagation() -> None:
    def change(text: str) -> str:
        head, rest = text.split("memory:\n")
        rest = rest[rest.index("step:") :].replace(" + past.read", "").replace("[h; past.read]", "h")
        return head + rest

    one, other = (learnt(model(credit, change=change)) for credit in ("sab(truncate=5)", "tbptt(window=5)"))
    assert same(one, other)
    alive = hooks(one).abs().sum((0, 2)) > 0
    assert alive.tolist() == [t >= 10 for t in range(STEPS)]


def reachable(seen: Any, b: int, grid: int, tau: bool) -> set[int]:
    """Steps that the loss of the last step reaches."""
    found, stack = set[int](), [STEPS - 1]
    while stack:
        t = stack.pop()
        if t in found:
            continue
        found.add(t)
        stack += [t - 1] if t and t % grid else []
        stack += seen[t][b][: TOP + tau]
    return found


@pytest.mark.parametrize("tau", ["through", "stop"])
@pytest.mark.parametrize("grid", [1, 3, 5])
def test_p4_states_that_credit_does_not_reach_have_none_and_the_others_have(grid: int, tau: str) -> None:
    made = model(f"sab(truncate={grid})", tau=tau)
    found = hooks(learnt(made))
    _, seen, _ = plain(Plain(grid), made)
    for b in range(SAMPLES):
        alive = {t for t in range(STEPS) if bool((found[b, t] != 0.0).any())}
        assert alive == reachable(seen, b, grid, tau == "through")


def crossed(seen: Any, b: int, budget: int) -> set[int]:
    """Steps that the loss of the last step reaches if credit crosses so many steps behind the loss and each slot."""
    best, stack = dict[int, int](), [(STEPS - 1, budget)]
    while stack:
        t, left = stack.pop()
        if best.get(t, -1) >= left:
            continue
        best[t] = left
        stack += [(t - 1, left - 1)] if t and left else []
        stack += [(slot, budget) for slot in seen[t][b]]
    return set(best)


@pytest.mark.parametrize("budget", [1, 2])
def test_p4_sliding_credit_crosses_so_many_steps_behind_the_loss_and_each_slot(budget: int) -> None:
    made = model(f"sab(truncate={budget}, variant=sliding)")
    found = hooks(learnt(made))
    _, seen, _ = plain(Plain(), made)
    for b in range(SAMPLES):
        alive = {t for t in range(STEPS) if bool((found[b, t] != 0.0).any())}
        assert alive == crossed(seen, b, budget)


FLAT = """
recdsl: 1
sizes: {inp: 3, hidden: 4, steps: 24}
inputs: {x: "float[inp]", at: "onehot[steps]"}
targets: {y: "float[hidden]"}
params: {hook: "float[steps, hidden] = 0", V: "float[hidden, inp] ~ normal(0, 1)"}
memory:
  past:
    slots: unbounded
    write: {value: v}
    read: {query: V @ x, score: SCORE, select: topk(TOP), normalise: shifted_relu, tau: TAU}
step: |
  v = V @ x + hook.T @ at
  out = past.read
loss: {task: {value: "mse(out, y)", at: last}}
credit: CREDIT
"""


def flat(credit: str = "bptt", tau: str = "through", score: str = "mlp(5)", top: int = TOP) -> Any:
    text = FLAT.replace("CREDIT", credit).replace("TAU", tau).replace("SCORE", score).replace("TOP", str(top))
    return built(text)


def ranked(made: Any) -> list[list[int]]:
    """By sample, the slots that the last step sees, best first."""
    p, x = {n: value.detach() for n, value in made.named_parameters()}, batch()["x"]
    values = x[:-1] @ p["V"].T
    mixed = torch.tanh(values @ p["past.score.Wk"].T + x[-1] @ p["V"].T @ p["past.score.Wq"].T)
    return (mixed @ p["past.score.w"]).argsort(0, descending=True).T.tolist()


@pytest.mark.parametrize("tau", ["through", "stop"])
def test_p5_slots_behind_the_threshold_have_no_credit_and_the_threshold_has_if_it_is_asked(tau: str) -> None:
    made = flat(tau=tau)
    found = hooks(learnt(made))
    for b, order in enumerate(ranked(made)):
        alive = [bool((found[b, t] != 0.0).any()) for t in order]
        assert alive == [True] * TOP + [tau == "through"] + [False] * (len(order) - TOP - 1)


def test_p6_stored_values_without_credit_are_truncated_backpropagation() -> None:
    stopped = learnt(model("{past: stop, default: tbptt(3)}"))
    alive = hooks(stopped).abs().sum((0, 2)) > 0
    assert alive.tolist() == [t >= 9 for t in range(STEPS)]
    assert not same(stopped, learnt(model("sab(truncate=3)")))


@pytest.mark.parametrize("grid", [1, 3, 5])
def test_p7_the_gradient_is_that_of_plain_detaching_and_of_differences_with_recorded_constants(grid: int) -> None:
    made = model(f"sab(truncate={grid})", "all")
    found = learnt(made)
    expected, _, entered = plain(Plain(grid), made, last=False)
    assert same(found, expected)
    assert slopes(made, Plain(grid, tuple(entered)), found) < 1e-7


def test_p8_credit_of_two_losses_adds_up() -> None:
    made = model("sab(truncate=3)")
    parts = list[dict[str, Tensor]]()
    for steps in ([9], [11], [9, 11]):
        made.zero_grad()
        out = made(batch()).outputs["out"]
        out[steps].square().sum().backward()
        parts.append({name: p.grad.clone() for name, p in made.named_parameters()})
    assert same({name: parts[0][name] + parts[1][name] for name in parts[0]}, parts[2])


@pytest.mark.parametrize("variant", ["chunk", "sliding"])
def test_p9_windows_that_are_run_again_give_the_gradient_of_the_whole_call(variant: str) -> None:
    made = model(f"sab(truncate=3, variant={variant}, replay=always)", "all")
    whole = learnt(made)
    try:
        made.recdsl_chunk = 5
        pieces = learnt(made)
    finally:
        del made.recdsl_chunk
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-12, atol=1e-12)


def test_p11_without_credit_to_keys_and_query_the_scorer_learns_the_same_and_values_get_their_weight() -> None:
    through, blocked = (learnt(flat(credit)) for credit in ("bptt", BLOCKED))
    for name in ("past.score.Wk", "past.score.Wq", "past.score.w"):
        torch.testing.assert_close(blocked[name], through[name], rtol=1e-12, atol=1e-14)
    made, data = flat(BLOCKED), batch()
    given = 2 * (made(data).outputs["out"][-1] - data["y"][-1]) / (HID * SAMPLES)
    shares = hooks(blocked) / given.detach()[:, None]
    torch.testing.assert_close(shares, shares[..., :1].expand_as(shares))
    torch.testing.assert_close(shares[..., 0].sum(1), torch.ones(SAMPLES, dtype=torch.float64))
    for b, order in enumerate(ranked(made)):
        assert sorted(shares[b, :, 0].nonzero().flatten().tolist()) == sorted(order[:TOP])


WEIGHTS = (
    FLAT.replace("write: {value: v}", "write: {key: v, value: place}")
    .replace("v = V", "place = at * 1.0\n  v = V")
    .replace('targets: {y: "float[hidden]"}', 'targets: {y: "float[steps]"}')
)


def weights(score: str, top: int, data: dict[str, Tensor]) -> Tensor:
    """What each step reads, by slot: [step, sample, slot]."""
    text = WEIGHTS.replace("CREDIT", "bptt").replace("TAU", "through").replace("SCORE", score)
    made = built(text.replace("TOP", str(top)))
    return made({**data, "y": torch.zeros((STEPS, SAMPLES, STEPS * SAMPLES), dtype=torch.float64)}).outputs["out"]


@pytest.mark.parametrize(("score", "moves"), [("mlp(5)", True), ("separable", False)])
def test_p12_weights_depend_on_the_query_unless_the_score_is_a_sum(score: str, moves: bool) -> None:
    data = batch()
    other = {**data, "x": torch.cat((data["x"][:-1], data["x"][-1:] + 1.0))}
    one, two = weights(score, TOP, data)[-1], weights(score, TOP, other)[-1]
    assert torch.allclose(one, two, rtol=0, atol=1e-12) != moves


@pytest.mark.parametrize("top", [1, 2, 5])
def test_p13_as_many_weights_as_were_asked_for_and_they_add_up(top: int) -> None:
    found = weights("mlp(5)", top, batch())
    assert bool((found >= 0).all())
    assert (found > 0).sum(2).tolist() == [[min(top, t)] * SAMPLES for t in range(STEPS)]
    torch.testing.assert_close(found[1:].sum(2), torch.ones((STEPS - 1, SAMPLES), dtype=torch.float64))


def test_p14_samples_do_not_see_each_other() -> None:
    made, data = model("sab(truncate=3)", "all"), batch()
    other = {**data, "x": data["x"].clone()}
    other["x"][:, 1] += 1.0
    assert torch.equal(made(data).outputs["out"][:, 0], made(other).outputs["out"][:, 0])
    assert torch.equal(hooks(learnt(made))[0], hooks(learnt(made, other))[0])
    assert not torch.equal(hooks(learnt(made))[1], hooks(learnt(made, other))[1])


def test_p15_the_order_of_slots_does_not_matter() -> None:
    made, data = flat(), batch()
    order = [*torch.randperm(STEPS - 1, generator=torch.Generator().manual_seed(4)).tolist(), STEPS - 1]
    moved = {name: value[order] if name != "at" else value for name, value in data.items()}
    torch.testing.assert_close(made(moved).outputs["out"][-1], made(data).outputs["out"][-1])
    torch.testing.assert_close(hooks(learnt(made, moved)), hooks(learnt(made))[:, order])


def test_p16_one_slot_teaches_its_scorer_nothing_and_ties_are_finite() -> None:
    text = FLAT.replace("CREDIT", "bptt").replace("TAU", "through").replace("SCORE", "mlp(5)").replace("TOP", "1")
    assert any("no gradient" in remark.text for remark in analyse(text).plan.remarks)
    found = learnt(flat(top=1))
    assert all(bool((found[name] == 0.0).all()) for name in found if name.startswith("past.score"))
    data = {**batch(), "x": torch.ones((STEPS, SAMPLES, INP), dtype=torch.float64)}
    assert all(bool(value.isfinite().all()) for value in learnt(flat(), data).values())


def test_no_slot_at_all_is_an_error() -> None:
    with pytest.raises(SpecError, match="RD0409"):
        analyse(
            SPEC.replace("CREDIT", "bptt")
            .replace("LOSS", "all")
            .replace("TAU", "stop")
            .replace(f"topk({TOP})", "topk(0)")
        )


def test_what_is_read_is_added_to_a_value_of_its_own() -> None:
    """The proposal that others read stays as it was."""
    made = model("sab(truncate=3)")
    found = made(batch()).outputs
    expected, _, _ = Plain(3).run(dict(made.named_parameters()), batch(), True)
    torch.testing.assert_close(found["h"][0], found["proposal"][0])
    assert not torch.allclose(found["h"][3], found["proposal"][3])
    torch.testing.assert_close(made(batch()).loss, expected)


def test_p17_sequences_do_not_remember_each_other() -> None:
    made, data = model("sab(truncate=3)", "all"), batch()
    first = made(data).outputs["out"]
    made(batch(7))
    assert torch.equal(made(data).outputs["out"], first)
    reset = torch.zeros((STEPS, SAMPLES), dtype=torch.bool)
    reset[6] = True
    late = hooks(learnt(model("sab(truncate=12)"), data, reset=reset))
    assert bool((late[:, :6] == 0.0).all())
    assert bool((late[:, 6:] != 0.0).any())


def test_p18_memory_grows_with_length_and_not_with_its_square() -> None:
    sizes = list[int]()
    for steps in (40, 80, 160):
        made = flat(tau="stop")
        made.recdsl_arena.idle.clear()
        x, y = torch.randn(2, steps, SAMPLES, HID, dtype=torch.float64)
        x = x[..., :INP]
        made({"x": x, "y": y, "at": torch.zeros((steps, SAMPLES), dtype=torch.long)}).loss.backward()
        sizes.append(
            sum(tensor.nbytes for frame in made.recdsl_arena.idle for tensor in (*frame.free, *frame.held.values()))
        )
    assert 1.5 < sizes[1] / sizes[0] < 2.2
    assert 1.5 < sizes[2] / sizes[1] < 2.2
