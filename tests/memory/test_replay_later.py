"""Gradients of stored items that wait, correct a prediction, or are put on the tangent; and rows made anew."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl
from recdsl.diagnostics import SpecError
from tests.memory import hansen_support as hansen
from tests.memory.hansen_support import DECODER, ENCODER, NET, Batch, Lesson, Waiting, apart, draw, gradients

WAITING = {
    "three": ("reinstate(approximate, encode=e, decode=rebuilt, every=3)", Waiting("approximate", every=3)),
    "exact": ("reinstate(exact, encode=e, decode=rebuilt, every=2)", Waiting("exact", every=2)),
    "stored": (
        "reinstate(approximate, encode=e, decode=stored, every=4, chunk=2)",
        Waiting("approximate", every=4, stored=True),
    ),
    "tangent": (
        "reinstate(approximate, encode=e, decode=rebuilt, project=tangent)",
        Waiting("approximate", every=1, tangent=True),
    ),
}
BOTH = "synthetic(hidden=6, condition=y, then=reinstate({}, encode=e, decode={}))"


# -- gradients that wait ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_its_definition(name: str) -> None:
    credit, literal = WAITING[name]
    hansen.follow(hansen.spec(credit), literal, calls=7)


def test_waiting_is_its_definition_on_native() -> None:
    literal = Waiting("approximate", every=3)
    hansen.follow(hansen.spec(WAITING["three"][0]), literal, calls=5, backend="native")


def total(credit: str, calls: int, **options: Any) -> Batch:
    """What all calls together give, while the parameters stay."""
    model = hansen.module(hansen.spec(credit, **options))
    found = [gradients(model, model(draw(3, k)).loss) for k in range(calls)]
    return {name: torch.stack([one[name] for one in found]).sum(0) for name in found[0]}


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_to_wait_changes_no_sum(kind: str) -> None:
    """Sums of cotangents are exact by linearity (semantics 4.12): behind a flush nothing is lost and nothing counted
    twice, although most items have left in between."""
    one, two = (total(f"reinstate({kind}, encode=e, decode=rebuilt, every={n})", 8) for n in (1, 4))
    assert apart(one, two) < 1e-13
    seven = total(f"reinstate({kind}, encode=e, decode=rebuilt, every=4)", 7)
    assert apart(seven, total(f"reinstate({kind}, encode=e, decode=rebuilt)", 7)) > 1e-3


def test_passes_that_come_late_lose_nothing() -> None:
    """Calls whose passes back come after other calls have written over their items."""
    found: list[Batch] = []
    for credit in ("reinstate(approximate, encode=e, decode=stored, every=3)", "reinstate(approximate, decode=stored)"):
        model = hansen.module(hansen.spec(credit))
        losses = [model(draw(3, k)).loss for k in range(6)]
        parts = [gradients(model, losses[k]) for k in (2, 1, 4, 3, 5, 0)]
        found.append({name: torch.stack([one[name] for one in parts]).sum(0) for name in parts[0]})
    assert apart(*found) < 1e-13


def never_flushed(space: dict[str, Any], old: Any) -> Any:
    return lambda self, call: None


def left_alone(space: dict[str, Any], old: Any) -> Any:
    """What an item is owed when it leaves is forgotten."""

    def back(self: Any, call: Any, unit: Tensor, found: Any) -> None:
        call.left_over.clear()
        old(self, call, unit, found)

    return back


def to_the_next(space: dict[str, Any], old: Any) -> Any:
    """An item inherits what the one before it in its slot was owed."""

    def remember(self: Any, call: Any, slots: Tensor, place: Tensor) -> None:
        queued = call.model.recdsl_tensor("episodic.queued").clone()
        old(self, call, slots, place)
        self.put(call, "queued", queued)

    return remember


@pytest.mark.parametrize(
    ("fault", "name"),
    [(never_flushed, "flush"), (left_alone, "back"), (to_the_next, "remember")],
    ids=("flush", "back", "remember"),
)
def test_faults_of_waiting_are_seen(fault: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: Any) -> None:
        owner = type(model).forward.__globals__["Replayed"]
        monkeypatch.setattr(owner, name, fault({}, getattr(owner, name)))

    credit = WAITING["three"][0]
    with pytest.raises(AssertionError):
        hansen.follow(hansen.spec(credit), Waiting("approximate", every=3), calls=7, made=plant)


# -- a prediction, set right later -------------------------------------------------------------------------------------
class Corrected(Lesson):
    """What an item has been told at its write is subtracted from what its encoder gets when it leaves."""

    def __init__(self, kind: str, *, stored: bool) -> None:
        super().__init__()
        self.store = Waiting(kind, every=0, stored=stored)

    def call(self, params: Batch, batch: Batch) -> Batch:
        store: Any = self.store
        before = list(store.items)
        _, late = store.call(params, batch)
        kept, store.items = store.items, before
        found = super().call(params, batch)
        store.items, written = kept, kept[-batch["y"].numel() :]
        p = {name: value.detach().clone() for name, value in params.items()}
        for item in written:
            store.owed[id(item)] = -self.says(p, item.code, item.y) / batch["y"].numel()
        return {name: value + late[name] if name in ENCODER else value for name, value in found.items()}


def corrected(credit: str, literal: Corrected, *, backend: str = "torch", calls: int = 6, plant: Any = None) -> Any:
    """Raises AssertionError where a module differs from the definition."""
    model = hansen.module(hansen.spec(credit), backend)
    if plant is not None:
        plant(model)
    generator = torch.Generator().manual_seed(3)
    for number in range(calls):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        batch = draw(3, number, steps=1 + number % 2)
        wanted = literal.call({name: p.detach().clone() for name, p in model.named_parameters()}, batch)
        assert apart(gradients(model, model(batch).loss), wanted) < 1e-10, f"call {number}"
    return model


@pytest.mark.parametrize(("kind", "decode"), [("approximate", "rebuilt"), ("exact", "rebuilt"), ("exact", "stored")])
def test_a_corrected_prediction_is_its_definition(kind: str, decode: str) -> None:
    corrected(BOTH.format(kind, decode), Corrected(kind, stored=decode == "stored"))


def test_a_corrected_prediction_is_its_definition_on_native() -> None:
    literal = Corrected("approximate", stored=False)
    corrected(BOTH.format("approximate", "rebuilt"), literal, backend="native", calls=4)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_whatever_the_net_says_the_sum_is_right(scale: float) -> None:
    """With the observation, and parameters that stay, an item that has come and gone has got the gradient that
    `through` gives it, whatever the net."""
    found: list[Tensor] = []
    for credit in (BOTH.format("approximate", "stored"), "through"):
        model = hansen.module(hansen.spec(credit))
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.startswith(NET):
                    p.copy_(scale * torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape))
        parts = [gradients(model, model(draw(7, k)).loss)["A"] for k in range(4)]
        found.append(torch.stack(parts).sum(0))
    owed = found[0] - found[1]
    model = hansen.module(hansen.spec(BOTH.format("approximate", "stored")))
    told = told_to_the_last(model, scale)
    assert float((owed - told).abs().max()) < 1e-13
    assert (float(told.abs().max()) > 1e-3) == bool(scale)


def told_to_the_last(model: Any, scale: float) -> Tensor:
    """What the items of the last call have been told, which has not been set right yet."""
    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    with torch.no_grad():
        for name, value in p.items():
            if name.startswith(NET):
                value.copy_(scale * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape))
    batch, lesson = draw(7, 3), Lesson()
    codes = [hansen.encode(p, one) for one in batch["x"][0]]
    said = [lesson.says(p, c.detach(), k).detach() / 7 for c, k in zip(codes, batch["y"][0].tolist(), strict=True)]
    parts = torch.stack([(s * c).sum() for s, c in zip(said, codes, strict=True)]).sum()
    (found,) = torch.autograd.grad(parts, [p["A"]])
    return found


def not_owed(old: Any) -> Any:
    """What was told at the write is not subtracted later: it counts twice."""
    return lambda self, call, part, rows: rows


def test_a_prediction_that_counts_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: Any) -> None:
        monkeypatch.setattr(type(model).forward.__globals__["Corrected"], "sent", not_owed(None))

    with pytest.raises(AssertionError):
        corrected(BOTH.format("approximate", "rebuilt"), Corrected("approximate", stored=False), plant=plant)


# -- lengths, and rows made anew ---------------------------------------------------------------------------------------
def moved(credit: str) -> tuple[Tensor, Tensor, Any]:
    """(items made anew, the gradient that each would take on its own, the model), one pass behind a write."""
    model = hansen.module(hansen.spec(credit))
    model(draw(5, 0))
    found: list[tuple[Tensor, Tensor]] = []
    space = type(model).forward.__globals__
    old = space["Part"].back

    def back(self: Any, cotangent: Tensor) -> Any:
        found.append((self.value, cotangent))
        return old(self, cotangent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space["Part"], "back", back)
        model(draw(4, 1)).loss.backward()
    ((items, cotangent),) = found
    return items, cotangent, model


def test_what_lies_along_items_is_measured_and_can_be_left_out() -> None:
    """nnem-columnar A.6, 2: with a decoder that errs, gradients of stored items do not stand upright on new ones."""
    items, free, model = moved("reinstate(approximate, encode=e, decode=rebuilt)")
    along = (items * free).sum(1) / items.norm(dim=1)
    share = float((along**2).sum() / (free**2).sum())
    assert share > 1e-3
    assert abs(float(model.episodic.radial) - share) < 1e-13
    items, upright, model = moved("reinstate(approximate, encode=e, decode=rebuilt, project=tangent)")
    assert float((items * upright).sum(1).abs().max()) < 1e-15
    assert abs(float(model.episodic.radial) - share) < 1e-13  # of what there was before it was left out
    _, _, model = moved("reinstate(approximate, encode=e, decode=stored)")
    assert float(model.episodic.radial) < 1e-30  # with the observation, and the same parameters, they do


def test_a_warning_says_that_keys_have_become_long() -> None:
    model = hansen.module(hansen.spec("reinstate(approximate, encode=e, decode=rebuilt)"))
    model(draw(3, 0))
    first = float(model.episodic.key[:3].norm(dim=1).mean())
    with torch.no_grad():
        model.A.mul_(5.0)
    with pytest.warns(RuntimeWarning, match="'episodic' are .* times as long as at first.*`project=tangent`"):
        model(draw(3, 1)).loss.backward()
    assert abs(float(model.episodic.length[0]) - first) < 1e-13
    assert abs(float(model.episodic.length[1]) - float(model.episodic.key[3:6].norm(dim=1).mean())) < 1e-13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(draw(3, 2))  # said once


def test_nothing_is_measured_where_cosine_does_not_compare() -> None:
    for text in (
        hansen.spec("reinstate(exact, encode=e, decode=rebuilt)"),
        hansen.spec("reinstate(approximate, encode=e, decode=rebuilt)").replace("cosine(sharpness=2)", "dot"),
    ):
        assert not hasattr(hansen.module(text).episodic, "radial")


def test_rows_are_made_anew_every_so_many_calls() -> None:
    """A.7, 13: m <- E(D(m)); with the observation and parameters that stay, nothing changes."""
    stay = hansen.module(hansen.spec("reinstate(approximate, encode=e, decode=stored, freshen=1)"))
    stay(draw(4, 0))
    before = stay.episodic.key.clone()
    stay(draw(2, 1))
    assert float((stay.episodic.key[:4] - before[:4]).abs().max()) == 0.0
    model = hansen.module(hansen.spec("reinstate(approximate, encode=e, decode=rebuilt, freshen=2)"))
    model(draw(4, 0))
    p = {name: value.detach() for name, value in model.named_parameters()}
    codes = [hansen.encode(p, one) for one in draw(4, 0)["x"][0]]
    assert torch.allclose(model.episodic.key[:4], torch.stack(codes), atol=1e-14)
    with torch.no_grad():
        model.U.mul_(1.1)
    model(draw(2, 1))
    codes += [hansen.encode(p, one) for one in draw(2, 1)["x"][0]]
    fresh = torch.stack([hansen.encode(p, hansen.decode(p, code)) for code in codes])
    assert torch.allclose(model.episodic.key[:6], fresh, atol=1e-14)


def test_a_pass_back_does_not_see_rows_made_anew() -> None:
    """The call that makes rows anew has read those before."""
    found: list[Batch] = []
    for more in ("", ", freshen=2"):
        model = hansen.module(hansen.spec(f"reinstate(approximate, encode=e, decode=rebuilt{more})"))
        model(draw(4, 0))
        found.append(gradients(model, model(draw(3, 1)).loss))
    assert apart(*found) == 0.0


# -- one encoder for several stores ------------------------------------------------------------------------------------
TWO = hansen.spec("CREDIT").replace(
    "step: |",
    """  long:
    slots: 11
    write: {key: e, value: onehot(y), every: 1}
    read: {query: stop(e), score: cosine(sharpness=3), normalise: softmax}
step: |""",
).replace("episodic.read", "(episodic.read + long.read) / 2")  # fmt: skip


def two(first: str, second: str, runs: list[int]) -> Batch:
    """Gradients of a call; how many items each run of an encoder with credit has had."""
    text = TWO.replace("episodic: CREDIT", f"episodic: {first}\n  long: {second}").replace(
        "episodic]", "episodic, long]"
    )
    model = hansen.module(text)
    model(draw(5, 0))
    part = type(model).forward.__globals__["Part"]
    old = part.back

    def back(self: Any, cotangent: Tensor) -> Any:
        runs.append(len(cotangent))
        return old(self, cotangent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(part, "back", back)
        return gradients(model, model(draw(4, 1)).loss)


def test_requests_to_one_encoder_run_together() -> None:
    one, other = (f"reinstate(approximate, encode=e, decode={decode}, chunk=64)" for decode in ("rebuilt", "stored"))
    runs: list[int] = []
    both = two(one, other, runs)
    assert runs == [10]
    few = two(one.replace("64", "4"), other, runs)
    assert runs == [10, 4, 4, 2]
    assert apart(both, few) < 1e-14
    parts = [two(one, "stop", runs), two("stop", other, runs), two("stop", "stop", runs)]
    assert all(
        float((both[n] - parts[0][n] - parts[1][n] + parts[2][n]).abs().max()) < 1e-14 for n in (*ENCODER, *DECODER)
    )


# -- what is said ------------------------------------------------------------------------------------------------------
def test_explain_says_what_waits() -> None:
    def row(credit: str) -> Any:
        return recdsl.explain(hansen.spec(credit)).rows[0]

    assert row("reinstate(exact, encode=e, decode=rebuilt)").verdict == "exact"
    late = row("reinstate(exact, encode=e, decode=rebuilt, every=2)")
    assert (late.verdict, "late" in late.qualifiers) == ("biased", True)
    both = row(BOTH.format("exact", "rebuilt"))
    assert both.verdict == "biased"
    assert {"predicted", "re-encoded", "late"} <= set(both.qualifiers)


@pytest.mark.parametrize(
    ("credit", "said"),
    [
        ("reinstate(exact, encode=e, decode=rebuilt, project=tangent)", "nothing of a gradient lies along"),
        ("reinstate(approximate, encode=e, decode=rebuilt, project=sphere)", "`none` or `tangent`"),
        ("reinstate(approximate, encode=e, decode=rebuilt, every=0)", "`every` is a number from 1 on"),
        ("synthetic(then=through)", "is `reinstate`"),
        ("synthetic(then=reinstate(exact, encode=e, decode=rebuilt, every=3))", "set right when an item leaves"),
        ("synthetic(then=reinstate(often, encode=e, decode=rebuilt))", "`exact` or `approximate`"),
    ],
)
def test_words_that_do_not_fit(credit: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        recdsl.explain(hansen.spec(credit))
    (problem,) = caught.value.problems
    assert problem.code == "RD0531"
    assert said in problem.text()
