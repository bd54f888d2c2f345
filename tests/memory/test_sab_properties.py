"""Sparse attentive backtracking, property by property, against the same model in plain torch and autograd.

`hook` adds nothing to the state of each step: its gradient is that of the state. Properties that are tests elsewhere: a
search that gathers rows against scores of all slots, test_tapes; replay by windows is not built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl
from recdsl.backends.torch import execute
from recdsl.driver import analyse

torch.set_num_threads(1)
STEPS, SAMPLES, INP, HID, TOP, EVERY = 12, 2, 3, 4, 2, 2
SPEC = f"""
recdsl: 1
sizes: {{inp: {INP}, hidden: {HID}, steps: {STEPS * SAMPLES}}}
inputs: {{x: "float[inp]", at: "onehot[steps]"}}
targets: {{y: "float[hidden]"}}
params: {{hook: "float[steps, hidden] = 0"}}
memory:
  past:
    slots: unbounded
    write: {{value: h, every: {EVERY}}}
    read: {{query: proposal, score: mlp(5), select: topk({TOP}), normalise: shifted_relu, tau: TAU}}
step: |
  proposal, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)
  h = proposal + past.read + hook.T @ at
  out = linear([h; past.read], size=hidden)
loss: {{task: {{value: "mse(out, y)", at: LOSS}}}}
credit: CREDIT
"""
GATES = "ifgo"


def model(credit: str, loss: str = "last", tau: str = "through", change: Callable[[str], str] = str) -> Any:
    return built(change(SPEC.replace("CREDIT", credit).replace("LOSS", loss).replace("TAU", tau)))


@cache
def built(text: str) -> Any:
    made: Any = recdsl.compile(text, dtype=torch.float64)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name != "hook":
                parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * 0.7)
    return made


def batch(seed: int = 1) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn((STEPS, SAMPLES, INP), generator=draws, dtype=torch.float64)
    y = torch.randn((STEPS, SAMPLES, HID), generator=draws, dtype=torch.float64)
    at = torch.arange(STEPS * SAMPLES).reshape(SAMPLES, STEPS).T.contiguous()
    return {"x": x, "y": y, "at": at}


def learnt(made: Any, data: dict[str, Tensor] | None = None, **given: Any) -> dict[str, Tensor]:
    made.zero_grad()
    made(data or batch(), **given).loss.backward()
    return {name: p.grad.clone() for name, p in made.named_parameters()}


def hooks(grads: dict[str, Tensor]) -> Tensor:
    """Gradients of states, [sample, step, hidden]."""
    return grads["hook"].reshape(SAMPLES, STEPS, HID)


@dataclass(frozen=True)
class Plain:
    """The model in plain torch. `grid`: steps between detached entries (0: none); the rest are the faults of the list.

    seen: by step and sample, the slots selected and the one behind them, as steps.
    """

    grid: int = 0
    frozen: tuple[tuple[Tensor, Tensor], ...] | None = None
    stored_detached: bool = False
    stored_alias: bool = False
    only_h: bool = False
    top: int = TOP
    itself: bool = False
    across: bool = False
    kth: bool = False
    tau: bool = True
    block: bool = False

    def run(self, p: dict[str, Tensor], data: dict[str, Tensor], last: bool) -> tuple[Tensor, Any, Any]:
        x, y = data["x"], data["y"]
        hook = p["hook"].reshape(SAMPLES, STEPS, HID)
        h = c = x.new_zeros((SAMPLES, HID))
        slots: list[tuple[int, Tensor]] = []
        seen, entered, outs = list[Any](), list[tuple[Tensor, Tensor]](), list[Tensor]()
        for t in range(STEPS):
            entered.append((h.detach(), c.detach()))
            if self.grid and t % self.grid == 0:
                h, c = self.frozen[t] if self.frozen else (h.detach(), c if self.only_h else c.detach())
                if self.stored_alias and slots and slots[-1][0] == t - 1:
                    slots[-1] = (t - 1, h)
            pre = {g: x[t] @ p[f"proposal.W{g}"].T + h @ p[f"proposal.U{g}"].T + p[f"proposal.b{g}"] for g in GATES}
            c = torch.sigmoid(pre["f"]) * c + torch.sigmoid(pre["i"]) * torch.tanh(pre["g"])
            proposal = torch.sigmoid(pre["o"]) * torch.tanh(c)
            shown = [*slots, (t, proposal)] if self.itself else slots
            read, best = self.read(p, proposal, shown)
            seen.append(best)
            h = proposal + read + hook[:, t]
            outs.append(torch.cat((h, read), 1) @ p["out.W"].T + p["out.b"])
            if (t + 1) % EVERY == 0:
                slots.append((t, h.detach() if self.stored_detached else h))
        losses = torch.stack([((out - y[t]) ** 2).mean(1).sum() for t, out in enumerate(outs)])
        return (losses[-1] if last else losses.sum() / STEPS) / SAMPLES, seen, entered

    def read(self, p: dict[str, Tensor], query: Tensor, slots: list[tuple[int, Tensor]]) -> tuple[Tensor, Any]:
        if not slots:
            return torch.zeros_like(query), [[] for _ in range(SAMPLES)]
        steps, rows = [t for t, _ in slots], torch.stack([value for _, value in slots], 1)
        keys, asked = (rows.detach(), query.detach()) if self.block else (rows, query)
        mixed = torch.tanh(keys @ p["past.score.Wk"].T + (asked @ p["past.score.Wq"].T)[:, None])
        scores = mixed @ p["past.score.w"]
        order = scores.argsort(1, descending=True)
        ranked = scores.gather(1, order)
        place = self.top - 1 if self.kth else self.top
        full = len(steps) > self.top
        tau = ranked[:, place] if full else ranked[:, -1] - 1
        tau = tau.roll(1) if self.across else tau
        tau = tau if self.tau else tau.detach()
        weights = torch.relu(scores - tau[:, None])
        kept = torch.zeros_like(weights).scatter(1, order[:, : self.top], 1.0)
        weights = weights * kept
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-7)
        return torch.einsum("bs,bsh->bh", weights, rows), [[steps[k] for k in row[: self.top + 1]] for row in order]


def plain(which: Plain, made: Any, last: bool = True) -> tuple[dict[str, Tensor], Any, Any]:
    p = {name: value.detach().clone().requires_grad_() for name, value in made.named_parameters()}
    loss, seen, entered = which.run(p, batch(), last)
    loss.backward()
    return {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in p.items()}, seen, entered


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-10, atol=1e-12) for name in one)


def slopes(made: Any, which: Plain, found: dict[str, Tensor]) -> float:
    """The largest difference between derivatives along random directions and central differences."""
    draws, worst = torch.Generator().manual_seed(2), 0.0
    params = {name: value.detach() for name, value in made.named_parameters()}
    for name, value in params.items():
        way = torch.randn(value.shape, generator=draws, dtype=torch.float64)
        ends = [which.run({**params, name: value + sign * 1e-6 * way}, batch(), False)[0] for sign in (1, -1)]
        worst = max(worst, float(abs((ends[0] - ends[1]) / 2e-6 - (found[name] * way).sum())))
    return worst


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
    """To the last bit; rules that end credit to slots make products at reads, others fetch them: a last digit."""
    found = {(credit, tau): model(credit, tau=tau)(batch()) for credit in CREDITS for tau in ("through", "stop")}
    first = found["bptt", "through"]
    for (credit, _), other in found.items():
        far = 1e-13 if credit == "none" or "stop" in credit else 0.0
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
        made: Any = recdsl.compile(FLAT.replace("CREDIT", "bptt").replace("TAU", "stop").replace("SCORE", "mlp(5)")
                                   .replace("TOP", "2"))  # fmt: skip
        x, y = torch.randn(steps, SAMPLES, INP), torch.randn(steps, SAMPLES, HID)
        made({"x": x, "y": y, "at": torch.zeros((steps, SAMPLES), dtype=torch.long)}).loss.backward()
        sizes.append(
            sum(tensor.nbytes for frame in made.recdsl_arena.idle for tensor in (*frame.free, *frame.held.values()))
        )
    assert 1.5 < sizes[1] / sizes[0] < 2.2
    assert 1.5 < sizes[2] / sizes[1] < 2.2


FAULTS = {
    "values are stored without credit": replace(Plain(3), stored_detached=True),
    "the stored state is the detached one": replace(Plain(2), stored_alias=True),
    "only h is detached": replace(Plain(3), only_h=True),
    "one slot too few": replace(Plain(3), top=TOP - 1),
    "one slot too many": replace(Plain(3), top=TOP + 1),
    "a step sees itself": replace(Plain(3), itself=True),
    "the threshold of another sample": replace(Plain(3), across=True),
    "the threshold is the k-th score": replace(Plain(3), kth=True),
    "no credit to the threshold": replace(Plain(3), tau=False),
    "no credit to keys and query": replace(Plain(3), block=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_pitfalls_are_other_models(fault: str) -> None:
    """Each of the list's faults, made in the plain model, is seen in a gradient."""
    which = FAULTS[fault]
    made = model(f"sab(truncate={which.grid})", "all")
    found = learnt(made)
    assert same(found, plain(Plain(which.grid), made, last=False)[0])
    assert not same(found, plain(which, made, last=False)[0])


# the same faults in generated code
SOURCE = {
    "the stored state is the detached one": (
        r"_held\(rows, place\)",
        "_held(rows, torch.where((place + 1) % 3 == 0, -1, place))",
    ),
    "one slot too few": (r"< 2\.0", "< 1.0"),
    "a step sees itself": (r"\[first_2:t:2\]", "[first_2 : t + 1 : 2]"),
    "the threshold of another sample": (r"(\w+) = (v\d+)\.unsqueeze\(1\)\.expand\(-1, 3\)(\n +torch\.sub)",
                                        r"\1 = \2.roll(1, 0).unsqueeze(1).expand(-1, 3)\3"),
    "the threshold is the k-th score": (r"(torch\.where\(v\d+), 2\.0,", r"\1, 1.0,"),
    "places are those of slots": (r", first_2, 2\)", ")"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SOURCE)
def test_pitfalls_in_generated_code_are_seen(fault: str) -> None:
    text = SPEC.replace("CREDIT", "sab(truncate=3)").replace("LOSS", "all").replace("TAU", "through")
    source, (old, new) = analyse(text).source, SOURCE[fault]
    changed, count = re.subn(old, new, source)
    assert count
    made = model("sab(truncate=3)", "all")
    faulty = execute(changed).Model(0, torch.float64)
    faulty.load_state_dict(made.state_dict())
    expected = plain(Plain(3), made, last=False)[0]
    try:
        assert not same(learnt(faulty), expected)
    except (IndexError, RuntimeError):
        return
