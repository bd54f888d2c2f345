"""`recdsl schema`: the YAML shell of a spec as a JSON schema, for editors.

It knows keys and plain values. The little languages inside texts (types, equations, calls) are checked by
`recdsl check`.
"""

from __future__ import annotations

from typing import Any

import typer

from recdsl.cli.frame import OK, command, say_json

JSON = dict[str, Any]

CALL: JSON = {"type": "string", "pattern": r"^\s*[A-Za-z_][\w.:]*\s*(\(.*\))?\s*$"}
TYPE: JSON = {"type": "string", "pattern": r"^\s*(float|onehot|class|token|bool)\b"}
TEXT: JSON = {"type": "string"}
NUMBER: JSON = {"type": "number"}
SELECTORS: JSON = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}


def add(app: typer.Typer) -> None:
    @command(app, "schema", brief=True)
    def schema() -> int:  # pyright: ignore[reportUnusedFunction]
        """Print a JSON schema of specs. In an editor: `# yaml-language-server: $schema=recdsl.schema.json`."""
        say_json(build())
        return OK


def build() -> JSON:
    """The schema (draft 2020-12)."""
    from recdsl.syntax.spec import KEYS

    known = {
        "recdsl": {"const": 1, "description": "the version of the format"},
        "name": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"},
        "doc": TEXT,
        "sizes": table({"anyOf": [{"type": "integer", "minimum": 1}, TEXT]}, "names of sizes; `data`: from the data"),
        "inputs": table(TYPE, "what is given at each step"),
        "targets": table(TYPE, "what losses compare with"),
        "params": table(TEXT, "`float[hid, inp] ~ normal(0, 0.1)`, `float[hid] = 0`"),
        "states": table(TEXT, "carried values: `float[hid]`, `float[hid] = 1`"),
        "blocks": table(block(), "pieces of a step that equations can call"),
        "memory": table(store(), "external memories, read in equations as `NAME.read`"),
        "step": {"type": "string", "description": "the equations of one step, one assignment a line"},
        "loss": losses(),
        "credit": credit(),
        "data": CALL | {"description": "a data source: " + ", ".join(sources())},
        "train": train(),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "recdsl spec",
        "type": "object",
        "properties": {key: known[key] for key in KEYS},
        "required": ["recdsl", "step", "loss"],
        "additionalProperties": False,
    }


def table(value: JSON, doc: str) -> JSON:
    """A map of declarations."""
    return {"type": "object", "description": doc, "additionalProperties": value}


def block() -> JSON:
    """One entry of `blocks:`."""
    either = {"anyOf": [TEXT, NUMBER, {"type": "boolean"}, {"type": "array"}]}
    return {
        "type": "object",
        "properties": {
            "doc": TEXT,
            "arguments": table(TYPE, "inputs of the block"),
            "sizes": table(either, "keywords of the call; `required` or a default"),
            "params": table(TEXT, "as at the top"),
            "states": table(TEXT, "as at the top"),
            "step": TEXT,
            "returns": SELECTORS,
            "fold": TEXT,
            "last": {},
        },
        "required": ["step", "returns"],
        "additionalProperties": False,
    }


def store() -> JSON:
    """One entry of `memory:`."""
    from recdsl.syntax.memory import LIVES, OPTIONS, STORAGES

    count = {"anyOf": [{"type": "integer", "minimum": 1}, TEXT]}
    words = {key: {"enum": [word for word in known if word not in ("true", "false")]} for key, known in OPTIONS.items()}
    read = {
        "query": TEXT,
        "score": TEXT | {"description": "dot, cosine(sharpness), mlp(width), inverse_distance(delta), separable"},
        "select": TEXT | {"description": "all, topk(k), threshold(x)"},
        "normalise": TEXT | {"description": "softmax, shifted_relu, sum, mean(hit)"},
        "index": TEXT | {"description": "exact, faiss(lists, probes)"},
        "every": count,
        **words,
        "null_slot": {"type": "boolean"},
    }
    write = {"key": TEXT, "value": TEXT, "every": count, "when": TEXT, "eval": {"type": "boolean"}}
    write["merge"] = TEXT | {"description": "max(within), step(rate, within)"}
    known = {
        "slots": count | {"description": "how many items it holds"},
        "evict": TEXT | {"description": "oldest, least_used(decay), lowest(x)"},
        "life": {"enum": list(LIVES)},
        "storage": TEXT | {"description": f"{', '.join(STORAGES)}, disk(PATH)"},
        "write": fixed(write, "value"),
        "read": fixed(read, "query"),
        "reads": table(fixed(read, "query"), "several reads by name: `NAME.READ`"),
    }
    return fixed(known, "slots", "write")


def fixed(known: JSON, *required: str) -> JSON:
    """A map with a fixed set of keys."""
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


def losses() -> JSON:
    """One call, one loss with settings, or several by name."""
    from recdsl.syntax.training import LOSS_KEYS

    known: JSON = {
        "value": CALL,
        "weight": NUMBER,
        "trains": SELECTORS,
        "at": {"type": "string", "pattern": r"^(all|last|every\(\s*\d+\s*\))$"},
    }
    one: JSON = {"type": "object", "properties": {key: known[key] for key in LOSS_KEYS}, "required": ["value"]}
    reduce: JSON = {"enum": ["mean", "sum"]}
    alone = one | {"properties": one["properties"] | {"reduce": reduce}, "additionalProperties": False}
    named: JSON = {
        "type": "object",
        "properties": {"reduce": reduce},
        "not": {"required": ["value"]},
        "additionalProperties": {"anyOf": [CALL, one | {"additionalProperties": False}]},
    }
    return {"anyOf": [CALL, alone, named]}


def credit() -> JSON:
    """A rule, or rules by selector."""
    require: JSON = {"type": "string", "pattern": r"^\s*\w+(\s+for\s+.+)?\s*$"}
    by_selector = {"type": "object", "properties": {"require": require}, "additionalProperties": CALL}
    return {"anyOf": [CALL, by_selector]}


def sources() -> list[str]:
    """Names of data sources."""
    from recdsl.training.catalogue import declarations

    return [item.name for item in declarations()["source"]]


def train() -> JSON:
    """The settings of `train:`, from their declarations."""
    from recdsl.syntax.training import RATES
    from recdsl.training.rules import CALLS, NUMBERS

    properties: JSON = {option.name: setting(option) for option in NUMBERS}
    for key, (example, known) in CALLS.items():
        names = ", ".join(item.name for item in known)
        properties[key] = CALL | {"description": f"{names}; such as {example}"}
    properties |= {name: {"anyOf": [CALL, {"type": "array", "items": CALL}]} for name in ("metrics", "stages")}
    rate: JSON = {"type": "number", "exclusiveMinimum": 0}
    properties["lr"] = {"anyOf": [rate, {"type": "object", "additionalProperties": rate}], "description": RATES}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def setting(option: Any) -> JSON:
    """One plain setting. `option` is a `recdsl.training.declare.Option`."""
    kinds = {"int": "integer", "float": "number", "bool": "boolean"}
    value: JSON = {"type": kinds[option.kind]} if option.kind in kinds else {}
    limits = {"minimum": option.low, "maximum": option.high, "exclusiveMinimum": option.above}
    value |= {key: limit for key, limit in limits.items() if limit is not None}
    if option.choices:
        value["enum"] = list(option.choices)
    found: JSON = {"description": option.doc, **({"anyOf": [value, {"const": "none"}]} if option.none else value)}
    return found if option.default is None else found | {"default": option.default}
