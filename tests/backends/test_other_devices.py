"""Models on another device: every tensor of a call is made where the parameters are, forward and back.

torch's `meta` device stands for an accelerator: it has shapes but no numbers, and its operations refuse tensors of the
CPU. What must look at numbers does not run there (ranges of integers, which steps are valid, rows of large stores).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from backend_support import GOOD, corpus, generated
from torch import Tensor

from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.diagnostics import SpecError
from recdsl.testing import Case, random_case
from recdsl.testing.claims import SINGLE

NUMBERS = {"memory_of_all_samples", "memory_tables"}
"""Models whose stores last as long as the model: they search rows by what these hold, or have them on a disk."""
NAMES = sorted(path.stem for path in GOOD.glob("*.yaml") if path.stem not in NUMBERS | {"minimal"})


def moved(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: moved(x) if name != "t" else x for name, x in value.items()}
    return None if value is None else value.to("meta")


def run(model: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What a call with its backward pass gives."""
    call = type(model).__mro__[1].forward.__globals__["Call"]
    monkeypatch.setattr(call, "_check_range", lambda *_: None)
    monkeypatch.setattr(call, "_stand_ins", lambda *_: (None, None))
    model.to("meta")
    result = model(moved(case.batch), mask=moved(case.mask), reset=moved(case.reset), state=moved(case.state))
    seen = [value for value in result.outputs.values() if value.requires_grad]
    torch.stack([value.sum() for value in seen] + ([] if result.loss is None else [result.loss])).sum().backward()
    found = {f"grad {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found
    return found | result.outputs | {f"state {name}": value for name, value in result.state.items() if name != "t"}


@pytest.mark.parametrize("name", NAMES)
def test_models_run_where_their_parameters_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = corpus(name, 1)
    found = run(generated(case), case, monkeypatch)
    assert {value.device.type for value in found.values()} == {"meta"}


@pytest.mark.parametrize("seed", range(len(SINGLE)))
def test_rules_run_where_the_parameters_are(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        case = random_case(seed, (("default", SINGLE[seed]),))
        model = generated(case)
    except SpecError:
        return  # a rule of stores, or one that does not fit this model
    found = run(model, case, monkeypatch)
    assert {value.device.type for value in found.values()} == {"meta"}


PLANTED = [("device=self.like.device", "device='cpu'"), ("self.like.new_empty(", "torch.empty(")]


@pytest.mark.parametrize(("there", "here"), PLANTED)
def test_a_tensor_left_on_the_cpu_is_found(there: str, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = corpus("all_losses", 1)
    text = generate(case.graph, case.plan, "")
    assert there in text
    model = execute(text.replace(there, here)).Model(0, torch.float64)
    with pytest.raises(RuntimeError, match=r"meta|device"):
        run(model, case, monkeypatch)
