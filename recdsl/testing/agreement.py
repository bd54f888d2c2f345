"""Compares backends on random models: `python -m recdsl.testing.agreement --seeds 0:50 --backend native`.

Models, rules and calls are those of `claims.py`, stores that last as long as the model included. Each call is made by
the `torch` backend, whose results the test suite holds to the definition of every rule, and by the other one: as a
whole, with gradients that arrive at outputs, and in two pieces with the state that is carried between them (those
around stores whole alone, several in a row, half of them with queries that depend on a state). Outputs at
valid steps, loss, losses, state with all traces, gradients, and the rows of stores must be the same in float64.
"""

from __future__ import annotations

import argparse
import gc
import linecache
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from recdsl.backends import find
from recdsl.diagnostics import SpecError
from recdsl.testing.cases import Case, moved, random_call
from recdsl.testing.claims import RULES, Drawn, compiled, model, number, piece
from recdsl.testing.draws import Draws
from recdsl.testing.lasting import CALLS, STORE, stored
from recdsl.testing.models import Model
from recdsl.training.gradcheck import analysed

TOLERANCE = 1e-10
Made = Callable[[Any], Any]
Found = dict[str, Tensor]


@dataclass
class Tally:
    """modules: pairs that were made. calls: compared. elsewhere: entries that run on torch, by reason."""

    modules: int = 0
    refused: int = 0
    calls: int = 0
    failures: list[str] = field(default_factory=list[str])
    elsewhere: Counter[str] = field(default_factory=Counter[str])

    def __str__(self) -> str:
        reasons = [f"{count} modules: {reason}" for reason, count in self.elsewhere.most_common()]
        made = f"{self.modules:,} modules, {self.refused:,} rules refused, {self.calls:,} calls compared"
        return "\n".join([*reasons, f"{made}; {len(self.failures):,} failures"])


def maker(name: str, flags: Sequence[str] = ()) -> Made:
    """Modules of a backend in float64. flags: for the C compiler; `-O0` is quick."""
    if name != "native":
        return lambda compilation: find(name).module(compilation, torch.float64)
    from recdsl.backends.native import native_module

    def make(compilation: Any) -> Any:
        made = native_module(compilation.graph, compilation.plan, compilation.source, flags=tuple(flags))
        return made.Model(compilation.seed, torch.float64)

    return make


def check(made: Drawn, rule: str, make: Made, tally: Tally) -> None:
    """One rule on one model. Raises AssertionError where the backends differ."""
    store = " & " in rule
    try:
        compilation = _lasting(made.seed, rule) if store else compiled(made, rule)
    except SpecError:
        compilation = None
    if compilation is None or not (store or made.cases):
        tally.refused += 1
        return
    pair = [maker("torch")(compilation), make(compilation)]
    for module in pair:
        module.recdsl_chunk = piece(made.seed, rule) or module.recdsl_chunk
    tally.modules += 1
    tally.elsewhere.update(_elsewhere(pair[1]))
    calls = _calls(compilation, made.seed) if store else made.cases
    for case in calls:
        values = {**case.params, **({} if store else moved(compilation.plan, made.seed))}
        cotangents = _cotangents(case, made.seed)
        runs = (_whole,) if store else (_whole, _pieces)
        for run in runs:
            one, other = (run(module, case, {} if store else values, cotangents, made.seed) for module in pair)
            agree(other, one)
            tally.calls += 1
    for name, value in pair[0].state_dict().items():
        if not name.endswith(".radial"):  # a ratio, also of gradients that are rounding alone
            agree({name: pair[1].state_dict()[name]}, {name: value})


def _lasting(seed: int, rule: str) -> Any:
    store, default = rule.split(" & ")
    made = stored(seed, recurrent=bool(seed // 2 % 2))
    return None if made is None else analysed(made.text + f'credit: {{{STORE}: "{store}", default: "{default}"}}\n')


def _calls(compilation: Any, seed: int) -> list[Case]:
    """Calls in a row, without masks and resets."""
    empty = Model("", compilation.graph, (), smooth=False)
    return [random_call(Draws.seeded(100 * seed + k), empty, 1, 4) for k in range(CALLS)]


def _cotangents(case: Case, seed: int) -> dict[str, Tensor]:
    """For outputs of every second model."""
    if seed % 2:
        return {}
    shape = next(iter(case.batch.values())).shape[:2]
    draws = Generator().manual_seed(seed)
    return {
        name: torch.randn((*shape, *case.graph.nodes[node].type.shape), generator=draws, dtype=torch.float64)
        for name, node in case.graph.outputs
        if case.graph.nodes[node].type.dtype == "float"
    }


def _whole(module: Any, case: Case, values: Mapping[str, Tensor], cotangents: Mapping[str, Tensor], seed: int) -> Found:
    with torch.no_grad():
        for name, value in values.items():
            module.recdsl_tensor(name).copy_(value)
    module.zero_grad()
    torch.manual_seed(seed)
    batch, mask = (case.batch, case.mask) if values else (_sound(case.batch), None)
    given = {"mask": mask, "reset": case.reset, "state": case.state} if values else {}
    result = module(batch, **given)
    total = result.loss
    for name, cotangent in cotangents.items():
        shown = result.outputs[name]
        total = total + torch.where(_wide(mask, shown), cotangent * shown, torch.zeros_like(shown)).sum()
    if total.requires_grad:
        total.backward()
    return _found(module, result, mask)


def _sound(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: v.nan_to_num(0.5) if v.is_floating_point() else v.clamp(max=0) for n, v in batch.items()}


def _pieces(
    module: Any, case: Case, values: Mapping[str, Tensor], cotangents: Mapping[str, Tensor], seed: int
) -> Found:
    """The call in two pieces, each with a backward pass of its own."""
    steps = next(iter(case.batch.values())).shape[0]
    at = max(1, number(seed, "at") % steps)
    module.zero_grad()
    torch.manual_seed(seed)
    state, found = case.state, Found()
    for part in (slice(0, at), slice(at, steps)):
        batch = {name: value[part] for name, value in case.batch.items()}
        if not next(iter(batch.values())).shape[0]:
            continue
        mask, reset = (None if x is None else x[part] for x in (case.mask, case.reset))
        result = module(batch, mask=mask, reset=reset, state=state)
        if result.loss.requires_grad:
            result.loss.backward()
        state = {name: value.detach() for name, value in result.state.items()}
        found |= {f"piece {part.start} {n}": v.clone() for n, v in _found(module, result, mask).items()}
    return found


def _wide(mask: Tensor | None, shown: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(shown, dtype=torch.bool)
    return mask.reshape(*mask.shape, *(1,) * (shown.dim() - 2)).expand(shown.shape)


def _found(module: Any, result: Any, mask: Tensor | None) -> Found:
    """All that a call leaves."""
    found: Found = {"loss": result.loss}
    for name, value in result.outputs.items():
        found[f"output {name}"] = torch.where(_wide(mask, value), value, torch.zeros_like(value))
    found |= {f"loss {name}": value for name, value in result.losses.items()}
    found |= {f"state {name}": value for name, value in result.state.items()}
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found |= {f"gradient {n}": torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def agree(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Entries within `TOLERANCE` of the largest one, and rounding of the largest of all: see `claims.py` on that."""
    assert found.keys() == expected.keys(), f"{sorted(found)} instead of {sorted(expected)}"
    sizes = [float(v.double().nan_to_num(0.0, 0.0, 0.0).abs().max()) for v in expected.values() if v.numel()]
    rounding = torch.finfo(torch.float64).eps * max(sizes, default=0.0)
    for name, wanted in expected.items():
        got = found[name].double()
        assert got.shape == wanted.shape, f"{name}: {got.shape} instead of {wanted.shape}"
        wide = wanted.double()
        top = float(wide.nan_to_num(0.0, 0.0, 0.0).abs().max()) if wide.numel() else 0.0
        same = torch.isclose(got, wide, rtol=0.0, atol=TOLERANCE * (1.0 + top) + rounding, equal_nan=True)
        assert bool(same.all()), f"{name}: off by {float((got - wide)[~same].abs().max()):.3e} (scale {top:.3g})"


def _elsewhere(module: Any) -> set[str]:
    """Why entries of a native module run on torch."""
    said = str(getattr(module, "recdsl_runs", "native"))
    return set(said.removeprefix("native").removeprefix("; ").split("; ")) - {""}


def run(seeds: range, rules: Sequence[str], make: Made, budget: float = 0.0) -> Tally:
    """All rules on the models of all seeds. budget: seconds (0: no end)."""
    tally, began = Tally(), time.monotonic()
    for seed in seeds:
        if budget and time.monotonic() - began > budget:
            _say(f"the time is up before seed {seed}")
            break
        made = model(seed)
        for rule in rules:
            try:
                check(made, rule, make, tally)
            except Exception as error:
                tally.failures.append(f'--seeds {seed}:{seed + 1} --rules "{rule}": {type(error).__name__}: {error}')
                _say(tally.failures[-1])
        _forget()
    return tally


def _forget() -> None:
    """Generated modules."""
    for name in [name for name in sys.modules if name.startswith(("recdsl_generated_", "recdsl_native_"))]:
        del sys.modules[name]
        linecache.cache.pop(f"<{name}>", None)
    gc.collect()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where backends differ."""
    parser = argparse.ArgumentParser(prog="python -m recdsl.testing.agreement", description=__doc__)
    parser.add_argument("--seeds", default="0:20", help="first:behind the last")
    parser.add_argument("--rules", nargs="+", default=RULES, help="as in `credit:`; all kinds of rules by default")
    parser.add_argument("--backend", default="native", help="what is compared with `torch`")
    parser.add_argument(
        "--flags", default="-O0", help="for the C compiler, with spaces between; none: as it is shipped"
    )
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no further model after so long")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    first, last = map(int, given.seeds.split(":"))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        tally = run(range(first, last), given.rules, maker(given.backend, given.flags.split()), given.seconds)
    _say(str(tally))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
