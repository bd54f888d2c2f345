"""What an entry's writer does with text and memory: open nests, rooms, and values that are put into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from recdsl.backends.native.kernel import Domain, Group, Names, Write, boxes
from recdsl.backends.native.live import Live
from recdsl.backends.native.storages import Memory
from recdsl.backends.native.strides import lead_strides
from recdsl.backends.native.strips import stripped
from recdsl.backends.native.team import marked
from recdsl.backends.native.texts import affine_text
from recdsl.backends.native.uses import Def, Uses
from recdsl.backends.native.values import NotLoweredError, Ref, Region, Value, contiguous, numel
from recdsl.program.ir import Affine, Program

OPEN = 8  # nests that may be open at once
WORD = re.compile(r"\b[a-z]\w*")
TERM = re.compile(rf"(- ?(?:\d+ \* )?)?({WORD.pattern})")  # of a size: a variable, and whether it is taken away


@dataclass
class Nests:
    """The state of one function being written. `tape`: buffers that other entries read. `effort`: operations of a step
    and sample, about."""

    program: Program
    name: str
    tape: frozenset[str]
    scalars: tuple[str, ...]
    names: Names = field(default_factory=Names)
    blocks: list[list[str]] = field(default_factory=lambda: [[]])
    values: dict[str, Value] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list[Group])
    strips: bool = False

    def __post_init__(self) -> None:
        whole = dict(self.program.entries)[self.name]
        self.body = stripped(self.program, self.name, self.tape) if self.strips else whole
        self.uses = Uses(self.body)
        self.memory = Memory(self.program, self.name, self.body, self.tape, self.names)
        self.symbols: dict[str, str] = {"T": "T", "B": "B", **{s: f"s{k}" for k, s in enumerate(self.scalars)}}
        self.made: dict[str, Def] = {}
        self.live = Live()
        self.packed: dict[tuple[object, ...], Ref] = {}
        self.named: dict[str, str] = {}  # sizes that have a variable
        self.filled: set[int] = set()  # stores whose value was made where it belongs
        self.place = 0
        self.around = 0  # blocks that strips are
        self.most: dict[str, str] = {}  # how many steps a strip has at most, by how many it has
        self.head: list[str] = []  # lines in front of the rooms
        self.effort = 0.0

    def lines(self, lines: Sequence[str]) -> None:
        self.blocks[-1] += lines

    def marked(self, own: bool, lines: Sequence[str]) -> None:
        """Text with the note whether it does for each sample what reads and writes nothing of others."""
        self.lines(marked("own" if own else "alone", lines))

    def flush(self) -> None:
        """Close the nests that are open."""
        for group in self.groups:
            self.lines(group.close())
        self.groups = []

    def text(self, value: Affine) -> str:
        return affine_text(value, self.symbols)

    def integer(self, text: str) -> str:
        """A number, or a variable for a size or a row."""
        if text.isidentifier() or text.isdigit():
            return text
        if text not in self.named:
            self.named[text] = self.names("k")
            self.lines([f"const long {self.named[text]} = {text};"])
        return self.named[text]

    # -- memory ---------------------------------------------------------------------------------------------------
    def scratch(self, value: Value, order: tuple[int, ...] | None = None) -> Ref:
        """New memory for a value."""
        base = self.names("m")
        sizes = [self._most(text) for text in value.lead.values()]
        self.memory.room(base, value.dtype, sizes, numel(value.axes))
        return Ref((base, None), base, "0", lead_strides(value.lead, numel(value.axes)), contiguous(value.axes, order))

    def _most(self, size: str) -> str:
        """How many rows a lead may have, said before the function begins. What varies in it is a row of the call, or
        the first or last one of a window: at most T where it adds, at least 0 where it is taken away. One row a window
        and one more may be more than there are steps, and so may the rows of a piece with those in front of it."""
        sizes = {name: text for text, name in self.named.items()}
        if size in self.most:
            return self.most[size]
        while set(WORD.findall(size)) & sizes.keys():
            size = WORD.sub(lambda word: f"({sizes[word[0]]})" if word[0] in sizes else word[0], size)
        words, known = set(WORD.findall(size)), set(self.memory.symbols.values())
        if re.search(r"-[ \d*]*\(", size) and not words <= known:
            return " + ".join(["T", *sorted(words & known)])  # signs change within: all rows there are
        return TERM.sub(lambda term: term[0] if term[2] in known else f"{term[1]}0" if term[1] else "T", size)

    def settle(self, value: Value, order: tuple[int, ...] | None = None) -> Ref:
        """The value in memory: where it lies, or computed into new memory."""
        if value.ref is None:
            ref = self.scratch(value, order)
            self.assign(ref, value, order)
            self.live.place(value, ref)
        assert value.ref is not None
        return value.ref

    def assign(self, dest: Ref, value: Value, order: tuple[int, ...] | None = None, adds: bool = False) -> None:
        """Write entries of a value to memory, in the open nest where that is possible."""
        lead = tuple((name, text) for name, text in value.lead.items())
        order = order or tuple(range(len(value.axes)))
        domain = Domain(lead, value.axes, order)
        box = tuple((0, size) for size in value.axes)
        self.effort += numel(value.axes) * max(value.cost, 1) * ("B" in value.lead)
        for part in boxes(value, domain, box, self.names):
            self._assign_part(Domain(lead, tuple(size for _, size in part), order), Write(value, dest, part, adds))

    def _assign_part(self, domain: Domain, write: Write) -> None:
        """Into a nest that is open, or a new one behind them."""
        for k, group in enumerate(self.groups):
            if group.domain == domain and group.add(write, self.groups[k + 1 :]):
                return
        if len(self.groups) == OPEN:
            self.flush()
        group = Group(domain, self.names)
        if group.add(write):
            self.groups.append(group)
        else:
            self._through_copy(domain, write)

    def _through_copy(self, domain: Domain, write: Write) -> None:
        """What reads its own target at other entries is made elsewhere first."""
        copy = Value(write.value.dtype, write.value.lead, write.value.axes, write.value.at, write.value.reads)
        ref = self.scratch(copy)
        self.flush()
        for part in (Write(copy, ref, write.box), Write(copy, write.dest, write.box, write.adds)):
            self.groups = [Group(domain, self.names)]
            if not self.groups[0].add(part):
                raise NotLoweredError("an assignment that reads what it writes")
            self.flush()
            copy.place(ref)

    def protect(self, region: Region) -> None:
        """Before memory is written: values that still read it, and will be read, are put elsewhere."""
        for value in self.live.reading(region, self.place):
            value.ref = None
            ref = self.scratch(value)
            self.assign(ref, value)
            self.live.place(value, ref)
