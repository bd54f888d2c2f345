"""Writes that merge: an item whose key is stored changes the value there; against `backends/reference/tables.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl
from recdsl import SpecError
from recdsl.backends.reference.tables import Table
from recdsl.driver import analyse
from recdsl.testing.cases import random_call
from recdsl.testing.draws import Draws
from recdsl.testing.lasting import stored
from recdsl.testing.models import Model

torch.set_num_threads(1)
SEEDS = range(16)
KNOWN: dict[str, Any] = {"max": {}, "step": {"rate": 0.3}}


def random_table(seed: int) -> tuple[str, Table] | None:
    """A random model around a table, and the table's definition. Keys are few, or near in a wide sense."""
    made, draws = stored(seed), Draws.seeded(1_000 + seed)
    if made is None:
        return None
    kind, few = draws.choose(("max", "step")), draws.chance(60)
    within = 0.0 if few else 0.4
    evict = draws.choose(("oldest", "least_used(0.5)", "lowest(worth)"))
    slots = draws.between(2, 6)
    lines = made.sections["step"]
    at = next(k for k, line in enumerate(lines) if line.startswith("  code = "))
    own = lines[at].removeprefix("  code = ")
    lines[at] = f"  code = floor(2 * {own}) + 0 * {own}" if few else lines[at]
    made.add("step", "worth = mean(code)")
    made.add("step", "other = mean(x) * (1 + code)")
    more = f'merge: "{kind}({"rate=0.3, " if kind == "step" else ""}within={within})"'
    more += ', when: "worth > -0.6"' if draws.chance(30) else ""
    memory = made.sections["memory"]
    written = memory[4].replace("value: code", "value: other").replace("}", f", {more}}}")
    memory[2:5] = [f"    slots: {slots}", f"    evict: {evict}", written]
    table = Table(slots, evict.split("(")[0], kind, KNOWN[kind].get("rate", 1.0), within, 0.5)
    text = made.text + "credit: {past: param(lr=0)}\n"
    try:
        analyse(text)
    except SpecError as error:
        if any(problem.code != "RD0314" for problem in error.problems):  # a parameter that no loss reaches
            raise
        return None
    return text, table


def compiled(text: str, backend: str = "torch") -> Any:
    return recdsl.compile(text, backend=backend, dtype=torch.float64)


def numbers(value: Tensor) -> tuple[float, ...]:
    return tuple(value.reshape(-1).tolist())


def told(outputs: dict[str, Tensor], mask: Tensor, model: Any, before: Tensor) -> tuple[list[Any], dict[int, float]]:
    """What a call has written, step by step and sample by sample, and how it has used what it found."""
    steps, size = mask.shape
    shown = {name.removeprefix("past."): value.detach() for name, value in outputs.items() if name.startswith("past.")}
    wide = {n: v.expand(steps, size, *v.shape[2:]) for n, v in shown.items()}
    items, used = list[Any](), dict[int, float]()
    for t in range(steps):
        for b in range(size):
            if not mask[t, b]:
                continue
            for k, weight in enumerate(wide["read.weights"][t, b].tolist() if "read.weights" in wide else ()):
                slot = int(wide["read.place"][t, b, k]) if "read.place" in wide else k
                serial = int(before[slot]) if slot >= 0 else 0
                used[serial] = used.get(serial, 0.0) + weight
            if "write.when" in wide and not wide["write.when"][t, b]:
                continue
            priority = float(wide["write.priority"][t, b]) if "write.priority" in wide else 0.0
            items.append((numbers(wide["write.key"][t, b]), numbers(wide["write.value"][t, b]), priority))
    return items, used


def follow(seed: int, *, backend: str = "torch", calls: int = 4) -> tuple[int, int]:
    """A module beside its table over some calls: (items offered, items that took a slot). Raises AssertionError."""
    found = random_table(seed)
    if found is None:
        return 0, 0
    text, table = found
    graph, model, offered = analyse(text).graph, compiled(text, backend), 0
    for number in range(calls):
        case = random_call(Draws.seeded(100 * seed + number), Model("", graph, (), smooth=False), 2, 4)
        batch = {n: v.nan_to_num(0.5) if v.is_floating_point() else v.clamp(max=0) for n, v in case.batch.items()}
        shape = next(iter(batch.values())).shape[:2]
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(number)) < 0.8
        before = model.past.serial.clone()
        items, used = told(dict(model(batch, mask=mask).outputs), mask, model, before)
        table.call(items, used)
        offered += len(items)
        slots = {int(serial): slot for slot, serial in enumerate(model.past.serial) if serial}
        assert sorted(slots) == [entry.born for entry in table.entries]
        for entry in table.entries:
            for part, wanted in (("key", entry.key), ("value", entry.value)):
                row = getattr(model.past, part)[slots[entry.born]]
                assert numbers(row) == pytest.approx(wanted, rel=1e-10, abs=1e-10), part
            if hasattr(model.past, "use"):
                assert float(model.past.use[slots[entry.born]]) == pytest.approx(entry.worth, rel=1e-10)
            if hasattr(model.past, "priority"):
                assert float(model.past.priority[slots[entry.born]]) == pytest.approx(entry.worth, rel=1e-10)
    return offered, table.written


@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_is_its_definition(seed: int) -> None:
    follow(seed)


def test_items_of_random_models_are_merged() -> None:
    """Else the tests above would say nothing."""
    found = [follow(seed) for seed in SEEDS]
    assert sum(offered for offered, _ in found) > 1.3 * sum(written for _, written in found)


def test_a_table_is_its_definition_on_native() -> None:
    seed = next(seed for seed in SEEDS if random_table(seed) is not None)
    follow(seed, backend="native")


def test_a_table_on_disk_is_one_in_memory() -> None:
    """Also when a state of before is loaded."""
    found = [made[0] for made in map(random_table, range(9, 20)) if made]
    text = next(text for text in found if analyse(text).graph.memories[0].searched)
    texts = (text, text.replace("    slots:", "    storage: disk\n    slots:"))
    graph, models = analyse(text).graph, [compiled(text) for text in texts]
    models[1].load_state_dict({**models[1].state_dict(), **dict(models[0].named_parameters())})
    losses, states = list[Tensor](), list[Any]()
    for number in (0, 1, 2, 3, 2, 3):
        if number == 2 and states:
            for model, state in zip(models, states, strict=True):
                model.load_state_dict(state)
        elif number == 2:
            states = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
        case = random_call(Draws.seeded(number), Model("", graph, (), smooth=False), 2, 4)
        batch = {n: v.nan_to_num(0.5) if v.is_floating_point() else v.clamp(max=0) for n, v in case.batch.items()}
        one, two = (model(batch).loss.detach() for model in models)
        assert torch.equal(one, two)
        for part in ("key", "value", "serial"):
            assert torch.equal(*(getattr(model.past, part) for model in models))
        losses.append(one)
    assert losses[2:4] == losses[4:6]
    assert int(models[0].past.serial.max()) > 0


# -- faults ----------------------------------------------------------------------------------------------------
def first_item_only(old: Any) -> Any:
    """Items of one call do not see each other."""

    def made(self: Any, *given: Any) -> None:
        old(self, *given)
        self.earlier = {}

    return made


def minimum(old: Any) -> Any:
    return lambda self, k, slot: old(self, k, slot) or self.changed.update({slot: self.offered[k]})


def displaced_too(old: Any) -> Any:
    """What an earlier item has displaced is still found."""

    def slot(self: Any, k: int) -> int | None:
        kept, self.holds = self.holds, {}
        try:
            return old(self, k)
        finally:
            self.holds = kept

    return slot


def farthest(old: Any) -> Any:
    return lambda asked, keys, held, within: [(k, j, -apart) for k, j, apart in old(asked, keys, held, within)]


def never(old: Any) -> Any:
    return lambda asked, keys, held, within: []


@pytest.mark.parametrize(
    ("fault", "owner", "name"),
    [
        (first_item_only, "Table", "__init__"),
        (minimum, "Table", "merge"),
        (displaced_too, "Table", "slot"),
        (farthest, "", "near"),
        (never, "", "near"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_faults_are_seen(fault: Callable[[Any], Any], owner: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(seed: int) -> None:
        found = random_table(seed)
        space = type(compiled(found[0])).forward.__globals__ if found else {}
        if owner and found:
            monkeypatch.setattr(space[owner], name, fault(getattr(space[owner], name)))
        elif found:
            monkeypatch.setitem(space, name, fault(space[name]))
        follow(seed)

    def all_patched() -> None:
        for seed in SEEDS:
            patched(seed)

    with pytest.raises((AssertionError, KeyError, IndexError)):
        all_patched()
