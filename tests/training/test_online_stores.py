"""Online learning with a store for all samples whose last steps are run again: what each call reads and writes."""

from __future__ import annotations

from copy import copy
from typing import Any

import pytest
import torch

from recdsl.driver import compile as compile_spec
from recdsl.training.online import Online

from .test_online_rerun import SPEC, apart, online, parameters

torch.set_num_threads(1)
STORE = SPEC.replace(
    "step: |\n  h = gru(x, size=hidden)\n",
    """params: {K: "float[hidden, hidden] ~ normal(0, 1)"}
memory:
  past:
    life: model
    slots: 9
    write: {value: h}
    read: {query: "K @ h[t-1]", score: dot, select: SELECT, normalise: softmax}
step: |
  h = gru([x; past.read], size=hidden)
""",
)
SELECTED = ("topk(3)", "all")
"""Rows that a search finds, or all of them."""


def spec(rule: str, select: str) -> str:
    return STORE.replace("SELECT", select) % rule


@pytest.mark.parametrize("select", SELECTED)
@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=pytest.mark.compiler)])
def test_run_again_from_the_start_all_steps_read_the_store_of_now(select: str, backend: str) -> None:
    """With as many steps as there are, the gradient is full backpropagation of the newest loss over the whole past, by
    the parameters of now, and every step reads the store as the last update has left it."""
    made = online(spec("rtrl(drift=rerun(12))", select), f"train.backend={backend}")
    data = online(spec("rtrl(drift=rerun(12))", select)).feed.take(12)
    full: Any = compile_spec(spec("bptt", select), dtype=torch.float64)
    reset: Any = data.reset
    for k in range(1, 13):
        full.load_state_dict({n: v for n, v in made.module.state_dict().items() if n in full.state_dict()})
        full.zero_grad()
        counted = torch.zeros_like(reset[:k])
        counted[-1] = True
        full({n: v[:k] for n, v in data.tensors.items()}, reset=reset[:k], counted=counted).loss.backward()
        made.update()
        for name, p in full.named_parameters():
            found: Any = made.module.get_parameter(name).grad
            assert float((found - p.grad).abs().max()) < 1e-10, (k, name)


@pytest.mark.parametrize("select", SELECTED)
@pytest.mark.parametrize("every", [1, 2])
def test_steps_that_are_run_again_write_nothing(select: str, every: int) -> None:
    """Each step's item is written once, by the call in which it is new, as that call has made it."""
    assert written_once(
        online(spec("rtrl(drift=rerun(4))", select), f"train.every={every}", "train.backend=torch"), every
    )


def test_what_is_written_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = online(spec("rtrl(drift=rerun(4))", "topk(3)"), "train.backend=torch")
    space = type(made.module).forward.__globals__
    offered = space["offered"]

    def all_of_them(call: Any, info: Any) -> Any:
        whole = copy(call)
        whole.counted = None
        return offered(whole, info)

    monkeypatch.setitem(space, "offered", all_of_them)
    assert not written_once(made, 1)


def written_once(made: Online, every: int) -> bool:
    module: Any = made.module
    items: list[torch.Tensor] = []
    forward = module.forward

    def noted(*given: Any, **named: Any) -> Any:
        result = forward(*given, **named)
        items.extend(result.outputs["h"].detach()[-every:].flatten(0, 1))
        return result

    module.forward = noted
    for _ in range(12):
        made.update()
    assert len(items) == 12 * every
    slots = enumerate(module.past.serial.tolist())
    return int(module.past.serial.max()) == len(items) and all(
        torch.equal(module.past.value[slot], items[serial - 1]) for slot, serial in slots
    )


@pytest.mark.compiler
@pytest.mark.parametrize("select", SELECTED)
def test_native_is_torch(select: str) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for backend in ("torch", "native"):
        made = online(spec("rtrl(drift=rerun(5))", select), f"train.backend={backend}")
        for _ in range(12):
            made.update()
        found.append(parameters(made) | {n: v for n, v in made.module.named_buffers() if n.startswith("past.")})
    assert apart(*found) < 1e-10
