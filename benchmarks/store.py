"""The suite `store`: what a store of a million embeddings costs, in bytes a slot and seconds a call."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.table import Row
from recdsl.driver import compile as compile_spec

SLOTS, CODE, CLASSES, BATCH, TOP = 1_000_000, 64, 10, 32, 8
GROUPS, SPREAD = 1_000, 0.5
CELLS = {"exact": ("exact", 0), "faiss": ("faiss", GROUPS), "faiss, random keys": ("faiss", 0)}
"""By name: the index, and how many centres keys lie around (0: none; such keys have no near neighbours)."""
SPEC = f"""recdsl: 1
name: store
sizes: {{pixels: 64, code: {CODE}, classes: {CLASSES}}}
inputs: {{x: "float[pixels]"}}
targets: {{y: "class[classes]"}}
memory:
  episodic:
    slots: SLOTS
    write: {{key: e, value: onehot(y)}}
    read: {{query: stop(e), score: cosine(sharpness=10), select: topk({TOP}), normalise: softmax,
           index: "INDEX"}}
step: |
  e = mlp(x, sizes=[128, code])
  guess = episodic.read
  rebuilt = mlp(stop(e), sizes=[128, pixels])
loss:
  classify: {{value: "nll(guess, y)", trains: [e.*, episodic]}}
  rebuild: {{value: "mse(rebuilt, stop(x))", trains: rebuilt.*}}
credit:
  episodic: reinstate(approximate, encode=e, decode=rebuilt)
"""


def run(only: list[str], repeats: int) -> Iterator[Row]:
    """One row an index: bytes a slot, and CPU milliseconds of each part of a call of 32 samples."""
    torch.set_num_threads(1)
    for name, (index, _) in CELLS.items():
        if (only and name not in only) or (index == "faiss" and find_spec("faiss") is None):
            continue
        yield measured(name, min(repeats, 5))


def measured(name: str, repeats: int) -> Row:
    model = filled(SLOTS, *CELLS[name])
    plain = 4 * (CODE + CLASSES)
    rows = sum(v.numel() * v.element_size() for n, v in model.named_buffers() if n.startswith("episodic."))
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    build = seconds(lambda: best(0, model))
    read, write, back = best(repeats, model)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began
    return {
        "cell": name, "config": f"{SLOTS:,} slots of {CODE} and {CLASSES} floats, B={BATCH}",
        "bytes/slot": round(rows / SLOTS, 1), "x embedding and label": round(rows / SLOTS / plain, 3),
        "read_ms": round(1e3 * read, 1), "write_ms": round(1e3 * write, 1),
        "reinstate_ms": round(1e3 * back, 1), "kept_KiB": round(kept(model) / 1024, 1),
        "peak_grows_MiB": round(grown / 1024, 1), "recall": recall(model), "build_s": round(build, 1),
    }  # fmt: skip


def filled(slots: int, index: str, groups: int) -> Any:
    """A model whose store is full of random rows, as if calls had written them. groups: centres of keys, 0: none."""
    model: Any = compile_spec(SPEC.replace("SLOTS", str(slots)).replace("INDEX", index))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.episodic.key.normal_(generator=draws)
        if groups:
            centres = torch.randn(groups, CODE, generator=draws)
            at = torch.randint(groups, (slots,), generator=draws)
            model.episodic.key.mul_(SPREAD).add_(centres[at])
        model.episodic.value[torch.arange(slots), torch.randint(0, CLASSES, (slots,), generator=draws)] = 1.0
        model.episodic.serial.copy_(torch.arange(1, slots + 1))
        model.episodic.count.fill_(slots)
    model.load_state_dict(model.state_dict())
    return model


def best(repeats: int, model: Any) -> tuple[float, float, float]:
    """CPU seconds of a call that reads alone, of the write behind a call, and of the way back: the least of some."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn((1, BATCH, 64), generator=draws)
    y = torch.randint(0, CLASSES, (1, BATCH), generator=draws)
    keeper, found = model.recdsl_keepers["episodic"], list[tuple[float, float, float]]()
    behind = keeper.behind
    for _ in range(repeats + 1):
        with torch.no_grad():
            read = seconds(lambda: model.eval()({"x": x, "y": y}))
        spent: list[float] = []
        keeper.behind = lambda call, spent=spent: spent.append(seconds(lambda: behind(call)))
        loss = model.train()({"x": x, "y": y}).loss
        found.append((read, spent[0], seconds(loss.backward)))
    keeper.behind = behind
    a, b, c = (0.0, 0.0, 0.0) if not repeats else (min(times) for times in zip(*found[1:], strict=True))
    return a, b, c


def recall(model: Any) -> float | str:
    """Of an index, when it was built."""
    found = [round(index.recall, 3) for index in model.recdsl_keepers["episodic"].indexes.values() if index.ready]
    return found[0] if found else "-"


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def kept(model: Any) -> int:
    """Bytes that a call keeps for its backward pass, beside what the model owns."""
    x, y = torch.zeros((1, BATCH, 64)), torch.zeros((1, BATCH), dtype=torch.long)
    call = model.train()({"x": x, "y": y}).loss.grad_fn.call
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    tensors = [value for value in (*call.data.values(), *call.values.values()) if torch.is_tensor(value)]
    alive = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
    return sum(size for place, size in alive.items() if place not in own)
