"""Reads that look in some lists of an index: which slots, the index says; what becomes of them, the rows say.

The seam is tested with an inverted file of a few lines; faiss itself where it is installed (`pip install faiss-cpu`).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recdsl import SpecError
from recdsl.backends.torch.index import Index
from recdsl.backends.torch.searches import Lookups, lookup
from recdsl.graph.memory import searched
from tests.memory import hansen_support as hansen

NEEDS_FAISS = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed: pip install faiss-cpu")
SLOTS, ALL = 300, "faiss(lists=4, probes=4)"
LEAST = 200


class Lists:
    """An inverted file, as slowly as it can be written: the lists are those of the nearest of some vectors."""

    def __init__(self, vectors: Tensor, lists: int, *, inner: bool) -> None:
        self.inner, self.centres = inner, vectors[:: max(1, len(vectors) // lists)][:lists]
        self.vectors: dict[int, Tensor] = {}
        self.replace(torch.arange(len(vectors)), vectors)

    def near(self, one: Tensor, many: Tensor) -> Tensor:
        return many @ one if self.inner else -(many - one).square().sum(1)

    def replace(self, slots: Tensor, vectors: Tensor) -> None:
        self.vectors.update(zip(slots.tolist(), vectors.clone(), strict=True))

    def search(self, asked: Tensor, size: int, probes: int) -> Tensor:
        slots, vectors = list(self.vectors), torch.stack(list(self.vectors.values()))
        lists = torch.stack([self.near(vector, self.centres).argmax() for vector in vectors])
        found = list[list[int]]()
        for one in asked:
            looked = self.near(one, self.centres).topk(min(probes, len(self.centres))).indices
            there = torch.isin(lists, looked).nonzero().squeeze(1)
            best = there[self.near(one, vectors[there]).argsort(descending=True)][:size]
            found.append([slots[k] for k in best] + [-1] * (size - len(best)))
        return torch.tensor(found)

    @property
    def held(self) -> int:
        return len(self.vectors)


@pytest.fixture(params=["fake", pytest.param("faiss", marks=NEEDS_FAISS)])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the modules that `module` makes look for rows with."""
    if request.param == "fake":
        monkeypatch.setattr(searched, "find_spec", lambda name: name)
    Chosen.fake = request.param == "fake"
    yield request.param
    Chosen.fake = True


class Chosen:
    fake = True


def spec(index: str, credit: str = "stop", score: str = "cosine(sharpness=2)", select: str = "topk(3)") -> str:
    text = hansen.spec(credit, SLOTS, select).replace("cosine(sharpness=2)", score)
    return text.replace("normalise: softmax}", f'normalise: softmax, index: "{index}"}}')


def module(index: str, *given: str, disk: bool = False) -> Any:
    """A model that builds its index from 200 items on."""
    text = spec(index, *given)
    model = hansen.module(text.replace("    slots:", "    storage: disk\n    slots:") if disk else text)
    space = type(model).forward.__globals__
    space["LEAST"] = LEAST
    space.setdefault("OwnFaiss", space["Faiss"])
    space["Faiss"] = Lists if Chosen.fake else space["OwnFaiss"]
    return model


def index_of(model: Any) -> Any:
    return model.recdsl_keepers["episodic"].indexes["episodic.read"]


def known(model: Any) -> int:
    """How many slots its index knows."""
    made = index_of(model).made
    return int(made.held if Chosen.fake else made.file.ntotal)


# -- words -------------------------------------------------------------------------------------------------------------
def wrong(text: str) -> Any:
    with pytest.raises(SpecError) as caught:
        hansen.module(text)
    return caught.value.problems[0]


def test_without_faiss_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searched, "find_spec", lambda name: None)
    problem = wrong(spec("faiss(probes=4)"))
    assert problem.code == "RD0808"
    assert problem.span.text == "faiss(probes=4)"
    assert "recdsl[index]" in problem.command
    hansen.module(spec("exact"))


# -- the index ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("score", ["cosine(sharpness=2)", "dot", "inverse_distance(0.1)"])
@pytest.mark.parametrize(
    "credit",
    [
        "param(lr=0.5)",
        "reinstate(approximate, encode=e, decode=stored, freshen=4)",
        "reinstate(exact, encode=e, decode=rebuilt)",
    ],
)
def test_all_lists_are_all_rows(score: str, credit: str, library: str) -> None:
    """Through overwriting, rows that move and rows made anew: the index follows them."""
    one, two = module("exact", credit, score), module(ALL, credit, score)
    for number in range(9):
        first, second = (model(hansen.draw(50, number)).loss for model in (one, two))
        assert float((first - second).abs().detach()) < 1e-12
        assert hansen.apart(hansen.gradients(one, first), hansen.gradients(two, second)) < 1e-12
    assert index_of(two).ready
    assert index_of(two).recall == 1.0
    assert known(two) == SLOTS


def test_a_call_without_gradients_uses_it(library: str) -> None:
    """As one with gradients does, on the rows that each finds."""
    model = module("faiss(lists=6, probes=1)")
    for number in range(6):
        model(hansen.draw(50, number))
    asked: list[int] = []
    index = index_of(model)
    search = index.search
    index.search = lambda queries, size: asked.append(len(queries)) or search(queries, size)
    with torch.no_grad():
        model.eval()(hansen.draw(7, 50))
    model.train()(hansen.draw(9, 51)).loss.backward()
    assert asked == [7, 9]


def test_a_gradient_depends_on_the_rows_that_were_found_alone(library: str) -> None:
    """The same rows without an index: the same bits."""
    credit = "reinstate(approximate, encode=e, decode=rebuilt)"
    one, two = module("exact", credit), module("faiss(lists=60, probes=1)", credit)
    space, other = type(one).forward.__globals__, type(two).forward.__globals__
    found: list[Tensor] = []
    lookup = other["lookup"]
    other["lookup"] = lambda *given: found.append(lookup(*given)) or found[-1]
    space["lookup"] = lambda *given: found[-1]

    def alike() -> None:
        for number in range(8):
            losses = [model(hansen.draw(50, number)).loss for model in (two, one)]
            gradients = [hansen.gradients(model, loss) for model, loss in zip((two, one), losses, strict=True)]
            assert torch.equal(*losses)
            assert hansen.apart(*gradients) == 0.0

    with pytest.warns(RuntimeWarning, match="of the best slots, in 1 of 60 lists: write more `probes`"):
        alike()
    assert 0.0 < index_of(two).recall < 0.8
    other["lookup"] = lookup


def test_an_index_is_asked_by_the_calls_that_it_follows() -> None:
    """Others that find their rows at the same address (the memory is used again, or shared) score all of them."""
    torch.manual_seed(0)
    keys, asked = torch.randn(50, 3), torch.randn(4, 3)
    about = {"lists": 1, "probes": 1, "score": "dot", "size": 2}
    index, mine, other = Index("past.read", about), Lookups(), Lookups()
    index.made = SimpleNamespace(search=lambda asked, size, probes: torch.full((len(asked), size), 7))
    index.follow(keys, 50, mine)

    def found(call: Lookups) -> Tensor:
        return lookup("dot", keys, torch.tensor(50.0), None, (asked,), 2, "past.read", call)

    assert bool((found(mine) == 7).all())
    assert torch.equal(found(other), (asked @ keys.T).topk(2).indices)


def test_recall_is_what_it_found_of_the_best(library: str) -> None:
    """Of the neighbours of stored keys; the keys themselves do not count."""
    model = module("faiss(lists=6, probes=2)")
    for number in range(5):
        model(hansen.draw(50, number))
    index, keys = index_of(model), model.episodic.key
    index.build(keys, 250)
    unit = torch.nn.functional.normalize(keys[:250], dim=1)
    own = torch.linspace(0, 249, 64).long()
    scores = unit[own] @ unit.T
    wanted = [set(row.topk(4).indices.tolist()) - {k} for row, k in zip(scores, own.tolist(), strict=True)]
    got = [set(row.tolist()) for row in index.search(keys[own], 4)]
    share = sum(len(a & b) for a, b in zip(wanted, got, strict=True)) / (64 * 3)
    assert index.recall == pytest.approx(share)
    assert 0.2 < share < 1.0


def test_probes_that_are_not_written_give_enough_recall(library: str) -> None:
    model = module("faiss(lists=40)")
    for number in range(6):
        model(hansen.draw(50, number))
    index = index_of(model)
    assert index.probes in (4, 8, 10)
    assert index.recall >= 0.9 or index.probes == 10


def test_another_state_has_an_index_of_its_own(library: str) -> None:
    model = module(ALL)
    for number in range(6):
        model(hansen.draw(50, number))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = model.eval()(hansen.draw(9, 40)).loss
    model.train()
    for number in range(6):
        model(hansen.draw(50, 10 + number))
    copied = deepcopy(model)
    model.load_state_dict(state)
    assert not index_of(model).ready
    assert not index_of(copied).ready
    assert torch.equal(model.eval()(hansen.draw(9, 40)).loss, wanted)
    assert index_of(model).ready


def test_rows_on_disk_are_indexed_anew_where_they_are_opened(library: str, tmp_path: Path) -> None:
    """What was written behind the state that is loaded is gone from rows and index alike."""
    model, plain = module(ALL, disk=True), module("exact")
    keeper = model.recdsl_keepers["episodic"]
    keeper.open(model, tmp_path / "one")
    for number in range(5):
        model(hansen.draw(50, number))
        plain(hansen.draw(50, number))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model(hansen.draw(50, 20))  # no part of the state
    del keeper, model
    again = module(ALL, disk=True)
    keeper = again.recdsl_keepers["episodic"]
    again.load_state_dict(state)
    keeper.open(again, tmp_path / "one")
    keeper.loaded(again)
    for number in range(30, 34):
        first, second = again(hansen.draw(50, number)).loss, plain(hansen.draw(50, number)).loss
        assert float((first - second).abs().detach()) < 1e-12
    assert index_of(again).ready
    assert known(again) == SLOTS


# -- faults ------------------------------------------------------------------------------------------------------------
def deaf(space: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """It does not follow what is written."""
    patch.setattr(space["Index"], "replace", lambda self, slots, keys: None)


def shuffled(space: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Keys go to each other's slots."""
    old = space["Index"].replace
    patch.setattr(space["Index"], "replace", lambda self, slots, keys: old(self, slots.flip(0), keys))


def worst(space: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    old = space["Index"].search
    patch.setattr(space["Index"], "search", lambda self, asked, size: old(self, -asked, size))


@pytest.mark.parametrize("fault", [deaf, shuffled, worst])
def test_faults_of_an_index_are_seen(fault: Any, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(type(module(ALL, "stop", "dot")).forward.__globals__, monkeypatch)
    with pytest.raises((AssertionError, RuntimeWarning)):
        _same()


def _same() -> None:
    one, two = module("exact", "stop", "dot"), module(ALL, "stop", "dot")
    for number in range(9):
        first, second = (model(hansen.draw(50, number)).loss for model in (one, two))
        assert float((first - second).abs().detach()) < 1e-9
