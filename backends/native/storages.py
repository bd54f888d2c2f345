"""Where the storages of an entry lie: memory of the caller, or room that the function asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.backends.native.kernel import STORED, Names
from recdsl.backends.native.texts import affine_text
from recdsl.backends.native.uses import statements
from recdsl.backends.native.values import NotLoweredError, contiguous, numel
from recdsl.program.ir import Add, Load, Program, Stmt, Store

GIVEN = ("input", "parameter")
OWN = ("buffer", "carry", "accumulate", "ring", "output")


class Memory:
    """Names of C pointers by storage, and the room behind them."""

    def __init__(self, program: Program, entry: str, body: Sequence[Stmt], tape: frozenset[str], names: Names) -> None:
        self.symbols = {"T": "T", "B": "B", **{name: f"s{k}" for k, name in enumerate(program.scalars)}}
        self.storages = {storage.name: storage for storage in program.storages}
        self.names, self.arguments, self.results = names, list[str](), list[str]()
        self.bases: dict[str, str] = {}
        self.short: dict[str, str] = {}  # how many rows a buffer has that only strips touch
        self.rooms: list[tuple[str, str, list[str], int]] = []
        self.left: list[str] = []
        self.requests: list[tuple[Any, ...]] = []
        self.asking = ""
        touched = [s for s in statements(body) if isinstance(s, Load | Store | Add)]
        written = {s.storage for s in touched if isinstance(s, Store | Add)}
        keeps = entry == ("again" if "again" in dict(program.entries) else "forward")
        for name in dict.fromkeys(s.storage for s in touched):
            self._find(name, name in written, name in tape and keeps)
        if keeps:
            for name in sorted(tape - self.bases.keys()):
                self._find(name, True, True)

    def _find(self, name: str, written: bool, kept: bool) -> None:
        """From the caller where it is an input, a result, or what `forward` left; else room of the function's own."""
        storage = self.storages[name]
        if (
            storage.kind not in (*GIVEN, *OWN)
            or storage.type.dtype not in STORED
            or dict(storage.attrs).keys() - {"init"}
        ):
            raise NotLoweredError(f"no C for a storage of kind `{storage.kind}`")
        self.bases[name] = self.names("a")
        if storage.lifetime == "stream":
            self.arguments.append(name)  # lasts longer than the function, which may write to it
        elif (storage.kind == "output" and written) or (kept and storage.kind == "buffer"):
            self.results.append(name)
        elif storage.kind in GIVEN or not written:
            self.arguments.append(name)

    def base(self, name: str) -> str:
        return self.bases[name]

    def own_strides(self, name: str, own: tuple[int, ...]) -> tuple[int, ...]:
        return contiguous(own)

    def ask(self, request: tuple[Any, ...]) -> int:
        """The number of something that the runtime may answer in the place of C (`rows.py`)."""
        self.requests.append(request)
        return len(self.requests) - 1

    def asked(self) -> str:
        """Where the runtime says how it is asked."""
        self.asking = self.asking or self.names("a")
        return self.asking

    def room(self, base: str, dtype: str, sizes: list[str], inner: int) -> None:
        """Room for a value: `sizes` are extents of leading axes."""
        self.rooms.append((base, dtype, sizes, inner))

    def declarations(self) -> list[str]:
        """Pointers to everything; asked without memory, the function says how much room it needs."""
        given = [*self.arguments, *self.results]
        lines: list[str] = ["long room = 0;"]
        rooms = list(self.rooms)
        for name, base in self.bases.items():
            if name not in given:
                kind = self.storages[name].type
                sizes = [affine_text(size, self.symbols) for _, size in kind.lead]
                sizes[:1] = [self.short.get(name, sizes[0])] if sizes else []
                rooms.append((base, kind.dtype, sizes, numel(tuple(a.size for a in kind.axes))))
        counts = {base: " * ".join([*sizes, str(inner)]) for base, _, sizes, inner in rooms}
        for base, dtype, _, _ in rooms:
            lines.append(f"const long at_{base} = room;")
            lines.append(f"room += SIZED({counts[base]} * (long)sizeof({STORED[dtype]}));")
        lines.append("if (!p) return room;")
        for k, name in enumerate(given):
            kind = STORED[self.storages[name].type.dtype]
            const = "const " if name in self.arguments and self.storages[name].lifetime != "stream" else ""
            lines.append(f"{const}{kind} *restrict const {self.bases[name]} = p[{k}]; (void){self.bases[name]};")
        if self.asking:
            lines.append(f"const integer *restrict const {self.asking} = p[{len(given)}]; (void){self.asking};")
        if rooms:
            lines.append(f"char *const base = p[{len(given) + bool(self.asking)}];")
        for base, dtype, _, _ in rooms:
            kind = STORED[dtype]
            placed = f"PLACED(base, at_{base}, {counts[base]} * (long)sizeof({kind}))"
            lines.append(f"{kind} *restrict const {base} = ({kind} *){placed}; (void){base};")
        self.left = ["LEFT(base, room);"] if rooms else []
        return lines

    def zeros(self) -> list[str]:
        """Sums start at zero."""
        lines: list[str] = []
        for name, base in self.bases.items():
            storage = self.storages[name]
            if storage.kind == "accumulate" and name not in self.arguments:
                sizes = [affine_text(size, self.symbols) for _, size in storage.type.lead]
                count = " * ".join([*sizes, str(numel(tuple(a.size for a in storage.type.axes)))])
                lines.append(f"memset({base}, 0, {count} * sizeof({STORED[storage.type.dtype]}));")
        return lines
