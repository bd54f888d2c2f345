"""Values that will be read for later text, found by the memory that they read."""

from __future__ import annotations

from recdsl.backends.native.uses import Def
from recdsl.backends.native.values import Ref, Region, Value, overlap


class Live:
    """Values in the order of their definitions. Writes ask for those that read one storage, not for all there are."""

    def __init__(self) -> None:
        self.held: list[tuple[Value, Def]] = []
        self.numbers: dict[Value, list[int]] = {}
        self.readers: dict[str, set[int]] = {}
        self.users: dict[Value, list[Value]] = {}  # of a value that has no memory yet: what is made of it

    def add(self, value: Value, found: Def) -> None:
        number = len(self.held)
        self.held.append((value, found))
        self.numbers.setdefault(value, []).append(number)
        self._note(value, [number])
        for part in value.parts:
            if part.ref is None and part.number is None:
                self.users.setdefault(part, []).append(value)

    def place(self, value: Value, ref: Ref) -> None:
        """From now on the value is read from memory, and by that what is made of it and has no memory of its own."""
        value.place(ref)
        self._note(value, self.numbers.get(value, []))
        self._follow(value, ref)

    def _follow(self, value: Value, ref: Ref) -> None:
        changed = self.users.pop(value, [])
        while changed:
            user = changed.pop()
            reads = user.reads | {ref.region}
            if user.ref is None and reads != user.reads:
                user.reads = reads
                self._note(user, self.numbers.get(user, []))
                changed += self.users.get(user, [])

    def _note(self, value: Value, numbers: list[int]) -> None:
        for name, _ in value.reads:
            self.readers.setdefault(name, set()).update(numbers)

    def reading(self, region: Region, place: int) -> list[Value]:
        """Values that may read the region and are read themselves behind a place."""
        known = self.readers.get(region[0])
        if not known:
            return []
        known -= {k for k in known if self.held[k][1].last <= place}
        values = dict.fromkeys(self.held[k][0] for k in sorted(known))
        return [value for value in values if any(overlap(other, region) for other in value.reads)]
