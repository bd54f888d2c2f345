"""Calls that are run in pieces, each of them again on the way back: the same as whole ones and as the definition."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from backend_support import call_of
from test_tape_rules import SAB

from recdsl.backends.native import native_module
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate, ragged_pair
from recdsl.credit.replay import replays
from recdsl.diagnostics import SpecError
from recdsl.driver import Compilation, analyse
from recdsl.program.checker import verify
from recdsl.program.pieces import assemble_pieces
from recdsl.testing import Case, assert_close_gradients, random_case, reference

torch.set_num_threads(1)
WHOLE = 10**6
SLOTS = """recdsl: 1
name: slots
sizes: {inp: 3, hidden: 4, k: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[hidden]"}
params: {K: "float[k, inp] ~ normal(0, 1)", V: "float[hidden, inp] ~ normal(0, 1)", s0: "float[hidden] ~ normal(0, 1)"}
states: {g: "float[hidden] = s0"}
memory:
  past:
    slots: 3
    life: sequence
    write: {key: K @ x, value: "tanh(V @ x) + g[t-3]"}
    read: {query: K @ x, score: dot, select: topk(2), null_slot: true, normalise: shifted_relu}
step: |
  h = gru(x, size=hidden)
  g = tanh(h + past.read + g[t-1] * 0.5)
  out = g + g[t-3]
loss: mse(out, y)
credit: CREDIT
"""
STORES = """recdsl: 1
name: stores
sizes: {inp: 3, hidden: 4, k: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[hidden]"}
params: {K: "float[k, inp] ~ normal(0, 1)", V: "float[hidden, inp] ~ normal(0, 1)", s0: "float[hidden] ~ normal(0, 1)"}
states: {g: "float[hidden] = s0"}
memory:
  often:
    slots: unbounded
    write: {key: K @ x, value: g, when: "sum(x, axis=inp) > 0"}
    reads:
      one: {query: K @ x, score: cosine(sharpness=2), select: topk(3)}
      two: {query: "0.9 * (K @ x)", score: dot, select: topk(2), normalise: shifted_relu, tau: stop}
  rarely:
    slots: unbounded
    write: {value: g, every: 3}
    read: {query: h, score: mlp(2), select: topk(1), normalise: shifted_relu, every: 2}
step: |
  h = gru(x, size=hidden)
  g = tanh(h + often.one + rarely.read * 0.5 + g[t-1] * 0.5) + V @ x * 0.1
  out = g + often.two + g[t-2]
loss: mse(out, y)
credit: CREDIT
"""
TEXTS = {"one": SAB.replace("credit: bptt", "credit: CREDIT"), "slots": SLOTS, "stores": STORES}
RULES = (
    "sab(truncate=3, replay=always)",
    "sab(truncate=2, variant=sliding, replay=always)",
)


@cache
def made(name: str, rule: str, backend: str = "torch") -> tuple[Compilation, Any]:
    stages = analyse(TEXTS[name].replace("CREDIT", rule))
    if backend == "native":
        model: Any = native_module(stages.graph, stages.plan, stages.source, flags=("-O0",)).Model(0, torch.float64)
        assert model.recdsl_runs == "native"
        return stages, model
    return stages, execute(stages.source).Model(0, torch.float64)


def called(model: Any, case: Case, chunk: int, outputs: bool = True) -> dict[str, torch.Tensor]:
    """All that a call gives."""
    model.load_state_dict(case.params, strict=False)
    model.recdsl_chunk = chunk
    model.zero_grad()
    result = model(case.batch, mask=case.mask, reset=case.reset, state=case.state)
    total = 1.7 * result.loss
    for value in result.outputs.values():
        if outputs and value.requires_grad:
            total = total + (value * torch.arange(value.numel()).reshape(value.shape).cos()).sum()
    total.backward()
    found = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    found |= {f"state {name}": value for name, value in result.state.items()}
    found |= {f"output {name}": value.detach() for name, value in result.outputs.items()}
    return found | {"loss": total.detach()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference, over 1 + the largest entry."""
    assert one.keys() == other.keys()
    return max(float((other[n] - value).abs().max() / (1 + value.abs().max())) for n, value in one.items())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", TEXTS)
def test_pieces_are_the_definition_and_the_whole_call(name: str, rule: str, seed: int) -> None:
    """With a mask, resets and an incoming state (seed 1), and without."""
    stages, model = made(name, rule)
    case = call_of(stages, seed)
    whole = called(model, case, WHOLE)
    for chunk in (1, 3, 5):
        assert apart(whole, called(model, case, chunk)) < 1e-12
    model.recdsl_chunk = 2
    assert_close_gradients(lambda _: model, case, expected=reference(case))


@pytest.mark.compiler
@pytest.mark.parametrize(("name", "rule"), [("stores", RULES[0]), ("one", RULES[1])])
def test_c_runs_pieces(name: str, rule: str) -> None:
    stages, model = made(name, rule, "native")
    for seed in (0, 1):
        case = call_of(stages, seed)
        model.recdsl_chunk = 2
        assert_close_gradients(lambda _: model, case, expected=reference(case))
        assert apart(called(model, case, WHOLE), called(model, case, 3)) < 1e-12


@pytest.mark.compiler
def test_c_has_room_for_the_items_of_all_pieces() -> None:
    """Scores and stamps of a search are as many as there are items, whatever the steps of a piece."""
    text = TEXTS["stores"].replace("credit: CREDIT", f'credit: {{often: "stop(query=stop)", default: "{RULES[0]}"}}')
    stages = analyse(text)
    torch_model = execute(stages.source).Model(0, torch.float64)
    model: Any = native_module(stages.graph, stages.plan, stages.source, flags=("-O0",)).Model(0, torch.float64)
    case = call_of(stages, 0)
    generator = torch.Generator().manual_seed(0)
    batch = {n: torch.randn(90, 3, *v.shape[2:], generator=generator, dtype=v.dtype) for n, v in case.batch.items()}
    long = replace(case, batch=batch, mask=None, reset=None, state=None)
    assert apart(called(torch_model, long, WHOLE), called(model, long, 1)) < 1e-9


@pytest.mark.compiler
def test_pieces_in_c_share_one_room() -> None:
    """From the second call on, all entries of all pieces work where those of the first call did."""
    stages, model = made("stores", "sab(truncate=3, replay=always)", "native")
    case = call_of(stages, 0)
    arena, places = model.recdsl_arena, set[int]()
    first = called(model, case, 3)
    borrow = arena.borrow

    def noted(size: int, like: torch.Tensor) -> torch.Tensor:
        room = borrow(size, like)
        assert room.numel() >= size
        assert arena.rooms == [], "another thread would get the same"
        places.add(room.data_ptr())
        return room

    arena.borrow = noted
    (kept,) = arena.rooms
    assert apart(first, called(model, case, 3)) == 0.0
    assert places == {kept.data_ptr()}


@pytest.mark.parametrize("name", TEXTS)
def test_programs_of_pieces_are_valid(name: str) -> None:
    stages, _ = made(name, RULES[1])
    for graph, plan in ((stages.graph, stages.plan), ragged_pair(stages.graph, stages.plan)):
        verify(assemble_pieces(graph, plan).program)
        verify(assemble_pieces(graph, plan, optimise=False).program)


@pytest.mark.parametrize("rule", ["sab(truncate=1, replay=always)", *RULES])
def test_random_models(rule: str) -> None:
    count = 0
    for seed in range(8):
        case = random_case(seed, (("default", rule),))
        try:
            assert case.plan
        except SpecError:
            continue
        if not replays(case.model.graph, case.plan):
            continue
        count += 1
        model = execute(generate(case.model.graph, case.plan, "")).Model(0, torch.float64)
        whole = called(model, case, WHOLE)
        assert apart(whole, called(model, case, 1)) < 1e-12
        model.recdsl_chunk = 2
        assert_close_gradients(lambda _, made=model: made, case, expected=reference(case))
    assert count >= 3


TWO_PASSES = """recdsl: 1
name: passes
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {A: "float[n, n] ~ normal(0, 1)", B: "float[n, n] ~ normal(0, 1)", D: "float[n, n] ~ normal(0, 1)"}
step: |
  h = h[t-1] + A @ x + B @ x
  out = D @ h[t-2]
loss: mse(out, y)
credit: {A: bptt, B: "sab(truncate=2, replay=always)", default: none}
"""


def test_what_a_pass_leaves_outlasts_the_passes_behind_it() -> None:
    """What crosses to the piece before is a row of a sequence whose room is given back in the middle of the entry."""
    stages = analyse(TWO_PASSES)
    model = execute(stages.source).Model(0, torch.float64)
    for seed in (0, 1):
        case = call_of(stages, seed)
        whole = called(model, case, WHOLE)
        for chunk in (1, 2, 3):
            assert apart(whole, called(model, case, chunk)) < 1e-12
        model.recdsl_chunk = 2
        assert_close_gradients(lambda _: model, case, expected=reference(case))


FAULTS = {
    "the state of the piece before": (
        "Boundary(lo, hi, given, places)",
        "Boundary(lo, hi, call.boundaries[-1].given if lo else given, places)",
    ),
    "a piece one step early": (
        "timed, boundary.lo, boundary.hi)",
        "timed, max(boundary.lo - 1, 0), boundary.hi - (boundary.lo > 0))",
    ),
    "places of the piece before": (
        "boundary.places.items()",
        "(call.boundaries[number - 1] if 0 < number < 2 else boundary).places.items()",
    ),
    "items get their credit twice": ("spread(order, items), items)", "spread(order, items), 2 * items)"),
    "items get no credit from later pieces": ("spread(order, items), items)", "spread(order, items), 0 * items)"),
    "credit goes to the steps that wrote nothing": (
        "scatter_(0, spread(order, items), items)",
        "scatter_(0, spread(order * 0, items), items)",
    ),
    "pieces after the first begin anew": (
        'given["fresh"] = call.like.new_full((), 0.0)\n        for',
        'given["fresh"] = call.like.new_full((), 1.0)\n        for',
    ),
    "steps without an item move to the front": ("(~there).to(torch.uint8)", "there.to(torch.uint8)"),
    "rows of later pieces are lost": ("self.tapes[name][self.front : self.front + size] = rows", "pass"),
    "nothing crosses": ("behind = {given: made[left].clone() for", "behind = {given: 0 * made[left] for"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault: str) -> None:
    old, new = FAULTS[fault]
    assert any(wrong(name, rule, old, new) for name, rule in (("stores", RULES[0]), ("stores", RULES[1])))


def wrong(name: str, rule: str, old: str, new: str) -> bool:
    """Whether a change of the source shows, in one of two passes back over each call."""
    source = made(name, rule)[0].source
    assert source.count(old) == 1
    model = execute(source.replace(old, new)).Model(0, torch.float64)
    for seed in (0, 1):
        case = call_of(made(name, rule)[0], seed)
        expected = called(made(name, rule)[1], case, 3)
        try:
            if not apart(expected, called(model, case, 3)) < 1e-9 or not repeats(model, case):
                return True
        except (IndexError, RuntimeError, KeyError):
            return True
    return False


def repeats(model: Any, case: Case) -> bool:
    """Whether a second pass back over a call gives what the first one gave."""
    loss = model(case.batch, mask=case.mask, reset=case.reset, state=case.state).loss
    found = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, allow_unused=True) for _ in "12"]
    return all(a is b or torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_call_can_be_gone_back_over_again(seed: int) -> None:
    stages, model = made("stores", RULES[1])
    case = call_of(stages, seed)
    model.load_state_dict(case.params, strict=False)
    model.recdsl_chunk = 2
    assert repeats(model, case)


def held(source: str, steps: int, chunk: int) -> int:
    """Bytes beside inputs, outputs and parameters, where the way back holds most of them: in the middle of it."""
    module = execute(source)
    model = module.Model(0, torch.float64)
    model.recdsl_chunk, most = chunk, [0]
    given, back = module.Shelf.close, module.Call.backward

    def now(call: Any) -> int:
        rooms = [room for frame in model.recdsl_arena.idle for room in (*frame.free, *frame.held.values())]
        kept = [
            tensor for shelf in call.shelves for tensor in (*shelf.tapes.values(), *shelf.backs.values(), *shelf.orders)
        ]
        kept += [tensor for shelf in call.shelves for tensor in shelf.held.values()]
        for boundary in call.boundaries:
            kept += [*boundary.places.values(), *(v for v in boundary.given.values() if isinstance(v, torch.Tensor))]
        return sum(tensor.nbytes for tensor in (*rooms, *kept))

    def backward(call: Any, *cotangents: Any) -> Any:
        module.Shelf.close = lambda shelf, size: (most.append(now(call)), given(shelf, size))[1]
        return back(call, *cotangents)

    module.Call.backward = backward
    try:
        x, y = (torch.randn(steps, 1, size, dtype=torch.float64) for size in (3, 4))
        model({"x": x, "y": y}).loss.backward()
        most.append(sum(r.nbytes for frame in model.recdsl_arena.idle for r in (*frame.free, *frame.held.values())))
    finally:
        module.Shelf.close, module.Call.backward = given, back
    return max(most)


def test_a_call_keeps_items_places_and_boundaries() -> None:
    """Counted bytes of calls of 256 and 1,024 steps: what a step adds is its part of an item, one in two steps (value,
    key, their gradients, stamp, and the step that wrote it), three places, and its part of a boundary."""
    rule = "sab(truncate=4, replay=always)"
    source = made("one", rule)[0].source
    short, long = (held(source, steps, 16) for steps in (256, 1024))
    a_step = (2 * (4 + 3) + 1 + 1) * 8 / 2 + 3 * 4 + (4 + 4 + 1 + 1) * 8 / 16
    assert (long - short) / 768 < 1.1 * a_step
    short, long = (held(made("one", rule.replace("always", "never"))[0].source, steps, 16) for steps in (256, 1024))
    assert (long - short) / 768 > 8 * a_step
