"""Stores that last as long as the model: what is read, written and thrown away, against lists of rows."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

import recdsl
from recdsl.backends.torch import lasting
from tests.memory.lasting_support import Kind, Literal, close, draw, flags, holds, module, spec

KINDS = [
    Kind(),
    Kind(slots=2, select="topk(1)"),
    Kind(slots=7, select="topk(3)", when=True),
    Kind(evict="least_used(0.5)", null=True),
    Kind(slots=3, evict="lowest(worth)", select="topk(2)"),
    Kind(slots=40),
]


def follow(
    kind: Kind, *, ragged: bool, backend: str = "torch", steps: int = 3, samples: int = 2, calls: int = 4
) -> Any:
    """Run some calls of a module and of its definition side by side; raises AssertionError where they differ."""
    model = module(spec(kind), backend)
    params = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    literal = Literal(kind, params)
    for number in range(calls):
        batch = draw(steps, samples, number)
        mask, reset = flags(steps, samples, number, ragged=ragged)
        found = model(batch, mask=mask, reset=reset) if ragged else model(batch)
        loss, h, read = literal.call(batch, mask, reset)
        assert close(found.loss, loss)
        assert close(found.outputs["h"], h)
        assert close(found.outputs["r"][mask], read[mask])
        assert holds(model, literal.rows)
        model.zero_grad()
        found.loss.backward()
        wanted = torch.autograd.grad(loss, list(params.values()), retain_graph=True, allow_unused=True)
        for (name, p), gradient in zip(model.named_parameters(), wanted, strict=True):
            assert p.grad is not None, name
            assert close(p.grad, torch.zeros_like(p) if gradient is None else gradient), name
        with torch.no_grad():  # what is stored does not follow the parameters
            for name, p in model.named_parameters():
                p.mul_(0.97)
                params[name] = p.detach().clone().requires_grad_()
        literal.p = params
    return model


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.evict}-{kind.select}-{kind.slots}")
@pytest.mark.parametrize("ragged", [False, True])
def test_a_store_is_its_definition(kind: Kind, ragged: bool) -> None:
    follow(kind, ragged=ragged)


def test_a_store_is_its_definition_on_native() -> None:
    follow(KINDS[2], ragged=False, backend="native")


def test_a_call_may_write_more_than_the_slots() -> None:
    """After N + k writes the store holds the last N in order (nnem-columnar A.7, 12)."""
    model = follow(Kind(slots=4), ragged=False, steps=5, samples=3, calls=2)
    assert sorted(model.past.serial.tolist()) == [27, 28, 29, 30]


def test_evaluation_writes_nothing_unless_told() -> None:
    for told in (False, True):
        model = module(spec(Kind(evaluated=told))).eval()
        with nullcontext() if told else pytest.warns(RuntimeWarning, match="nothing has been written"):
            model(draw(2, 2, 0))
        assert int(model.past.count) == (4 if told else 0)


def test_what_is_stored_is_in_the_state_dict() -> None:
    first, batch = module(spec(KINDS[3])), draw(2, 2, 0)
    first(batch)
    second = module(spec(KINDS[3]), seed=1)
    second.load_state_dict(first.state_dict())
    for number in (1, 2):
        batch = draw(2, 2, number)
        assert torch.equal(first(batch).loss, second(batch).loss)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_a_backward_pass_finds_what_its_call_has_read() -> None:
    kind = Kind(slots=4)
    one, two = module(spec(kind)), module(spec(kind))
    for model in (one, two):
        model(draw(3, 2, 0))
    late, again = one(draw(3, 2, 1)).loss, two(draw(3, 2, 1)).loss
    one(draw(3, 2, 2))  # writes over everything that the call before has read
    late.backward()
    again.backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), two.parameters(), strict=True))  # type: ignore[arg-type]


def test_one_sample_at_a_time_is_a_store_of_a_stream() -> None:
    """One sample and one step a call: a store for all samples is that of the one, kept in its state."""
    for kind in (KINDS[1], KINDS[3], KINDS[4]):
        text = spec(replace(kind, credit="through"))
        common = module(spec(kind))
        own = recdsl.compile(text.replace("    slots:", "    life: stream\n    slots:"), dtype=torch.float64)
        own.load_state_dict({n: v for n, v in common.state_dict().items() if n in own.state_dict()})
        state = state_own = None
        for number in range(9):
            batch = draw(1, 1, number)
            found, wanted = common(batch, state=state), own(batch, state=state_own)
            state, state_own = found.state, wanted.state
            assert close(found.outputs["h"], wanted.outputs["h"])


def test_rows_that_are_not_finite_are_refused() -> None:
    model, batch = module(spec(Kind())), draw(1, 2, 0)
    model(batch)
    before = model.past.value.clone()
    batch["x"][0, 1, 1] = torch.inf
    with pytest.raises(ValueError, match="written to the memory 'past' is not finite"):
        model(batch)
    assert torch.equal(model.past.value, before)


def test_writing_needs_its_targets() -> None:
    text = spec(Kind()).replace('value: "h * x[inp=1]"', "value: y")
    model, batch = module(text), draw(2, 2, 0)
    del batch["y"]
    with pytest.raises(ValueError, match="lacks the target 'y', which a memory of the model stores"):
        model(batch)
    with pytest.warns(RuntimeWarning, match="nothing has been written"):
        assert model.eval()(batch).loss is None


def reversed_order(call: Any, info: Any) -> Any:
    found = OFFERED(call, info)
    return {part: value.flip(0) for part, value in found.items()}


def masked_too(call: Any, info: Any) -> Any:
    call.valid = torch.ones_like(call.valid)
    return OFFERED(call, info)


def newest_first(kept: Any, items: Any, info: Any, table: Any) -> Any:
    slots, order, fresh = OLDEST(kept, items, info, table)
    return (slots + 1) % info["slots"], order, fresh


OFFERED, OLDEST = lasting.offered, lasting.CHOOSERS["oldest"]


@pytest.mark.parametrize("fault", [reversed_order, masked_too, newest_first])
def test_faults_are_seen(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = spec(Kind())
    model = module(text)
    space = type(model).__mro__[0].forward.__globals__
    if fault is newest_first:
        monkeypatch.setitem(space["CHOOSERS"], "oldest", fault)
    else:
        monkeypatch.setitem(globals(), "OFFERED", space["offered"])
        monkeypatch.setitem(space, "offered", fault)
    with pytest.raises(AssertionError):
        follow(Kind(), ragged=True)
