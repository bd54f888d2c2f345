"""Models as files of C: they run where recdsl is not, with the same results, and say so where they cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recdsl.backends.native import build
from recdsl.backends.native.build import BuildError
from recdsl.backends.native.emit import emit
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec

pytestmark = pytest.mark.compiler
SPEC = """recdsl: 1
name: shipped
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
targets: {y: "float[hid]"}
step: |
  h, c = lstm_columns(x, size=hid)
  out = linear(h, size=hid)
loss: mse(out, y)
credit: %s
train: {dtype: float64, seed: 5}
"""
RUN = """
import json, sys, warnings
sys.modules["recdsl"] = None
sys.path.insert(0, sys.argv[1])
import torch
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import shipped
model = shipped.Model(seed=5, dtype=torch.float64)
x = torch.sin(torch.arange(7 * 2 * 3, dtype=torch.float64)).view(7, 2, 3)
y = torch.cos(torch.arange(7 * 2 * 4, dtype=torch.float64)).view(7, 2, 4)
reset = torch.zeros(7, 2, dtype=torch.bool)
reset[3, 1] = True
found = {"c": type(model.recdsl_functions["plain.forward"][0]).__name__, "notes": [str(item.message) for item in seen]}
for name, flags in (("plain", None), ("ragged", reset)):
    model.zero_grad()
    loss = model({"x": x, "y": y}, reset=flags).loss
    loss.backward()
    found[name] = [float(loss.detach()), *(float(p.grad.sum()) for p in model.parameters())]
found["single"] = float(shipped.Model(seed=5)({"x": x, "y": y}).loss.detach())
print(json.dumps(found))
"""


LONG = """recdsl: 1
name: long
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
targets: {y: "float[hid]"}
memory:
  past:
    slots: unbounded
    write: {value: h, every: 2}
    read: {query: p, score: mlp(3), select: topk(2), normalise: shifted_relu}
step: |
  p, c = lstm_cell(x, h[t-1], c[t-1], size=hid)
  h = p + past.read
loss: mse(h, y)
credit: sab(truncate=3, replay=always)
"""
LONG_RUN = """
import json, sys
sys.modules["recdsl"] = None
sys.path.insert(0, sys.argv[1])
import torch, shipped
made = torch.load(sys.argv[1] + "/batch.pt")
model = shipped.Model(dtype=torch.float64)
model.load_state_dict(made["state"])
used = []
for name, entry in list(shipped.FUNCTIONS.items()):
    def seen(*args, name=name, function=entry[0]):
        used.append(name + " " + type(function).__name__)
        return function(*args)
    shipped.FUNCTIONS[name] = seen, *entry[1:]
model(made["batch"]).loss.backward()
torch.save({name: p.grad for name, p in model.named_parameters()}, sys.argv[1] + "/found.pt")
print(json.dumps(sorted(set(used))))
"""


def shipped(folder: Path, rule: str) -> None:
    made = analyse(SPEC % rule)
    found = emit(made.graph, made.plan, made.source, "shipped", single=False)
    assert not found.left
    (folder / "shipped.c").write_text(found.c)
    (folder / "libshipped.so").write_bytes(found.library)
    (folder / "shipped.py").write_text(found.python)


def run(folder: Path) -> dict[str, list[float]]:
    command = [sys.executable, "-I", "-c", RUN, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected(rule: str) -> dict[str, list[float]]:
    model = compile_spec(SPEC % rule, dtype=torch.float64)
    x = torch.sin(torch.arange(7 * 2 * 3, dtype=torch.float64)).view(7, 2, 3)
    y = torch.cos(torch.arange(7 * 2 * 4, dtype=torch.float64)).view(7, 2, 4)
    reset = torch.zeros(7, 2, dtype=torch.bool)
    reset[3, 1] = True
    found: dict[str, list[float]] = {}
    for name, flags in (("plain", None), ("ragged", reset)):
        model.zero_grad()
        loss = model({"x": x, "y": y}, reset=flags).loss
        loss.backward()
        gradients = [p.grad for p in model.parameters()]
        found[name] = [float(loss.detach()), *(float(g.sum()) for g in gradients if g is not None)]
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FLAGS", ("-O0",))


@pytest.mark.parametrize("rule", ["tbptt(window=3)", "columns"])
def test_runs_without_recdsl(tmp_path: Path, rule: str) -> None:
    shipped(tmp_path, rule)
    found, wanted = run(tmp_path), expected(rule)
    assert found["c"] == "CFunction"
    assert found["notes"] == []
    for name, numbers in wanted.items():
        assert found[name] == pytest.approx(numbers, rel=1e-10, abs=1e-12)
    assert found["single"] == pytest.approx(wanted["plain"][0], rel=1e-5)


def test_pieces_of_long_calls_run_in_c_too(tmp_path: Path) -> None:
    made = analyse(LONG)
    found = emit(made.graph, made.plan, made.source, "shipped", single=False)
    (tmp_path / "libshipped.so").write_bytes(found.library)
    (tmp_path / "shipped.py").write_text(found.python)
    model = compile_spec(LONG, dtype=torch.float64)
    drawn = torch.randn(150, 2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = {"x": drawn[..., :3], "y": drawn[..., 3:]}
    model(batch).loss.backward()
    torch.save({"state": model.state_dict(), "batch": batch}, tmp_path / "batch.pt")
    command = [sys.executable, "-I", "-c", LONG_RUN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    assert {"plain_pieces.forward CFunction", "plain_pieces.again CFunction"} <= set(used)
    assert all(item.endswith(" CFunction") for item in used)
    gradients = torch.load(tmp_path / "found.pt")
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, rtol=0.0, atol=1e-9)


def test_says_what_is_wrong_with_its_library_and_runs_without(tmp_path: Path) -> None:
    shipped(tmp_path, "tbptt(window=3)")
    wanted = run(tmp_path)
    library = tmp_path / "libshipped.so"
    whole = library.read_bytes()
    text = (tmp_path / "shipped.py").read_text()
    library.write_bytes(whole.replace(text.partition('libshipped.so"),\n    "')[2][:64].encode(), b"0" * 64))
    cases = {
        "of another model": None,
        "does not load": b"rubbish",
        "cut short": whole[: len(whole) // 2],
        "there is no": b"",
    }
    for reason, data in cases.items():
        if data is not None:
            library.write_bytes(data) if data else library.unlink()
        found = run(tmp_path)
        assert found["c"] == "function"
        (note,) = found["notes"]
        assert reason in str(note)
        assert "cc -O" in str(note)
        assert found["ragged"] == pytest.approx(wanted["ragged"], rel=1e-10)


def test_says_what_a_processor_lacks(tmp_path: Path) -> None:
    shipped(tmp_path, "tbptt(window=3)")
    path = tmp_path / "shipped.py"
    text = path.read_text()
    assert "frozenset([" in text
    path.write_text(text.replace("frozenset([", "frozenset(['avx9999', ", 1))
    found = run(tmp_path)
    assert "lacks avx9999" in str(found["notes"][0])
    assert found["c"] == "function"


def test_can_be_compiled_again_by_its_own_command(tmp_path: Path) -> None:
    shipped(tmp_path, "columns")
    first = (tmp_path / "shipped.c").read_text().splitlines()[0]
    (tmp_path / "libshipped.so").unlink()
    command = first.partition("compile: ")[2].removesuffix(" */")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, timeout=120)
    assert run(tmp_path)["c"] == "CFunction"


def test_no_compiler_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(BuildError, match="no C compiler"):
        shipped(tmp_path, "columns")
    assert list(tmp_path.iterdir()) == []
