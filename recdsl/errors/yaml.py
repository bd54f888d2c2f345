"""RD0010-RD0029: the YAML around the equations."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class YamlSyntax(Problem):
    code = "RD0010"
    message = "this is not valid YAML: {reason}"
    hint = "{advice}"
    explain = (
        "The YAML shell of the spec could not be read. The usual causes: a `:` or `#` or `[` inside a value that is "
        'not quoted, as in `{x: float[obs]}` (write `{x: "float[obs]"}`), and lines of one map that are not '
        "indented alike."
    )
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class TabIndent(Problem):
    code = "RD0011"
    message = "a tab in the indentation"
    hint = "YAML is indented by spaces only"
    explain = (
        "YAML forbids tabs in indentation, because their width differs between editors. Replace each tab at the "
        "start of a line by spaces."
    )


@dataclass(frozen=True)
class AliasRefused(Problem):
    code = "RD0012"
    message = "YAML anchors and aliases (`{written}`) are not part of the language"
    hint = "write the value out; to share a piece of a model make it a block"
    explain = (
        "Anchors (`&name`) and aliases (`*name`) let a few hundred characters stand for gigabytes. Specs share pieces "
        "by `blocks:` instead. A value that should begin with `*` or `&` must be quoted."
    )
    written: str


@dataclass(frozen=True)
class MergeRefused(Problem):
    code = "RD0013"
    message = "the YAML merge key `<<` is not part of the language"
    hint = "write the keys out"
    explain = "Merge keys (`<<: *base`) build on aliases, which are refused (RD0012). Write the keys out."


@dataclass(frozen=True)
class TagRefused(Problem):
    code = "RD0014"
    message = "the YAML tag `{tag}` is not part of the language"
    hint = "delete it; a value that begins with `!` must be quoted"
    explain = (
        "Tags such as `!!float` or `!object` tell YAML readers to build other things than text, numbers, lists and "
        "maps. In a spec each key already has its type."
    )
    tag: str


@dataclass(frozen=True)
class ManyDocuments(Problem):
    code = "RD0015"
    message = "a second YAML document begins here"
    hint = "one file holds one spec: delete the `---` or `...`"
    explain = "A line `---` starts a new YAML document. A spec file holds exactly one; put the second in its own file."


@dataclass(frozen=True)
class YamlTooDeep(Problem):
    code = "RD0016"
    message = "lists and maps are nested more than {limit} deep"
    hint = ""
    explain = (
        "The nesting of YAML lists and maps is limited to 64; a real spec needs five. Deeper nesting has been used "
        "to crash YAML readers."
    )
    limit: int


@dataclass(frozen=True)
class YamlTooBig(Problem):
    code = "RD0017"
    message = "the file has more than {limit} keys and values"
    hint = "a large model belongs in blocks"
    explain = "A spec may hold up to 100,000 YAML keys and values. The place shown is the first one over the limit."
    limit: int


@dataclass(frozen=True)
class DuplicateKey(Problem):
    code = "RD0018"
    message = "the key `{key}` stands here a second time"
    hint = "delete one of the two, or give it another name"
    explain = (
        "Each key of a map may stand once. (Most YAML readers silently keep the last one.) The note shows the first. "
        "For several declarations of one type, write the names in one key: `W, U: float[hid, inp] ~ glorot`."
    )
    key: str


@dataclass(frozen=True)
class KeyNotText(Problem):
    code = "RD0019"
    message = "a key must be a word, not {what}"
    hint = "quote the text if brackets or braces are part of it"
    explain = "YAML allows lists and maps as keys (`[a, b]: 1`, `? {a: 1}`); in a spec all keys are words."
    what: str


@dataclass(frozen=True)
class NotAMap(Problem):
    code = "RD0020"
    message = "a spec is a map of keys such as `recdsl:`, `step:` and `loss:`, not {what}"
    hint = ""
    explain = "The top level of the file must be `key: value` lines: `recdsl: 1`, `step: |`, `loss: mse(y, target)`."
    what: str


@dataclass(frozen=True)
class NumberTooLong(Problem):
    code = "RD0021"
    message = "a number of {length} characters; the limit is {limit}"
    hint = ""
    explain = "Numbers may have up to 400 characters. No computation here keeps more than 17 decimal digits."
    length: int
    limit: int


@dataclass(frozen=True)
class NumberTooBig(Problem):
    code = "RD0022"
    message = "the number `{written}` is too large for a float"
    hint = "the largest is about 1.8e308"
    explain = (
        "A decimal number is stored as a 64-bit float, whose largest value is about 1.8e308. `1e999` would silently "
        "become infinity; where infinity is meant, YAML values may say `.inf`."
    )
    written: str
