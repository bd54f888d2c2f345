"""A trained model back from its run folder: predict, and write text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recdsl.errors.runs import CannotSample, RunError
from recdsl.graph.step import Input
from recdsl.syntax.ast import Spec
from recdsl.training import folder
from recdsl.training.batches import Array
from recdsl.training.binding import checked
from recdsl.training.loop import load_weights, split_names
from recdsl.training.matching import KINDS
from recdsl.training.pipeline import COMPILER, Compiler
from recdsl.training.progress import reporter
from recdsl.training.run import pick, stored
from recdsl.training.settings import measured


@dataclass(frozen=True)
class Trained:
    """A trained model. `module` is the compiled nn.Module; `step` the number of updates it has had."""

    module: nn.Module
    spec: Spec
    inputs: tuple[Input, ...]
    symbols: tuple[str, ...]
    step: int
    path: Path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""
        return self.module(*args, **kwargs)

    def predict(
        self,
        batch: Mapping[str, Array | Tensor],
        mask: Array | Tensor | None = None,
        reset: Array | Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Outputs and state, without gradients, for inputs (and targets, if given) by name, [time, batch, ...].

        The result has `.outputs`, `.state`, and, if all targets are given, `.loss` and `.losses`. Raises RD0654 and
        RD0701.
        """
        wanted = [item for item in self.inputs if not item.target or item.name in batch]
        first = next(self.module.parameters())
        call = checked(wanted, batch, mask, reset, "0", first.dtype, str(first.device))
        self.module.eval()
        with torch.no_grad():
            return self.module(call.tensors, mask=call.mask, reset=call.reset, state=state)

    def encode(self, text: str) -> Tensor:
        """Labels of a text, [characters]. Raises RD0709 for a character that the data did not have."""
        places = {symbol: index for index, symbol in enumerate(self.symbols)}
        unknown = next((char for char in text if char not in places), None)
        if unknown is not None:
            reason = f"the character {unknown!r} of the prompt is not in its vocabulary"
            raise RunError(CannotSample(reason, f"known: {''.join(self.symbols)[:200]!r}"))
        return torch.tensor([places[char] for char in text])

    def sample(self, prompt: str = "\n", length: int = 200, temperature: float = 1.0, seed: int = 0) -> str:
        """`length` further symbols after the prompt, drawn one at a time with the state carried.

        temperature: divides the logits; 0 takes the likeliest. Same seed, same text. Raises RD0709.
        """
        name, output = self._language()
        generator = torch.Generator().manual_seed(seed)
        codes, state, written = self.encode(prompt or self.symbols[0]), None, list[str]()
        for _ in range(length):
            result = self.predict({name: codes.reshape(-1, 1)}, state=state)
            state = result.state
            codes = draw(result.outputs[output][-1, 0].float().cpu(), temperature, generator)
            written.append(self.symbols[int(codes)])
        return "".join(written)

    def _language(self) -> tuple[str, str]:
        """The input and the output of a language model. Raises RD0709."""
        inputs = [item for item in self.inputs if not item.target]
        if not self.symbols:
            raise RunError(CannotSample("its data has no symbols"))
        if len(inputs) != 1 or KINDS[inputs[0].kind] != "label":
            raise RunError(CannotSample("it has other inputs than one symbol a step"))
        for pair in measured(self.spec):
            if pair.loss == "cross_entropy":
                return inputs[0].name, pair.output
        raise RunError(CannotSample("no loss is cross_entropy(output, target)"))


def draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One label from logits [labels]."""
    if temperature <= 0:
        return logits.argmax()
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)


def load(run: str | Path, overrides: Sequence[str] = (), *, compiler: Compiler = COMPILER) -> Trained:
    """The model of a run folder (its newest whole checkpoint) or of one checkpoint in it. Needs no data.

    Raises SpecError, RD0703 to RD0707.
    """
    found = folder.opened(Path(run))
    compiled = stored(found, overrides, compiler)
    whole = pick(found, str(run), reporter("lines"))
    load_weights(compiled.module, split_names(whole.tensors)["model"], str(whole.path))
    compiled.module.eval()
    symbols = tuple(found.entry("data.json", "symbols", list))
    return Trained(compiled.module, compiled.spec, compiled.inputs, symbols, whole.step, found.path)
