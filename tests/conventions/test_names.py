"""Only `t`, sizes, and what every model owns are taken: any other name may be given to anything."""

from __future__ import annotations

import pytest
import torch
from conventions_support import compiled, draw

from recdsl import SpecError

NAMES = [
    "class", "lambda", "self", "torch", "B", "T", "like", "lease", "arena", "model", "batch", "w0", "g0", "c0", "out0",
    "loss0", "in_x", "fresh", "start", "plain", "ctx", "call", "Model", "DESCRIPTION", "None", "nan", "int", "default",
]  # fmt: skip
PLACES = {
    "a parameter": ("x", "{}", "h"),
    "a state": ("x", "k", "{}"),
    "an input": ("{}", "k", "h"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_generated_code_do_not_clash(name: str) -> None:
    for x, k, h in PLACES.values():
        x, k, h = x.format(name), k.format(name), h.format(name)
        model = compiled(
            f'recdsl: 1\ninputs: {{{x}: "float[3]"}}\nparams: {{{k}: "float[3] = 1"}}\n'
            f"step: {h} = tanh({k} * {h}[t-1] + {x} + {x}[t-1])\nloss: mse({h}, 0)\n"
        )
        batch = draw(model)
        result = model(batch)
        result.loss.backward()
        assert model.get_parameter(k).grad.abs().sum() > 0
        everything = torch.ones(5, 3, dtype=torch.bool)
        torch.testing.assert_close(model(batch, mask=everything, reset=~everything).loss, result.loss)


@pytest.mark.parametrize("name", ["forward", "training", "state_dict", "__init__", "_parameters", "recdsl_about"])
def test_names_that_a_module_owns_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"<text>:2:10: error\[RD0303\]"):
        compiled(f'recdsl: 1\nparams: {{{name}: "float = 1"}}\nstep: h = {name}\nloss: mse(h, 0)\n')


@pytest.mark.parametrize("name", ["mask", "reset", "state"])
def test_inputs_may_not_be_called_mask_reset_or_state(name: str) -> None:
    with pytest.raises(SpecError, match=r"<text>:2:10: error\[RD0303\]"):
        compiled(f"recdsl: 1\ninputs: {{{name}: float}}\nstep: h = {name}\nloss: mse(h, 0)\n")


def test_the_mask_of_a_matrix_makes_way_for_a_parameter() -> None:
    model = compiled(
        'recdsl: 1\nsizes: {n: 3}\ninputs: {x: "float[n]"}\nparams:\n  W: float[n, n] ~ ones sparse(0.5)\n'
        "  W_mask: float[n, n] ~ ones\nstep: h = W @ x + W_mask @ x\nloss: mse(h, 0)\n"
    )
    assert [name for name, _ in model.named_parameters()] == ["W", "W_mask"]
    mask = model.get_buffer("W_mask_")
    model(draw(model)).loss.backward()
    assert not model.get_parameter("W").grad[mask == 0].any()
