"""One loop nest being written: its body computes entries, each once, and writes them to memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recdsl.backends.native.team import counted, marked
from recdsl.backends.native.values import Ix, Ref, Region, Value, of_sample, overlap

C_TYPES = {"float": "real", "int": "integer", "bool": "int"}
STORED = {"float": "real", "int": "integer", "bool": "flag"}
MOST = 240  # lines of a nest: compilers take more than proportional time for long ones
Box = tuple[tuple[int, int], ...]
"""(first entry, number of entries) of each own axis."""


class Names:
    """Identifiers of one C function, from a counter."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"


@dataclass
class Kernel:
    """The body of a loop nest."""

    names: Names
    lines: list[str] = field(default_factory=list)
    memo: dict[tuple[object, ...], str] = field(default_factory=dict)
    reads: set[tuple[Region, str]] = field(default_factory=set)
    breaks: dict[str, set[int]] = field(default_factory=dict)
    keep: list[object] = field(default_factory=list)  # memo is by identity: nothing may be freed
    sample: str = ""
    """The variable of the loop over samples."""
    mixed: bool = False
    """Whether it reads what is of other samples."""

    def let(self, dtype: str, text: str) -> str:
        """A variable with this value (the text itself if it is a name or number already)."""
        if text.isidentifier() or text.isdigit():
            return text
        name = self.names("e")
        self.lines.append(f"const {C_TYPES[dtype]} {name} = {text};")
        return name

    def integer(self, text: str) -> str:
        """A variable for an index."""
        if text.isidentifier() or text.lstrip("-").isdigit():
            return text
        key = ("index", text)
        if key not in self.memo:
            name = self.names("k")
            self.lines.append(f"const long {name} = {text};")
            self.memo[key] = name
        return self.memo[key]

    def branch(self, dtype: str, condition: str, yes: Callable[[], str], no: Callable[[], str]) -> str:
        """`condition ? yes : no`, each evaluated only where it is taken."""
        name = self.names("e")
        self.lines.append(f"{C_TYPES[dtype]} {name};")
        memo = self.memo
        for head, write in ((f"if ({condition}) {{", yes), ("} else {", no)):
            self.memo = dict(memo)
            self.lines.append(head)
            text = write()
            self.lines.append(f"{name} = {text};")
        self.lines.append("}")
        self.memo = memo
        return name

    def pieces(
        self, dtype: str, ix: Ix, parts: Sequence[tuple[int, int, Callable[[Ix], str]]], otherwise: Callable[[], str]
    ) -> str:
        """The part that an index falls in. Where that is not known before running, it is noted where to split."""
        for start, stop, write in parts:
            if start <= ix.lo and ix.hi <= stop and ix.hi > ix.lo:
                return write(ix.shifted(-start))
        known = ix.hi > ix.lo
        if known and all(ix.hi <= start or ix.lo >= stop for start, stop, _ in parts):
            return otherwise()
        if known and ix.variable:
            points = {p for start, stop, _ in parts for p in (start, stop) if ix.lo < p < ix.hi}
            self.breaks.setdefault(ix.variable, set()).update(p - ix.lo for p in points)
        return self._chain(dtype, ix, list(parts), otherwise)

    def _chain(
        self,
        dtype: str,
        ix: Ix,
        parts: Sequence[tuple[int, int, Callable[[Ix], str]]],
        otherwise: Callable[[], str],
    ) -> str:
        if not parts:
            return otherwise()
        (start, stop, write), *rest = parts
        inner = Ix(ix.shifted(-start).text, "", max(ix.lo, start) - start, min(ix.hi, stop) - start)
        condition = f"{ix.text} >= {start} && {ix.text} < {stop}"
        return self.branch(dtype, condition, lambda: write(inner), lambda: self._chain(dtype, ix, rest, otherwise))


@dataclass
class Domain:
    """What a nest runs over: leading axes with extents, then own extents in the order of its loops."""

    lead: tuple[tuple[str, str], ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def variables(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Names of loop variables: of leading axes by name, of own axes in order."""
        return {name: f"l{k}" for k, (name, _) in enumerate(self.lead)}, tuple(f"i{k}" for k in range(len(self.sizes)))

    def wrap(self, body: Sequence[str]) -> list[str]:
        """The nest around a body. No iteration reads what another one writes, so the innermost loop is a vector's."""
        lead, own = self.variables()
        loops = [(lead[name], extent) for name, extent in self.lead]
        loops += [(own[k], str(self.sizes[k])) for k in self.order]
        loops = [loop for loop in loops if loop[1] != "1"] or loops[-1:]
        skipped = {*lead.values(), *own} - {variable for variable, _ in loops}
        lines = [f"const long {variable} = 0; (void){variable};" for variable in sorted(skipped)]
        for depth, (variable, extent) in enumerate(loops):
            if depth == len(loops) - 1:
                lines.append("SIMD")
            lines.append(counted(variable, extent))
        return ["{", *lines, *body, *("}" for _ in loops), "}"]


@dataclass
class Write:
    """One result of a nest: entries of `value` in a box, written to (or added to) memory."""

    value: Value
    dest: Ref
    box: Box
    adds: bool = False


class Group:
    """Writes over one domain, whose nest is not closed yet."""

    def __init__(self, domain: Domain, names: Names) -> None:
        self.domain, self.kernel = domain, Kernel(names, sample=domain.variables()[0].get("B", ""))
        self.written: list[tuple[tuple[Region, str], Write]] = []

    def add(self, write: Write, later: Sequence[Group] = ()) -> bool:
        """Take in a write, unless it meets memory that the nest reads or writes elsewhere, or the nest is long.
        later: nests that stand behind this one and were begun before the write."""
        kernel = self.kernel
        if len(kernel.lines) > MOST:
            return False
        old = (len(kernel.lines), dict(kernel.memo), kernel.reads)
        kernel.reads = set()
        lead, variables = self.domain.variables()
        own = tuple(
            Ix(v, v, 0, n).shifted(s) for v, n, (s, _) in zip(variables, self.domain.sizes, write.box, strict=True)
        )
        text = write.value.entry(kernel, lead, own)
        address = write.dest.address(lead, own)
        place = (write.dest.region, address)
        new = kernel.reads
        clash = any(_meets(place, other) for other in new | old[2]) or self._rewrites(place, write)
        clash = clash or any(_meets(read, other) for read in new for other, _ in self.written)
        if clash or any(group.needs(write, {region for region, _ in new}) for group in later):
            del kernel.lines[old[0] :]
            kernel.memo, kernel.reads = old[1], old[2]
            return False
        kernel.reads = new | old[2]
        kernel.lines.append(f"{write.dest.base}[{address}] {'+=' if write.adds else '='} {text};")
        self.written.append((place, write))
        return True

    def _rewrites(self, place: tuple[Region, str], write: Write) -> bool:
        """Whether another iteration may write the entry."""
        return any(_meets(place, other) and not _apart(write, before) for other, before in self.written)

    def needs(self, write: Write, reads: set[Region]) -> bool:
        """Whether a write that reads these regions may not be done before this nest."""
        if any(overlap(region, place[0]) for region in reads for place, _ in self.written):
            return True
        if any(overlap(write.dest.region, region) for region, _ in self.kernel.reads):
            return True
        return any(overlap(write.dest.region, place[0]) and not _apart(write, other) for place, other in self.written)

    def close(self) -> list[str]:
        """The nest, with the note whether each sample has its own entries and no other's."""
        own = ("B", "B") in self.domain.lead and not self.kernel.mixed
        own = own and all(of_sample(write.dest) for _, write in self.written)
        return marked("own" if own else "alone", self.domain.wrap(self.kernel.lines))


def _meets(one: tuple[Region, str], other: tuple[Region, str]) -> bool:
    """Whether two accesses of one iteration may be of entries that another iteration touches."""
    return overlap(one[0], other[0]) and (one[0] != other[0] or one[1] != other[1])


def _apart(one: Write, other: Write) -> bool:
    """Whether two writes are of different boxes of one array, whose entries do not overlap."""
    same = one.dest == other.dest and len(one.box) == len(other.box) and all(one.dest.own)
    parts = zip(one.box, other.box, strict=False)
    return same and any(lo + n <= start or start + m <= lo for (lo, n), (start, m) in parts)


def breaks(value: Value, domain: Domain, box: Box, names: Names) -> dict[int, set[int]]:
    """By own axis, where the parts of a value begin, counted from the box's first entry."""
    kernel = Kernel(replace_names(names))
    lead, variables = domain.variables()
    own = tuple(Ix(v, v, 0, n).shifted(s) for v, n, (s, _) in zip(variables, domain.sizes, box, strict=True))
    value.entry(kernel, lead, own)
    return {variables.index(name): points for name, points in kernel.breaks.items() if points}


def replace_names(names: Names) -> Names:
    """A counter for a trial that leaves no text."""
    found = Names()
    found.count = names.count
    return found


def boxes(value: Value, domain: Domain, box: Box, names: Names) -> list[Box]:
    """The box, split until each value in it is of one known part (or given up where that takes too many)."""
    found = breaks(value, domain, box, names) if value.cost or value.ref is None else {}
    if not found:
        return [box]
    axis, points = min(found.items())
    ends = sorted({0, box[axis][1], *points})
    if len(ends) > 65:
        return [box]
    out: list[Box] = []
    for lo, hi in itertools.pairwise(ends):
        part = (*box[:axis], (box[axis][0] + lo, hi - lo), *box[axis + 1 :])
        sizes = (*domain.sizes[:axis], hi - lo, *domain.sizes[axis + 1 :])
        out += boxes(value, replace(domain, sizes=sizes), part, names)
    return out


def nest(loops: Sequence[tuple[str, str]], body: Sequence[str], pragma: str = "") -> list[str]:
    """Loops from 0, the outermost first; `pragma` stands in front of the innermost."""
    lines = ["{"]
    for depth, (variable, extent) in enumerate(loops):
        if pragma and depth == len(loops) - 1:
            lines.append(pragma)
        lines.append(counted(variable, extent))
    return [*lines, *body, *("}" for _ in loops), "}"]


Lead = Mapping[str, str]
