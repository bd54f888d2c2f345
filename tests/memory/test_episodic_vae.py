"""A variational autoencoder as decoder, and eviction by its uncertainty: the spec, and the noise that it draws with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recdsl.training.batches import Place, Request, Source
from recdsl.training.catalogue import beside
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup
from recdsl.training.sources import sequential_digits

SPEC = "specs/episodic_vae.yaml"


def made(*changes: str) -> Any:
    seed_all(1)
    compiled = COMPILER.build(SPEC, ("train.threads=1", *changes))
    ready = setup(compiled, beside(compiled.spec))
    return trainer(compiled, ready.source, ready.binding, ready.settings)


def test_it_learns_through_what_it_keeps() -> None:
    """Measured: 0.80 of 360 test digits after 400 updates; without credit to stored items 0.54."""
    worker = made()
    for _ in range(250):
        worker.update()
    found = worker.report()
    assert found["accuracy"] > 0.4
    assert worker.evaluate("test", 10)["accuracy"] > 0.5


def test_it_keeps_what_it_is_surest_of() -> None:
    """Of all items ever offered those with the highest priority, each of them its certainty and a twentieth a step."""
    worker = made("memory.episodic.slots=50")
    offered: list[torch.Tensor] = []
    forward = type(worker.module).forward

    def noted(self: Any, *args: Any, **given: Any) -> Any:
        found = forward(self, *args, **given)
        offered.append(found.outputs["certainty"].detach().flatten() + len(offered) / 20)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(worker.module), "forward", noted)
        for _ in range(12):
            worker.update()
    best = torch.cat(offered).sort(descending=True).values[:50]
    held = worker.module.episodic.priority.sort(descending=True).values
    assert torch.allclose(held, best, atol=1e-6)
    assert len({int(number) for number in (worker.module.episodic.serial - 1) // 32}) > 2  # of several batches


def test_the_classifier_does_not_train_the_autoencoder() -> None:
    worker = made()
    worker.update()
    model, batch = worker.module, worker.binding.call(worker.source.draw(Request("train", 8, 2)).next(), "").tensors
    model.zero_grad()
    guess = model(batch).outputs["guess"]
    (-guess.gather(2, batch["y"].unsqueeze(2)).clamp_min(1e-6).log().mean()).backward()
    for name, p in model.named_parameters():
        zero = p.grad is None or bool((p.grad == 0).all())
        assert zero == (not name.startswith("e.")), name


def source(noise: int) -> Source:
    return sequential_digits.open_source({"as": "flat", "permute": None, "noise": noise}, Place())


def test_noise_is_drawn_anew_and_again_after_a_restart() -> None:
    found = source(5)
    assert [field.name for field in found.fields] == ["x", "y", "noise"]
    assert [field.name for field in source(0).fields] == ["x", "y"]
    request = Request("train", 64, 3)
    sampler, plain = found.draw(request), source(0).draw(request)
    first, second = sampler.next(), sampler.next()
    state = sampler.state()
    third = sampler.next()
    assert first.arrays["noise"].shape == (1, 64, 5)
    assert first.arrays["x"].shape == (1, 64, 64)
    assert (first.arrays["x"] == plain.next().arrays["x"]).all()  # the data is what it was
    assert not (first.arrays["noise"] == second.arrays["noise"]).any()
    other = found.draw(request)
    other.restore(state)
    assert (other.next().arrays["noise"] == third.arrays["noise"]).all()
    drawn = torch.cat([torch.from_numpy(sampler.next().arrays["noise"]).flatten() for _ in range(30)])
    assert abs(float(drawn.mean())) < 0.05
    assert abs(float(drawn.std()) - 1) < 0.05
