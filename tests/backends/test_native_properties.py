"""The `native` backend equals the oracle on random models: outputs, loss, losses, state and every gradient."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Any

import pytest
import torch
from backend_support import GOOD, PROFILE, compiled, corpus, disturbed, gradients, normal, seeded
from hypothesis import given, settings
from native_support import native

from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
from recdsl.ops import catalogue
from recdsl.testing import Case, assert_close_gradients, assert_matches, cases, random_case, reference

pytestmark = pytest.mark.compiler
FORWARD = ("rtrl", "columns", "snap(1)", "snap(2)", "rflo", "eprop")
WINDOWED = ("columns(window=3)", "columns(window=4, every=2)", "snap(2, window=4, every=3)")


def test_every_op_has_c():
    """But those that no program has: stores that grow with time are loops in it."""
    from recdsl.backends.native.ops import IN_TIMELINES, covered

    assert [name for name in catalogue() if not covered(name)] == sorted(IN_TIMELINES)


@settings(PROFILE, max_examples=10)
@given(cases())
def test_any_case(case: Case):
    assert_close_gradients(native, case)


@pytest.mark.parametrize("first", range(0, 40, 2))
def test_fixed_cases(first: int):
    for seed in range(first, first + 2):
        assert_close_gradients(native, seeded(seed))


@pytest.mark.parametrize("first", range(4))
def test_as_it_is_shipped(first: int):
    """With all optimisations of the compiler: vectors, fused multiplications."""
    assert_close_gradients(lambda case: native(case, flags=()), seeded(first))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86")
@pytest.mark.parametrize("processor", ["x86-64", "x86-64-v3"])
def test_on_lesser_processors(processor: str):
    """Vectors of two and four numbers, without and with fused multiplications."""
    for seed in (5, 6):
        assert_close_gradients(lambda case: native(case, flags=("-O2", f"-march={processor}")), seeded(seed))


@pytest.mark.parametrize("first", range(120, 126, 2))
def test_without_passes(first: int):
    for seed in range(first, first + 2):
        assert_close_gradients(lambda case: native(case, optimise=False), seeded(seed))


@pytest.mark.parametrize("first", range(144, 152, 2))
def test_calls_do_not_disturb_each_other(first: int):
    """Rooms are kept from call to call: the second and third calls of a module, and calls that overlap."""
    for seed in range(first, first + 2):
        module = native(seeded(seed))
        module.load_state_dict(seeded(seed).params, strict=False)
        for _ in range(2):
            assert_close_gradients(lambda _, module=module: module, seeded(seed))
            disturbed(module, seeded(seed))


@pytest.mark.parametrize("rule", [*FORWARD, *WINDOWED])
@pytest.mark.parametrize("first", [0, 2])
def test_forward_rules(rule: str, first: int):
    for seed in range(first, first + 2):
        case = random_case(seed, (("default", rule),))
        try:
            _ = case.plan
        except SpecError:
            continue
        assert_close_gradients(native, case)


@pytest.mark.parametrize("rule", ["columns", "snap(1)", "tbptt(3)"])
def test_mixtures(rule: str):
    """Some parameters by a forward rule, the others by a reverse pass, with other windows."""
    tried = 0
    for seed in range(30):
        case = random_case(seed, (("p1", rule), ("default", "tbptt(window=4, every=2)")))
        try:
            _ = case.plan
        except SpecError:
            continue
        assert_close_gradients(native, case)
        tried += 1
        if tried == 3:
            return
    assert tried > 1


@pytest.mark.parametrize("rule", ["artbp(3)", "uoro", "uoro(batch=joint)"])
def test_draws(rule: str):
    """Rules that draw numbers give what the torch backend gives from the same seed."""
    tried = 0
    for seed in range(8):
        case = random_case(seed, (("default", rule),))
        try:
            made: list[Any] = [native(case), compiled(case)]
        except SpecError:
            continue
        found: list[dict[str, torch.Tensor]] = []
        for module in made:
            module.load_state_dict(case.params, strict=False)
            torch.manual_seed(seed)
            result = module(case.batch, mask=case.mask, reset=case.reset, state=case.state)
            if result.loss.requires_grad:
                result.loss.backward()
            found.append({"loss": result.loss.detach(), **gradients(module)})
        assert_matches(found[0], found[1])
        tried += 1
    assert tried > 3


@pytest.mark.parametrize("first", range(160, 168, 2))
def test_single_precision(first: int):
    """Rounding alone, on what single precision makes of the parameters; with the compiler's optimisations."""
    for seed in range(first, first + 2):
        case = seeded(seed)
        if not case.model.smooth:
            continue
        rounded = {name: value.to(torch.float32).to(torch.float64) for name, value in case.params.items()}
        batch = {n: v.float().double() if v.is_floating_point() else v for n, v in case.batch.items()}
        case = replace(case, params=rounded, batch=batch)
        assert_close_gradients(lambda c: native(c, flags=(), dtype=torch.float32), case, 2e-4)


@pytest.mark.parametrize("name", sorted({path.stem for path in GOOD.glob("*.yaml")} - {"minimal"}))
def test_corpus(name: str):
    """Every good spec that has inputs: plain, ragged, and with overlapping windows."""
    for seed, credit in ((1, ""), (2, "tbptt(window=3, every=2)")):
        case = corpus(name, seed, credit)
        if name == "reductions" and seed % 2:  # a norm has no derivative at the zeros of masked steps
            continue
        assert_close_gradients(native, case)


def test_output_cotangents():
    """A user's own loss on outputs, beside the spec's."""
    for seed in range(8):
        case = replace(seeded(seed), mask=None, reset=None, state=None, gaps=False)
        batch = {
            n: normal(seed, *v.shape) if v.is_floating_point() else torch.zeros_like(v) for n, v in case.batch.items()
        }
        case = replace(case, batch=batch, cotangents={})
        floats = [n for n, node in case.graph.outputs if case.graph.nodes[node].type.dtype == "float"]
        shapes = {name: reference(case).outputs[name].shape for name in floats}
        cotangents = {name: normal(seed + k, *shapes[name]) for k, name in enumerate(floats)}
        assert_close_gradients(native, replace(case, cotangents=cotangents))


SHIPPED = (
    ("adding_gru", ("sizes.hidden=6",)),
    ("columnar_lstm", ("sizes.column=5",)),
    ("copy_lstm", ("sizes.hidden=6",)),
)


@pytest.mark.parametrize(("name", "overrides"), SHIPPED)
def test_shipped_specs(name: str, overrides: tuple[str, ...]):
    """Found by name, as a user does it; float32, against the torch backend."""
    stages = analyse(f"specs/{name}.yaml", overrides)
    made: list[Any] = [compile_spec(f"specs/{name}.yaml", b, overrides=overrides) for b in ("native", "torch")]
    draws = torch.Generator().manual_seed(3)
    batch: dict[str, torch.Tensor] = {}
    for item in stages.graph.inputs:
        if item.kind == "float":
            batch[item.name] = torch.randn((9, 4, *item.type.shape), generator=draws)
        else:
            batch[item.name] = torch.randint(item.size, (9, 4), generator=draws)
    found: list[dict[str, torch.Tensor]] = []
    for module in made:
        module.load_state_dict(made[0].state_dict())
        result = module(batch)
        result.loss.backward()
        found.append({"loss": result.loss.detach(), **gradients(module)})
    assert made[0].recdsl_runs == "native"
    assert_matches(found[0], found[1], tolerance=2e-5)


def test_precision_is_chosen_at_each_call():
    """A module that is turned into another precision runs in that one; one without C runs on torch."""
    case = replace(seeded(1), mask=None, reset=None, state=None, cotangents={})
    module = native(case)
    assert module.recdsl_runs == "native"
    module.float()
    assert module(case.batch).loss.dtype == torch.float32
    module.bfloat16()
    assert "no C for this" in module.recdsl_runs
    assert module(case.batch).loss.dtype == torch.bfloat16
