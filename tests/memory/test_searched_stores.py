"""Stores for all samples whose reads fetch the best rows: as if all rows were scored, at the cost of those fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from recdsl.backends.torch import lasting, searches
from recdsl.graph.memory import searched as lowering
from recdsl.graph.types import Axis, Type
from recdsl.ops import primitive
from tests.memory import hansen_support as hansen
from tests.memory.lasting_support import Kind, close, draw, module, spec
from tests.memory.test_lasting_stores import follow

SCORES = ("dot", "cosine", "inverse_distance", "mlp", "separable")
CREDITS = (
    "stop",
    "through",
    "param(lr=0.5)",
    "synthetic(hidden=4, condition=y)",
    "reinstate(approximate, encode=e, decode=rebuilt, chunk=2)",
    "reinstate(exact, encode=e, decode=stored)",
    "reinstate(approximate, encode=e, decode=rebuilt, every=2, freshen=3)",
    "synthetic(hidden=4, condition=y, then=reinstate(approximate, encode=e, decode=rebuilt))",
)


# -- the search -------------------------------------------------------------------------------------------------------
def asked(score: str, ages: bool, seed: int) -> tuple[list[Tensor], dict[str, Any], list[Type]]:
    """Operands of a search among some slots with many ties, its attributes, their types."""
    g = Generator().manual_seed(seed)
    n = (9, 160)[seed % 3 == 2]
    slot, d, hidden, axis = Axis("slot", n), Axis("d", 2), Axis("hidden", 3), Axis("row", 4)

    def rough(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=g).double()

    keys, query = rough(n, 2), rough(3, 5, 2)
    others = [query]
    types = [Type("float", (d,))]
    if score == "mlp":
        others = [rough(3, 2), rough(3, 5, 3), rough(3)]
        types = [Type("float", (hidden, d)), Type("float", (hidden,)), Type("float", (hidden,))]
    if score == "separable":
        others = [rough(2)]
    count = torch.tensor(float(torch.randint(0, n + 1 if ages else 2 * n, (), generator=g)))
    age = [torch.randperm(n, generator=g).double()] if ages else []
    full = [Type("float", (slot, d)), Type("float"), *[Type("float", (slot,))] * ages, *types]
    return [keys, count.double(), *age, *others], {"axis": axis, "score": score, "read": "r", "aged": ages}, full


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("piece", [1, 400, 1 << 22])
def test_a_search_in_pieces_is_its_definition(score: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "PIECE", piece)
    for seed in range(12):
        args, attrs, types = asked(score, seed % 2 == 1, seed)
        wanted = primitive("lookup").value(torch, args, tuple(attrs.items()), types)
        age = args[2] if attrs["aged"] else None
        first = 3 if attrs["aged"] else 2
        found = searches.lookup(score, args[0], args[1], age, tuple(args[first:]), 4, "r")
        assert torch.equal(found, wanted.expand(found.shape)), seed


def test_what_is_no_number_is_found() -> None:
    """A query that is not finite reads something that is not, as it does where all rows are scored."""
    keys, query = torch.randn(9, 2), torch.full((1, 2), torch.nan)
    found = searches.lookup("dot", keys, torch.tensor(9.0), None, (query,), 2, "r")
    assert bool((found >= 0).all())


# -- as if all rows were scored ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("ragged", [False, True])
def test_use_is_counted_where_rows_are_fetched(ragged: bool) -> None:
    follow(Kind(slots=4, evict="least_used(0.5)", select="topk(2)"), ragged=ragged)


def test_more_than_there_are_slots_is_all() -> None:
    model = follow(Kind(slots=5, select="topk(9)"), ragged=False)
    assert not model.recdsl_about["stores"]["past"]["searched"]


def both(text: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A model that searches, and the same with the scores of all rows."""
    one = hansen.module(text)
    monkeypatch.setattr(lowering, "searchable", lambda store: False)
    two = hansen.module(text)
    monkeypatch.undo()
    assert one.recdsl_about["stores"]["episodic"]["searched"]
    assert not two.recdsl_about["stores"]["episodic"]["searched"]
    return one, two


@pytest.mark.parametrize("credit", CREDITS)
def test_gradients_and_rows_are_those_of_all_rows(credit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where backward passes come late, when other calls have written over what was read. Rows that are made anew
    are found by what is stored, so with other parameters than those of the time others would be found."""
    one, two = both(hansen.spec(credit, select="topk(2)"), monkeypatch)
    late: list[Any] = []
    for number in range(7):
        found = [model(hansen.draw(3, number)) for model in (one, two)]
        late.append(found)
        if number % 3 != 2:
            continue
        for pair in late:
            first, second = (hansen.gradients(m, out.loss) for m, out in zip((one, two), pair, strict=True))
            assert hansen.apart(first, second) < 1e-12
        late.clear()
        for (name, a), b in zip(one.named_buffers(), two.buffers(), strict=True):
            assert close(a, b), name
        with torch.no_grad():
            for p in (p for model in (one, two) if "exact" not in credit for p in model.parameters()):
                p.mul_(0.9)


def test_reads_that_are_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `separable` no query asks: one search serves all steps and samples, and so do the gradients of its rows."""
    text = hansen.spec("param(lr=0.5)", select="topk(2)").replace("cosine(sharpness=2)", "separable")
    one, two = both(text, monkeypatch)
    for number in range(4):
        losses = [model(hansen.draw(3, number)).loss for model in (one, two)]
        first, second = (hansen.gradients(model, loss) for model, loss in zip((one, two), losses, strict=True))
        assert hansen.apart(first, second) < 1e-12
        for (name, a), b in zip(one.named_buffers(), two.buffers(), strict=True):
            assert close(a, b), name


EXACT: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "rebuilt": ("reinstate(exact, encode=e, decode=rebuilt, chunk=2)", hansen.Literal, {}),
    "stored": ("reinstate(exact, encode=e, decode=stored)", hansen.Literal, {"stored": True}),
    "later": ("reinstate(exact, encode=e, decode=stored, every=2)", hansen.Waiting, {"stored": True, "every": 2}),
}


@pytest.mark.parametrize("name", EXACT)
def test_rows_made_anew_are_found_by_what_is_stored(name: str) -> None:
    """Their weights, and the gradient, are those of what the encoder makes now."""
    credit, literal, options = EXACT[name]
    hansen.follow(hansen.spec(credit, 6, "topk(2)"), literal("exact", slots=6, topk=2, **options), drift=0.3, calls=7)


def found_by_what_is_new(space: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """The search compares what the encoder makes now."""

    def encode_anew(self: Any, call: Any, values: Any) -> None:
        name, seen = f"{self.name}.{self.credit['part']}", call.seen[self.name]
        values[name] = self.encoded(call, seen, values[name].detach().clone(), values)

    patch.setattr(space["Replayed"], "encode_anew", encode_anew)


def weighed_by_what_is_stored(space: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(space["Anew"], "rows", lambda self, table, place: table[place.clamp_min(0)])


def wrong_row(space: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """What is made goes to each other's places."""
    old = space["Anew"].encode

    def encode(self: Any, slots: Tensor) -> None:
        old(self, slots)
        self.made.append(self.made.pop().flip(0))

    patch.setattr(space["Anew"], "encode", encode)


@pytest.mark.parametrize("fault", [found_by_what_is_new, weighed_by_what_is_stored, wrong_row])
def test_faults_of_rows_made_anew_are_seen(fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(type(hansen.module(hansen.spec(EXACT["rebuilt"][0], 6, "topk(2)"))).forward.__globals__, monkeypatch)
    with pytest.raises(AssertionError):
        test_rows_made_anew_are_found_by_what_is_stored("rebuilt")


def encoded(decode: str, slots: int, patch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many items a call encodes on its way, and on its way back."""
    model = hansen.module(hansen.spec(f"reinstate(exact, encode=e, decode={decode})", slots, "topk(2)"))
    for number in range(3):
        model(hansen.draw(30, number))
    space, sizes = type(model).forward.__globals__, list[int]()
    part, encoder = space["Part"], model.recdsl_keepers["episodic"].credit["encode"]

    def counted(call: Any, about: Any, inputs: Any, values: Any) -> Any:
        made = part(call, about, inputs, values)
        sizes.extend([made.size] if about is encoder else [])
        return made

    patch.setitem(space, "Part", counted)
    loss = model(hansen.draw(5, 9)).loss
    there = sum(sizes)
    loss.backward()
    patch.undo()
    return there, sum(sizes) - there


@pytest.mark.parametrize("decode", ["stored", "rebuilt"])
def test_a_read_encodes_what_it_has_found_and_no_more(decode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many slots there are: forwards, and on the way back those of them with a gradient."""
    counts = [encoded(decode, slots, monkeypatch) for slots in (40, 4_000)]
    assert all(0 < count <= 10 for pair in counts for count in pair)
    assert max(pair[0] for pair in counts) - min(pair[0] for pair in counts) <= 4  # other items compete


def test_forward_rules_see_the_rows_that_are_fetched() -> None:
    kind = Kind(slots=9, select="topk(2)")
    one, two = (module(spec(kind).replace("{past: stop}", text)) for text in ("bptt", "{past: stop, default: rtrl}"))
    for number in range(3):
        found = [hansen.gradients(model, model(draw(4, 2, number)).loss) for model in (one, two)]
        assert hansen.apart(*found) < 1e-12


# -- what it costs ----------------------------------------------------------------------------------------------------
def kept(slots: int, credit: str = "stop") -> tuple[int, int]:
    """(numbers that a call keeps for its backward pass, numbers that autograd keeps), with a store of so many slots."""
    text = hansen.spec(credit, slots, "topk(2)")
    model = hansen.module(text)
    for number in range(2):
        model(hansen.draw(10, number))
    packed: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.numel()) or t, lambda t: t):
        loss = model(hansen.draw(4, 5)).loss
    call = loss.grad_fn.call
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    alive = {
        v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in call.data.values() if torch.is_tensor(v)
    }
    alive |= {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in call.values.values()}
    loss.backward()
    return sum(size for place, size in alive.items() if place not in own), sum(packed)


@pytest.mark.parametrize("credit", CREDITS)
def test_what_a_call_keeps_does_not_grow_with_slots(credit: str) -> None:
    assert kept(20, credit) == kept(2_000, credit)


def test_the_gradient_of_rows_is_that_of_those_fetched() -> None:
    model = hansen.module(hansen.spec("param(lr=0.1)", 500, "topk(2)"))
    model(hansen.draw(20, 0))
    seen: list[Any] = []
    keeper = model.recdsl_keepers["episodic"]
    old = keeper.back
    keeper.back = lambda call, unit, found: (seen.append(dict(found)), old(call, unit, found))
    model(hansen.draw(4, 1)).loss.backward()
    gradient = seen[0]["episodic.key"]
    assert gradient.is_sparse
    assert gradient.coalesce().values().shape[0] <= 4 * 2


# -- faults -----------------------------------------------------------------------------------------------------------
def forgetful(space: dict[str, Any]) -> tuple[Any, str, Any]:
    """A late backward pass finds what has been written since."""
    return space["Moment"], "rows", lambda self, now, part, slots: now[slots]


def last_write_first(space: dict[str, Any]) -> tuple[Any, str, Any]:
    old = space["Moment"].later
    return space["Moment"], "later", lambda self: reversed(list(old(self)))


def doubled(space: dict[str, Any]) -> tuple[Any, str, Any]:
    """Two gradients of one row do not add up."""
    old = space["Keeper"].credits

    def credits(self: Any, call: Any, found: Any, part: str) -> Any:
        slots, gradient = old(self, call, found, part)
        return slots, 2 * gradient

    return space["Keeper"], "credits", credits


@pytest.mark.parametrize("fault", [forgetful, last_write_first, doubled])
def test_faults_of_what_was_read_are_seen(fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = hansen.spec(CREDITS[5], slots=4, select="topk(2)")
    one, two = both(text, monkeypatch)
    owner, name, planted = fault(type(one).forward.__globals__)
    monkeypatch.setattr(owner, name, planted)
    differ = False
    late = [[model(hansen.draw(3, number)) for model in (one, two)] for number in range(6)]
    for pair in late:
        first, second = (hansen.gradients(m, out.loss) for m, out in zip((one, two), pair, strict=True))
        differ = differ or hansen.apart(first, second) > 1e-9
    assert differ


def unordered(scores: Tensor, size: int, start: int, order: Any) -> Tensor:
    return scores.topk(min(size, scores.shape[1]), dim=1).indices


def newest(size: int, count: Tensor, age: Any) -> Any:
    old = ORDER(size, count, age)
    return lambda slots: -old(slots)


ORDER = searches.order_of


@pytest.mark.parametrize(("name", "planted"), [("contenders", unordered), ("order_of", newest)])
def test_faults_of_a_search_are_seen(name: str, planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, name, planted)
    with pytest.raises(AssertionError):
        test_a_search_in_pieces_is_its_definition("dot", 1 << 22, monkeypatch)


def test_rows_that_are_not_finite_leave_the_store_as_it_was() -> None:
    kind = replace(Kind(slots=9, select="topk(2)"))
    model, batch = module(spec(kind)), draw(1, 2, 0)
    model(batch)
    before = {name: value.clone() for name, value in model.named_buffers()}
    batch["x"][0, 1, 1] = torch.inf
    with pytest.raises(ValueError, match="written to the memory 'past' is not finite"):
        model(batch)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert lasting.Moment().rest is None
