"""What holds of every mechanism (nnem-columnar A.7), faults of its pitfall list, and what is said of odd memories."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl
from tests.memory import hansen_support as hansen
from tests.memory.hansen_support import CLASSES, DECODER, ENCODER, NET, Lesson, Literal, apart, draw, gradients

EXACT, APPROXIMATE = (f"reinstate({kind}, encode=e, decode=rebuilt)" for kind in ("exact", "approximate"))
SYNTHETIC = "synthetic(hidden=6, condition=y)"
MECHANISMS = {
    "through": "through",
    "synthetic": SYNTHETIC,
    "exact": EXACT,
    "approximate": APPROXIMATE,
    "both": f"synthetic(hidden=6, condition=y, then={APPROXIMATE})",
}


def told(credit: str, backend: str = "torch", **options: Any) -> Any:
    """A module behind some calls, with a net that says something."""
    model = hansen.module(hansen.spec(credit, **options), backend)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.startswith(NET):
                p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    for number in range(3):
        gradients(model, model(draw(3, number)).loss)
    return model


def classified(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The classifier's loss alone."""
    guess = model(batch).outputs["guess"]
    return -guess.gather(2, batch["y"].unsqueeze(2)).clamp_min(1e-6).log().mean()


# -- who trains what: exactly 0 elsewhere ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("backend", ["torch", "native"])
def test_each_loss_reaches_what_it_owns_and_nothing_else(name: str, backend: str) -> None:
    """A.7, 3 to 5. The decoder reads codes without a `stop`, and the classifier's `trains` names it: it makes what the
    encoder reads again, and still no loss of the classifier reaches it."""
    model = told(MECHANISMS[name], backend, decoder="D @ tanh(C @ e)")
    batch = draw(3, 7)
    found = gradients(model, classified(model, batch))
    assert all(bool((found[n] == 0).all()) for n in found if n.startswith(NET))
    assert all(bool((found[n] == 0).all()) for n in DECODER)
    assert any(bool((found[n] != 0).any()) for n in ENCODER) == (name != "synthetic")  # which goes with `.loss`
    text = hansen.spec(MECHANISMS[name], decoder="D @ tanh(C @ e)").replace("A, episodic]", "A, C, D, episodic]")
    owned = hansen.module(text, backend)
    owned.load_state_dict(model.state_dict())
    if name != "through":  # whose calls are not in a state dict
        found = gradients(owned.eval(), classified(owned, batch))
        assert all(bool((found[n] == 0).all()) for n in DECODER)


@pytest.mark.parametrize("name", MECHANISMS)
def test_no_gradient_of_a_reconstruction_reaches_the_encoder(name: str) -> None:
    """A.7, 4: by `stop`, or by `trains` alone."""
    for decoder in ("", "D @ tanh(C @ e)"):
        found: list[dict[str, Tensor]] = []
        for weight in ("1.0", "3.0"):
            text = hansen.spec(MECHANISMS[name], decoder=decoder)
            text = text.replace('"mse(rebuilt, stop(x))"', f'"mse(rebuilt, stop(x))", weight: {weight}')
            model = hansen.module(text)
            model(draw(4, 0))
            found.append(gradients(model, model(draw(3, 1)).loss))
        assert all(bool((found[0][n] == found[1][n]).all()) for n in ENCODER)
        assert all(bool((found[0][n] != found[1][n]).any()) for n in DECODER)


# -- the query -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in MECHANISMS if n != "through"])
def test_a_stopped_query_may_as_well_be_a_constant(name: str) -> None:
    """A.7, 6: an input of the same value in its place changes no gradient."""
    own = told(MECHANISMS[name])
    text = hansen.spec(MECHANISMS[name], query="q").replace('"float[pixels]"}', '"float[pixels]", q: "float[code]"}')
    given = hansen.module(text)
    given.load_state_dict(own.state_dict())
    batch = draw(3, 7)
    p = {n: value.detach() for n, value in own.named_parameters()}
    query = torch.stack([hansen.encode(p, one) for one in batch["x"][0]]).unsqueeze(0)
    found, wanted = gradients(given, given(batch | {"q": query}).loss), gradients(own, own(batch).loss)
    assert apart({n: found[n] for n in wanted}, wanted) < 1e-13


# -- what is kept ------------------------------------------------------------------------------------------------------
def held(calls: list[Any]) -> int:
    """Bytes of all that some calls hold, each array once."""
    values = [value for call in calls for value in call.data.values() if isinstance(value, Tensor)]
    return sum({v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in values}.values())


def kept(credit: str, width: int, slots: int) -> int:
    """Bytes of the arrays that the calls behind a full store hold, whose items are written one a call."""
    text = hansen.spec(credit, slots).replace(f"width: {hansen.WIDTH}", f"width: {width}")
    model = hansen.module(text)
    calls: list[weakref.ref[Any]] = []
    space = type(model).forward.__globals__
    old = space["Call"].__init__

    def noted(self: Any, *args: Any) -> None:
        old(self, *args)
        calls.append(weakref.ref(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space["Call"], "__init__", noted)
        for number in range(slots):
            model(draw(1, number)).loss.backward()
        loss = model(draw(1, slots)).loss
        alive = [call for ref in calls if (call := ref()) is not None]
        alive += [made for made, _, _ in model.recdsl_keepers["episodic"].records.calls] if credit == "through" else []
        found = held(alive)
        del loss
    return found


def test_what_calls_keep_of_the_encoder() -> None:
    """A.7, 8: `through` keeps the encoder's values for each item, at least its hidden layer; the others keep those of
    one call, however many slots there are."""
    for name in ("synthetic", "exact", "approximate", "both"):
        narrow, wide = ([kept(MECHANISMS[name], width, slots) for slots in (4, 12)] for width in (5, 55))
        assert wide[1] - narrow[1] == wide[0] - narrow[0] > 0, name
    narrow, wide = ([kept("through", width, slots) for slots in (4, 12)] for width in (5, 55))
    more = (wide[1] - narrow[1]) - (wide[0] - narrow[0])
    assert more >= 8 * 8 * 50  # eight items more, of float64, with fifty units more


# -- faults of the pitfall list --------------------------------------------------------------------------------------
def late_detached(space: dict[str, Any]) -> tuple[Any, str, Any]:
    """The decoder is in the graph of what it has decoded: the classifier trains it."""
    old = space["run_again"]

    def run(call: Any, few: Any, found: Any, along: Any, whole: Any) -> None:
        old(call, few, found, along, whole)
        leaves = {n: call.values[n].detach().clone().requires_grad_() for n in DECODER}
        for request in few:
            codes = request.source["key"][request.rows]
            with torch.enable_grad():
                p = {n: value.detach() for n, value in call.values.items()} | leaves
                made = torch.stack([hansen.encode(p, hansen.decode(p, code)) for code in codes])
                parts = torch.autograd.grad((made * request.gradient).sum(), [leaves[n] for n in DECODER])
            for n, value in zip(DECODER, parts, strict=True):
                found[n] = found[n] + value

    return space, "run_again", run


def rebuilt_encoder(space: dict[str, Any]) -> tuple[Any, str, Any]:
    """The encoder takes what the decoder should learn from."""
    old = space["replay"]

    def replay(call: Any, found: Any) -> None:
        old(call, found)
        with torch.enable_grad():
            p = {n: value.detach().clone().requires_grad_() for n, value in call.values.items()}
            x = call.given["x"].flatten(0, 1)
            loss = torch.stack([((hansen.decode(p, hansen.encode(p, one)) - one) ** 2).mean() for one in x]).mean()
            parts = torch.autograd.grad(loss, [p[n] for n in ENCODER])
        for n, value in zip(ENCODER, parts, strict=True):
            found[n] = found[n] + value

    return space, "replay", replay


def of_the_old_code(space: dict[str, Any]) -> tuple[Any, str, Any]:
    """Gradients are put on what the encoder makes of the present images."""
    owner = space["Replayed"]
    old = owner.observations

    def observations(self: Any, call: Any, source: Any, chunk: Tensor, values: Any) -> Any:
        found = old(self, call, source, chunk, values)
        x = call.given["x"].flatten(0, 1)
        return {"x": x[torch.arange(len(chunk)) % len(x)]} if "x" in found else found

    return owner, "observations", observations


def other_labels(space: dict[str, Any]) -> tuple[Any, str, Any]:
    """Labels come loose from their codes."""
    old = space["offered"]

    def offered(call: Any, info: Any) -> Any:
        found = old(call, info)
        return found | {"value": found["value"].roll(1, 0)}

    return space, "offered", offered


PITFALLS = (late_detached, rebuilt_encoder, of_the_old_code, other_labels)


@pytest.mark.parametrize("fault", PITFALLS, ids=lambda fault: fault.__name__)
def test_pitfalls_are_seen(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(model: Any) -> None:
        owner, name, wrong = fault(type(model).forward.__globals__)
        (monkeypatch.setitem if isinstance(owner, dict) else monkeypatch.setattr)(owner, name, wrong)

    with pytest.raises(AssertionError):
        hansen.follow(hansen.spec(APPROXIMATE), Literal("approximate"), made=plant, calls=4)


def head_in_the_graph(old: Any) -> Any:
    """The net's lesson reaches the encoder, through the items that it reads."""

    def learn(self: Any, call: Any, unit: Any, items: Any, lessons: Any, gone: Any, found: Any) -> None:
        old(self, call, unit, items, lessons, gone, found)
        found["A"] = found["A"] + items["key"].mean()

    return learn


def answer_in_the_graph(old: Any) -> Any:
    """The classifier's loss reaches the net, through what it has said."""

    def cotangents(self: Any, call: Any, unit: Any, outputs: Any) -> None:
        old(self, call, unit, outputs)
        call.values = {n: v if not n.startswith(NET) else v.detach() * 1.5 for n, v in call.values.items()}

    return cotangents


@pytest.mark.parametrize(("fault", "name"), [(head_in_the_graph, "learn"), (answer_in_the_graph, "cotangents")])
def test_pitfalls_of_the_net_are_seen(fault: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, literal = hansen.module(hansen.spec(SYNTHETIC)), Lesson()
    home = type(model.recdsl_keepers["episodic"])
    monkeypatch.setattr(home, name, fault(getattr(home, name)))

    def calls() -> None:
        for number in range(6):
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.1)
            params = {n: p.detach().clone() for n, p in model.named_parameters()}
            wanted = literal.call(params, draw(3, number))
            assert apart(gradients(model, model(draw(3, number)).loss), wanted) < 1e-10

    with pytest.raises(AssertionError):
        calls()


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_predictions_are_their_definition(backend: str) -> None:
    model, literal = hansen.module(hansen.spec(SYNTHETIC), backend), Lesson()
    for number in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05)
        params = {n: p.detach().clone() for n, p in model.named_parameters()}
        wanted = literal.call(params, draw(3, number))
        assert apart(gradients(model, model(draw(3, number)).loss), wanted) < 1e-10


# -- odd memories: allowed and defined, or said ------------------------------------------------------------------------
def test_more_neighbours_than_slots_are_all_of_them() -> None:
    """`topk(k)` with k above the slots."""
    found = [told("stop", select=select) for select in ("topk(50)", "topk(7)", "all")]
    batch = draw(3, 7)
    losses = [model.eval()(batch).loss.detach() for model in found]
    assert float((losses[0] - losses[1]).abs()) == 0.0
    assert float((losses[0] - losses[2]).abs()) < 1e-14


def said(text: str) -> list[tuple[int | None, str]]:
    return [(item.line, item.text) for item in recdsl.explain(text).remarks]


def test_one_slot_with_its_score_subtracted_is_said() -> None:
    """The best of several alone, less the next one's score, has weight 1 whatever the scores are."""
    text = hansen.spec("stop", select="topk(1)").replace("normalise: softmax", "normalise: shifted_relu")
    line = next(k for k, row in enumerate(text.splitlines(), 1) if row.startswith("    read:"))
    assert (
        line,
        "the one slot that `episodic.read` gives has weight 1, so its scorer and query get no gradient",
    ) in said(text)
    assert not any("weight 1" in row for _, row in said(text.replace("topk(1)", "topk(2)")))


def test_evaluation_of_an_empty_store_is_said_once() -> None:
    model = hansen.module(hansen.spec("stop")).eval()
    with pytest.warns(RuntimeWarning, match="'episodic' is read, but nothing has been written to it"):
        found = model(draw(2, 0))
    assert bool((found.outputs["guess"] == 0).all())
    assert found.outputs["guess"].shape == (1, 2, CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(draw(2, 0))
        hansen.module(hansen.spec("stop"))(draw(2, 0))  # in training the first call always finds it empty


def test_explain_prints_bytes_and_horizon() -> None:
    """A slot: three floats of a code, four of a label, the number of its write; and what its credit keeps."""
    sizes = {
        "stop": 4 * 7 + 8,
        SYNTHETIC: 4 * (7 + 3 + 4) + 8,
        "reinstate(exact, encode=e, decode=stored)": 4 * 7 + 8 + 4 * 6,
        "reinstate(exact, encode=e, decode=rebuilt, every=2)": 4 * 7 + 8 + 4 * 3,
    }
    for credit, size in sizes.items():
        texts = [text for _, text in said(hansen.spec(credit))]
        assert any(f"7 slots of {size} bytes" in text for text in texts), credit
        assert any("until 7 more are written, and none after" in text for text in texts) == (credit != "stop")
        buffers = hansen.module(hansen.spec(credit)).episodic.named_buffers(recurse=True)
        rows = [value for _, value in buffers if value.dim() and value.shape[0] == 7]
        assert sum(v[0].numel() * (8 if v.dtype == torch.long else 4) for v in rows) == size


def test_what_a_read_selects_is_said() -> None:
    for credit in ("through", EXACT):
        words = [recdsl.explain(hansen.spec(credit, select=s)).rows[0].qualifiers for s in ("topk(2)", "all")]
        assert ["if-selected" in found for found in words] == [True, False]
