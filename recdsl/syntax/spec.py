"""A spec from its text: `read_spec`, and `find_block` for the blocks it calls."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from recdsl.diagnostics import Problems
from recdsl.errors import keys as errors
from recdsl.errors import syntax as syntax_errors
from recdsl.source import Source, Span
from recdsl.syntax.ast import Equation, Node, Spec
from recdsl.syntax.blocks import check_version, find_block, read_block_file, read_blocks, read_step
from recdsl.syntax.declarations import read_declared, read_params, read_sizes, read_states
from recdsl.syntax.files import open_source
from recdsl.syntax.memory import read_memory
from recdsl.syntax.overrides import apply
from recdsl.syntax.sections import known_items, plain_text, require
from recdsl.syntax.training import Credit, Losses, Train, read_credit, read_data, read_losses, read_train
from recdsl.syntax.yaml_reader import Mapping, YamlNode, read_mapping

__all__ = ["find_block", "read_block_file", "read_source", "read_spec"]

KEYS = (
    "recdsl",
    "name",
    "doc",
    "sizes",
    "inputs",
    "targets",
    "params",
    "states",
    "blocks",
    "memory",
    "step",
    "loss",
    "credit",
    "data",
    "train",
)
_NEEDED = (("recdsl", "recdsl: 1"), ("step", "step: |"), ("loss", "loss: mse(y, target)"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def read_spec(path_or_text: str, overrides: Sequence[str] = ()) -> Spec:
    """The typed tree of a spec. Raises SpecError with every problem of form that was found."""
    return read_source(open_source(path_or_text), overrides)


def read_source(source: Source, overrides: Sequence[str] = ()) -> Spec:
    """As `read_spec`, for a source that has been opened."""
    root = read_mapping(source)
    problems = Problems()
    root = apply(root, overrides, KEYS, problems)
    spec = _Reader(root, source, problems).read()
    problems.check()
    return spec


class _Reader:
    def __init__(self, root: Mapping, source: Source, problems: Problems) -> None:
        self.root, self.source, self.problems = root, source, problems
        self.keys = {key.text.value: key.span for key, _ in root.items}
        self.found = known_items(root, "a spec", problems, KEYS, "recdsl: 1")

    def get(self, key: str) -> YamlNode | None:
        return self.found.get(key)

    def read(self) -> Spec:
        """Every section, so that no error hides another."""
        problems, get = self.problems, self.get
        start = Span(self.source, self.root.span.start, self.root.span.start)
        require(self.found, _NEEDED, "a spec", start, problems)
        check_version(self.found, problems)
        sizes, inputs, targets = get("sizes"), get("inputs"), get("targets")
        params, states, blocks, step = get("params"), get("states"), get("blocks"), get("step")
        memory = get("memory")
        losses, credit, data, train = self.losses(), self.credit(), get("data"), self.train()
        spec = Spec(
            self.name(),
            "" if (doc := get("doc")) is None else plain_text(doc, "doc", problems),
            () if sizes is None else read_sizes(sizes, problems),
            () if inputs is None else read_declared(inputs, "inputs", problems),
            () if targets is None else read_declared(targets, "targets", problems),
            () if params is None else read_params(params, problems),
            () if states is None else read_states(states, problems),
            () if blocks is None else read_blocks(blocks, problems),
            () if memory is None else read_memory(memory, problems),
            () if step is None else read_step(step, problems),
            losses.items,
            losses.reduce,
            credit.items,
            credit.require,
            None if data is None else read_data(data, problems),
            train.settings,
            self.root.span,
            train.rates,
        )
        self.check(spec)
        return spec

    def losses(self) -> Losses:
        node = self.get("loss")
        return Losses((), "mean") if node is None else read_losses(self.keys["loss"], node, self.problems)

    def credit(self) -> Credit:
        node = self.get("credit")
        return Credit((), None) if node is None else read_credit(self.keys["credit"], node, self.problems)

    def train(self) -> Train:
        node = self.get("train")
        return Train() if node is None else read_train(node, self.problems)

    def name(self) -> str:
        """`name:`, else the file's name. It becomes the name of a folder, so its characters are few."""
        node = self.get("name")
        if node is None:
            stem = os.path.splitext(os.path.basename(self.source.path))[0]
            stem = "" if self.source.path.startswith("<") else re.sub(r"[^A-Za-z0-9_.-]", "_", stem).lstrip("_.-")
            return stem[:128] or "model"
        found = plain_text(node, "name", self.problems)
        if found and not _NAME.fullmatch(found):
            advice = "letters, digits, `_`, `-` and `.`, beginning with a letter or digit"
            self.problems.add(errors.BadName(node.span, found[:140], advice))
        return found

    def check(self, spec: Spec) -> None:
        """What takes more than one section to see."""
        known = {declared.name.text for declared in (*spec.inputs, *spec.params, *spec.states)}
        for equation in spec.step:
            for target in equation.targets:
                known.add(target.text)
        known -= {block.name.text for block in spec.blocks}
        for equation in (*spec.step, *(line for block in spec.blocks for line in block.step)):
            _check_called_values(equation, known, self.problems)


def _check_called_values(equation: Equation, known: set[str], problems: Problems) -> None:
    """`h(t-1)` where h is a value: square brackets were meant."""
    nodes = equation.value.nodes
    for node in nodes:
        if node.kind == "call" and node.value in known and len(node.args) == 1 and not node.keywords:
            lag = _lag(nodes, nodes[node.args[0]])
            if lag:
                problems.add(syntax_errors.ValueCalled(node.span, str(node.value), lag))


def _lag(nodes: tuple[Node, ...], node: Node) -> int:
    if node.kind != "binary" or node.value != "-":
        return 0
    left, right = (nodes[index] for index in node.args)
    whole = right.kind == "number" and isinstance(right.value, int)
    return int(str(right.value)) if left.kind == "name" and left.value == "t" and whole else 0
