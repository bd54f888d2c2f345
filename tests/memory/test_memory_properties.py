"""What holds of memories whatever their definition is computed by (P1 to P17 of the list that they were built to)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from memory_support import Options, close, draw, module, spec
from torch import Tensor

SHIFTED = Options(select="topk", chosen=2, slots=4, normalise="shifted_relu", score="mlp", every=2)

TABLE = """
recdsl: 1
sizes: {{n: {n}, d: 3}}
inputs: {{i: "class[n]", q: "float[d]"}}
targets: {{y: "float[d]"}}
params:
  K, P: float[n, d] ~ normal(0, 1)
  A: float[d, d] ~ normal(0, 1)
memory:
  past:
    slots: {n}
    life: sequence
    write: {{key: "K[n=i]", value: "P[n=i]", when: "t < {n}"}}
    read: {{query: A @ q, score: {score}, select: {select}, normalise: {normalise}{more}}}
step: |
  r = past.read
loss: {{value: "mse(r, y)", at: last}}
"""
"""Item i is row i of the tables K and P, so that the gradient of a row is that of an item."""


def table(
    n: int = 6, score: str = "dot", select: str = "topk(2)", normalise: str = "shifted_relu", more: str = ""
) -> tuple[Any, dict[str, Tensor]]:
    model = module(TABLE.format(n=n, score=score, select=select, normalise=normalise, more=more))
    generator = torch.Generator().manual_seed(3)
    batch = {
        "i": torch.arange(n + 1)[:, None] % n,
        "q": torch.randn(n + 1, 1, 3, generator=generator, dtype=torch.float64),
        "y": torch.randn(n + 1, 1, 3, generator=generator, dtype=torch.float64),
    }
    return model, batch


def ranked(model: torch.nn.Module, batch: dict[str, Tensor]) -> list[int]:
    """Items of the last read, the best first."""
    scores = model.get_parameter("K") @ model.get_parameter("A") @ batch["q"][-1, 0]
    return torch.argsort(scores, descending=True).tolist()


@pytest.mark.parametrize(("more", "runner_up"), [("", True), (", tau: stop", False)])
def test_only_what_is_selected_gets_gradient(more: str, runner_up: bool) -> None:
    """P5: exactly zero beyond the item whose score is the threshold; that one gets it through its key alone."""
    model, batch = table(more=more)
    model(batch).loss.backward()
    keys, values = model.get_parameter("K").grad, model.get_parameter("P").grad
    order = ranked(model, batch)
    assert (values[order[:2]].abs().sum(1) > 0).all()
    assert (values[order[2:]] == 0).all()
    assert (keys[order[:2]].abs().sum(1) > 0).all()
    assert bool(keys[order[2]].abs().sum() > 0) is runner_up
    assert (keys[order[3:]] == 0).all()


@pytest.mark.parametrize("score", ["dot", "cosine(sharpness=4)", "inverse_distance(delta=0.1)", "mlp(5)"])
@pytest.mark.parametrize("normalise", ["shifted_relu", "softmax"])
def test_gradients_are_finite_differences(score: str, normalise: str) -> None:
    """P1, away from ties."""
    model, batch = table(score=score, normalise=normalise)
    model(batch).loss.backward()
    for name, p in model.named_parameters():
        found = p.grad.reshape(-1)
        for k in range(0, p.numel(), 4):
            with torch.no_grad():
                ends = []
                for sign in (1, -1):
                    p.reshape(-1)[k] += sign * 1e-6
                    ends.append(model(batch).loss.item())
                    p.reshape(-1)[k] -= sign * 1e-6
            assert abs((ends[0] - ends[1]) / 2e-6 - found[k].item()) < 1e-7, name


def test_values_do_not_depend_on_credit() -> None:
    """P2: bit for bit."""
    batch = draw(9, 2)
    rules = ("bptt", "sab(truncate=3)", "{past: stop}", "{past: through(query=stop)}", "tbptt(2)")
    found = [module(spec(replace(SHIFTED, credit=rule)))(batch) for rule in rules]
    stopped = module(spec(replace(SHIFTED, shift={"tau": "stop"})))(batch)
    for other in (*found[1:], stopped):
        assert all(other.outputs[name].equal(value) for name, value in found[0].outputs.items())


def test_the_separable_scorer_does_not_look_at_the_query() -> None:
    """P12: what the code released with the paper computes, and its text does not."""
    for score, looks in (("mlp(5)", True), ("separable", False)):
        model, batch = table(score=score)
        first = model(batch).outputs["r"][-1]
        moved = model({**batch, "q": batch["q"] + 0.1}).outputs["r"][-1]
        model(batch).loss.backward()
        assert close(first, moved) is not looks
        assert bool(model.get_parameter("A").grad.abs().max() > 1e-12) is looks


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_weights_are_as_many_as_the_user_wrote(k: int) -> None:
    """P13: at least 0, their sum 1, min(k, .) of them; an item is its own indicator, so what is read is the weights."""
    text = TABLE.format(n=6, score="dot", select=f"topk({k})", normalise="shifted_relu", more="")
    text = (
        text.replace('value: "P[n=i]"', "value: onehot(i)").replace("K, P: ", "K: ").replace("mse(r, y)", "mse(r, 0)")
    )
    model = module(text.replace('targets: {y: "float[d]"}\n', ""))
    _, batch = table()
    del batch["y"]
    weights = model(batch).outputs["r"]
    for t in range(1, 7):
        assert close(weights[t].sum(), torch.ones(()))
        assert (weights >= 0).all()
        assert int((weights[t] > 0).sum()) == min(k, t)
    assert (weights[0] == 0).all()


@pytest.mark.parametrize("base", [SHIFTED, Options(), Options(evict="lowest(g)")], ids=["sparse", "soft", "lowest"])
def test_samples_do_not_see_each_other(base: Options) -> None:
    """P14: another sample changes neither values nor, summed over samples, gradients."""
    model, batch = module(spec(base)), draw(8, 3)
    whole = model(batch)
    (3 * whole.loss).backward()
    total = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for b in range(3):
        alone = model({name: value[:, b : b + 1] for name, value in batch.items()})
        assert close(alone.outputs["h"][:, 0], whole.outputs["h"][:, b], 1e-12)
        alone.loss.backward()
    for name, p in model.named_parameters():
        assert close(p.grad, total[name], 1e-12)


def test_the_order_of_slots_does_not_matter() -> None:
    """P15: an incoming store with its slots permuted, ages and priorities with them, reads the same."""
    o = Options(evict="lowest(g)", slots=4, select="topk", chosen=2, normalise="shifted_relu")
    model, batch = module(spec(o)), draw(7, 2)
    first = model({name: value[:4] for name, value in batch.items()}).state
    order = torch.tensor([2, 0, 3, 1])
    moved = {n: v[:, order] if n.startswith("past.") and n != "past.count" else v for n, v in first.items()}
    rest = {name: value[4:] for name, value in batch.items()}
    assert close(model(rest, state=first).outputs["h"], model(rest, state=moved).outputs["h"], 1e-13)


def test_a_piece_at_a_time_is_the_same() -> None:
    model, batch = module(spec(replace(SHIFTED, evict="least_used"))), draw(8, 2)
    whole, state, parts = model(batch).outputs["h"], None, []
    for t in range(8):
        found = model({name: value[t : t + 1] for name, value in batch.items()}, state=state)
        state = found.state
        parts.append(found.outputs["h"])
    assert close(torch.cat(parts), whole, 1e-12)


@pytest.mark.parametrize("normalise", ["shifted_relu", "softmax"])
def test_exact_ties_take_the_older_and_have_finite_gradients(normalise: str) -> None:
    """P16. All keys are equal: the two oldest of six are read, evenly."""
    model, batch = table(normalise=normalise)
    with torch.no_grad():
        model.get_parameter("K").fill_(0.3)
    found = model(batch)
    assert close(found.outputs["r"][-1, 0], model.get_parameter("P")[:2].mean(0))
    found.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_reset_empties_a_store_of_a_sequence_and_not_one_of_a_stream() -> None:
    """P17."""
    reset = torch.zeros(6, 1, dtype=torch.bool)
    reset[3] = True
    for life, empty in (("sequence", True), ("stream", False)):
        found = module(spec(Options(life=life)))(draw(6, 1), reset=reset)
        assert bool((found.outputs["r"][3] == 0).all()) is empty
        assert (found.outputs["r"][0] == 0).all()


def test_cosine_scores_do_not_see_lengths() -> None:
    """The gradient of a stored key is at right angles to it."""
    model, batch = table(score="cosine(sharpness=5)", select="all", normalise="softmax")
    model(batch).loss.backward()
    keys = model.get_parameter("K")
    assert (keys.grad.abs().sum(1) > 1e-6).all()
    assert ((keys * keys.grad).sum(1).abs() < 1e-15).all()


def test_a_full_store_holds_the_last_items_in_order() -> None:
    """And a value stays with its key."""
    text = TABLE.format(n=9, score="dot", select="all", normalise="softmax", more="").replace("slots: 9", "slots: 4")
    model = module(text)
    _, batch = table(n=9)
    state = model(batch).state
    for name, rows in (("past.key", "K"), ("past.value", "P")):
        own = model.get_parameter(rows).detach()
        assert state[name][0].equal(own[[8, 5, 6, 7]])


def test_a_masked_step_writes_nothing() -> None:
    model, batch = module(spec(Options(slots=8))), draw(6, 1)
    mask = torch.ones(6, 1, dtype=torch.bool)
    mask[2] = mask[4] = False
    found = model(batch, mask=mask).state
    kept = model({name: value[[0, 1, 3, 5]] for name, value in batch.items()}).state
    for name in ("past.value", "past.key", "past.count", "h"):
        assert close(found[name], kept[name], 1e-14)


def test_targets_that_are_stored_must_be_given() -> None:
    text = spec(Options(key=False, score="mlp")).replace("value: h", "value: h + y")
    model, batch = module(text), draw(4, 2)
    assert model(batch).loss is not None
    del batch["y"]
    with pytest.raises(ValueError, match="'y', which a memory"):
        model(batch)
