"""The suite `compile`: from text to generated source for every shipped spec, without torch; then in processes of their
own, with an empty cache and with the one that the first has left, to a module, and to what learns online."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.table import Row
from recdsl import driver
from recdsl.diagnostics import SpecError
from recdsl.training import files
from recdsl.training.settings import settings

SPECS = Path(__file__).resolve().parent.parent / "specs"
CLOCK = """
import json, os, resource, sys, time, torch

def clock():
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time(), child.ru_utime + child.ru_stime

def took(run):
    began = clock()
    found = run()
    own, cc = (now - then for now, then in zip(clock(), began))
    return {"all": own + cc, "cc": cc}, found

path, kept, other = sys.argv[1:]
torch.set_num_threads(1)
"""
SMALL = """
text = 'recdsl: 1\\ninputs: {x: "float[3]"}\\ntargets: {y: "float[3]"}\\nstep: h = gru(x, size=3)\\nloss: mse(h, y)\\n'
os.environ["XDG_CACHE_HOME"] = other
import recdsl
recdsl.compile(text, "native")
os.environ["XDG_CACHE_HOME"] = kept
"""
"""What a process has imported that has compiled another model before."""
MODULE = """
def compiled():
    import recdsl
    return recdsl.compile(path, "native", torch.float32)

times, model = took(compiled)
said = {"characters": len(model.recdsl_code.library("plain").source), "runs": model.recdsl_runs}
print(json.dumps({**times, **said}))
"""
LEARNER = """
from recdsl.training.catalogue import beside
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

seed_all(1)
made = COMPILER.build(path, ("train.backend=native", "train.steps=1000000", "train.log=1000000"))
ready = setup(made, beside(made.spec))
worker = trainer(made, ready.source, ready.binding, ready.settings)
for _ in range(30):
    worker.update()
times, _ = took(lambda: worker.updates(1))
print(json.dumps({**times, "alone": worker.alone if worker.learner is None else ""}))
"""


def run(only: list[str], repeats: int) -> Iterator[Row]:
    """CPU seconds, the least of `repeats`."""
    for path in sorted(SPECS.glob("*.yaml")):
        if only and path.stem not in only:
            continue
        try:
            runs = [_timed(path) for _ in range(repeats)]
        except SpecError as error:  # a data set that says sizes is not here
            yield {"spec": path.stem, "native": str(error).partition("error")[2][:80]}
            continue
        compilation = driver.analyse(str(path))
        analysed, generated = [run[0] for run in runs], [run[1] for run in runs]
        yield {
            "spec": path.stem,
            "nodes": len(compilation.graph.nodes),
            "lines": compilation.source.count("\n"),
            "analyse_s": round(min(analysed), 3),
            "source_s": round(min(generated), 3),
            "total_s": round(min(analysed) + min(generated), 3),
            "first_s": round(analysed[0] + generated[0], 3),
            "torch_imported": str("torch" in sys.modules),
            **_native(path, repeats),
            **(_learner(path, repeats) if settings(compilation.spec)["online"] else {}),
        }


def _native(path: Path, repeats: int) -> Row:
    """Of `compile(spec, "native")`: with an empty cache (`cold_s`), of that the compiler's (`cc_s`), with the cache
    that this has left (`warm_s`), and that in a process that has imported torch alone (`new_s`)."""
    cold, warm, new = _least((SMALL + MODULE, SMALL + MODULE, MODULE), path, repeats)
    found = {"cold_s": cold["all"], "cc_s": cold["cc"], "warm_s": warm["all"], "new_s": new["all"]}
    seconds: Row = {name: round(float(value), 3) for name, value in found.items()}
    return {"c_kb": round(float(cold["characters"]) / 1000), **seconds, "native": str(cold["runs"])}


def _learner(path: Path, repeats: int) -> Row:
    """Of the library with which many updates are made in one call, once the first ones have been made one by one."""
    cold, warm = _least((LEARNER, LEARNER), path, repeats)
    if cold["alone"]:
        return {"learner": str(cold["alone"])}
    found = {"learner_cold_s": cold["all"], "learner_cc_s": cold["cc"], "learner_warm_s": warm["all"]}
    return {name: round(float(value), 3) for name, value in found.items()}


def _least(texts: Sequence[str], path: Path, repeats: int) -> list[Row]:
    """What each of some processes says, which run one behind the other on one cache: the least of the repeats."""
    runs: list[list[Row]] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="recdsl-") as kept, tempfile.TemporaryDirectory() as other:
            runs.append([_in_process(text, path, kept, other) for text in texts])
    return [min((run[k] for run in runs), key=lambda row: float(row["all"])) for k in range(len(texts))]


def _in_process(text: str, path: Path, kept: str, other: str) -> Row:
    """kept: the cache. other: one for what is compiled before the measurement."""
    place = {**os.environ, "OMP_NUM_THREADS": "1", "RECDSL_DATA": str(files.cache()), "XDG_CACHE_HOME": kept}
    command = [sys.executable, "-c", CLOCK + text, str(path), kept, other]
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=True, cwd=SPECS.parent)
    return json.loads(done.stdout.splitlines()[-1])


def _timed(path: Path) -> tuple[float, float]:
    """Seconds until the spec is analysed, and from there until the source is written."""
    start = time.process_time()
    compilation = driver.analyse(str(path))
    middle = time.process_time()
    assert compilation.source
    return middle - start, time.process_time() - middle
