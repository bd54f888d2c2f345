"""One or more samples of every op: argument types, attributes, and where smooth points lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recdsl.graph.types import BOOL, FLOAT, INT, Axis, Type

A, B, C = Axis("a", 3), Axis("b", 2), Axis("c", 4)
VECTOR, MATRIX, PLACES = Type("float", (A,)), Type("float", (A, B)), Type("int", (C,))


@dataclass(frozen=True)
class Sample:
    """low and high: where the numbers are drawn. integers: exclusive upper end of index arguments."""

    op: str
    types: tuple[Type, ...]
    attrs: dict[str, Any]
    low: float = -2.0
    high: float = 2.0
    integers: int = 3

    def __str__(self) -> str:
        return f"{self.op}-{'-'.join(map(str, self.types))}"


def _each(names: str, types: tuple[Type, ...], low: float = -2.0, high: float = 2.0) -> list[Sample]:
    return [Sample(name, types, {}, low, high) for name in names.split()]


def _sums() -> list[Sample]:
    return [Sample("sum", (MATRIX,), {"over": over}) for over in ((0,), (1,), (0, 1))] + [
        Sample(name, (MATRIX,), {"at": at}) for name in ("softmax", "logsumexp", "reduce_max") for at in (0, 1)
    ]


def _products() -> list[Sample]:
    labels = (
        (MATRIX, Type("float", (B,)), (0, 1), (1,), (0,)),
        (VECTOR, VECTOR, (0,), (0,), ()),
        (VECTOR, Type("float", (B,)), (0,), (1,), (0, 1)),
        (MATRIX, Type("float", (B, C)), (0, 1), (1, 2), (2, 0)),
        (MATRIX, VECTOR, (0, 1), (0,), (1, 0)),
        (FLOAT, VECTOR, (), (0,), (0,)),
    )
    return [Sample("contract", (x, y), {"x": a, "y": b, "out": out}) for x, y, a, b, out in labels]


def _maps() -> list[Sample]:
    return [
        Sample("broadcast", (VECTOR,), {"axes": (B, A, C), "at": (1,)}),
        Sample("broadcast", (FLOAT,), {"axes": (A,), "at": ()}),
        Sample("transpose", (MATRIX,), {"order": (1, 0)}),
        Sample("transpose", (Type("float", (A, B, C)),), {"order": (2, 0, 1)}),
        Sample("rename", (VECTOR,), {"axes": (Axis("other", 3),)}),
        Sample("reshape", (MATRIX,), {"axes": (Axis("row", 6),)}),
        Sample("reshape", (Type("float", (A, B, C)),), {"axes": (B, Axis("rest", 12))}),
        Sample("slice", (MATRIX,), {"at": 0, "start": 1, "axis": Axis("part", 2)}),
        Sample("pad", (MATRIX,), {"at": 1, "start": 1, "axis": Axis("whole", 5)}),
        Sample("concat", (VECTOR, Type("float", (C,))), {"at": 0, "axis": Axis("a + c", 7)}),
        Sample("concat", (MATRIX, MATRIX), {"at": 1, "axis": Axis("b + b", 4)}),
        Sample("gather", (MATRIX, INT), {"at": 0}),
        Sample("gather", (Type("float", (B, C)), INT), {"at": 1}, integers=4),
        Sample("gather", (VECTOR, INT), {"at": 0}),
        Sample("scatter", (Type("float", (B,)), INT), {"at": 0, "axis": A}),
        Sample("scatter", (MATRIX, INT), {"at": 1, "axis": C}, integers=4),
        Sample("scatter", (FLOAT, INT), {"at": 0, "axis": A}),
        Sample("stop", (VECTOR,), {}),
        Sample("collect", (VECTOR,), {}),
    ]


def _choices() -> list[Sample]:
    condition = Type("bool", (A,))
    surrogates = ("triangle", "fast_sigmoid", "arctan", "sigmoid")
    return [
        Sample("where", (condition, VECTOR, VECTOR), {}),
        Sample("straight_through", (VECTOR, VECTOR), {}),
        *[Sample("spike", (VECTOR,), {"surrogate": name, "width": 0.7}) for name in surrogates],
        *[Sample(name, (condition, condition), {}) for name in ("and", "or")],
        Sample("not", (condition,), {}),
        Sample("to_float", (condition,), {}),
        Sample("to_float", (INT,), {}),
        Sample("one_hot", (INT,), {"axis": A}),
        Sample("eye", (), {"axes": (A, Axis("twin", 3))}),
        Sample("where", (BOOL, FLOAT, FLOAT), {}),
        Sample("rank", (VECTOR, VECTOR), {"at": 0}),
        Sample("rank", (MATRIX, MATRIX), {"at": 1}),
        Sample("gather_rows", (MATRIX, PLACES), {"axis": C}),
        Sample("gather_rows", (Type("float", (A,)), PLACES), {"axis": C}),
        Sample("scatter_rows", (Type("float", (C, B)), PLACES), {"axis": A}),
        Sample("scatter_rows", (Type("float", (C,)), PLACES), {"axis": A}),
        *[Sample("lookup", types, _search(kind)) for kind, types in _searches().items()],
    ]


def _searches() -> dict[str, tuple[Type, ...]]:
    hidden, plain = Type("float", (C,)), ("dot", "cosine", "inverse_distance", "separable")
    found: dict[str, tuple[Type, ...]] = {kind: (MATRIX, FLOAT, Type("float", (B,))) for kind in plain}
    return found | {"mlp": (MATRIX, FLOAT, VECTOR, Type("float", (C, B)), hidden, hidden)}


def _search(kind: str) -> dict[str, Any]:
    return {"axis": Axis("k", 2), "score": kind, "read": "past.read", "aged": kind == "mlp"}


SAMPLES: list[Sample] = [
    *_each("tanh sigmoid softplus relu exp sin cos erf neg abs sign floor expm1", (VECTOR,)),
    *_each("sqrt log log1p", (VECTOR,), 0.3, 3.0),
    *_each("add sub mul maximum minimum eq ne lt le gt ge", (MATRIX, MATRIX)),
    *_each("div mod", (VECTOR, VECTOR), 0.6, 3.0),
    *[Sample("power", (VECTOR,), {"exponent": k}, 0.3, 2.0) for k in (2.0, 3, -1.0, 0.5)],
    Sample("pow", (VECTOR, VECTOR), {}, 0.3, 2.0),
    *_sums(),
    *_products(),
    *_maps(),
    *_choices(),
]
