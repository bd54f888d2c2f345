"""Credit through whole graphs of earlier calls, and credit that is predicted when an item is written."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl
from tests.memory import hansen_support as hansen
from tests.memory.lasting_support import Kind, Literal, close, draw, flags, module, spec

UNUSED: Any = {"allow_unused": True, "materialize_grads": True}


# -- through -----------------------------------------------------------------------------------------------------------
def recurrent(kind: Kind, *, ragged: bool, calls: int = 4) -> Any:
    """A model whose items depend on what it has read, so that credit goes from call to call as long as items do. The
    graph of the definition is kept over all calls; parameters change in between. Raises AssertionError."""
    model = module(spec(kind))
    shift = {name: torch.zeros_like(p, requires_grad=True) for name, p in model.named_parameters()}
    literal = Literal(kind, {})
    for number in range(calls):
        literal.p = {name: p.detach().clone() + shift[name] for name, p in model.named_parameters()}
        batch, (mask, reset) = draw(3, 2, number), flags(3, 2, number, ragged=ragged)
        found = model(batch, mask=mask, reset=reset) if ragged else model(batch)
        loss, _, _ = literal.call(batch, mask, reset)
        assert close(found.loss, loss)
        model.zero_grad()
        found.loss.backward()
        wanted = torch.autograd.grad(loss, list(shift.values()), retain_graph=True, **UNUSED)
        for (name, p), gradient in zip(model.named_parameters(), wanted, strict=True):
            assert p.grad is not None, name
            assert close(p.grad, gradient), f"{name}, call {number}"
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.95)
    return model


THROUGH = [
    Kind(credit="through"),
    Kind(slots=8, select="topk(2)", when=True, credit="through"),
    Kind(slots=3, evict="least_used(0.5)", credit="through"),
]


@pytest.mark.parametrize("kind", THROUGH, ids=lambda kind: f"{kind.evict}-{kind.slots}")
@pytest.mark.parametrize("ragged", [False, True])
def test_through_is_the_graph_over_all_calls(kind: Kind, ragged: bool) -> None:
    recurrent(kind, ragged=ragged)


def test_calls_are_forgotten_with_their_items() -> None:
    model = recurrent(Kind(slots=5, credit="through"), ragged=False, calls=6)
    assert len(model.recdsl_keepers["past"].records.calls) == 1  # each call writes six items
    other = deepcopy(model)
    assert not other.recdsl_keepers["past"].records.calls
    model.load_state_dict(other.state_dict())
    assert not model.recdsl_keepers["past"].records.calls


def yesterday(space: dict[str, Any], old: Any) -> Any:
    """The parameters of today in the graphs of yesterday."""
    return lambda self, value: value


def one_call_only(space: dict[str, Any], old: Any) -> Any:
    """Credit goes to the calls that wrote what is read, and no further."""
    return lambda one, two: one if len(one[0]) else old(one, two)


def other_place(space: dict[str, Any], old: Any) -> Any:
    return lambda self, made, serials, places, waiting: old(self, made, serials, places.flip(0), waiting)


@pytest.mark.parametrize(
    ("fault", "owner", "name"),
    [(yesterday, "Records", "copied"), (one_call_only, "", "merged"), (other_place, "Whole", "outputs")],
)
def test_faults_of_through_are_seen(fault: Any, owner: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = type(module(spec(THROUGH[1]))).forward.__globals__
    home = space[owner] if owner else space
    old = getattr(home, name) if owner else home[name]
    if owner:
        monkeypatch.setattr(home, name, fault(space, old))
    else:
        monkeypatch.setitem(space, name, fault(space, old))
    with pytest.raises((AssertionError, RuntimeError)):
        recurrent(THROUGH[1], ragged=False)


# -- synthetic ---------------------------------------------------------------------------------------------------------
CREDIT, NET = "synthetic(hidden=6, condition=y)", hansen.NET


def predicted(calls: int = 6) -> Any:
    model, literal = hansen.module(hansen.spec(CREDIT)), hansen.Lesson()
    generator = torch.Generator().manual_seed(3)
    for number in range(calls):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        batch = hansen.draw(3, number, steps=1 + number % 2)
        wanted = literal.call({name: p.detach().clone() for name, p in model.named_parameters()}, batch)
        found = hansen.gradients(model, model(batch).loss)
        assert hansen.apart(found, wanted) < 1e-10, f"call {number}"
    return model


def test_predicted_gradients_are_their_definition() -> None:
    predicted()


def test_a_net_that_knows_nothing_says_nothing() -> None:
    """A.7, 11: the last layer starts at zero."""
    model = hansen.module(hansen.spec(CREDIT))
    for number in range(2):
        found = hansen.gradients(model, model(hansen.draw(3, number)).loss)
        assert all(bool((found[name] == 0).all()) for name in hansen.ENCODER)


def test_the_net_learns_alone() -> None:
    """A.7, 3 and 5: its loss never reaches the encoder, the classifier's never the net: exactly 0."""
    model = hansen.module(hansen.spec(CREDIT))
    for number in range(4):
        hansen.gradients(model, model(hansen.draw(3, number)).loss)
    batch = hansen.draw(3, 9)
    found = hansen.gradients(model, model(batch).loss)
    assert any(bool((value != 0).any()) for name, value in found.items() if name.startswith(NET))
    assert all(bool((found[name] == 0).all()) for name in hansen.ENCODER)  # W2 is still zero
    guess = model(batch).outputs["guess"]
    found = hansen.gradients(model, -guess.gather(2, batch["y"].unsqueeze(2)).log().mean())
    assert all(bool((value == 0).all()) for name, value in found.items() if name.startswith(NET))


def test_its_answers_do_not_depend_on_how_the_loss_is_scaled() -> None:
    one, two = (hansen.module(hansen.spec(CREDIT)) for _ in range(2))
    for number in range(4):
        a = hansen.gradients(one, one(hansen.draw(3, number)).loss)
        b = hansen.gradients(two, 8 * two(hansen.draw(3, number)).loss)
        assert all(close(8 * a[name], b[name]) for name in a)
    assert close(one.episodic.gathered.key, two.episodic.gathered.key)


def test_the_best_linear_net_is_the_mean_of_what_comes() -> None:
    """A.7, 10: on a system that stands still, a linear net at its least-squares optimum says what an item gets in all,
    on average over what is linear in the item: its errors stand upright on items, so what it sends to the encoder's
    last layer, seen through that layer, adds up to what `through` sends. The same calls come round and round."""
    model, whole = (hansen.module(hansen.spec(credit, slots=6)) for credit in ("synthetic(condition=y)", "through"))
    whole.load_state_dict({name: value for name, value in model.state_dict().items() if name in whole.state_dict()})
    rows, lessons = list[Tensor](), list[Tensor]()
    kind = type(model.recdsl_keepers["episodic"])
    learn = kind.learn

    def listen(self: Any, call: Any, unit: Tensor, items: Any, told: Any, gone: Tensor, found: Any) -> None:
        condition, one = call.seen["episodic"]["condition"][gone], torch.ones(len(items["key"]), 1)
        rows.append(torch.cat((items["key"], condition, one), 1))
        lessons.append(told["key"])
        learn(self, call, unit, items, told, gone, found)

    totals: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "learn", listen)
        for one in (model, whole, model, whole):
            found = [hansen.gradients(one, one(hansen.draw(3, k)).loss)["A"] for k in range(30)]
            totals.append(torch.stack(found).sum(0))
    best = torch.linalg.lstsq(torch.cat(rows[-30:]), torch.cat(lessons[-30:]), driver="gelsd").solution
    with torch.no_grad():
        model.get_parameter(f"{NET}.W").copy_(best[:-1].T)
        model.get_parameter(f"{NET}.b").copy_(best[-1])
    said = torch.stack([hansen.gradients(model, model(hansen.draw(3, k)).loss)["A"] for k in range(30)]).sum(0)
    last = model.get_parameter("A").detach()
    assert close(said @ last.T, totals[-1] @ last.T)
    assert float(totals[-1].norm()) > 0.1


def count_once(space: dict[str, Any], old: Any) -> Any:
    """Only the last read of an item counts."""

    def back(self: Any, call: Any, unit: Tensor, found: Any) -> None:
        seen = call.seen[self.name]
        call.seen[self.name] = seen | {"gathered.key": torch.zeros_like(seen["gathered.key"])}
        old(self, call, unit, found)

    return back


def every_item(space: dict[str, Any], old: Any) -> Any:
    """The net learns from its neighbours' lessons."""
    return lambda self, call, unit, items, lessons, gone, found: old(
        self, call, unit, {k: v.roll(1, 0) for k, v in items.items()}, lessons, gone, found
    )


@pytest.mark.parametrize(("fault", "name"), [(count_once, "back"), (every_item, "learn")])
def test_faults_of_the_net_are_seen(fault: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = type(hansen.module(hansen.spec(CREDIT)).recdsl_keepers["episodic"])
    monkeypatch.setattr(home, name, fault({}, getattr(home, name)))
    with pytest.raises(AssertionError):
        predicted()


# -- parameters of their own -------------------------------------------------------------------------------------------
def test_rows_move_against_their_gradient_where_they_hold_what_was_read() -> None:
    """Under `param` each backward pass moves rows by -lr times their gradient; those written over since stay."""
    model = hansen.module(hansen.spec("param(lr=0.5)"))
    literal = hansen.Literal("approximate")
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(hansen.draw(5, 0))
    literal.call(params, hansen.draw(5, 0))
    keys = [item.code.clone().requires_grad_() for item in literal.items]
    batch = hansen.draw(4, 1)
    codes = [hansen.encode(params, one) for one in batch["x"][0]]
    losses = [
        -torch.log(literal.read(c, keys)[k].clamp_min(1e-6)) for c, k in zip(codes, batch["y"][0].tolist(), strict=True)
    ]
    given = torch.autograd.grad(torch.stack(losses).mean(), keys)
    model(batch).loss.backward()  # seven slots: the first two of the old items have been written over
    place = {int(serial): k for k, serial in enumerate(model.episodic.serial)}
    for number in (3, 4, 5):
        wanted = literal.items[number - 1].code - 0.5 * given[number - 1]
        assert close(model.episodic.key[place[number]], wanted)
    for number in range(4):
        assert close(model.episodic.key[place[6 + number]], codes[number])


def test_explain_says_what_each_kind_keeps() -> None:
    for credit, verdict, word in (
        ("through", "exact", "drift"),
        (CREDIT, "biased", "predicted"),
        ("param", "biased", ""),
    ):
        row = recdsl.explain(hansen.spec(credit)).rows[0]
        assert (row.parameter, row.verdict) == ("U", verdict)
        assert not word or word in row.qualifiers
    for text in (spec(Kind(credit="through")), hansen.spec("through\n  default: tbptt(2)")):
        assert recdsl.explain(text).rows[0].verdict == "biased"
