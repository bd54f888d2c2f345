"""Stores for all samples in C: programs against the interpreter, models against torch and against definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from recdsl.backends.native import functions, lower, native_module, rows
from recdsl.backends.native.call import CFunction, Library, described
from recdsl.backends.torch import execute
from recdsl.backends.torch.arena import Record
from recdsl.backends.torch.searches import Lookups, lookup
from recdsl.driver import analyse
from recdsl.program.interface import Assembled, Interface
from recdsl.program.interpreter import Machine
from recdsl.program.parse import parse
from recdsl.resources import read_text
from tests.backends.native_support import QUICK, STRIPS
from tests.memory import hansen_support as hansen
from tests.memory.lasting_support import Kind
from tests.memory.test_lasting_stores import follow
from tests.memory.test_searched_again import apart, gradients
from tests.memory.test_searched_again import module as again

pytestmark = pytest.mark.compiler
torch.set_num_threads(1)
SCORES = ("dot", "cosine", "inverse_distance", "mlp", "separable")
NOTHING = Interface((), (), (), (), (), (), (), (), (), (), ())


# -- programs ---------------------------------------------------------------------------------------------------------
def search(score: str, aged: bool, slots: int, wide: int = 3) -> str:
    """A program that searches for 4 rows, fetches them and sums what comes back; places of queries turned around."""
    layer = score == "mlp"
    given = {"mlp": "matrix_, q_, last_", "separable": "weights_"}.get(score, "q_")
    age = ["  age_ = load age : float[slot=SLOTS]"] if aged else []
    lines = [
        "program rows",
        "storage keys: parameter float[slot=SLOTS, d=3] model",
        "storage count: parameter float model",
        "storage age: parameter float[slot=SLOTS] model",
        "storage matrix: parameter float[hidden=5, d=3] model",
        "storage last: parameter float[hidden=5] model",
        "storage weights: parameter float[d=3] model",
        f"storage q: input float[t=T, B; {'hidden=5' if layer else 'd=3'}] call",
        "storage back: input float[t=T, B; row=4, d=3] call",
        "storage places: output int[t=T, B; row=4] call",
        "storage found: output float[t=T, B; row=4, d=3] call",
        "storage total: accumulate float[slot=SLOTS, d=3] call",
        "storage twice: output float[slot=SLOTS, d=3] call",
        "entry forward {",
        "  keys_ = load keys : float[slot=SLOTS, d=3]",
        "  count_ = load count : float",
        *age,
        "  matrix_ = load matrix : float[hidden=5, d=3]",
        "  last_ = load last : float[hidden=5]",
        "  weights_ = load weights : float[d=3]",
        f"  q_ = load q : float[t=T, B; {'hidden=5' if layer else 'd=3'}]",
        f"  place = lookup(keys_, count_, {'age_, ' if aged else ''}{given})"
        f' {{aged={str(aged).lower()}, axis=[row=4], read="r", score="{score}"}} :'
        f" int[{'' if score == 'separable' else 't=T, B; '}row=4]",
        "  store places place",
        f"  rows_ = gather_rows(keys_, place) {{axis=[row=4]}} :"
        f" float[{'' if score == 'separable' else 't=T, B; '}row=4, d=3]",
        "  store found rows_",
        "  back_ = load back : float[t=T, B; row=4, d=3]",
        "  one = scatter_rows(back_, place) {axis=[slot=SLOTS]} sum (t, B) : float[slot=SLOTS, d=3]",
        "  add total one",
        "  done = load total : float[slot=SLOTS, d=3]",
        "  both = add(done, done) : float[slot=SLOTS, d=3]",
        "  store twice both",
        "}",
    ]
    return "\n".join(lines).replace("SLOTS", str(slots)).replace("d=3", f"d={wide}") + "\n"


def drawn(slots: int, aged: bool, seed: int, shape: tuple[int, int], layer: bool, wide: int = 3) -> dict[str, Tensor]:
    """What a program is given: keys of which many are the same."""
    g = Generator().manual_seed(seed)
    kinds = torch.randn(max(2, slots // 3), wide, generator=g, dtype=torch.float64)
    count = torch.randint(0, slots + 1 if aged else 2 * slots, (), generator=g)
    made = {
        "keys": kinds[torch.randint(0, len(kinds), (slots,), generator=g)],
        "count": (count if seed else torch.tensor(1)).double(),
        "age": torch.randperm(slots, generator=g).double(),
        "q": torch.randn(*shape, 5 if layer else wide, generator=g, dtype=torch.float64),
        "back": torch.randn(*shape, 4, wide, generator=g, dtype=torch.float64),
    }
    for name, size in (("matrix", (5, wide)), ("last", (5,)), ("weights", (wide,))):
        made[name] = torch.randn(size, generator=g, dtype=torch.float64)
    return made


def compiled(text: str, flags: tuple[str, ...] = QUICK) -> tuple[Any, CFunction]:
    lowered = lower.lower(Assembled(parse(text), NOTHING))
    assert lowered.left == ()
    (made,) = lowered.functions
    return made, CFunction(Library(lowered.source, flags).finder(made.symbol), *described(made))


def compare(text: str, given: dict[str, Tensor], shape: tuple[int, int], flags: tuple[str, ...] = QUICK) -> None:
    """C and the interpreter."""
    machine = Machine(parse(text), torch, {"T": shape[0], "B": shape[1]})
    for name, value in given.items():
        machine.put(name, value)
    assert machine.run("forward")
    made, function = compiled(text, flags)
    like = torch.zeros((), dtype=torch.float64)
    found = function(like, Record(None, like), *shape, *[given[name] for name in made.arguments])
    for name, value in zip(made.shown, found, strict=True):
        dense = value.to_dense() if value.is_sparse else value
        torch.testing.assert_close(dense, machine.get(name).to(dense.dtype), rtol=1e-12, atol=1e-12, msg=name)
    assert [value.is_sparse for value in found] == [False, False, True]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("aged", [False, True])
def test_programs_equal_the_interpreter(score: str, aged: bool) -> None:
    """Fewer slots than are looked for, some, and more than are scored at once; more queries than that, too."""
    sizes = ((3, (2, 2), 3), (9, (3, 2), 1), (20, (2, 3), 17), (270, (2, 1), 3), (40, (5, 14), 3))
    for slots, shape, wide in sizes:
        for seed in range(3):
            given = drawn(slots, aged, seed, shape, score == "mlp", wide)
            flags = QUICK if slots < 20 else ("-O2", "-march=native", *STRIPS)
            compare(search(score, aged, slots, wide), given, shape, flags)


def test_what_is_no_number_is_found_as_on_torch() -> None:
    for score in ("dot", "inverse_distance"):
        given = drawn(9, True, 2, (2, 2), False)
        given["count"] = torch.tensor(9.0).double()
        given["q"][0, 0, 0], given["q"][0, 1, 0] = torch.nan, torch.inf
        made, function = compiled(search(score, True, 9))
        like = torch.zeros((), dtype=torch.float64)
        found = function(like, Record(None, like), 2, 2, *[given[name] for name in made.arguments])
        wanted = lookup(score, given["keys"], given["count"], given["age"], (given["q"],), 4, "r")
        assert torch.equal(found[0], wanted)


@pytest.mark.parametrize("single", [False, True])
def test_a_large_store_is_searched_as_on_torch(single: bool) -> None:
    """With numbers of which no sum is rounded, in both precisions."""
    dtype = torch.float32 if single else torch.float64
    g = Generator().manual_seed(3)
    for score in ("dot", "inverse_distance"):
        keys = torch.randint(-3, 4, (5_000, 6), generator=g).to(dtype)
        queries = torch.randint(-3, 4, (3, 40, 6), generator=g).to(dtype)
        given = {"keys": keys, "count": torch.tensor(7_321.0, dtype=dtype), "q": queries}
        given["back"] = torch.zeros(3, 40, 4, 6, dtype=dtype)
        made, function = compiled(search(score, False, 5_000, 6), ("-O2", "-march=native", *STRIPS))
        like = torch.zeros((), dtype=dtype)
        found = function(like, Record(None, like), 3, 40, *[given.get(name, like) for name in made.arguments])
        assert torch.equal(found[0], lookup(score, keys, given["count"], None, (queries,), 4, "r"))


MORE = {
    "a product": ("  both = add(done, done)", "  both = mul(done, done)"),
    "a value beside it": ("  both = add(done, done)", "  both = add(done, keys_)"),
    "a sum that is stored twice": ("  add total one", "  add total one\n  store total one"),
    "a sum of something else": ("  add total one", "  add total keys_\n  add total one"),
    "a sum for each step": (
        "sum (t, B) : float[slot=9, d=3]\n  add total one",
        "sum (B) : float[t=T; slot=9, d=3]\n  add total one",
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_what_is_more_than_a_sum_stays_on_torch(name: str) -> None:
    text = search("dot", False, 9)
    assert MORE[name][0] in text
    ((entry, reason),) = lower.lower(Assembled(parse(text.replace(*MORE[name])), NOTHING)).left
    assert (entry, reason) == ("forward", "a gradient of a store's rows that is more than a sum")


def test_keys_that_are_computed_stay_on_torch() -> None:
    text = search("dot", False, 9).replace("  count_ =", "  new = neg(keys_) : float[slot=9, d=3]\n  count_ =")
    ((_, reason),) = lower.lower(Assembled(parse(text.replace("lookup(keys_", "lookup(new")), NOTHING)).left
    assert reason == "rows that are computed"


# -- what the runtime answers -----------------------------------------------------------------------------------------
def test_an_error_of_the_runtime_is_raised_behind_the_function() -> None:
    """C goes on with no slots and zeros."""

    class Broken:
        ready = True

        def search(self, asked: Tensor, size: int) -> Tensor:
            raise KeyError("broken")

    given = drawn(9, False, 1, (2, 3), False)
    made, function = compiled(search("dot", False, 9))
    lookups = Lookups()
    lookups.indexes[given["keys"].data_ptr(), "r"] = Broken()
    like = torch.zeros((), dtype=torch.float64)
    with pytest.raises(KeyError, match="broken"):
        function(like, Record(None, like, lookups), 2, 3, *[given[name] for name in made.arguments])


@pytest.mark.parametrize("rule", ["rtrl", "snap(9)"])
@pytest.mark.parametrize("evict", ["oldest", "least_used"])
def test_a_call_that_is_run_again_finds_what_it_found(rule: str, evict: str) -> None:
    """Pieces of a long call, whose rows have been written over since."""
    wanted, _ = gradients(again("bptt", "param(lr=0.0)", evict), 9, 2)
    first, second = gradients(again(rule, "param(lr=0.0)", evict, chunk=4, backend="native"), 9, 2)
    assert apart(wanted, first) < 1e-10
    assert apart(first, second) == 0.0


FAULTS = {
    "a search that is made again": lambda patch: patch.setattr(functions.Answers, "_found", lambda *given: False),
    "rows of now": lambda patch: patch.setattr(functions.Answers, "_fetched", lambda *given: False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_a_second_run_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch)
    wanted, _ = gradients(again("bptt", "stop", "oldest"), 8, 0)
    try:
        found, _ = gradients(again("rtrl", "stop", "oldest", chunk=4, backend="native"), 8, 0)
    except (KeyError, StopIteration):
        return
    assert apart(wanted, found) > 1e-6


# -- models -----------------------------------------------------------------------------------------------------------
def test_stores_are_their_definition() -> None:
    model = follow(Kind(slots=4, evict="least_used(0.5)", select="topk(2)"), ragged=True, backend="native")
    assert model.recdsl_runs == "native"


@pytest.mark.parametrize(
    ("credit", "literal", "options"),
    [
        ("reinstate(exact, encode=e, decode=rebuilt, chunk=2)", hansen.Literal, {}),
        ("reinstate(exact, encode=e, decode=stored, every=2)", hansen.Waiting, {"stored": True, "every": 2}),
    ],
)
def test_rows_made_anew_are_their_definition(credit: str, literal: Any, options: dict[str, Any]) -> None:
    made = literal("exact", slots=6, topk=2, **options)
    model = hansen.follow(hansen.spec(credit, 6, "topk(2)"), made, drift=0.3, calls=5, backend="native")
    assert model.recdsl_runs == "native"


TWO = """
recdsl: 1
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
targets: {y: "float[hid]"}
params:
  W, Q: float[hid, inp] ~ normal(0, 0.8)
  V: float[hid, hid] ~ normal(0, 0.8)
memory:
  past:
    life: model
    slots: 9
    evict: EVICT
    write: {value: h}
    reads:
      one: {query: "V @ h[t-1]", score: SCORE, select: topk(3), normalise: softmax}
      two: {query: "Q @ x", score: inverse_distance(delta=0.1), select: topk(2), normalise: sum}
step: |
  h = tanh(W @ x + past.one + V @ h[t-1])
  out = h * past.two
loss: mse(out, y)
credit: {past: "CREDIT", default: "RULE"}
"""


def left_by(text: str, backend: str) -> dict[str, Tensor]:
    """All that some calls leave, every second one with gradients at outputs."""
    torch.manual_seed(0)
    stages = analyse(text)
    if backend == "torch":
        model = execute(stages.source).Model(0, torch.float64)
    else:
        model = native_module(stages.graph, stages.plan, stages.source, flags=QUICK).Model(0, torch.float64)
        assert model.recdsl_runs == "native"
    g, found = Generator().manual_seed(1), dict[str, Tensor]()
    for call in range(4):
        drawn = torch.randn(4, 3, 7, generator=g, dtype=torch.float64)
        mask = torch.rand(4, 3, generator=g) < 0.8 if call > 1 else None
        result = model({"x": drawn[..., :3], "y": drawn[..., 3:]}, mask=mask)
        model.zero_grad()
        (result.loss + (call % 2) * (result.outputs["out"] ** 3).sum()).backward()
        found |= {f"{call} {name}": p.grad for name, p in model.named_parameters()}
        found |= {f"{call} {name}": value.clone().double() for name, value in model.named_buffers()}
    return found


@pytest.mark.parametrize("score", ["dot", "mlp(3)", "separable"])
@pytest.mark.parametrize(
    ("credit", "rule", "evict"),
    [
        ("param(lr=0.1)", "bptt", "least_used"), ("through", "tbptt(window=2)", "oldest"),
        ("param(lr=0.1)", "rtrl", "oldest"), ("synthetic(hidden=2)", "sab(truncate=2)", "lowest(worth)"),
    ],
)  # fmt: skip
def test_native_is_torch(score: str, credit: str, rule: str, evict: str) -> None:
    text = TWO.replace("SCORE", score).replace("CREDIT", credit).replace("RULE", rule).replace("EVICT", evict)
    text = text.replace("  out =", "  worth = h[hid=0]\n  out =") if "worth" in evict else text
    one, two = left_by(text, "torch"), left_by(text, "native")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_threads_share_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them searches, and asks the runtime; the others wait."""
    monkeypatch.setattr(functions, "LEAST", 1.0)
    monkeypatch.setattr(functions, "SAMPLES", 1)
    text = TWO.replace("SCORE", "dot").replace("CREDIT", "param(lr=0.1)").replace("EVICT", "oldest")
    one = left_by(text.replace("RULE", "snap(1)"), "torch")
    torch.set_num_threads(3)
    try:
        two = left_by(text.replace("RULE", "snap(1)"), "native")
    finally:
        torch.set_num_threads(1)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-10, atol=1e-10, msg=name)


# -- faults -----------------------------------------------------------------------------------------------------------
def in_c(old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A fault in the text of `rows.c`."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        text = read_text("backends", "native", "rows.c")
        assert old in text, old
        changed = text.replace(old, new)
        patch.setattr(lower, "read_text", lambda *path: changed if path[-1] == "rows.c" else read_text(*path))

    return plant


def lost(patch: pytest.MonkeyPatch) -> None:
    """Of a sum of sums, one."""
    patch.setattr(rows.Sums, "_together", lambda self, sums: sums[-1])


PLANTED = {
    "the newer of equal scores": in_c("(x == y || (x != x && y != y)) && older(ages, one, two)", "0"),
    "the queue begins at slot 0": in_c("(long)count[0] - 1, age}", "slots - 1, age}"),
    "slots that hold nothing": in_c("(long)count[0] < slots ? (long)count[0] : slots, across", "slots, across"),
    "the first block alone": in_c("start < held; start += block", "start < block; start += block"),
    "row 0 where there is none": in_c("memset(to + k * wide, 0,", "memcpy(to + k * wide, table,"),
    "lengths do not count": in_c("if (score.kind == COSINE)", "if (0)"),
    "one sum of two": lost,
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def some() -> None:
        for slots, shape in ((3, (2, 2)), (9, (3, 2)), (270, (2, 1))):
            for seed in range(4):
                compare(search("cosine", False, slots), drawn(slots, False, seed, shape, False), shape)

    PLANTED[name](monkeypatch)
    with pytest.raises(AssertionError):
        some()
