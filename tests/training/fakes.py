"""A stand-in for the compiler: a spec of `key: value` lines and a small network with the face of a compiled model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recdsl.diagnostics import Problems
from recdsl.graph.step import Input
from recdsl.graph.types import INT, Axis, Type
from recdsl.source import Source, Span
from recdsl.syntax.ast import Declared, Expression, LossDecl, Name, Setting, SizeDecl, Spec, TypeExpr
from recdsl.syntax.ast import Node as Piece
from recdsl.syntax.expressions import parse_expression, parse_value
from recdsl.syntax.text import Text
from recdsl.training.pipeline import Compiled, Compiler

KINDS = {"x": "onehot", "y": "class", "next": "class"}


def value(source: Source, start: int, text: str) -> Expression:
    """An expression of `data:` or `train:` at its place."""
    problems = Problems()
    found = parse_value(Text(source, text, start, start + len(text)), problems)
    problems.check()
    assert found is not None
    return found


def read(path_or_text: str, overrides: Sequence[str] = ()) -> Spec:
    """`data: CALL`, `vocab: data` and `train.KEY: VALUE` lines; a later line replaces an earlier one."""
    path, text = "<text>", path_or_text
    if "\n" not in text and os.path.isfile(text):
        with open(text) as stream:
            path, text = path_or_text, stream.read()
    source = Source(path, text + "".join(f"\n{item.replace('=', ': ', 1)}" for item in overrides))
    span, entries, offset = Span(Source(path, text), 0, 0), dict[str, tuple[Span, int, str]](), 0
    for line in source.text.splitlines(keepends=True):
        key, colon, rest = line.partition(": ")
        if colon:
            entries[key] = Span(source, offset, offset + len(key)), offset + len(key) + 2, rest.strip()
        offset += len(line)
    target = entries.get("target", (span, 0, "y"))[2]
    return build_spec(source, span, entries, target)


def build_spec(source: Source, span: Span, entries: Mapping[str, tuple[Span, int, str]], target: str) -> Spec:
    train = [
        Setting(Name(key[6:], place), value(source, start, text))
        for key, (place, start, text) in entries.items()
        if key.startswith("train.")
    ]
    data = value(source, *entries["data"][1:]) if "data" in entries else None
    problems = Problems()
    loss = parse_expression(Text.whole(Source("<loss>", f"cross_entropy(logits, {target})")), problems)
    assert loss is not None
    axis = Expression((Piece("name", "vocab", (), (), span),))
    declared = [Declared(Name(n, span), TypeExpr(KINDS[n], (axis,), span)) for n in ("x", target)]
    vocab = entries.get("sizes.vocab", entries.get("vocab", (span, 0, "10")))[2]
    number = None if vocab == "data" else Expression((Piece("number", int(vocab), (), (), span),))
    return Spec(
        name=entries.get("name", (span, 0, "fake"))[2],
        doc="",
        sizes=(SizeDecl(Name("vocab", span), number),),
        inputs=(declared[0],),
        targets=(declared[1],),
        params=(),
        states=(),
        blocks=(),
        memory=(),
        step=(),
        losses=(LossDecl(Name("loss", span), loss, 1.0, (), "all", span),),
        reduce="mean",
        credit=(),
        require=None,
        data=data,
        train=tuple(train),
        span=span,
    )


@dataclass
class Output:
    outputs: dict[str, Tensor]
    loss: Tensor
    losses: dict[str, Tensor]
    state: dict[str, Tensor]


class Network(nn.Module):
    """A tanh network with noise (so that generators matter) and a count of calls (so that buffers do)."""

    def __init__(self, vocab: int, target: str, size: int = 8) -> None:
        super().__init__()
        self.target, self.size = target, size
        generator = torch.Generator().manual_seed(0)
        self.W = nn.Parameter(torch.randn(size, vocab, generator=generator) * 0.3)
        self.U = nn.Parameter(torch.randn(size, size, generator=generator) * 0.3)
        self.V = nn.Parameter(torch.randn(vocab, size, generator=generator) * 0.3)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        batch: Mapping[str, Tensor],
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> Output:
        x = batch["x"]
        h = torch.zeros(x.shape[1], self.size) if state is None else state["h"]
        outputs: list[Tensor] = []
        for t in range(x.shape[0]):
            if reset is not None:
                h = torch.where(reset[t][:, None], 0.0, h)
            h = torch.tanh(self.W.T[x[t]] + h @ self.U.T)
            if self.training:
                h = h + 0.01 * torch.randn_like(h)
            outputs.append(h @ self.V.T)
        logits = torch.stack(outputs)
        if self.training:
            self.calls += 1
        loss = torch.zeros(())
        if self.target in batch:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[self.target].flatten())
        return Output({"logits": logits}, loss, {"loss": loss.detach()}, {"h": h.detach()})


def build(path_or_text: str, overrides: Sequence[str] = ()) -> Compiled:
    from recdsl.training.catalogue import check_settings, data_sizes

    spec = read(path_or_text, overrides)
    check_settings(spec)
    size = spec.sizes[0].value
    vocab = data_sizes(spec)["vocab"] if size is None else int(str(size.root.value))
    target = spec.targets[0].name.text
    inputs = (
        Input("x", "onehot", Type("float", (Axis("vocab", vocab),)), vocab, False, None),
        Input(target, "class", INT, vocab, True, None),
    )
    return Compiled(spec, inputs, Network(vocab, target), "resolved: true\n")


FAKE = Compiler(read, build)
COPY = """name: fake
data: copy(delay=2, symbols=8, length=2)
train.steps: 12
train.batch: 4
train.optimizer: adam(lr=1e-2)
train.clip: 1.0
train.log: 3
train.evaluate: 5
train.evaluation_batches: 2
train.checkpoint: 4
train.schedule: cosine(warmup=3)
"""
