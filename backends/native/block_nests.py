"""One update as C, from a program that is one straight line: nests over blocks of lanes (see `line.py`).

In a block, sums over samples stay in a small array while influences are read and written, and move parameters behind
the loop over samples: all that lasts is read and written once, and in order. The writes of an iteration stand behind
its reads, and nests that read an entry stand in front of the one that writes it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from recdsl.backends.native.items import LEAD, Item, Reader, span, split
from recdsl.backends.native.kernel import STORED, Kernel, Names
from recdsl.backends.native.lanes import Lanes
from recdsl.backends.native.line import Line
from recdsl.backends.native.texts import comment, indent
from recdsl.backends.native.values import (
    NotLoweredError,
    Stride,
    numel,
)
from recdsl.program.ir import Program, Store

ON_STACK = 4096  # entries up to which memory of the function's own is on its stack
LARGEST = 32_768  # entries of a sum over samples, which is on the stack
ROUNDS = 20  # attempts to put readers in front of writers
NORM = "norm"
C_SUM = {"float": "real", "int": "integer", "bool": "integer"}


Span = tuple[str, int, int]
"""Memory, and the first and last of its entries that are touched."""
Stage = tuple[list[str], list[str], set[str]]
"""Lines in front of the loop over blocks, lines in it, and the memory that they read."""


@dataclass(frozen=True)
class Written:
    """One C function: its text, what it takes, what it leaves, and how each storage of the first kind lies."""

    text: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]


def write(
    program: Program, lanes: Lanes, batch: int, packed: Collection[str], squares: Sequence[str], symbol: str
) -> Written:
    """The C of a line. packed: what lasts, and lies in blocks of lanes where it has the axis."""
    return BlockNests(program, lanes, batch, packed).write(squares, symbol)


@dataclass(frozen=True)
class Part:
    """A nest: memory for its sums, what it does for each sample, and behind that. shared: what all samples have made
    when it is done; wants, makes: what it reads and writes for each sample."""

    sums: tuple[str, ...]
    inner: tuple[str, ...]
    after: tuple[str, ...]
    shared: set[str]
    wants: set[str]
    makes: set[str]


class BlockNests(Line):
    """Nests for the items of a line, and their order."""

    # -- nests ----------------------------------------------------------------------------------------------------
    def write(self, squares: Sequence[str], symbol: str) -> Written:
        self.runs, self.inside, self.outside = 0, dict[str, set[int]](), set[str]()
        self._read()
        for name in squares:
            value, lane = self._value(name), self.laned.get(name)
            if lane is None:
                value = self._early(name)
            at = self.last + (lane is None)
            self._add(Item(value, lane, None, (), at, square=True))
        self._align()
        self.ranges = {id(item): self._trial(item).ranges for item in self.items}
        self._levels()
        found = self._stages()
        self._keep(found)
        stages = self._stages()
        return self._function(stages, symbol, bool(squares))

    def _levels(self) -> None:
        """Order the nests of a block: first by what is computed from what, then readers before writers."""
        for _ in self.items:
            levels = [item.level for item in self.items]
            for item in self.items:
                item.level = max((self._behind(item, p) for p in self._before(item)), default=0)
            if levels == [item.level for item in self.items]:
                break
        for _ in range(ROUNDS):
            late = self._late()
            if not late:
                return
            for item, nest in late:
                item.level = nest.level + (nest.shape != item.shape)
        raise NotLoweredError("what lasts is read and written in a circle")

    def _align(self) -> None:
        """What lasts is split alike, so that what is read and written in a circle stands in one nest."""
        points: dict[tuple[tuple[int, ...], int], set[int]] = {}
        for item in self.items:
            for k, (start, count) in enumerate(item.box) if item.lasts and item.lane is not None else ():
                points.setdefault((item.value.axes, k), set()).update((start, start + count))
        items: list[Item] = []
        for item in self.items:
            parts = [item]
            for k in range(len(item.box)) if item.lasts and item.lane is not None else ():
                parts = [new for part in parts for new in split(part, k, points[item.value.axes, k])]
            items += parts
        self.items = items

    def _before(self, item: Item) -> list[Item]:
        """The items of its stage that an item reads."""
        if item.lane is None:
            return []
        return [p for p in self._sources(item) if p.lane is not None and p.place == item.place and not p.total]

    def _sources(self, item: Item) -> list[Item]:
        """The items whose memory an item reads."""
        bases = dict.fromkeys(base for base, *_ in sorted(self.ranges[id(item)]))
        return [p for base in bases if base in self.made for p in self.made[base][2]]

    def _ordered(self, items: Sequence[Item]) -> list[Item]:
        """Items behind those that they read."""
        out: list[Item] = []
        seen = {id(item) for item in items}

        def visit(item: Item) -> None:
            if id(item) in seen:
                seen.discard(id(item))
                for other in self._sources(item):
                    visit(other)
                out.append(item)

        for item in items:
            visit(item)
        return out

    def _trial(self, item: Item) -> Reader:
        kernel = Reader(Names())
        item.value.entry(kernel, LEAD, item.own(self.width))
        return kernel

    def _behind(self, item: Item, before: Item) -> int:
        """The least level of an item that reads another one."""
        together = before.shape == item.shape and item.shape[0] == "plain" and (before.inner or not item.inner)
        return before.level + (not together)

    def _late(self) -> list[tuple[Item, Item]]:
        """Writes of what lasts that stand in front of a nest that reads it, each with an item of that nest."""
        at = {id(item): k for stage in self._nests().values() for k, nest in enumerate(stage) for item in nest}
        reads = [(item, found) for item in self.items if item.lane is not None for found in self.ranges[id(item)]]
        late: list[tuple[Item, Item]] = []
        for item in self.items:
            if not item.lasts or item.lane is None or item.dest is None:
                continue
            lo, hi = span(item.dest, item.kept(self.width))
            behind = [other for other, (base, _, first, last) in reads
                      if base == item.dest.base and other.place == item.place and first <= hi and lo <= last
                      and at[id(other)] > at[id(item)]]  # fmt: skip
            if behind:
                late.append((item, max(behind, key=lambda other: at[id(other)])))
        return late

    def _nests(self) -> dict[int, list[list[Item]]]:
        """By stage, the nests of a block in order."""
        found: dict[int, dict[tuple[int, tuple[object, ...]], list[Item]]] = {}
        for item in self.items:
            if item.lane is not None:
                found.setdefault(item.place, {}).setdefault((item.level, item.shape), []).append(item)
        return {stage: [nests[key] for key in sorted(nests, key=lambda key: key[0])] for stage, nests in found.items()}

    def _stages(self) -> list[Stage]:
        """By stage: lines in front of the loop over blocks, those in it, and what the loop reads."""
        nests = self._nests()
        out: list[Stage] = []
        for stage in range(self.last + 2):
            before: list[str] = []
            seen: set[str] = set()
            for item in self._ordered([item for item in self.items if item.lane is None and item.place == stage]):
                before += self._alone(item, seen)
            for item in self.items:
                if item.total and item.place == stage:
                    before += self._zeros(item)
            out.append((before, self._block(nests.get(stage, ()), seen), seen))
        return out

    def _keep(self, stages: Sequence[Stage]) -> None:
        """Scratch that is read from memory nowhere is not written; what one loop alone reads lasts for a block, or
        (in one loop over samples) for a sample."""
        for base, (_, _, made) in self.made.items():
            places = {k for k, (_, _, seen) in enumerate(stages) if base in seen}
            if not places:
                self.unread.add(base)
            if made[0].lane is not None and not made[0].total and places <= {made[0].place}:
                self.leads[base]["g"] = Stride(0)
                self.local.add(base)
                alone = base not in self.outside and len(self.inside.get(base, ())) == 1
                if alone and all(item.inner and not item.joint and not item.over for item in made):
                    self.leads[base]["B"] = Stride(0)

    def _target(self, item: Item) -> str:
        assert item.dest is not None
        return f"{item.dest.base}[{item.dest.address(LEAD, item.kept(self.width))}]"

    def _loops(self, sizes: Sequence[int], letter: str) -> list[str]:
        return [f"for (long {letter}{k} = 0; {letter}{k} < {n}; {letter}{k}++) {{" for k, n in enumerate(sizes)]

    def _samples(self, inner: bool) -> list[str]:
        return [f"for (long b = 0; b < {self.samples}; b++) {{"] if inner and self.samples > 1 else []

    def _lanes(self, body: Sequence[str]) -> list[str]:
        return ["SIMD", f"for (long l = 0; l < {self.width}; l++) {{", *body, "}"] if body else []

    def _block(self, nests: Sequence[list[Item]], seen: set[str]) -> list[str]:
        """All nests of a block. Those that follow each other share the loop over samples, so that memory is walked
        through in its order, unless one needs what another one has summed."""
        lines: list[str] = []
        run: list[Part] = []
        for nest in nests:
            if nest[0].over:
                lines += self._closed(run) + (self._totals(nest[0], seen) if nest[0].total else self._sums(nest, seen))
                run = []
                continue
            for items in self._clusters(nest):
                part = self._plain(items, seen)
                if any(other.shared & part.wants for other in run):
                    lines += self._closed(run)
                    run = []
                run.append(part)
        return lines + self._closed(run)

    def _outside(self, kernel: Reader) -> set[str]:
        """What a kernel reads that is not in a loop over samples with others."""
        found = {base for base, *_ in kernel.ranges}
        self.outside |= found
        return found

    def _closed(self, run: Sequence[Part]) -> list[str]:
        """Nests in one loop over samples, and behind it what all samples share."""
        self.runs += 1
        for part in run:
            for base in (*part.wants, *part.makes):
                self.inside.setdefault(base, set()).add(self.runs)
        samples = self._samples(any(part.inner for part in run))
        inner = [line for part in run for line in part.inner]
        body = [*samples, *inner, *("}" for _ in samples), *(line for part in run for line in part.after)]
        return ["{", *(line for part in run for line in part.sums), *body, "}"] if run else []

    def _clusters(self, nest: Sequence[Item]) -> list[list[Item]]:
        """Items that share rows of what lasts, or read each other: a loop over rows that walks through few arrays at
        a time is faster than one through all of them."""
        if not nest[0].rows:
            return [list(nest)]
        found: list[tuple[list[Item], set[Span], set[str]]] = []
        written = {(item.dest.base, *span(item.dest, item.kept(self.width)))
                   for item in nest if item.dest is not None and item.lasts}  # fmt: skip
        for item in self._ordered(nest):
            read = {(base, lo, hi) for base, _, lo, hi in self.ranges[id(item)] if base in self.lasting}
            spans = {one for one in read if one[1] < one[2] or _touch({one}, written)}
            bases = {base for base, *_ in self.ranges[id(item)] if base in self.made}
            if item.dest is not None and item.lasts:
                spans.add((item.dest.base, *span(item.dest, item.kept(self.width))))
            own = {item.dest.base} if item.dest is not None and item.dest.base in self.made else set[str]()
            apart = [part for part in found if not (bases & part[2] or _touch(spans, part[1]))]
            near = [part for part in found if not any(part is other for other in apart)]
            merged = ([i for part in near for i in part[0]] + [item], spans, own)
            for part in near:
                merged[1].update(part[1])
                merged[2].update(part[2])
            found = [*apart, merged]
        return [items for items, _, _ in found]

    def _plain(self, nest: Sequence[Item], seen: set[str]) -> Part:
        """Entries by themselves: first those of each sample, then those that all samples share."""
        inner, after = Reader(self.names), Reader(self.names)
        sums: list[str] = []
        ends: dict[bool, list[str]] = {True: [], False: []}
        for item in sorted(self._ordered(nest), key=lambda item: not item.inner):
            kernel = inner if item.inner else after
            text = item.value.entry(kernel, LEAD, item.own(self.width))
            if item.joint:
                name, kind = self.names("s"), C_SUM[item.value.dtype]
                if numel(item.rows) * self.width > LARGEST:
                    raise NotLoweredError("sums over samples that have no room on the stack")
                sums.append(f"{kind} {name}[{numel(item.rows) * self.width}] __attribute__((aligned(64))) = {{0}};")
                total = f"{name}[{_row(item.rows, self.width)} + l]"
                kernel.lines.append(f"{total} += {text};")
                text, kernel = total, after
            self._remember(item, kernel, text)
            if item.square:
                kernel.lines.append(f"norm[l] += {text} * {text};")
            elif item.lasts:
                ends[item.inner].append(f"{self._target(item)} = {text};")
            elif not self._dropped(item):
                kernel.lines.append(f"{self._target(item)} = {text};")
        self._check(nest, inner, after)
        seen |= {base for base, *_ in inner.ranges} | self._outside(after)
        rows = self._loops(nest[0].rows, "r")
        texts = [
            ["{", *rows, *self._lanes(lines), *("}" for _ in rows), "}"] if lines else []
            for lines in ([*inner.lines, *ends[True]], [*after.lines, *ends[False]])
        ]
        shared = {item.dest.base for item in nest if item.dest is not None and (item.joint or not item.inner)}
        makes = {item.dest.base for item in nest if item.dest is not None and item.inner and not item.joint}
        wants = {base for base, *_ in inner.ranges}
        return Part(tuple(sums), tuple(texts[0]), tuple(texts[1]), shared, wants, makes)

    def _dropped(self, item: Item) -> bool:
        return item.dest is not None and item.dest.base in self.unread

    def _remember(self, item: Item, kernel: Kernel, text: str) -> None:
        """Later entries of the nest read the variable."""
        if item.placed is not None and item.dest is not None:
            kernel.memo["load", item.dest.base, item.dest.address(LEAD, item.kept(self.width))] = text
            value = item.placed
            kernel.keep.append(value)
            key = (id(value), tuple(LEAD[name] for name in value.lead), tuple(ix.text for ix in item.kept(self.width)))
            kernel.memo[key] = text

    def _check(self, nest: Sequence[Item], inner: Reader, after: Reader) -> None:
        """No entry is read where another iteration, or this one before, may have written it."""
        for item in nest:
            if item.dest is None or not (item.lasts or item.dest.base in self.made):
                continue
            address = item.dest.address(LEAD, item.kept(self.width))
            lo, hi = span(item.dest, item.kept(self.width))
            for kernel in (inner, after):
                for base, where, first, last in kernel.ranges:
                    if base != item.dest.base or first > hi or last < lo:
                        continue
                    if where != address or (item.lasts and item.inner and kernel is after):
                        raise NotLoweredError("an entry that is read where it is written")

    def _sums(self, nest: Sequence[Item], seen: set[str]) -> list[str]:
        """Sums along rows: all of a nest in one loop, each in a vector of lanes."""
        kernel, first = Reader(self.names), nest[0]
        accumulated: list[tuple[str, Item]] = []
        for item in nest:
            text, name = item.value.entry(kernel, LEAD, item.own(self.width)), self.names("s")
            kernel.lines.append(_combined(item, f"{name}[l]", text))
            accumulated.append((name, item))
        seen |= self._outside(kernel)
        rows, sums = self._loops(first.rows, "r"), self._loops(first.sums, "k")
        samples = self._samples(first.inner)
        declared = [line for name, item in accumulated for line in self._declared(name, item)]
        left = self._lanes(
            [f"{self._target(item)} = {name}[l];" for name, item in accumulated if not self._dropped(item)]
        )
        body = [*sums, *self._lanes(kernel.lines), *("}" for _ in sums)]
        if first.joint:
            body = [*declared, *samples, *body, *("}" for _ in samples), *left]
        else:
            body = [*samples, *declared, *body, *left, *("}" for _ in samples)]
        return ["{", *rows, *body, *("}" for _ in rows), "}"]

    def _declared(self, name: str, item: Item) -> list[str]:
        """A vector of lanes for sums."""
        declared = f"{C_SUM[item.value.dtype]} {name}[{self.width}]"
        return (
            [f"{declared};", *self._lanes([f"{name}[l] = R(-INFINITY);"])] if item.largest else [f"{declared} = {{0}};"]
        )

    def _totals(self, item: Item, seen: set[str]) -> list[str]:
        """A sum over lanes of a block is added to that of all."""
        kernel = Reader(self.names)
        text = item.value.entry(kernel, LEAD, item.own(self.width))
        seen |= self._outside(kernel)
        rows, sums, samples = self._loops(item.rows, "r"), self._loops(item.sums, "k"), self._samples(item.inner)
        kind = C_SUM[item.value.dtype]
        loop = ['_Pragma("omp simd reduction(+ : total)")', f"for (long l = 0; l < {self.width}; l++) {{"]
        body = [*sums, *loop, *kernel.lines, f"total += {text};", "}", *("}" for _ in sums)]
        final = f"{self._target(item)} += total;"
        if item.joint:
            body = [f"{kind} total = 0;", *samples, *body, *("}" for _ in samples), final]
        else:
            body = [*samples, f"{kind} total = 0;", *body, final, *("}" for _ in samples)]
        return ["{", *rows, *body, *("}" for _ in rows), "}"]

    def _zeros(self, item: Item) -> list[str]:
        rows, samples = self._loops(item.rows, "r"), self._samples(item.batch)
        return [*rows, *samples, f"{self._target(item)} = 0;", *("}" for _ in (*rows, *samples))]

    def _alone(self, item: Item, seen: set[str]) -> list[str]:
        """What has no lanes."""
        kernel = Reader(self.names)
        text = item.value.entry(kernel, LEAD, item.own(self.width))
        seen |= self._outside(kernel)
        rows, sums, samples = self._loops(item.rows, "r"), self._loops(item.sums, "k"), self._samples(item.inner)
        if item.square:
            return ["{", *rows, *kernel.lines, f"norm[0] += {text} * {text};", *("}" for _ in rows), "}"]
        if not item.over and not item.joint:
            body = [*samples, *kernel.lines, f"{self._target(item)} = {text};", *("}" for _ in samples)]
            return ["{", *rows, *body, *("}" for _ in rows), "}"]
        begin = "R(-INFINITY)" if item.largest else "0"
        start, final = f"{C_SUM[item.value.dtype]} total = {begin};", f"{self._target(item)} = total;"
        body = [*sums, *kernel.lines, _combined(item, "total", text), *("}" for _ in sums)]
        if item.joint:
            body = [start, *samples, *body, *("}" for _ in samples), final]
        else:
            body = [*samples, start, *body, final, *("}" for _ in samples)]
        return ["{", *rows, *body, *("}" for _ in rows), "}"]

    # -- text -----------------------------------------------------------------------------------------------------
    def _function(self, stages: Sequence[Stage], symbol: str, norm: bool) -> Written:
        written = {stmt.storage for stmt in self.body if isinstance(stmt, Store)}
        results = tuple(name for name in self.bases if name in written and name not in self.packed)
        arguments = tuple(name for name in self.bases if name not in results)
        blocks = self.lanes.blocks
        lines = [f"/* {comment(self.program.name)}: {blocks} blocks of {self.width} lanes */"]
        lines += [f'__attribute__((visibility("default"))) long {symbol}(void *const *p, const long *n) {{', "(void)n;"]
        rooms: list[str] = ["long room = 0;"]
        pointers: list[str] = []
        for base, (dtype, count, made) in self.made.items():
            whole = count * (blocks if made[0].lane is not None and not made[0].total and base not in self.local else 1)
            if base in self.unread:
                continue
            if whole <= ON_STACK:
                pointers.append(f"{STORED[dtype]} {base}[{whole}] __attribute__((aligned(64)));")
            else:
                rooms += [f"const long at_{base} = room;", f"room += ROUND({whole} * (long)sizeof({STORED[dtype]}));"]
                kind = STORED[dtype]
                pointers.append(
                    f"{kind} *restrict const {base} = ({kind} *)((char *)p[{len(self.bases) + norm}] + at_{base});"
                )
        lines += [*rooms, "if (!p) return room;"]
        for k, name in enumerate((*arguments, *results)):
            kind, const = STORED[self.storages[name].type.dtype], "" if name in written else "const "
            lines.append(f"{const}{kind} *restrict const {self.bases[name]} = p[{k}]; (void){self.bases[name]};")
        lines += [*self.tables, *pointers]
        if norm:
            lines.append(f"real norm[{self.width}] = {{0}};")
        for before, inside, _ in stages:
            lines += before
            if inside:
                lines += [f"for (long g = 0; g < {blocks}; g++) {{", *inside, "}"] if blocks > 1 else [
                    "{", "const long g = 0; (void)g;", *inside, "}"]  # fmt: skip
        if norm:
            lines += ["real square = 0;", f"for (long l = 0; l < {self.width}; l++) square += norm[l];"]
            lines.append(f"*(real *)p[{len(self.bases)}] = square;")
        extra = (NORM,) if norm else ()
        return Written(indent([*lines, "return 0;", "}"]), arguments, (*results, *extra))


def _row(rows: Sequence[int], width: int) -> str:
    """Where the lanes of a row begin."""
    text = "0"
    for k, size in enumerate(rows):
        text = f"r{k}" if text == "0" else f"({text} * {size} + r{k})"
    return text if text == "0" else f"{text} * {width}"


def _touch(one: Collection[Span], other: Collection[Span]) -> bool:
    """Whether two sets of entries have one in common."""
    return any(a == b and lo <= last and first <= hi for a, lo, hi in one for b, first, last in other)


def _combined(item: Item, name: str, text: str) -> str:
    """A sum or largest entry with one more."""
    return f"{name} = {text} > {name} || {text} != {text} ? {text} : {name};" if item.largest else f"{name} += {text};"
