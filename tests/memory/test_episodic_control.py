"""The shipped tables of episodic control, driven from Python as their specs say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:the memory .* is read, but nothing has been written")
CELLS, DISCOUNT = 7, 0.9


def made(name: str, *more: str) -> Any:
    torch.manual_seed(0)
    small = ("memory.first.slots=60", "memory.second.slots=60", *more)
    return recdsl.compile(f"specs/{name}.yaml", overrides=small, dtype=torch.float64)


def seen(cell: int) -> Tensor:
    """What a cell of the corridor looks like, the same each time."""
    return torch.randn(4, generator=torch.Generator().manual_seed(cell), dtype=torch.float64)


def worth(model: Any, x: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        outputs = model.eval()({"x": x[None, None]}).outputs
    return float(outputs["q0"]), float(outputs["q1"])


def episode(model: Any, draws: torch.Generator, chance: float) -> list[tuple[int, int, float]]:
    """(cell, action, return) of a walk from the middle: 0.3 waits at the left end, 1 at the right one."""
    cell, walk = CELLS // 2, list[tuple[int, int]]()
    while 0 < cell < CELLS - 1 and len(walk) < 30:
        values = worth(model, seen(cell))
        explore = float(torch.rand((), generator=draws)) < chance or values[0] == values[1]
        action = int(torch.randint(2, (), generator=draws)) if explore else int(values[1] > values[0])
        walk.append((cell, action))
        cell += 1 if action else -1
    final = 0.3 if cell == 0 else 1.0 if cell == CELLS - 1 else 0.0
    return [(at, action, final * DISCOUNT ** (len(walk) - 1 - k)) for k, (at, action) in enumerate(walk)]


def batch(items: list[tuple[int, int, float]]) -> dict[str, Tensor]:
    """[steps, 1, ...]."""
    cells, actions, returns = zip(*items, strict=True)
    return {
        "x": torch.stack([seen(cell) for cell in cells])[:, None],
        "action": torch.tensor(actions)[:, None],
        "return": torch.tensor(returns, dtype=torch.float64)[:, None],
    }


def test_model_free_episodic_control_finds_the_better_end() -> None:
    """Beside a dictionary of the best returns, which it is for states that it knows."""
    model, draws = made("episodic_control"), torch.Generator().manual_seed(1)
    best: dict[tuple[int, int], float] = {}
    for _ in range(40):
        items = episode(model, draws, 0.3)
        with torch.no_grad():
            model.train()(batch(items))
        for cell, action, value in items:
            best[cell, action] = max(best.get((cell, action), -1.0), value)
        for cell in range(1, CELLS - 1):
            for action, value in enumerate(worth(model, seen(cell))):
                if (cell, action) in best:
                    assert value == pytest.approx(best[cell, action], abs=1e-12)
    assert int(model.first.count) == sum(action == 0 for _, action in best)  # no slot is taken twice
    assert all(values[1] > values[0] for values in (worth(model, seen(cell)) for cell in range(CELLS // 2, CELLS - 1)))


def test_an_unknown_state_has_the_mean_of_the_nearest() -> None:
    model = made("episodic_control", "memory.first.read.select=topk(3)")
    items = [(cell, 0, float(cell)) for cell in range(10)]
    with torch.no_grad():
        model.train()(batch(items))
    for number in range(100, 110):
        x = seen(number)
        apart = [float(((seen(cell) - x) @ model.A.T).norm()) for cell in range(10)]
        nearest = sorted(range(10), key=lambda cell: apart[cell])[:3]
        assert worth(model, x)[0] == pytest.approx(sum(nearest) / 3)
    assert worth(model, seen(4))[0] == pytest.approx(4.0, abs=1e-12)


def test_neural_episodic_control_learns_values_and_an_embedding() -> None:
    """Eight contexts, of which the one sign that matters says which action pays; half of them are never written."""
    model, draws = made("neural_episodic_control"), torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def rewards(size: int) -> dict[str, Tensor]:
        x = torch.randn(size, 1, 4, generator=draws, dtype=torch.float64)
        action = torch.randint(2, (size, 1), generator=draws)
        pays = (x[..., 0] > 0).long() == action
        return {"x": x, "action": action, "return": pays.double()}

    losses = list[float]()
    for _ in range(120):
        with torch.no_grad():
            model.train()(rewards(4))
        optimizer.zero_grad()
        loss = model.eval()(rewards(16)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    asked = torch.randn(200, 1, 4, generator=draws, dtype=torch.float64)
    with torch.no_grad():
        outputs = model.eval()({"x": asked}).outputs
    right = ((outputs["q1"] > outputs["q0"]) == (asked[..., 0] > 0)).double().mean()
    assert float(right) > 0.85
    assert any(bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_a_gradient_moves_a_value_that_was_merged() -> None:
    """An item stays itself when another changes its value, so `param` moves it all the same."""
    model = made("neural_episodic_control")
    one = batch([(1, 0, 1.0)])
    with torch.no_grad():
        model.train()(one)
    loss = model.eval()(batch([(1, 0, 3.0)])).loss  # reads 1, wants 3: its derivative is -4
    with torch.no_grad():
        model.train()(batch([(1, 0, 2.0)]))
    assert float(model.first.value[0]) == pytest.approx(1.1)
    loss.backward()
    assert float(model.first.value[0]) == pytest.approx(1.1 + 0.1 * 4.0)
    assert model.first.serial.tolist()[:2] == [1, 0]
