"""compile, explain, and the source that runs alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from driver_support import MSE, call, grads, made, recdsl

from recdsl.driver import analyse


def test_text_path_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("recdsl: 1\n" + MSE)
    assert recdsl.compile(str(path)).get_parameter("U").shape == (4, 4)
    assert recdsl.compile(str(path), overrides=["sizes.hid=6"]).get_parameter("U").shape == (6, 6)
    assert recdsl.compile(str(path), dtype=torch.float64).get_parameter("U").dtype == torch.float64


def test_explain() -> None:
    report = recdsl.explain("recdsl: 1\n" + MSE + "credit: tbptt(3)\n")
    rows = {row["parameter"]: row for row in report.to_dict()["rows"]}
    assert set(rows) == {"W", "U", "s"}
    assert rows["U"]["verdict"] == "biased"
    assert "tbptt" in str(report)


def test_equal_specs_give_equal_models() -> None:
    one, two = made(MSE), made(MSE)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    text = "recdsl: 1\n" + MSE
    assert analyse(text).source == analyse(text).source


ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("recdsl", "networkx", "lark", "yaml", "rich", "typer"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import torch
import model
found = model.Model(0, torch.float64)
x, z = torch.linspace(-1, 1, 42, dtype=torch.float64).reshape(7, 2, 3), torch.zeros(7, 2, 4, dtype=torch.float64)
result = found({"x": x, "z": z}, mask=torch.ones(7, 2, dtype=torch.bool))
result.loss.backward()
print(repr(result.loss.item()), repr(float(found.get_parameter("U").grad.sum())))
"""


def test_the_source_runs_without_recdsl(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(analyse("recdsl: 1\n" + MSE).source)
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import alone"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    model = made(MSE)
    x = torch.linspace(-1, 1, 42, dtype=torch.float64).reshape(7, 2, 3)
    result = call(model, {"x": x, "z": torch.zeros(7, 2, 4, dtype=torch.float64)})
    result.loss.backward()
    loss, slope = map(float, done.stdout.split())
    assert loss == pytest.approx(result.loss.item(), abs=1e-12)
    assert slope == pytest.approx(float(grads(model)["U"].sum()), abs=1e-12)
