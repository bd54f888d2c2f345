"""Credit through stored items by running their encoder again (nnem-columnar A.7), in float64."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl
from tests.memory.hansen_support import (
    DECODER,
    ENCODER,
    Literal,
    apart,
    draw,
    follow,
    gradients,
    module,
    spec,
)  # fmt: skip

KINDS: Mapping[str, Any] = {
    "stop": ("stop", {}),
    "through": ("through", {}),
    "exact": ("reinstate(exact, encode=e, decode=rebuilt)", {}),
    "exact-stored": ("reinstate(exact, encode=e, decode=stored)", {"stored": True}),
    "approximate": ("reinstate(approximate, encode=e, decode=rebuilt, chunk=3)", {}),
    "approximate-stored": ("reinstate(approximate, encode=e, decode=stored)", {"stored": True}),
}


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_the_definition(name: str) -> None:
    credit, options = KINDS[name]
    follow(spec(credit), Literal(name.partition("-")[0], **options))


@pytest.mark.parametrize("name", ["exact", "approximate"])
def test_gradients_of_the_best_two(name: str) -> None:
    credit, options = KINDS[name]
    follow(spec(credit, select="topk(2)"), Literal(name, topk=2, **options))


@pytest.mark.parametrize("name", ["through", "exact", "approximate-stored"])
def test_gradients_on_native(name: str) -> None:
    credit, options = KINDS[name]
    follow(spec(credit), Literal(name.partition("-")[0], **options), backend="native", calls=3)


def twice(credit: str, change: float, **options: Any) -> dict[str, Tensor]:
    """Gradients of a call that reads what one before it wrote, under parameters changed in between."""
    model = module(spec(credit, **options))
    model(draw(5, 0))
    with torch.no_grad():
        for name in ENCODER:
            p = model.get_parameter(name)
            p.mul_(1 + change * torch.linspace(-1, 1, p.numel(), dtype=p.dtype).reshape(p.shape))
    return gradients(model, model(draw(4, 1)).loss)


def test_with_the_observation_and_the_same_parameters_both_are_one() -> None:
    """A.7, 1."""
    exact, approximate = (twice(KINDS[f"{name}-stored"][0], 0.0) for name in ("exact", "approximate"))
    assert apart(exact, approximate) < 1e-15
    assert apart(exact, twice("through", 0.0)) < 1e-15
    assert max(float(exact[name].abs().max()) for name in ENCODER) > 1e-3


def test_with_other_parameters_they_differ() -> None:
    """A.7, 2: `exact` is the gradient of computing everything anew, `approximate` is near it."""
    exact, approximate = (twice(KINDS[f"{name}-stored"][0], 0.2) for name in ("exact", "approximate"))
    one, two = (torch.cat([found[name].flatten() for name in ENCODER]) for found in (exact, approximate))
    assert 1e-3 < float((one - two).norm() / one.norm()) < 0.5
    assert float(one @ two / (one.norm() * two.norm())) > 0.8


@pytest.mark.parametrize("name", KINDS)
def test_each_loss_trains_what_it_owns(name: str) -> None:
    """A.7, 3 and 4: unreachable means exactly 0."""
    model = module(spec(KINDS[name][0]))
    model(draw(5, 0))
    batch = draw(4, 1)
    guess = model(batch).outputs["guess"]
    picked = guess.gather(2, batch["y"].unsqueeze(2))
    found = gradients(model, -picked.log().mean())
    assert all(bool((found[n] == 0).all()) for n in DECODER)
    assert any(bool((found[n] != 0).any()) for n in ENCODER) == (name != "stop")
    found = gradients(model, (model(batch).outputs["rebuilt"] ** 2).mean())
    assert all(bool((found[n] == 0).all()) for n in ENCODER)
    assert all(bool((found[n] != 0).any()) for n in DECODER)


def test_a_stopped_query_is_a_constant() -> None:
    """A.7, 6."""
    credit = KINDS["approximate"][0]
    stopped, free = twice(credit, 0.0), twice(credit, 0.0, query="e")
    assert apart({n: stopped[n] for n in ENCODER}, {n: free[n] for n in ENCODER}) > 1e-2


def test_cosine_does_not_see_the_length_of_an_item() -> None:
    """A.7, 7: what a row is moved by stands upright on it."""
    model = module(spec("param(lr=1)"))
    model(draw(4, 0))
    before = model.episodic.key.clone()
    model.eval()(draw(4, 1)).loss.backward()
    moved = before - model.episodic.key
    assert float(moved.norm()) > 1e-2
    assert float((moved * before).sum(1).abs().max()) < 1e-15


def test_the_size_of_chunks_does_not_matter() -> None:
    """A.7, 9."""
    for kind in ("exact", "approximate"):
        one, two, three = (twice(f"reinstate({kind}, encode=e, decode=rebuilt, chunk={b})", 0.1) for b in (1, 3, 50))
        assert apart(one, two) < 1e-14
        assert apart(one, three) < 1e-14


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_what_is_kept_for_a_backward_pass_does_not_grow_with_slots(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A.7, 8: one chunk of the encoder's values at a time, whatever there is in the store."""
    found: list[int] = []
    for slots in (20, 200):
        model = module(spec(f"reinstate({kind}, encode=e, decode=rebuilt, chunk=10)", slots))
        space = type(model).forward.__globals__
        alive, old, parts = list[int](), space["Part"].__init__, weakref.WeakSet[Any]()

        def counted(self: Any, *args: Any, old: Any = old, parts: Any = parts, alive: list[int] = alive) -> None:
            old(self, *args)
            parts.add(self)
            alive.append(sum(v.numel() for p in parts for v in p.data.values() if len(v.shape) > 2))

        model(draw(slots, 0))
        monkeypatch.setattr(space["Part"], "__init__", counted)
        model(draw(4, 1)).loss.backward()
        monkeypatch.undo()
        found.append(max(alive))
    assert found[0] == found[1] > 0


def test_explain_says_what_holds() -> None:
    rows = {name: {row.parameter: row for row in recdsl.explain(spec(KINDS[name][0])).rows} for name in KINDS}
    assert {name: rows[name]["U"].verdict for name in KINDS} == {
        "stop": "biased", "through": "exact", "exact": "exact", "exact-stored": "exact", "approximate": "biased",
        "approximate-stored": "biased",
    }  # fmt: skip
    assert all(found["C"].verdict == "exact" for found in rows.values())
    assert "re-encoded" in rows["exact"]["U"].qualifiers
    assert rows["approximate"]["U"].dropped[0].edge == "episodic.write.key -> episodic.key"
    assert "no-credit" in rows["stop"]["U"].qualifiers


# -- planted faults ----------------------------------------------------------------------------------------------------
def neighbour(space: dict[str, Any], old: Any) -> Any:
    """The observation of another item."""
    return lambda self, call, source, chunk, values: old(self, call, source, chunk.roll(1), values)


def stored_again(space: dict[str, Any], old: Any) -> Any:
    """Rows are read as they were stored."""
    return space["Keeper"].before


def all_at_once(space: dict[str, Any], old: Any) -> Any:
    """The last chunk is forgotten."""

    return lambda asked, size: list(old(asked, size))[:-1]


def too_early(space: dict[str, Any], old: Any) -> Any:
    """Items are written before they are read: each one finds itself."""

    def before(self: Any, call: Any, values: Any) -> None:
        old(self, call, values)
        codes, n = values["A"] @ torch.tanh(values["U"] @ call.given["x"][0].T + values["b"][:, None]), call.size
        values["episodic.key"] = torch.cat((values["episodic.key"][n:], codes.T.detach()))

    return before


def scaled(space: dict[str, Any], old: Any) -> Any:
    """The gradient of an item counts as often as there are samples."""
    return lambda self, call, found, part: (*(made := old(self, call, found, part))[:1], 3 * made[1])


FAULTS = {
    neighbour: ("Replayed", "observations"),
    stored_again: ("Replayed", "before"),
    all_at_once: ("", "portions"),
    too_early: ("Replayed", "before"),
    scaled: ("Keeper", "credits"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_are_seen(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = FAULTS[fault]

    def plant(model: Any) -> None:
        space = type(model).forward.__globals__
        if owner:
            monkeypatch.setattr(space[owner], name, fault(space, getattr(space[owner], name)))
        else:
            monkeypatch.setitem(space, name, fault(space, space[name]))

    with pytest.raises(AssertionError):
        follow(spec(KINDS["exact"][0]), Literal("exact"), made=plant)
