"""A model as files that need neither recdsl nor a compiler: C text, the library made of it, and a Python file.

The Python file is the one that the torch backend writes, with functions of the library in the place of its own. What
has no C, and calls in another precision, run as they do there.
"""

from __future__ import annotations

import pprint
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from recdsl.backends.native.build import LINK, compile_text, compiler, flags
from recdsl.backends.native.call import row
from recdsl.backends.native.lower import Function, Lowering, joined, lower, prelude
from recdsl.backends.native.outline import cut
from recdsl.backends.native.parts import head
from recdsl.backends.native.shipped import capabilities
from recdsl.backends.torch.module import body, programs
from recdsl.resources import read_text

EXPORTED = '__attribute__((visibility("default"))) '


@dataclass(frozen=True)
class Emitted:
    """The contents of the three files. left: "ENTRY: reason" of what has no C."""

    c: str
    library: bytes
    python: str
    left: tuple[str, ...]


def emit(graph: Any, plan: Any, source: str, name: str, *, single: bool = True) -> Emitted:
    """Compile a model into files `name`.c, lib`name`.so and `name`.py. Raises BuildError where there is no compiler."""
    compiler()  # before any work
    lowered = {variant: lower(made) for variant, made in programs(graph, plan).items()}
    chosen = {variant: _chosen(item) for variant, item in lowered.items()}
    left = tuple(f"{v}.{entry}: {reason}" for v, item in lowered.items() for entry, reason in item.left)
    text = _text(chosen, single)
    key = sha256(text.encode()).hexdigest()
    text += f'\n{EXPORTED}const char recdsl_key[] = "{key}";\n'
    library = _library(text)
    return Emitted(_headed(text, name), library, _python(source, chosen, name, key, single), left)


def _chosen(item: Lowering) -> list[Function]:
    """The functions that are used: what reads the tape runs where the tape is written."""
    whole = all(entry == "start" for entry, _ in item.left)
    return [made for made in item.functions if whole or made.entry == "start"]


def _text(chosen: Mapping[str, list[Function]], single: bool) -> str:
    cuts = [cut(made.named(variant)) for variant, functions in chosen.items() for made in functions]
    return head(single=single) + prelude() + "\n" + joined(cuts)


def _headed(text: str, name: str) -> str:
    return f"/* Made by recdsl. To compile: {command(name)} */\n{text}"


def command(name: str) -> str:
    """How the library is made of the C text."""
    return shlex.join(["cc", *flags(), *LINK[:-1], "-o", f"lib{name}.so", f"{name}.c", LINK[-1]])


def _library(text: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="recdsl-") as folder:
        source, out = Path(folder) / "model.c", Path(folder) / "model.so"
        source.write_text(text)
        compile_text(source, out)
        return out.read_bytes()


def _python(source: str, chosen: Mapping[str, list[Function]], name: str, key: str, single: bool) -> str:
    table: dict[str, Any] = {}
    for variant, functions in chosen.items():
        for made in functions:
            table[f"{variant}.{made.entry}"] = row(made, f"{variant}_{made.symbol}")
    texts = [body(read_text("backends", "native", f"{part}.py")) for part in ("functions", "shipped")]
    return "\n\n".join(
        [
            source.replace("import math\n", "import ctypes\nimport math\nimport warnings\n", 1)
            .replace("import Callable, Iterable, Iterator, Mapping\n",
                     "import Callable, Iterable, Iterator, Mapping, Sequence\n", 1)
            .replace("from math import sqrt\n",
                     "from math import sqrt\nfrom operator import mul\nfrom pathlib import Path\n", 1)
            .rstrip(),
            "\n# ---- the loops in C",
            *(text.rstrip() for text in texts),
            f"COMPILED: dict[str, Any] = {pprint.pformat(table, width=110, compact=True)}",
            TAIL.format(name=name, key=key, needs=sorted(capabilities()), single=single, command=command(name)),
        ]
    )  # fmt: skip


TAIL = '''SINGLE = {single}
LIBRARY = opened(
    Path(__file__).with_name("lib{name}.so"),
    "{key}",
    frozenset({needs}),
    SINGLE,
    {command!r},
)
GENERATED = Model.recdsl_functions
FUNCTIONS = compiled(LIBRARY, GENERATED, COMPILED)


class CompiledC(Model):
    """The compiled model."""

    @property
    def recdsl_functions(self) -> Any:
        like = self.recdsl_like
        fits = like.device.type == "cpu" and like.dtype == (torch.float32 if SINGLE else torch.float64)
        return FUNCTIONS if fits else GENERATED


CompiledC.__name__ = CompiledC.__qualname__ = "Model"
Model = CompiledC
'''
