"""Which field of the data fills which input or target of a spec."""

from __future__ import annotations

from collections.abc import Sequence

from recdsl.training.batches import Source
from recdsl.training.declare import Field

KINDS = {"onehot": "label", "class": "label", "token": "label", "float": "float", "bool": "bool"}
"""The kind of field that an input of each kind takes."""


def match(inputs: Sequence[tuple[str, str]], targets: Sequence[tuple[str, str]], source: Source) -> dict[str, Field]:
    """Fields by the name that they fill; `inputs` and `targets` are (name, kind of type).

    A field of the same name is taken first, whatever its role. The others are filled in order by the unused fields
    of their role and kind. A name without a field is left out.
    """
    by_name = {field.name: field for field in source.fields}
    found: dict[str, Field] = {name: by_name[name] for name, _ in (*inputs, *targets) if name in by_name}
    used = {field.name for field in found.values()}
    for role, names in (("input", inputs), ("target", targets)):
        for name, kind in names:
            if name in found:
                continue
            free = (
                f for f in source.fields if f.name not in used and f.kind == KINDS[kind] and f.role in (role, "either")
            )
            field = next(free, None)
            if field is not None:
                found[name] = field
                used.add(field.name)
    return found
