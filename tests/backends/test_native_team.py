"""Functions that several threads share, with threads that run one after the other: in whatever order they come to their
turn, the result is the definition's. So a result cannot depend on which of them is faster."""

from __future__ import annotations

import ctypes
import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from backend_support import corpus, seeded
from native_support import SPEC, native

from recdsl.backends.native import call, functions, team, writer
from recdsl.diagnostics import SpecError
from recdsl.testing import Case, assert_close_gradients, random_case

pytestmark = pytest.mark.compiler
RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
PART, WAIT, COUNT = ctypes.CFUNCTYPE(None, ctypes.c_void_p), ctypes.CFUNCTYPE(None), ctypes.CFUNCTYPE(ctypes.c_int)


class Turns:
    """Threads of which one runs at a time: from one wait to the next, then the one that is behind it in the order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order, self.turn, self.runs = order, 0, 0
        self.own, self.moved = threading.local(), threading.Condition()
        most = COUNT(lambda: len(order))
        self.calls = (RUN(self.run), WAIT(self.wait), most, COUNT(self.count), COUNT(self.me))

    def addresses(self) -> list[int | None]:
        return [ctypes.cast(item, ctypes.c_void_p).value for item in self.calls]

    def run(self, part: int, given: int, count: int, _flags: int) -> None:
        self.runs, self.turn = self.runs + 1, 0
        self.now = [k for k in self.order if k < count]
        all_of = [threading.Thread(target=self._one, args=(k, PART(part), given)) for k in range(count)]
        for thread in all_of:
            thread.start()
        for thread in all_of:
            thread.join()

    def _one(self, k: int, part: Callable[[int], None], given: int) -> None:
        self.own.number = k
        self._mine()
        part(given)
        self._pass_on()

    def _mine(self) -> None:
        with self.moved:
            assert self.moved.wait_for(lambda: self.now[self.turn] == self.own.number, 60)

    def _pass_on(self) -> None:
        with self.moved:
            self.turn = (self.turn + 1) % len(self.now)
            self.moved.notify_all()

    def wait(self) -> None:
        self._pass_on()
        self._mine()

    def count(self) -> int:
        return len(self.now)

    def me(self) -> int:
        return self.own.number


@pytest.fixture(params=[(0, 1), (2, 1, 0)], ids=["two", "three"])
def turns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    """Libraries that are loaded meanwhile take these threads, however little there is to do."""
    yield from _planted(Turns(request.param), monkeypatch)


def _planted(found: Turns, monkeypatch: pytest.MonkeyPatch) -> Iterator[Turns]:
    libraries: list[tuple[Any, bool]] = []

    def linked(library: Any, single: bool) -> None:
        libraries.append((library, single))
        functions.linked(library, single)

    _forget()
    with monkeypatch.context() as patch:
        patch.setattr(call, "linked", linked)
        patch.setattr(functions, "threads", found.addresses)
        patch.setattr(functions, "LEAST", 1e-9)
        patch.setattr(functions, "SAMPLES", 1)
        yield found
    for library, single in libraries:  # a file that is loaded again is the same one
        functions.linked(library, single)
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith("recdsl_native_")]:
        del sys.modules[name]


@pytest.mark.parametrize("first", range(0, 24, 4))
def test_random_models(turns: Turns, first: int) -> None:
    for seed in range(first, first + 4):
        assert_close_gradients(native, seeded(seed))
    assert turns.runs


@pytest.mark.parametrize("rule", ["tbptt(window=3)", "snap(1)", "columns(window=3)", "rflo", "sab(truncate=2)"])
def test_rules(turns: Turns, rule: str) -> None:
    found = 0
    for seed in range(40, 48):
        try:
            assert_close_gradients(native, random_case(seed, (("default", rule),)))
            found += 1
        except SpecError:
            continue
    assert found >= 3


@pytest.mark.parametrize("name", ["slices", "learned_start", "stacked", "memory_two_reads"])
def test_models(turns: Turns, name: str) -> None:
    assert_close_gradients(native, corpus(name, 1, "bptt"))


def test_what_torch_has() -> None:
    """Where torch uses GNU's OpenMP there are threads, as many as torch has."""
    found = functions.threads()
    assert found == [] or (len(found) == len(functions.CALLS) and all(found))
    if sys.platform == "linux" and torch.backends.openmp.is_available():
        assert found


def test_torch_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own threads, and more of them than samples."""
    monkeypatch.setattr(functions, "LEAST", 1e-9)
    monkeypatch.setattr(functions, "SAMPLES", 1)
    threads = torch.get_num_threads()
    _forget()
    try:
        for count in (2, 5):
            torch.set_num_threads(count)
            for seed in range(3):
                assert_close_gradients(native, seeded(seed))
    finally:
        torch.set_num_threads(threads)
        _forget()


FORKS = """
import os, signal, torch
from recdsl.backends.native import functions
from recdsl.driver import compile
functions.LEAST = 1.0
torch.set_num_threads(2)
model = compile({spec!r}, "native")
x = torch.zeros(20, 8, 2)

def loss():
    result = model({{"x": x, "y": x}})
    result.loss.backward()
    return result.loss.item()

expected = loss()
child = os.fork()
if not child:
    signal.alarm(60)
    os._exit(loss() != expected)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_is_one_thread() -> None:
    """It has none of its parent's threads, and would wait for them without end."""
    run = subprocess.run([sys.executable, "-c", FORKS.format(spec=SPEC)], timeout=120, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# -- planted faults ---------------------------------------------------------------------------------------------------
def _no_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(team, "WAIT", ";")


def _all_of_it(patch: pytest.MonkeyPatch) -> None:
    """What one thread should do is done by all."""
    real = team.text
    patch.setattr(team, "text", lambda kind, lines: team.alone(lines) if kind == "alone" else real(kind, lines))


def _all_loops(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(team, "each", lambda lines: "@parts" not in lines)


def _rounds_overlap(patch: pytest.MonkeyPatch) -> None:
    """No thread waits for others at the end of a round."""
    real = team.together

    def together(lines: Sequence[str]) -> list[str]:
        made = [*real(lines), ""]
        return [line for line, after in itertools.pairwise(made) if line != team.WAIT or after != "}"]

    patch.setattr(writer, "together", together)


def _too_few(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer, "SHARED", tuple(re.sub(r"b1 = .*?;", "b1 = b0 + B / u1;", line) for line in team.SHARED))


def _products_of_the_first(patch: pytest.MonkeyPatch) -> None:
    real = team.bounded
    patch.setattr(
        team, "bounded", lambda line, first, last: real(line, first, last).replace("(b1 - b0)", "(b0 ? 0 : b1)")
    )


FAULTS = (_no_waits, _all_of_it, _all_loops, _rounds_overlap, _too_few, _products_of_the_first)


@pytest.mark.parametrize("plant", FAULTS)
def test_planted_faults_are_rejected(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = (0, 1), (2, 1, 0)
    rules = (("columns(window=3)", 0), ("rtrl", 2), ("rtrl", 3), ("rtrl", 7), ("snap(1)", 7))
    found = [*(random_case(seed, (("default", rule),)) for rule, seed in rules), *map(seeded, range(8))]
    found += [corpus(name, 1, "bptt") for name in ("stacked", "slices", "learned_start", "memory_two_reads")]
    assert any(_rejected(plant, case, order, monkeypatch) for case in found for order in orders)


def _rejected(plant: Callable[..., None], case: Case, order: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> bool:
    planted = _planted(Turns(order), monkeypatch)
    next(planted)
    try:
        with monkeypatch.context() as patch:
            plant(patch)
            _forget()
            assert_close_gradients(native, case)
    except AssertionError:
        return True
    finally:
        next(planted, None)
    return False
